"""Figures in words; imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

DIGITS, MOST_DIGITS = 4, 9  # of a number in a table; where two that differ would read alike


def signed_text(value: float, digits: int = DIGITS) -> str:
    """A change with its sign, so many digits behind the point; what is nothing by them has no sign."""
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]


def duration_text(seconds: float) -> str:
    """A time as people plan by it: seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def told_apart(
    value: float | None, limit: float | None, text: Callable[[float | None, int], str], digits: int = DIGITS
) -> tuple[str, str]:
    """A figure and its limit as text, with as many more digits as it takes that they read alike only where they are: by
    four digits 1.4996 would stand as 1.5 beside a limit of 1.5, and FAIL behind it.

    Args:
        value, limit: to be shown side by side.
        text: shows one of them with a number of digits.
        digits: at least.
    """
    pair = text(value, digits), text(limit, digits)
    if value is None or limit is None or value == limit:
        return pair
    tried = ((text(value, count), text(limit, count)) for count in range(digits, MOST_DIGITS + 1))
    return next((both for both in tried if both[0] != both[1]), pair)


NOISE_DIGITS = 12  # significant ones: 0.555 - 0.545 is 0.010000000000000009 in binary, and no more than 0.01
LARGEST = Context(prec=400)  # no finite number has more digits than that with :data:`MOST_DIGITS` behind its point


def floored(
    value: float, limit: float | None = None, kind: str = "f", digits: int = DIGITS - 1, *, signed: bool = False
) -> str:
    """What something is at least, rounded down, so that what is printed holds wherever the figure does.

    Args:
        value: the lower end of what was found.
        limit: what it is read beside: the text is on the same side of it as the value, if that takes more digits.
        kind: ``f`` for digits behind the point, ``g`` for significant ones.
        digits: at least.
        signed: with its sign, as :func:`signed_text`; of the kind ``f`` alone.
    """
    return _end_text(value, limit, kind, digits, signed, ROUND_FLOOR)


def ceiled(
    value: float, limit: float | None = None, kind: str = "f", digits: int = DIGITS - 1, *, signed: bool = False
) -> str:
    """What something is at most, rounded up; otherwise as :func:`floored`."""
    return _end_text(value, limit, kind, digits, signed, ROUND_CEILING)


def ends_text(low: float, high: float, kind: str = "f", digits: int = DIGITS - 1, *, signed: bool = False) -> str:
    """Both ends of an interval, rounded away from each other: what is printed holds at least as surely. Otherwise as
    :func:`floored`."""
    return f"{floored(low, None, kind, digits, signed=signed)} to {ceiled(high, None, kind, digits, signed=signed)}"


def _end_text(value: float, limit: float | None, kind: str, digits: int, signed: bool, rounding: str) -> str:
    text, rounded = "", value
    for count in range(digits, MOST_DIGITS + 1):
        rounded = _rounded(value, kind, count, rounding)
        text = signed_text(rounded, count) if signed else f"{rounded:.{count}{kind}}"
        if limit is None or (rounded > limit, rounded < limit) == (value > limit, value < limit):
            break
    return text


def _rounded(value: float, kind: str, digits: int, rounding: str) -> float:
    """So many digits of a number, in one direction; what is not finite as it is."""
    if not math.isfinite(value):
        return value
    exact = Decimal(f"{value:.{NOISE_DIGITS}g}")
    if kind == "g":
        return float(Context(prec=digits, rounding=rounding).plus(exact))
    return float(exact.quantize(Decimal(1).scaleb(-digits), rounding, LARGEST))
