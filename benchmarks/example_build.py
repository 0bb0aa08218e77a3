"""The build that the README shows: YOLOv8n to a measured ×1.5 on this CPU, with its verdict table.

    python -m benchmarks.example_build --weights W.pt --data data.yaml --out benchmarks/example_build.md

Runs ``edgeprune build`` and prints what it recorded; a build that was stopped goes on where it was, and one that is
finished in ``--work`` is only judged again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.page import publish, table
from edgeprune.records.build import BuildRecord
from edgeprune.records.show import read_build
from edgeprune.report.build import conditions_table
from edgeprune.report.verdict import accuracy_text, verdict_table

JUDGED = (0, 1, 5)  # exit codes of a build that ended with a verdict


def page(record: BuildRecord) -> str:
    """Markdown of one build: how it was asked for, its verdicts, what it was measured under."""
    target, data = record.target, Path(record.dataset.path)
    shown = f"{data.parent.name}/{data.name}"
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    conditions = [row for row in conditions_table(record).rows if row[0] != "versions"]
    lines = [
        "# One build, as the README shows it",
        "",
        f"`python -m benchmarks.example_build --weights {Path(record.weights.path).name} --data {shown} --imgsz "
        f"{target.imgsz} --epochs {target.finetune.epochs} --speed-up {target.budget.speed_up:g}`: the verdict is "
        f"**{record.verdict_words}**. One seed ({record.seed}); {record.created[:10]}; {versions}.",
        "",
        verdict_table(record.gates, record.next_command).markdown(),
        "",
        accuracy_text(record).replace(str(data), shown),
        "",
        *table(("measured under", ""), conditions),
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--speed-up", type=float, default=1.5)
    parser.add_argument("--work", type=Path, default=Path("runs/example-build"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    argv = [sys.executable, "-m", "edgeprune", "build", "--target", "cpu", "--weights", options.weights]
    argv += ["--data", options.data, "--speed-up", f"{options.speed_up:g}", "--imgsz", str(options.imgsz)]
    argv += ["--epochs", str(options.epochs), "--out", str(options.work)]
    code = subprocess.run(argv).returncode
    if code not in JUDGED:
        return code
    text = page(read_build(options.work))
    print(text)
    if options.out is not None:
        publish(options.out, "example-build", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
