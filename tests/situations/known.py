"""What today's code does wrong, by situation and command, and which cells the fast part of the tests runs."""

from __future__ import annotations

from tests.situations.catalogue import SITUATIONS

EVERY = "*"
KNOWN: dict[str, dict[str, str]] = {}
"""Situation to command to what is wrong; the mark of a test begins with the kind's letter."""

FAST: set[tuple[str, str]] = {
    ("good", command)
    for command in ("prune", "export", "val", "parity", "simplify", "lint", "quantize fp16", "val onnx")
}
"""Cells that take a moment and are the ones to tell: those that tell most."""


def reason_of(name: str, command: str) -> str:
    """Why a cell is expected to fail; empty when it is not."""
    known = KNOWN.get(name, {})
    text = known.get(command, known.get(EVERY, ""))
    return f"{SITUATIONS[name].kind}: {text}" if text else ""
