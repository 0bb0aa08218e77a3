"""What holds for every test of the suite."""

from __future__ import annotations

from hypothesis import settings


def test_no_example_has_a_deadline() -> None:
    assert settings.default.deadline is None
