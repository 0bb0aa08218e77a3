"""The raw material of every gate: values as they were measured, with the conditions they were measured under."""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.samples.conditions import Conditions, differences
from edgeprune.samples.statistics import RatioInterval, ratio


@dataclass(frozen=True)
class Measurement:
    """Raw samples; every statistic derives from them (pyperf keeps its data the same way).

    Attributes:
        name: what was measured, for example ``latency``.
        unit: unit of every value: ``ms``, ``ratio``, ``mAP50-95``, ``px``, ``bytes``.
        values: the samples, in the order they were taken.
        conditions: what must be equal before two measurements may be compared, and what explains them.
        warmups: samples taken before the first value and not part of any statistic.
        simulated: True when no device was measured; such a measurement never passes a gate.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    conditions: Conditions
    warmups: tuple[float, ...] = ()
    simulated: bool = False


def differing_conditions(first: Measurement, second: Measurement) -> list[str]:
    """Names of the conditions that forbid comparing two measurements, with both values; empty when they may be."""
    unit = [] if first.unit == second.unit else [f"unit ({first.unit}, {second.unit})"]
    return unit + differences(first.conditions, second.conditions)


def speed_up_of(
    baseline: Measurement, candidate: Measurement, *, tails: tuple[float, float] | None = None
) -> RatioInterval:
    """Ratio baseline / candidate of two interleaved measurements, by the blocks and launches that they were taken in.

    Args:
        baseline: the first model's samples.
        candidate: the second's, ``values[i]`` taken next to the baseline's.
        tails: probability left out below and above; 2.5 % each when None.

    Raises:
        ValueError: lengths differ, fewer than eight blocks, or a value that is not finite and positive.
    """
    conditions = candidate.conditions
    return ratio(
        baseline.values,
        candidate.values,
        tails=tails,
        block=conditions.samples_per_block,
        launches=len(conditions.launches),
    )
