"""Whether the demo always ends well: its build, again and again, some of the times with other work beside it.

Usage: python -m benchmarks.demo_ten_times [--times 10] [--busy 2] [--quiet 5] [--out TABLE.md]

Every run starts from nothing in a folder of its own, as ``make demo`` does after the install: the digits are written,
YOLOv8n is trained, pruned, fine-tuned and judged. The first ``--quiet`` runs have the machine to themselves, the others
share it with ``--busy`` processes that keep a core busy each. A run ends well with PASS, or INCONCLUSIVE with the next
command as its last line; more than one INCONCLUSIVE is a fault.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from benchmarks.search_disturbed import busy

VERDICT = re.compile(r"^verdict: (?P<verdict>\w+)", re.MULTILINE)
NEXT = "edgeprune build"  # below "next, on a quiet machine", where measuring again may settle it
COLUMNS = ("run", "busy processes", "verdict", "exit code", "seconds", "last line")


@dataclass(frozen=True)
class Run:
    """One build of the demo."""

    busy: int
    verdict: str
    code: int
    seconds: float
    last_line: str

    @property
    def well(self) -> bool:
        """It passed, or says what to type next."""
        return self.code == 0 or (self.code == 5 and self.last_line.startswith(NEXT))


def one_run(processes: int) -> Run:
    """The demo from nothing, with so many busy processes beside it."""
    edgeprune = [sys.executable, "-m", "edgeprune"]
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        began = perf_counter()
        with busy(processes):
            subprocess.run([*edgeprune, "data", "digits", "--out", "digits"], cwd=folder, check=True)
            argv = [*edgeprune, "build", "--target", "demo", "--weights", "yolov8n.yaml"]
            argv += ["--data", "digits/data.yaml", "--out", "run"]
            ended = subprocess.run(argv, cwd=folder, capture_output=True, text=True)
        seconds = perf_counter() - began
    print(ended.stdout[-4000:] + ended.stderr[-2000:], file=sys.stderr, flush=True)
    told = VERDICT.search(ended.stdout)
    lines = ended.stdout.strip().splitlines() or [""]
    return Run(processes, told["verdict"] if told else "–", ended.returncode, seconds, lines[-1].strip())


def main() -> int:
    """All runs; 0 when every one ended well and one at most was INCONCLUSIVE."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--times", type=int, default=10)
    arguments.add_argument("--quiet", type=int, help="runs without other work; half of them when not given")
    arguments.add_argument("--busy", type=int, default=2, help="processes beside the other runs")
    arguments.add_argument("--out", type=Path)
    options = arguments.parse_args()
    quiet = options.times // 2 if options.quiet is None else options.quiet
    runs: list[Run] = []
    for number in range(options.times):
        runs.append(one_run(0 if number < quiet else options.busy))
        if options.out is not None:
            options.out.write_text(table(runs))
    print(table(runs))
    return 0 if all(run.well for run in runs) and sum(run.code == 5 for run in runs) <= 1 else 1


def table(runs: list[Run]) -> str:
    """A row a run."""
    head = [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
    rows = [
        f"| {number} | {run.busy} | {run.verdict} | {run.code} | {run.seconds:.0f} | `{run.last_line}` |"
        for number, run in enumerate(runs, 1)
    ]
    return "\n".join([*head, *rows, ""])


if __name__ == "__main__":
    sys.exit(main())
