"""Waiting for a quiet machine, with looks that are made up."""

from __future__ import annotations

import os

import pytest

from edgeprune.measure.other_work import idle_cores, wait_for_quiet


@pytest.mark.parametrize(
    ("looks", "longest_s", "taken", "said"),
    [
        ([2.0], 60.0, 1, []),
        ([], 0.0, 0, []),
        ([0.1, 0.2, 0.9], 60.0, 3, ["waiting for a quiet moment, 60 s at most", "it is quiet now"]),
        ([0.1] * 4, 3.0, 4, ["waiting for a quiet moment, 3 s at most", "still busy after 3 s"]),
    ],
    ids=["quiet", "no wait asked for", "it ends", "it does not end"],
)
def test_a_wait_has_an_end_and_says_so(looks: list[float], longest_s: float, taken: int, said: list[str]) -> None:
    left, notes = list(looks), list[str]()
    wait_for_quiet(longest_s, 1, notes.append, idle=lambda: left.pop(0))
    assert len(looks) - len(left) == taken
    assert len(notes) == len(said)
    assert all(words in note for words, note in zip(said, notes, strict=True))


def test_idle_cores_are_counted() -> None:
    assert 0 <= idle_cores(0.01) <= (os.cpu_count() or 1)
