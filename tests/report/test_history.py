"""The drawings of a history: what is not comparable is not joined."""

from __future__ import annotations

import pytest

from edgeprune.report import history as drawn
from tests.report import results


def test_only_builds_that_are_held_against_each_other_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[tuple[tuple[int, float], tuple[int, float]]] = []
    monkeypatch.setattr(drawn, "_join", lambda axes, pairs: joined.extend(pairs))
    page = drawn.history_page(results.history())
    assert joined == [((1, 12.0), (2, 14.0)), ((1, 1.6), (2, 1.6)), ((1, 0.54), (2, 0.54))]
    # the third was taken under other conditions: no word sets it against the first or the second either
    assert page.count(drawn.NOTHING) == 3 and "9.000 ms in c, nothing to compare with" in page
    assert 'class="verdict info"' in page and 'id="verdict">nothing to compare<' in page
