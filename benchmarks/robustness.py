"""Robustness: every situation met by every command, every hostile input by every reader, kills and long runs.

``python benchmarks/robustness.py`` writes ``robustness.md`` beside this file: hours on two cores. ``--part`` does one
of ``situations``, ``hostile`` and ``kills`` and leaves the tables of the others as they are. ``--minutes`` ends each of
the first two after that time: cells and inputs are then a sample drawn by chance (seed 0), and the page says how many
of them; ``--quick`` leaves out commands that train or measure. ``--kills``, ``--builds`` and ``--benches`` are counts.
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
Case = TypeVar("Case")
PAGE = Path(__file__).with_suffix(".md")
PARTS = ("situations", "hostile", "kills")
TITLES = {
    "situations": "Command × situation",
    "hostile": "Hostile and broken inputs",
    "kills": "Kills, signals, damage and long runs",
}


def drawn(cases: Sequence[Case], minutes: float) -> Iterator[Case]:
    """The cases in an order drawn by chance, until the time is over."""
    ends = time.monotonic() + 60 * minutes
    for case in random.Random(0).sample(cases, len(cases)):
        if time.monotonic() > ends:
            return
        yield case


def situations(given: argparse.Namespace) -> str:
    """Commands on situations: the cells of a situation stand together, since it has to be made once."""
    from tests.situations.catalogue import SITUATIONS
    from tests.situations.commands import COMMANDS
    from tests.situations.matrix import cells, dropped, markdown, met

    every = list(cells())
    done = []
    for name in drawn(list(SITUATIONS), given.minutes):
        for _, command in cells([name]):
            if not (given.quick and COMMANDS[command].slow):
                done.append(met(name, command))
        dropped(name)
        print(f"{name}: {sum(cell.fault is not None for cell in done)} faults in {len(done)} cells", flush=True)
    done.sort(key=lambda cell: every.index((cell.situation, cell.command)))
    faults = [cell for cell in done if cell.fault]
    lines = [f"- {cell.situation}, `{cell.command}`: {cell.fault}" for cell in faults]
    head = (
        f"{len(done)} of {len(every)} cells, {len(faults)} neither a right result, a refusal in one line nor a verdict."
    )
    return f"{head}\n\n{markdown(done)}" + ("\n" + "\n".join(lines) + "\n" if lines else "")


def hostile(given: argparse.Namespace) -> str:
    """Hostile inputs, each given to a command that reads it."""
    from tests.hostile.harness import as_line, attempt, counted, tries
    from tests.situations.commands import COMMANDS

    every = list(tries().values())
    quick = [one for one in every if one.command not in COMMANDS or not COMMANDS[one.command].slow]
    results = []
    for one in drawn(quick if given.quick else every, given.minutes):
        results.append(attempt(one))
        if results[-1].kind:
            print(as_line(results[-1]), flush=True)
    faults = [result for result in results if result.kind]
    lines = "".join(f"- {result.attempt.id}: {result.fault[:200]}\n" for result in faults)
    head = f"{len(results)} of {len(every)} inputs, {len(faults)} with another outcome than is allowed."
    return f"{head}\n\n{counted(results)}" + (f"\n{lines}" if lines else "")


KILLS = (  # processes that run side by side: each has a folder of its own
    ("SIGKILL",),
    ("Ctrl-C", "SIGTERM", "two builds on one folder", "one byte flipped", "a full disk"),
    ("cached builds", "benches", "benches on a remote stand-in"),
)


def kills(given: argparse.Namespace) -> str:
    """Kills and soak, in processes of their own."""
    counts = [word for name in ("kills", "builds", "benches") for word in (f"--{name}", str(getattr(given, name)))]
    with tempfile.TemporaryDirectory() as folder:
        tables = [Path(folder) / f"{number}.md" for number in range(len(KILLS))]
        argv = [sys.executable, "-m", "tests.hostile.kills", *counts]
        running = [
            subprocess.Popen([*argv, "--output", str(made), "--only", *names], cwd=ROOT)
            for made, names in zip(tables, KILLS, strict=True)
        ]
        for process in running:
            process.wait()
        lines = [made.read_text().splitlines() for made in tables]
    return "\n".join([*lines[0][:2], *(row for table in lines for row in table[2:] if row.strip())]) + "\n"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--builds", type=int, default=200)
    parser.add_argument("--benches", type=int, default=50)
    given = parser.parse_args()
    chosen = given.part or PARTS
    for part in chosen:
        began = time.monotonic()
        body = {"situations": situations, "hostile": hostile, "kills": kills}[part](given)
        text = PAGE.read_text() if PAGE.is_file() else ""  # now: the parts may run side by side
        sections = dict(re.findall(r"^## (.+)\n\n((?:(?!^## ).*\n?)*)", text, re.MULTILINE))
        sections[TITLES[part]] = f"{body}\n{(time.monotonic() - began) / 60:.0f} minutes.\n"
        pages = [f"## {title}\n\n{sections[title].rstrip()}\n" for title in TITLES.values() if title in sections]
        PAGE.write_text("# Robustness\n\nWritten by `python benchmarks/robustness.py`.\n\n" + "\n".join(pages))
    print(PAGE)


if __name__ == "__main__":
    main()
