"""Figures in words; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable

DIGITS, MOST_DIGITS = 4, 9  # of a number in a table; where two that differ would read alike


def signed_text(value: float, digits: int = DIGITS) -> str:
    """A change with its sign, so many digits behind the point; what is nothing by them has no sign."""
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]


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


def beside(value: float, limit: float, kind: str = "f", digits: int = 3) -> str:
    """A figure that missed its limit, as a number that does not read as the limit itself.

    Args:
        value: to be shown.
        limit: what it is told beside.
        kind: ``f`` for digits behind the point, ``g`` for significant ones.
        digits: at least.
    """
    return told_apart(value, limit, lambda number, count: f"{number:.{count}{kind}}", digits)[0]
