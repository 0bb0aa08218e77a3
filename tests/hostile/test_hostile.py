"""Hostile and broken inputs, every reader × every command: nothing of theirs runs, no traceback, an end, a right code.

A few of each reader belong to ``make test``; ``make test-hostile`` runs all. Faults of today's code are expected to
fail, strictly (``known.py``).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hostile.harness import attempt, tries
from tests.hostile.known import FAST_COMMANDS, KNOWN, fast


def _parameters() -> Iterator[object]:
    chosen = set(fast(tries().values()))
    for name in tries():
        marks: list[pytest.MarkDecorator] = [] if name in chosen else [pytest.mark.hostile]
        if name in KNOWN:
            marks.append(pytest.mark.xfail(strict=True, reason=KNOWN[name]))
        yield pytest.param(name, marks=marks, id=name)


@pytest.mark.parametrize("name", list(_parameters()))
def test_a_hostile_input(name: str) -> None:
    result = attempt(tries()[name])
    assert not result.kind, f"{' '.join(result.outcome.argv)[:2000]}\n{result.fault}\n{result.outcome.err[-2000:]}"


def test_there_are_hundreds_and_what_is_said_of_them_exists() -> None:
    assert len(tries()) >= 500
    assert set(KNOWN) <= set(tries())
    assert {tries()[name].reader for name in fast(tries().values())} == set(FAST_COMMANDS)
