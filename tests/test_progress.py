"""One word for who watches: every public function that takes long takes ``progress``."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import edgeprune
from edgeprune.progress import Silent, reporter_of
from edgeprune.stages.base import SilentBuild, build_reporter_of


@pytest.mark.parametrize(
    "name", ["bench", "build", "compare", "finetune", "profile", "search", "sparsify", "sweep", "val"]
)
def test_what_takes_long_says_that_it_moves_by_one_word(name: str) -> None:
    parameters = inspect.signature(getattr(edgeprune, name)).parameters
    assert "progress" in parameters and "reporter" not in parameters


@pytest.mark.parametrize("made", [reporter_of, build_reporter_of])
def test_a_function_is_as_good_as_a_reporter(made: Any) -> None:
    told: list[tuple[str, int, int]] = []
    reporter = made(lambda text, *, done=0, total=0, latest_ms=(): told.append((text, done, total)))
    reporter.progress("probe 1", done=1, total=6)
    reporter.note("said to nobody")
    assert told == [("probe 1", 1, 6)]
    assert isinstance(made(None), Silent)


def test_a_reporter_is_taken_as_it_is() -> None:
    watching = SilentBuild()
    assert build_reporter_of(watching) is watching and reporter_of(watching) is watching
