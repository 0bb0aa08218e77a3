"""Run tests on the oldest and the newest Ultralytics of the range that pyproject.toml states.

Usage: python tests/matrix/run.py [--versions 8.4.184,8.4.190] [--cells FILE] [--out TABLE.md] [pytest arguments]

Each version is unpacked beside the checkout's other build outputs, without its dependencies, and put before the
installed one; its settings live there too, so that a developer's own stay what they are. At the end stands a table of
what a process without edgeprune did with every pruned file. With --cells FILE, results are added to those of earlier
runs, for a matrix run in pieces.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / ".matrix"
PIP = [sys.executable, "-m", "pip"]
DEFAULT_TESTS = ["tests/pruning", "tests/test_checkpoint.py"]


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--versions", help="comma-separated; by default the oldest of the range and the newest")
    arguments.add_argument("--cells", type=Path, help="lines of JSON, one a cell; by default of this run alone")
    arguments.add_argument("--out", type=Path, help="also write the table to this file")
    options, rest = arguments.parse_known_args()
    cells = options.cells or PLACE / "cells.jsonl"
    if options.cells is None:
        cells.unlink(missing_ok=True)
    lowest, upper = stated_range((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    versions = options.versions.split(",") if options.versions else [lowest, newest_below(upper)]
    failed = []
    for version in versions:
        folder = unpacked(version)
        paths = [str(folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(paths),
            "YOLO_CONFIG_DIR": str(folder / "settings"),
            "YOLO_AUTOINSTALL": "false",
            "YOLO_OFFLINE": "true",
            "EDGEPRUNE_MATRIX": "1",
            "EDGEPRUNE_MATRIX_TABLE": str(cells.resolve()),
        }
        (folder / "settings").mkdir(exist_ok=True)
        shown = [sys.executable, "-c", "import ultralytics; print('Ultralytics', ultralytics.__version__, flush=True)"]
        subprocess.run(shown, env=environment, cwd=ROOT, check=True)
        command = [sys.executable, "-m", "pytest", "-q", "-m", "not hostile", *(rest or DEFAULT_TESTS)]
        if subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode:
            failed.append(version)
    text = table(cells)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(f"failed on: {', '.join(failed)}" if failed else f"passed on: {', '.join(versions)}")
    return 1 if failed else 0


def table(cells: Path) -> str:
    """Every cell as Markdown: the MACs ratio of the file that was used; a cell that failed has none."""
    lines = cells.read_text(encoding="utf-8").splitlines() if cells.exists() else []
    by_model: dict[str, dict[tuple[str, int], dict]] = {}
    for cell in map(json.loads, lines):
        by_model.setdefault(cell["model"], {})[cell["ultralytics"], cell["asked"]] = cell
    columns = sorted({key for row in by_model.values() for key in row})
    head = " | ".join(f"{version} ×{asked}" for version, asked in columns)
    text = [
        "# What a process without edgeprune did with every pruned file",
        "",
        "MACs ×2 and ×4 at 320 px, widths in steps of 8; each file was loaded by `YOLO(file)`, predicted on a "
        "real image, was validated on real images and exported to ONNX. A figure is the MACs ratio of a file for "
        "which all of it worked; where there is none, it failed or was not run. Nodes: Conv / Split / Concat of the "
        "exported graph, unpruned, then each pruned one where it differs.",
        "",
        f"| model | {head} | nodes |",
        "| --- |" + " ---: |" * len(columns) + " --- |",
    ]
    for model, row in sorted(by_model.items()):
        figures = [f"{row[key]['macs']:.3f}" if key in row else "" for key in columns]
        counts = [row[key]["nodes"] for key in columns if key in row]
        nodes = [next(iter(row.values()))["stock_nodes"], *counts]
        distinct = dict.fromkeys(" / ".join(map(str, one)) for one in nodes)
        text.append(f"| {model} | {' | '.join(figures)} | {', '.join(distinct)} |")
    return "\n".join(text)


def stated_range(pyproject: str) -> tuple[str, str]:
    """Lower and upper bound of the ultralytics requirement."""
    found = re.search(r'"ultralytics>=([\d.]+),<([\d.]+)"', pyproject)
    if found is None:
        raise SystemExit('pyproject.toml states no range of the form "ultralytics>=A,<B"')
    return found[1], found[2]


def newest_below(upper: str) -> str:
    """The newest version that the package index has below one, today."""
    report = ["--dry-run", "--ignore-installed", "--quiet", "--no-deps", "--report", "-"]
    asked = subprocess.run([*PIP, "install", *report, f"ultralytics<{upper}"], capture_output=True, text=True)
    if asked.returncode:
        why = (asked.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise SystemExit(f"the newest Ultralytics below {upper} was not found: {why}; next: --versions A,B names them")
    return json.loads(asked.stdout)["install"][0]["metadata"]["version"]


def unpacked(version: str) -> Path:
    """A folder that holds one version of Ultralytics and nothing else. It is there only once it is whole."""
    folder = PLACE / version
    if not (folder / "ultralytics").is_dir():
        shutil.rmtree(folder, ignore_errors=True)  # what an install that was stopped left, before one was moved whole
        PLACE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{version}-", dir=PLACE) as scratch:
            part = Path(scratch) / version
            pip = [*PIP, "install", "--quiet", "--no-deps", "--target", str(part), f"ultralytics=={version}"]
            subprocess.run(pip, check=True)
            if not (part / "ultralytics").is_dir():
                raise SystemExit(f"pip put no package ultralytics {version} into {part}")
            shutil.move(part, folder)
    return folder


if __name__ == "__main__":
    sys.exit(main())
