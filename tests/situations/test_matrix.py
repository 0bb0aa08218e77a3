"""Every command on every situation: the right result, a refusal in one line with code 2, 3 or 4, or a verdict.

The cells of ``FAST`` belong to ``make test``; ``make test-hostile`` runs all. What the code of a day does wrong is
expected to fail, strictly (``known.py``): who mends it takes the mark away.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from docs.pages import commands
from tests.situations.catalogue import SITUATIONS
from tests.situations.commands import COMMANDS, ELSEWHERE
from tests.situations.known import EVERY, FAST, KNOWN, reason_of
from tests.situations.matrix import cells, dropped, met


def _parameters() -> Iterator[object]:
    for name, command in cells():
        marks: list[pytest.MarkDecorator] = [] if (name, command) in FAST else [pytest.mark.hostile]
        if reason := reason_of(name, command):
            marks.append(pytest.mark.xfail(strict=True, reason=reason))
        yield pytest.param(name, command, marks=marks, id=f"{SITUATIONS[name].kind} {name} | {command}")


@pytest.fixture(scope="module", autouse=True)
def _clean() -> Iterator[None]:
    yield
    dropped(*SITUATIONS)


@pytest.mark.parametrize(("name", "command"), list(_parameters()))
def test_a_command_in_a_situation(name: str, command: str) -> None:
    cell = met(name, command)
    assert cell.fault is None, f"{' '.join(cell.outcome.argv)}\n{cell.fault}\n{cell.outcome.err[-2000:]}"


def test_what_is_said_of_cells_is_said_of_some_that_exist() -> None:
    existing = set(cells())
    assert existing >= FAST
    assert {(name, command) for name, commands in KNOWN.items() for command in commands if command != EVERY} <= existing


def test_every_command_meets_the_situations_or_is_tried_elsewhere() -> None:
    met = {" ".join(name for name in words if not name.startswith("-")) for words in map(str.split, COMMANDS)}
    names = set(commands())
    tried = {name for name in names if any(f"{one} ".startswith(f"{name} ") for one in met)}
    assert names - tried == set(ELSEWHERE)
