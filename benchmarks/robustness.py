"""Robustness: every situation met by every command, every hostile input by every reader, kills and long runs.

``python benchmarks/robustness.py`` writes ``robustness.md`` beside this file: hours on two cores. ``--part`` does one
of ``situations``, ``hostile`` and ``kills`` and leaves the tables of the others as they are.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
PAGE = Path(__file__).with_suffix(".md")
PARTS = ("situations", "hostile", "kills")
TITLES = {
    "situations": "Command × situation",
    "hostile": "Hostile and broken inputs",
    "kills": "Kills, signals, damage and long runs",
}


def situations() -> str:
    """Every command on every situation."""
    from tests.situations.catalogue import SITUATIONS
    from tests.situations.matrix import cells, dropped, markdown, met

    done = []
    for name in SITUATIONS:
        done += [met(name, command) for _, command in cells([name])]
        dropped(name)
        print(f"{name}: {sum(cell.fault is not None for cell in done)} faults in {len(done)} cells", flush=True)
    faults = [cell for cell in done if cell.fault]
    lines = [f"- {cell.situation}, `{cell.command}`: {cell.fault}" for cell in faults]
    head = f"{len(done)} cells, {len(faults)} of them neither a right result, a refusal in one line nor a verdict.\n\n"
    return head + markdown(done) + ("\n" + "\n".join(lines) + "\n" if lines else "")


def hostile() -> str:
    """Every hostile input."""
    from tests.hostile.harness import as_line, attempt, counted, tries

    results = []
    for one in tries().values():
        results.append(attempt(one))
        if results[-1].kind:
            print(as_line(results[-1]), flush=True)
    return counted(results)


def kills() -> str:
    """Kills and soak, in a process of their own."""
    made = PAGE.with_suffix(".kills")
    subprocess.run([sys.executable, "-m", "tests.hostile.kills", "--output", str(made)], cwd=ROOT, check=True)
    try:
        return made.read_text()
    finally:
        made.unlink()


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, action="append")
    chosen = parser.parse_args().part or PARTS
    text = PAGE.read_text() if PAGE.is_file() else ""
    sections = dict(re.findall(r"^## (.+)\n\n((?:(?!^## ).*\n?)*)", text, re.MULTILINE))
    for part in chosen:
        began = time.monotonic()
        body = {"situations": situations, "hostile": hostile, "kills": kills}[part]()
        sections[TITLES[part]] = f"{body}\n{(time.monotonic() - began) / 60:.0f} minutes.\n"
    pages = [f"## {TITLES[part]}\n\n{sections[TITLES[part]].rstrip()}\n" for part in PARTS if TITLES[part] in sections]
    PAGE.write_text("# Robustness\n\nWritten by `python benchmarks/robustness.py`.\n\n" + "\n".join(pages))
    print(PAGE)


if __name__ == "__main__":
    main()
