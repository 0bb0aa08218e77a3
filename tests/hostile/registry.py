"""What a try is: one hostile input given to one command that reads it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.situations.commands import Inputs
from tests.situations.driver import Outcome

Prepare = Callable[[Path, Inputs, Path], list[object]]
"""From an empty folder, good inputs and an output folder to the arguments; writes the hostile input into the folder."""
Check = Callable[[Outcome], str | None]
LONG_NAME = "n" * 5000


@dataclass(frozen=True)
class Try:
    """One input × one command.

    Attributes:
        reader: what reads it: checkpoint, dataset, profile, ONNX, plan, run directory, archive, engine, device,
            environment, or what ships.
        name: of the input.
        command: of the command, for the table.
        prepare: writes the input.
        options: of :meth:`Sandbox.run`: stdout, encoding, cwd, env, timeout_s.
        right: what it has to come to beyond the allowed outcomes.
    """

    reader: str
    name: str
    command: str
    prepare: Prepare
    options: dict[str, Any] = field(default_factory=dict)
    right: Check | None = None

    @property
    def id(self) -> str:
        """Its name in a test."""
        return f"{self.reader}: {self.name} | {self.command}"


def refused(outcome: Outcome) -> str | None:
    """It has to be refused: exit 2, 3 or 4."""
    return None if outcome.code in (2, 3, 4) else f"was accepted with exit code {outcome.code}: {outcome.last_line}"


def in_turns(items: Iterable[Any], commands: Iterable[str], count: int = 1) -> Iterable[tuple[Any, str]]:
    """Each item with the next ``count`` of the commands, which go round: every command meets many, none meets all."""
    turns = itertools.cycle(commands)
    for item in items:
        for _ in range(count):
            yield item, next(turns)
