"""The budgets that a frontier is asked for, as values, in words, and as ratios to the model as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.errors import TargetError
from edgeprune.options import exact
from edgeprune.records.frontier import Kind
from edgeprune.target import Target


@dataclass(frozen=True)
class Budgets:
    """Budgets of one kind.

    Attributes:
        kind: ``latency_ms`` or ``speed_up``.
        values: of them, as they were asked.
        ratios: latency of the baseline over what each allows.
    """

    kind: Kind
    values: tuple[float, ...]
    ratios: tuple[float, ...]

    @classmethod
    def beside(cls, baseline_ms: float, kind: Kind, values: Sequence[float]) -> Budgets:
        """Budgets of a baseline with this latency."""
        ratios = values if kind == "speed_up" else [baseline_ms / value for value in values]
        return cls(kind, tuple(values), tuple(ratios))

    def at(self, ratio: float) -> float:
        """The value whose ratio this is."""
        return self.values[self.ratios.index(ratio)]

    def words_at(self, ratio: float | None) -> str:
        """The same in words; empty for None."""
        return "" if ratio is None else budget_words(self.kind, self.at(ratio))


def budget_words(kind: Kind, value: float) -> str:
    """A budget in a few words."""
    return f"×{exact(value)}" if kind == "speed_up" else f"{exact(value)} ms"  # files are named so


def require_possible(target: Target, kind: Kind, values: Sequence[float]) -> None:
    """Raise TargetError for a kind that is none, an impossible value, and a ratio that the model as it is has."""
    for value in values:
        target.with_budget(kind, value)
        if kind == "speed_up" and value <= 1:
            raise TargetError(
                f"--speed-up {exact(value)}: the model as it is has that ratio to itself, and no measurement tells 1 "
                "from a little less; give ratios above 1"
            )
