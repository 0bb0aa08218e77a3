"""What today's code does wrong, by situation and command, and which cells the fast part of the tests runs."""

from __future__ import annotations

from collections.abc import Iterator

from tests.situations.catalogue import SITUATIONS
from tests.situations.commands import COMMANDS
from tests.situations.matrix import cells

EVERY = "*"
KNOWN: dict[str, dict[str, str]] = {}
"""Situation to command to what is wrong; the mark of a test begins with the kind's letter."""


def _one_each() -> Iterator[tuple[str, str]]:
    """A cell of every situation that takes a moment: by turns one of the commands that its check names, or of all."""
    for number, (name, what) in enumerate(SITUATIONS.items()):
        quick = [command for _, command in cells([name]) if not COMMANDS[command].slow]
        if told := [command for command in quick if command in what.right] or quick:
            yield name, told[number % len(told)]


FAST: set[tuple[str, str]] = {
    *(("good", name) for name in ("prune", "export", "val", "parity", "simplify", "lint", "quantize fp16", "val onnx")),
    *_one_each(),
}
"""Cells of ``make test``: every quick command where nothing is wrong, and one quick cell of every situation."""


def reason_of(name: str, command: str) -> str:
    """Why a cell is expected to fail; empty when it is not."""
    known = KNOWN.get(name, {})
    text = known.get(command, known.get(EVERY, ""))
    return f"{SITUATIONS[name].kind}: {text}" if text else ""
