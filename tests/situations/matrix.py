"""Every situation met by every command that it concerns, judged cell by cell, and the whole as a table.

``python -m tests.situations.matrix [KIND, NAME or slow COMMAND ...] [--quick]`` runs it and prints what each cell came
to; ``--quick`` leaves out slow commands that are not named.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.situations.catalogue import SITUATIONS
from tests.situations.commands import COMMANDS, Inputs, arguments
from tests.situations.driver import REFUSALS, Outcome, Sandbox, table

TIMEOUT_S = 240
LONG = (
    "D",
    "E",
    "F",
    "G",
    "good",
    "1 channels",
    "Focus stem",
    "NaN in first",
)  # kinds and situations that concern search


@dataclass(frozen=True)
class Cell:
    """What one command came to in one situation.

    Attributes:
        fault: what is wrong with it; None when it is the right result, a refusal in one line, or a verdict.
    """

    situation: str
    command: str
    outcome: Outcome
    fault: str | None


PREPARED: dict[str, tuple[Sandbox, Inputs]] = {}


def prepared(name: str) -> tuple[Sandbox, Inputs]:
    """A situation written into a sandbox of its own, which stays for all its commands."""
    if name not in PREPARED:
        box = Sandbox(Path(tempfile.mkdtemp(prefix="edgeprune-situation-")))
        PREPARED[name] = (box, SITUATIONS[name].make(box.root / "in"))
    return PREPARED[name]


def dropped(*names: str) -> None:
    """Remove the sandboxes of situations."""
    for name in names:
        if name in PREPARED:
            shutil.rmtree(PREPARED.pop(name)[0].root, ignore_errors=True)


def cells(names: Iterable[str] = SITUATIONS) -> Iterator[tuple[str, str]]:
    """(situation, command) for every command that reads something that the situation is about."""
    for name in names:
        available = _available(name)
        for command, what in COMMANDS.items():
            if what.long and SITUATIONS[name].kind not in LONG and name not in LONG:
                continue
            if what.uses & SITUATIONS[name].subject and what.uses <= available:
                yield name, command


def _available(name: str) -> frozenset[str]:
    """What a situation has; known without writing it: a model file that it replaces by another form is left out."""
    without = SITUATIONS[name].without
    return frozenset({"weights", "onnx", "data", "profile"} - without)


@cache
def explains_trust(command: str) -> bool:
    """Whether a command has the option ``--trust``."""
    box = Sandbox(Path(tempfile.mkdtemp(prefix="edgeprune-help-")))
    try:
        return "--trust" in box.run([command, "--help"]).out
    finally:
        shutil.rmtree(box.root, ignore_errors=True)


def met(name: str, command: str) -> Cell:
    """Run one cell."""
    box, inputs = prepared(name)
    outcome = box.run(arguments(command, inputs, box.out), timeout_s=TIMEOUT_S, keep=True, cwd=inputs.cwd)
    try:
        return Cell(name, command, outcome, _fault(name, command, outcome, inputs, box))
    finally:
        shutil.rmtree(box.out)
        box.out.mkdir()


def _fault(name: str, command: str, outcome: Outcome, inputs: Inputs, box: Sandbox) -> str | None:
    if fault := outcome.fault() or outcome.stray():
        return fault
    line = outcome.refusal or ""
    if "--trust" in line and not explains_trust(outcome.argv[0]):
        return f"advises --trust, which it does not have: {line}"
    if command == "build" and outcome.code in REFUSALS:
        if outcome.code == 2 and "[2/" in outcome.out:
            return f"refused after a stage had finished: {line}"
        if "[2/" in outcome.out and not list((box.out / "run").glob("*/record.json")):
            return "finished stages were removed"
    right = SITUATIONS[name].right
    check = right.get(command, right.get("*"))
    return check(outcome, inputs) if check else None


def short(cell: Cell) -> str:
    """One word for a cell of the table."""
    if cell.fault:
        return f"**{cell.fault.split(':')[0].split(' ')[0]}**"
    return {0: "runs", 1: "FAIL", 5: "INCONCLUSIVE"}.get(cell.outcome.code, f"refuses ({cell.outcome.code})")


def markdown(done: Iterable[Cell]) -> str:
    """Command × situation."""
    done = list(done)
    names = list(dict.fromkeys(cell.situation for cell in done))
    of = {(cell.situation, cell.command): cell for cell in done}
    commands = [command for command in COMMANDS if any((name, command) in of for name in names)]
    rows = [
        [SITUATIONS[name].kind, name, *(short(of[name, c]) if (name, c) in of else "" for c in commands)]
        for name in names
    ]
    return table(["kind", "situation", *commands], rows)


def main() -> None:
    """Run the situations whose kind or name is given, or all."""
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    quick = "--quick" in sys.argv
    names = [n for n, s in SITUATIONS.items() if s.kind in words or n in words or not words]
    done = []
    for name in names:
        began = time.monotonic()
        try:
            prepared(name)
        except Exception as error:
            print(f"{SITUATIONS[name].kind} {name}: cannot be made: {type(error).__name__}: {error}", flush=True)
            continue
        for _, command in cells([name]):
            if quick and COMMANDS[command].slow and command not in words:
                continue
            try:
                cell = met(name, command)
            except Exception as error:
                print(f"{SITUATIONS[name].kind} {name} | {command} | check failed: {error!r}", flush=True)
                continue
            done.append(cell)
            told = [SITUATIONS[name].kind, name, command, cell.outcome.code, round(cell.outcome.seconds, 1)]
            print(json.dumps([*told, cell.fault, cell.outcome.last_line[:300], list(cell.outcome.written)]), flush=True)
        dropped(name)
        print(f"# {name}: {time.monotonic() - began:.1f} s", flush=True)
    Path("matrix.md").write_text(markdown(done)) if "--table" in sys.argv else None


if __name__ == "__main__":
    main()
