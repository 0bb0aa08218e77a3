"""Gates: pure functions from a measurement and a limit to a verdict. No torch, no clock, no file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any


class Verdict(str, Enum):
    """Outcome of a gate, worst first in :func:`overall`."""

    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    PENDING = "PENDING"
    PASS = "PASS"

    @property
    def exit_code(self) -> int:
        """0 PASS, 1 FAIL, 5 INCONCLUSIVE or PENDING."""
        return {Verdict.PASS: 0, Verdict.FAIL: 1}.get(self, 5)


@dataclass(frozen=True)
class Gate:
    """One row of the verdict table.

    Attributes:
        stage: the stage behind which the gate stands.
        metric: what was checked, for example ``latency p95`` or ``mAP50-95 drop``.
        value: the measured figure, or None while it is PENDING.
        limit: the figure it was held against, or None for a row that only informs a later one.
        unit: unit of both.
        verdict: the outcome.
        reason: one line: why, and for PENDING or INCONCLUSIVE the next command.
    """

    stage: str
    metric: str
    value: float | None
    limit: float | None
    unit: str
    verdict: Verdict
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``build.json``."""
        return asdict(self) | {"verdict": self.verdict.value}


def overall(gates: list[Gate]) -> Verdict:
    """The verdict of a build: the worst of its gates; a build without gates is PENDING, never PASS."""
    for verdict in Verdict:
        if any(gate.verdict is verdict for gate in gates):
            return verdict
    return Verdict.PENDING
