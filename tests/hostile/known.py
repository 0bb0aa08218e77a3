"""What today's code does wrong with which hostile input, and which inputs the fast part of the tests tries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tests.hostile.registry import Try

KNOWN: dict[str, str] = {}
"""Id of a try to what is wrong."""

FAST_COMMANDS = {
    "profile": "targets show",
    "checkpoint": "export",
    "dataset": "val onnx",
    "ONNX": "lint",
    "code": "parity onnx",
    "device": "device probe",
    "arguments": "parity onnx",
    "engine": "val",
    "engine header": "engine-header show",
    "shipped ONNX": "deploy triton",
    "adopted checkpoint": "adopt",
}
"""Reader to the command that tells most in a moment. What needs a finished build is not among them."""
FAST_COUNT = 5


def fast(tries: Iterable[Try]) -> Iterator[str]:
    """Ids of the tries that ``make test`` runs: a few of each reader, spread evenly."""
    tries = list(tries)
    for reader, command in FAST_COMMANDS.items():
        ids = [one.id for one in tries if (one.reader, one.command) == (reader, command)]
        yield from ids[:: max(1, len(ids) // FAST_COUNT)][:FAST_COUNT]
