"""Robustness: situations met by commands, hostile inputs by readers, kills, signals, damage and long runs.

``python benchmarks/robustness.py`` writes ``robustness.md`` beside this file, whole: hours on two cores. With
``--kept`` a part that is finished is kept in that folder, and the same command goes on with the others; the page says
which part ran when, and how it was asked for. ``--cells`` and ``--inputs`` draw so many by chance (``--seed``),
``--slow`` of them at most of commands that train or measure, and ``--minutes`` ends the cells then; the page says what
was run. ``--kills``, ``--builds`` and ``--benches`` are counts. ``--only`` one part prints it and writes no page.
"""

from __future__ import annotations

import argparse
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.suite import commit  # noqa: E402
from edgeprune.serial import read_json, write_json  # noqa: E402

Case = TypeVar("Case")
COUNTS = ("cells", "inputs", "slow", "seed", "minutes", "kills", "builds", "benches")
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


@dataclass(frozen=True)
class Part:
    """A part of the page.

    Attributes:
        text: Markdown.
        command: of its run.
        commit: of the code.
        machine: architecture and Python.
        minutes: that it took beside the others.
    """

    text: str
    command: str
    commit: str
    machine: str
    minutes: float


def part(name: str, given: argparse.Namespace) -> str:
    """One part as Markdown."""
    if name in KILLS:
        return kills(given, KILLS[name])
    return {"situations": situations, "hostile": hostile}[name](given)


def whole(argv: Sequence[str], kept: Path) -> dict[str, Part]:
    """Every part that is not kept, each in a process of its own, side by side; then all of them."""
    outputs = {name: kept / f"{name.replace(' ', '-')}.json" for name in PARTS}
    running = {
        name: subprocess.Popen([sys.executable, __file__, *argv, "--only", name, "--output", str(output)])
        for name, output in outputs.items()
        if not output.is_file()
    }
    failed = [name for name, process in running.items() if process.wait() != 0]
    if failed:
        raise SystemExit(f"no page is written: {', '.join(failed)} failed")
    return {name: read_json(Part, output) for name, output in outputs.items()}


def page(parts: dict[str, Part]) -> str:
    """The page, with each run that a part is from."""
    first, *others = (parts[name].text.rstrip().splitlines() for name in KILLS)
    bodies = {
        "situations": parts["situations"].text.rstrip(),
        "hostile": parts["hostile"].text.rstrip(),
        "SIGKILL": "\n".join([*first, *(row for table in others for row in table[2:])]),
    }
    runs: dict[tuple[str, str, str], list[str]] = {}
    for name, one in parts.items():
        runs.setdefault((one.command, one.commit, one.machine), []).append(f"{name} {one.minutes:.0f} minutes")
    said = "\n".join(
        f"- `{command}`, edgeprune {commit}, {machine}: {', '.join(names)}."
        for (command, commit, machine), names in runs.items()
    )
    sections = (f"## {PARTS[name]}\n\n{body}\n" for name, body in bodies.items())
    return f"# Robustness\n\nThe parts, side by side in each of these runs:\n\n{said}\n\n" + "\n".join(sections)


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
    parser.add_argument("--kept", type=Path, help="folder of finished parts, with which the same command goes on")
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    given, began = parser.parse_args(), time.monotonic()
    if given.only:
        text = part(given.only, given)
        if given.output is None:
            print(text)
            return
        asked = [
            f"--{name} {getattr(given, name)}" for name in COUNTS if getattr(given, name) != parser.get_default(name)
        ]
        command = " ".join(["python -m benchmarks.robustness", *asked])
        machine = f"{platform.machine()}, Python {platform.python_version()}"
        minutes = (time.monotonic() - began) / 60
        write_json(given.output, Part(text, command, commit(), machine, minutes))
        return
    with tempfile.TemporaryDirectory() as folder:
        kept = given.kept or Path(folder)
        kept.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(page(whole(sys.argv[1:], kept)))
    print(PAGE)


if __name__ == "__main__":
    main()
