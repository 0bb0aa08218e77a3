"""Figures in words; imports nothing heavy."""

from __future__ import annotations

DIGITS, MOST_DIGITS = 4, 9  # of a number in a table; where two that differ would read alike


def signed_text(value: float, digits: int = DIGITS) -> str:
    """A change with its sign, so many digits behind the point; what is nothing by them has no sign."""
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]


def beside(value: float, limit: float, kind: str = "f", digits: int = 3) -> str:
    """A figure that missed its limit, with as many more digits as it takes that it does not read as the limit itself.

    Args:
        value: to be shown.
        limit: what it is told beside.
        kind: ``f`` for digits behind the point, ``g`` for significant ones.
        digits: at least.
    """
    least = f"{value:.{digits}{kind}}"
    if value == limit:
        return least
    shown = ((f"{value:.{count}{kind}}", f"{limit:.{count}{kind}}") for count in range(digits, MOST_DIGITS + 1))
    return next((text for text, other in shown if text != other), least)
