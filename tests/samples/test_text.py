"""Figures in words: an end of an interval is never told better than it is, nor on the wrong side of its limit."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.report.text import ms_end
from edgeprune.samples.text import ceiled, ends_text, floored

NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(NUMBERS, st.sampled_from(["f", "g"]), st.integers(1, 6))
def test_what_is_at_least_is_rounded_down_and_at_most_up(value: float, kind: str, digits: int) -> None:
    noise = 1e-11 * abs(value)  # what binary adds to a decimal is no part of a figure
    assert float(floored(value, kind=kind, digits=digits)) <= value + noise
    assert float(ceiled(value, kind=kind, digits=digits)) >= value - noise


@given(st.floats(0.01, 1e4), st.integers(-30, 30), st.sampled_from(["f", "g"]))
def test_an_end_is_read_on_its_own_side_of_the_limit(limit: float, steps: int, kind: str) -> None:
    limit, value = round(limit, 3), round(limit, 3) + steps * 10**-5
    for text in (floored(value, limit, kind, 4), ceiled(value, limit, kind, 4)):
        if kind == "f":
            assert (float(text) > limit, float(text) < limit) == (value > limit, value < limit)
    assert floored(limit, limit) == ceiled(limit, limit) == f"{limit:.3f}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (floored(1.4999), "1.499"),
        (ceiled(1.5001), "1.501"),
        (floored(0.1 + 0.2), "0.300"),
        (ceiled(0.1 + 0.2), "0.300"),
        (floored(1.41), "1.410"),
        (floored(1.50041, 1.5004), "1.50041"),
        (ceiled(4.00004, 4.0, "g", 4), "4.001"),
        (floored(4.00004, 4.0, "g", 4), "4.00004"),
        (ceiled(7.99996, 8.0, "g", 4), "7.99996"),
        (floored(-0.01992, digits=4, signed=True), "-0.0200"),
        (ceiled(-0.00001, digits=4, signed=True), "0.0000"),
        (ceiled(0.00001, digits=4, signed=True), "+0.0001"),
        (ceiled(math.inf), "inf"),
        (ms_end(12.346, up=True), "12.35"),
        (ms_end(12.346, 12.3465, up=True), "12.346"),
        (ms_end(0.35151, up=False), "0.3515"),
        (ms_end(None, up=True), "–"),
        (ends_text(0.9996, 1.0004), "0.999 to 1.001"),
    ],
)
def test_ends_as_text(text: str, said: str) -> None:
    assert text == said
