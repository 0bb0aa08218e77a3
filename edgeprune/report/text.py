"""Numbers, budgets, devices and commands in words; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeprune.samples.text import DIGITS, ceiled, ends_text, floored

if TYPE_CHECKING:
    from edgeprune.records.build import DeviceRow
    from edgeprune.samples.statistics import RatioInterval
    from edgeprune.target import Budget


def number_text(value: float | None, unit: str, digits: int = DIGITS) -> str:
    """A number with its unit: so many significant digits, no exponent where a person would not write one."""
    if value is None:
        return "–"
    if value == 0:
        text = "0"
    elif abs(value) < 1e-3:
        text = f"{value:.{digits - 3}e}"
    else:
        text = f"{value:.{digits}g}" if abs(value) < 1e4 else f"{value:,.{digits - DIGITS}f}"
    if unit == "×":
        return f"×{text}"
    return f"{text} {unit}".strip()


def ms_text(value: float | None) -> str:
    """Milliseconds, everywhere with the same digits: one latency reads the same wherever it stands."""
    if value is None:
        return "–"
    return f"{value:.{_ms_digits(value)}f}"


def ms_end(value: float | None, limit: float | None = None, *, up: bool) -> str:
    """Milliseconds that something takes at least, or with ``up`` at most: as :func:`ms_text`, rounded away from what
    lies between; beside a ``limit`` with the digits that show on which side of it they are."""
    if value is None:
        return "–"
    return (ceiled if up else floored)(value, limit, digits=_ms_digits(value))


def ms_with_ends(value: float, low: float | None, high: float | None, unit: str = "") -> str:
    """Milliseconds, with a unit if one is given, and the ends of their interval where both are known."""
    known = low is not None and high is not None
    return f"{ms_text(value)}{unit}" + (f" ({ms_end(low, up=False)} to {ms_end(high, up=True)})" if known else "")


def _ms_digits(value: float) -> int:
    return 2 if abs(value) >= 1 else 4


INTERVAL = "two-sided 95 % interval"
"""What an interval is called that is told to people. A gate rests on one end alone, and says so in its words: at least,
at most, or better, with the confidence of that one end."""


def interval_text(ratio: RatioInterval) -> str:
    """A ratio with its interval."""
    return f"×{ratio.ratio:.3f} ({ends_text(ratio.low, ratio.high)})"


def as_title(text: str) -> str:
    """The same with a capital at its beginning; the other letters stay."""
    return text[:1].upper() + text[1:]


def device_text(device: DeviceRow) -> str:
    """The device of a build in one line."""
    identity = ", ".join(f"{name} {value}" for name, value in device.identity.items() if name != "isa")
    return f"{'SIMULATED device' if device.simulated else 'Device'} {device.name}: {identity}"


def scope_text(scope: str) -> str:
    """Words before what a budget of this scope times: nothing for the model alone. Of samples,
    :func:`~edgeprune.samples.gates.scope_words` says it."""
    return "end-to-end " if scope == "end_to_end" else ""


def budget_text(budget: Budget) -> str:
    """A budget in words."""
    scope = scope_text(budget.scope)
    if budget.latency_ms is not None:
        return f"{budget.statistic} {scope}latency of at most {budget.latency_ms:g} ms"
    if budget.speed_up is not None:
        return f"a measured {scope}speed-up of at least ×{budget.speed_up:g}"
    return f"×{budget.macs_speed_up:g} fewer MACs"


def shell_line(argv: Sequence[str]) -> str:
    """Arguments as a person would type them."""
    import shlex

    return shlex.join(argv)
