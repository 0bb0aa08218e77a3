"""Robustness: situations met by commands, hostile inputs by readers, kills, signals, damage and long runs.

``python benchmarks/robustness.py`` writes ``robustness.md`` beside this file, whole, from one run: hours on two cores.
``--cells`` and ``--inputs`` draw so many by chance (``--seed``), ``--slow`` of them at most of commands that train or
measure, and ``--minutes`` ends the cells then; the page says what was run. ``--kills``, ``--builds`` and ``--benches``
are counts. ``--only`` one part prints it and writes no page.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
Case = TypeVar("Case")
PAGE = Path(__file__).with_suffix(".md")
PARTS = {
    "situations": "Command × situation",
    "hostile": "Hostile and broken inputs",
    "SIGKILL": "Kills, signals, damage and long runs",  # the three below run side by side, each in a folder of its own
    "signals": "",
    "long runs": "",
}
KILLS = {
    "SIGKILL": ("SIGKILL",),
    "signals": ("Ctrl-C", "SIGTERM", "two builds on one folder", "one byte flipped", "a full disk"),
    "long runs": ("cached builds", "benches", "benches on a remote stand-in"),
}


def drawn(cases: Sequence[Case], count: int, slow: int, is_slow: Callable[[Case], bool], seed: int) -> Iterator[Case]:
    """``count`` cases by chance, ``slow`` of them at most slow ones."""
    left = count
    for case in random.Random(seed).sample(cases, len(cases)):
        if is_slow(case):
            if not slow:
                continue
            slow -= 1
        if not left:
            return
        left -= 1
        yield case


def situations(given: argparse.Namespace) -> str:
    """Commands on situations: the cells of a situation stand together, since it has to be made once."""
    from tests.situations.catalogue import SITUATIONS
    from tests.situations.commands import COMMANDS
    from tests.situations.matrix import cells, dropped, markdown, met

    every = list(cells())
    chosen = set(drawn(every, given.cells, given.slow, lambda cell: COMMANDS[cell[1]].slow, given.seed))
    ends, done = time.monotonic() + 60 * given.minutes, []
    for name in random.Random(given.seed).sample(list(SITUATIONS), len(SITUATIONS)):
        for cell in cells([name]):
            if cell in chosen and time.monotonic() < ends:
                done.append(met(*cell))
        dropped(name)
        print(f"{name}: {sum(cell.fault is not None for cell in done)} faults in {len(done)} cells", flush=True)
    done.sort(key=lambda cell: every.index((cell.situation, cell.command)))
    faults = [cell for cell in done if cell.fault]
    lines = "".join(f"- {cell.situation}, `{cell.command}`: {cell.fault}\n" for cell in faults)
    seen = len({cell.situation for cell in done})
    head = (
        f"{len(done)} of {len(every)} cells, {seen} of {len(SITUATIONS)} situations; {len(faults)} cells are neither a "
        "right result, a refusal in one line nor a verdict."
    )
    return f"{head}\n\n{markdown(done)}" + (f"\n{lines}" if lines else "")


def hostile(given: argparse.Namespace) -> str:
    """Hostile inputs, each given to a command that reads it."""
    from tests.hostile.harness import as_line, attempt, counted, tries
    from tests.situations.commands import COMMANDS

    every = list(tries().values())
    chosen = drawn(
        every,
        given.inputs,
        given.slow,
        lambda one: one.command in COMMANDS and COMMANDS[one.command].slow,
        given.seed,
    )
    results = []
    for one in chosen:
        results.append(attempt(one))
        if results[-1].kind or len(results) % 50 == 0:
            print(len(results), as_line(results[-1]), flush=True)
    faults = [result for result in results if result.kind]
    lines = "".join(f"- {result.attempt.id}: {result.fault[:200]}\n" for result in faults)
    head = f"{len(results)} of {len(every)} inputs, {len(faults)} with another outcome than is allowed."
    return f"{head}\n\n{counted(results)}" + (f"\n{lines}" if lines else "")


def kills(given: argparse.Namespace, names: Sequence[str]) -> str:
    """Kills and soak, in a process of their own."""
    counts = [word for name in ("kills", "builds", "benches") for word in (f"--{name}", str(getattr(given, name)))]
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "table.md"
        argv = [sys.executable, "-m", "tests.hostile.kills", *counts, "--output", str(made), "--only", *names]
        subprocess.run(argv, cwd=ROOT, check=True)
        return made.read_text()


def part(name: str, given: argparse.Namespace) -> str:
    """One part as Markdown."""
    if name in KILLS:
        return kills(given, KILLS[name])
    return {"situations": situations, "hostile": hostile}[name](given)


def whole(argv: Sequence[str]) -> dict[str, str]:
    """Every part, each in a process of its own, side by side."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = {name: Path(folder) / f"{number}.json" for number, name in enumerate(PARTS)}
        running = {
            name: subprocess.Popen([sys.executable, __file__, *argv, "--only", name, "--output", str(output)])
            for name, output in outputs.items()
        }
        failed = [name for name, process in running.items() if process.wait() != 0]
        if failed:
            raise SystemExit(f"no page is written: {', '.join(failed)} failed")
        return {name: json.loads(output.read_text()) for name, output in outputs.items()}


def page(parts: dict[str, str], argv: Sequence[str], minutes: float) -> str:
    """The page of one run."""
    first, *others = (parts[name].rstrip().splitlines() for name in KILLS)
    bodies = {
        "situations": parts["situations"].rstrip(),
        "hostile": parts["hostile"].rstrip(),
        "SIGKILL": "\n".join([*first, *(row for table in others for row in table[2:])]),
    }
    command = shlex.join(["python", "benchmarks/robustness.py", *argv])
    said = f"Written by one run of `{command}` in {minutes:.0f} minutes, on {platform.machine()} and Python "
    sections = (f"## {PARTS[name]}\n\n{body}\n" for name, body in bodies.items())
    return f"# Robustness\n\n{said}{platform.python_version()}.\n\n" + "\n".join(sections)


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10**9)
    parser.add_argument("--inputs", type=int, default=10**9)
    parser.add_argument("--slow", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--builds", type=int, default=200)
    parser.add_argument("--benches", type=int, default=50)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    given, began = parser.parse_args(), time.monotonic()
    if given.only:
        text = part(given.only, given)
        print(text) if given.output is None else given.output.write_text(json.dumps(text))
        return
    argv = sys.argv[1:]
    PAGE.write_text(page(whole(argv), argv, (time.monotonic() - began) / 60))
    print(PAGE)


if __name__ == "__main__":
    main()
