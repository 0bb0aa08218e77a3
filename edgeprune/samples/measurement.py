"""The raw material of every gate: values as they were measured, with the conditions they were measured under."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgeprune.samples.conditions import Conditions, differences
from edgeprune.samples.statistics import (
    Bounds,
    RatioInterval,
    Stability,
    bounds,
    placement_margin,
    ratio,
    stability,
    value_of,
)

LEAST_GAIN = 1.02
"""What is not faster by this has nothing to give for another number format or output form. NVIDIA's ModelOpt keeps Q/DQ
nodes from the same gain on (Model-Optimizer issue 2318)."""


@dataclass(frozen=True)
class Measurement:
    """Raw samples; every statistic derives from them (pyperf keeps its data the same way).

    Attributes:
        name: what was measured, for example ``latency``.
        unit: unit of every value: ``ms``, ``mJ``, ``ratio``, ``mAP50-95``, ``px``, ``bytes``.
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

    Other work on the same core interrupts a long inference more often than a short one, so that the clock shows a gain
    that is none. Where the core was shared the interval therefore holds the ratio of processor time as well; of several
    threads, whose processor time tells nothing, all that the ratio may be without what other work took of their cores.

    Args:
        baseline: the first model's samples.
        candidate: the second's, ``values[i]`` taken next to the baseline's.
        tails: probability left out below and above; 2.5 % each when None.

    Raises:
        ValueError: lengths differ, no pair at all, or a value that is not finite and positive.
    """
    by_clock = _ratio(candidate, baseline.values, candidate.values, tails)
    if not shared_core(baseline, candidate):
        return by_clock
    by_core = core_speed_up_of(baseline, candidate, tails=tails)
    if by_core is None:
        before, after = (one.conditions.core for one in (baseline, candidate))
        if before.of_one_core or after.of_one_core:
            return by_clock
        high = by_clock.high / after.alone if after.alone else math.inf
        return replace(by_clock, low=by_clock.low * before.alone, high=high)
    return replace(by_clock, low=min(by_clock.low, by_core.low), high=max(by_clock.high, by_core.high))


def core_speed_up_of(
    baseline: Measurement, candidate: Measurement, *, tails: tuple[float, float] | None = None
) -> RatioInterval | None:
    """The same ratio of processor time, which other work on the machine hardly moves; None where a run is not one
    core's work, or the processor's clock is too coarse for it."""
    first, second = baseline.conditions.core.cpu_ms, candidate.conditions.core.cpu_ms
    if not first or len(first) != len(second) or min(*first, *second) <= 0:
        return None
    return _ratio(candidate, first, second, tails)


def with_input_of(baseline: Measurement, candidate: Measurement) -> Measurement:
    """The baseline as one of the candidate's input: for two models of one interleaved run that take their own sizes and
    batches each, where the ratio across them is what is asked for."""
    conditions = replace(baseline.conditions, shapes=candidate.conditions.shapes, batch=candidate.conditions.batch)
    return replace(baseline, conditions=conditions)


def latency_bounds(measurement: Measurement, statistic: str, confidence: float, against: float | None = None) -> Bounds:
    """Bounds of a percentile of latency in any process: an allowance for where memory lies in those that were measured
    is in both ends. Every bound on a latency that is told or judged is this one.

    Args:
        measurement: samples in ms.
        statistic: a percentile such as ``p95``.
        confidence: one-sided, of the upper bound.
        against: one-sided, of the lower bound; as much when None.
    """
    found = bounds(measurement.values, statistic, confidence, against)
    return found.widened(placement_margin(len(measurement.conditions.launches)))


@dataclass(frozen=True)
class Summary:
    """What a table shows of one measurement. Times in the samples' unit (ms), throughput in images per second.

    ``confidence`` is that of each upper bound alone (:func:`latency_bounds`), which is None where there are too few
    samples for one.
    """

    samples: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    p50_bound: float | None
    p90_bound: float | None
    p95_bound: float | None
    p99_bound: float | None
    minimum: float
    maximum: float
    throughput: float
    stability: Stability
    confidence: float


def summary(measurement: Measurement, confidence: float = 0.99) -> Summary:
    """Percentiles of latency in ms with their upper bounds, mean and throughput.

    Args:
        measurement: samples in ms.
        confidence: of each bound, one-sided.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    values = measurement.values
    each = {name: latency_bounds(measurement, name, confidence) for name in ("p50", "p90", "p95", "p99")}
    mean = value_of(values, "mean")
    return Summary(
        samples=len(values),
        mean=mean,
        p50=each["p50"].value,
        p90=each["p90"].value,
        p95=each["p95"].value,
        p99=each["p99"].value,
        p50_bound=each["p50"].high,
        p90_bound=each["p90"].high,
        p95_bound=each["p95"].high,
        p99_bound=each["p99"].high,
        minimum=min(values),
        maximum=max(values),
        throughput=1000 * measurement.conditions.batch / mean,
        stability=stability(values),
        confidence=confidence,
    )


def shared_core(*measurements: Measurement) -> bool:
    """Whether other work ran on the core of one of them meanwhile."""
    return any(measurement.conditions.core.contended for measurement in measurements)


def _ratio(
    conditions_of: Measurement, first: Sequence[float], second: Sequence[float], tails: tuple[float, float] | None
) -> RatioInterval:
    conditions = conditions_of.conditions
    return ratio(first, second, tails=tails, block=conditions.samples_per_block, launches=len(conditions.launches))
