"""Gates: pure functions from a measurement and a limit to a verdict. No torch, no clock, no file.

What a gate promises is checked by simulation (``benchmarks/gate_calibration.py``): a wrong PASS in at most 1 % of runs,
a wrong FAIL in at most 5 %, and INCONCLUSIVE where the run was not steady.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any

from edgeprune.errors import StageError, TargetError
from edgeprune.samples.measurement import Measurement, differing_conditions, launches_of
from edgeprune.samples.statistics import PLACEMENT, Stability, bounds, quantile_of, ratio, samples_to_settle, stability

PASS_CONFIDENCE = 0.995  # promised are 1 % of wrong PASS: half of it is kept for what an estimate of dependence misses
FAIL_CONFIDENCE = 0.97  # promised are 5 %: a wrong FAIL costs a second look, a wrong PASS ships
FEWEST_PAIRS = 20  # pairs of blocks below which neither the ratio's interval nor its movement can be told
MOST_SAMPLES = 100_000
ROUNDING = 1e-9  # 0.555 - 0.545 is more than 0.01 in binary


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


def overall(gates: Sequence[Gate]) -> Verdict:
    """The verdict of a build: the worst of its gates. Rows without a limit do not count; no gate at all is PENDING."""
    held = [gate for gate in gates if gate.limit is not None or gate.verdict is not Verdict.PASS]
    for verdict in Verdict:
        if any(gate.verdict is verdict for gate in held):
            return verdict
    return Verdict.PENDING


def latency_gate(
    stage: str,
    measurement: Measurement,
    limit_ms: float,
    statistic: str = "p95",
    confidence: float = PASS_CONFIDENCE,
) -> Gate:
    """Hold a percentile of measured latency against a limit.

    PASS only when the upper confidence bound is at or under the limit and the run was steady; FAIL when the lower bound
    (at :data:`FAIL_CONFIDENCE`) is over it; INCONCLUSIVE otherwise, saying how many samples would settle it. A run that
    shared its core fails only when it would have failed alone.

    Args:
        stage: the stage behind which the gate stands.
        measurement: samples in ms.
        limit_ms: the budget.
        statistic: a percentile such as ``p95``.
        confidence: of the upper bound.

    Raises:
        TargetError: the limit is not a positive number, or the statistic is not a percentile.
        StageError: the measurement is not in ms.
    """
    limit_ms = _limit(limit_ms, positive=True)
    try:
        quantile_of(statistic)
    except ValueError as error:
        raise TargetError(f"statistic: {error}") from None
    if measurement.unit != "ms":
        raise StageError(f"a latency gate needs samples in ms, {measurement.name} is in {measurement.unit}")
    row = _Row(stage, f"{scope_of(measurement)}latency {statistic}", limit_ms, "ms", measurement.simulated)
    if not measurement.values:
        return row(None, Verdict.PENDING, "nothing was measured")
    if not all(math.isfinite(value) for value in measurement.values):
        return row(None, Verdict.INCONCLUSIVE, "a sample is not a finite number")
    found = bounds(measurement.values, statistic, confidence, FAIL_CONFIDENCE)
    steady = stability(measurement.values)
    if reason := _unsteady(steady, measurement):
        return row(found.value, Verdict.INCONCLUSIVE, f"{reason}; measure again on a quiet machine, with locked clocks")
    if found.high is not None and found.high <= limit_ms:
        return row(found.value, Verdict.PASS, f"at most {found.high:.4g} ms with {confidence:.1%} confidence")
    share = _core_share(measurement)
    if found.low is not None and found.low > limit_ms >= found.low * share:
        reason = (
            f"at least {found.low:.4g} ms, but the model had only {share:.0%} of a core: other work ran on the machine"
        )
        return row(found.value, Verdict.INCONCLUSIVE, f"{reason}; measure again on a quiet one")
    if found.low is not None and found.low > limit_ms:
        return row(found.value, Verdict.FAIL, f"at least {found.low:.4g} ms with {FAIL_CONFIDENCE:.0%} confidence")
    more = samples_to_settle(measurement.values, statistic, limit_ms, confidence)
    low = "?" if found.low is None else f"{found.low:.4g}"
    high = "?" if found.high is None else f"{found.high:.4g}"
    return row(
        found.value,
        Verdict.INCONCLUSIVE,
        f"between {low} and {high} ms after {found.samples} samples; {_advice(more, found.samples)}",
    )


def speed_up_gate(
    stage: str,
    baseline: Measurement,
    candidate: Measurement,
    limit: float,
    confidence: float = PASS_CONFIDENCE,
) -> Gate:
    """Hold the measured ratio baseline / candidate against a least speed-up.

    PASS only when the lower end of the paired interval reaches the limit; FAIL when the upper end stays under it. The
    samples must be interleaved (``Runtime.latency``): what slows both models alike cancels, so only a movement of the
    ratio itself makes the run unsteady.

    Args:
        stage: the stage behind which the gate stands.
        baseline: samples of the unpruned model, in ms.
        candidate: samples of the pruned one, ``values[i]`` taken next to the baseline's.
        limit: least ratio.
        confidence: one-sided, of the lower end; the upper end has :data:`FAIL_CONFIDENCE`.

    Raises:
        TargetError: the limit is not a positive number.
        StageError: the two were taken under different conditions, or their samples are not pairs.
    """
    limit = _limit(limit, positive=True)
    differing = differing_conditions(baseline, candidate)
    if differing:
        raise StageError(
            f"latencies taken under different conditions are not compared ({', '.join(differing)} differ); "
            "measure both models in one run: edgeprune bench A B"
        )
    if len(baseline.values) != len(candidate.values):
        raise StageError(
            f"{len(baseline.values)} and {len(candidate.values)} samples are not pairs; measure both models in one run"
        )
    row = _Row(stage, f"{scope_of(candidate)}speed-up", limit, "×", baseline.simulated or candidate.simulated)
    if not baseline.values:
        return row(None, Verdict.PENDING, "nothing was measured")
    if not all(math.isfinite(value) and value > 0 for value in (*baseline.values, *candidate.values)):
        return row(None, Verdict.INCONCLUSIVE, "a sample is not a positive number")
    block = int(candidate.conditions.get("per_round", 5))
    count = len(candidate.values)
    if count < FEWEST_PAIRS * block:
        return row(
            None,
            Verdict.INCONCLUSIVE,
            f"{count} pairs are too few; {_advice(FEWEST_PAIRS * block, count)}",
        )
    launches = launches_of(candidate)
    found = ratio(
        baseline.values,
        candidate.values,
        tails=(1 - confidence, 1 - FAIL_CONFIDENCE),
        block=block,
        launches=launches,
    )
    if reason := _unsteady(found.stability, baseline, candidate):
        return row(found.ratio, Verdict.INCONCLUSIVE, f"{reason}; measure again on a quiet machine, with locked clocks")
    if found.low >= limit:
        return row(found.ratio, Verdict.PASS, f"at least {found.low:.3f}× with {confidence:.1%} confidence")
    if found.high < limit:
        return row(found.ratio, Verdict.FAIL, f"at most {found.high:.3f}× with {FAIL_CONFIDENCE:.0%} confidence")
    away = abs(math.log(found.ratio / limit))
    width = math.log(found.ratio / found.low) if found.ratio >= limit else math.log(found.high / found.ratio)
    fixed = math.log1p(PLACEMENT) / math.sqrt(launches)  # the part of the width that more samples do not take away
    factor = ((width - fixed) / (away - fixed)) ** 2 if away > fixed else math.inf
    more = math.ceil(count * max(factor, 1.1)) if factor < MOST_SAMPLES / count else None
    return row(
        found.ratio,
        Verdict.INCONCLUSIVE,
        f"between {found.low:.3f} and {found.high:.3f} after {count} pairs; {_advice(more, count)}",
    )


def at_most(
    stage: str, metric: str, value: float | None, limit: float, unit: str, reason: str = "within the limit"
) -> Gate:
    """PASS when ``value <= limit``; a value that is missing is PENDING, one that is not a number INCONCLUSIVE.

    ``reason`` goes with a PASS; every other verdict says why by itself.
    """
    return _held(stage, metric, value, limit, unit, lambda seen: seen <= limit + ROUNDING, "more than", reason)


def at_least(
    stage: str, metric: str, value: float | None, limit: float, unit: str, reason: str = "within the limit"
) -> Gate:
    """PASS when ``value >= limit``; a value that is missing is PENDING, one that is not a number INCONCLUSIVE.

    ``reason`` goes with a PASS; every other verdict says why by itself.
    """
    return _held(stage, metric, value, limit, unit, lambda seen: seen >= limit - ROUNDING, "less than", reason)


def accuracy_gate(
    stage: str, baseline: float | None, candidate: float | None, max_drop: float, metric: str = "mAP50-95"
) -> Gate:
    """Hold the loss of accuracy, ``baseline - candidate``, against ``max_drop`` (absolute, in the metric's own scale).

    A baseline at zero has nothing to lose and proves nothing: INCONCLUSIVE.
    """
    name = f"{metric} drop"
    drop = None if baseline is None or candidate is None else baseline - candidate
    gate = at_most(stage, name, drop, max_drop, metric)
    if drop is None or not math.isfinite(drop):
        return gate
    if baseline is not None and baseline <= 0:
        reason = f"the baseline's {metric} is {baseline:.4f}: it finds nothing, so the drop says nothing"
        return replace(gate, verdict=Verdict.INCONCLUSIVE, reason=reason)
    return replace(gate, reason=f"{baseline:.4f} → {candidate:.4f}, {max_drop:.4f} may be lost")


def informs(stage: str, metric: str, value: float | None, unit: str, reason: str = "for information") -> Gate:
    """A row without a limit; it never decides a build (see :func:`overall`)."""
    if value is None or not math.isfinite(value):
        return Gate(stage, metric, None, None, unit, Verdict.INCONCLUSIVE, f"not a number: {value}")
    return Gate(stage, metric, value, None, unit, Verdict.PASS, reason)


def pending(stage: str, metric: str, limit: float | None, unit: str, next_command: str) -> Gate:
    """A gate that could not be held here; ``next_command`` is what to type where it can."""
    return Gate(stage, metric, None, limit, unit, Verdict.PENDING, f"not measured yet; next: {next_command}")


def not_real(gate: Gate) -> Gate:
    """What a stand-in device said: a PASS of it is INCONCLUSIVE."""
    if gate.verdict is not Verdict.PASS or gate.limit is None:
        return gate
    return replace(gate, verdict=Verdict.INCONCLUSIVE, reason=f"simulated, no device was measured ({gate.reason})")


@dataclass(frozen=True)
class _Row:
    """Everything of a gate that is known before the outcome; a simulated PASS does not stand."""

    stage: str
    metric: str
    limit: float
    unit: str
    simulated: bool = False

    def __call__(self, value: float | None, verdict: Verdict, reason: str) -> Gate:
        gate = Gate(self.stage, self.metric, value, self.limit, self.unit, verdict, reason)
        return not_real(gate) if self.simulated else gate


def _held(
    stage: str,
    metric: str,
    value: float | None,
    limit: float,
    unit: str,
    holds: Callable[[float], bool],
    otherwise: str,
    reason: str,
) -> Gate:
    row = _Row(stage, metric, _limit(limit), unit)
    if value is None:
        return row(None, Verdict.PENDING, "was not measured")
    if not math.isfinite(value):
        return row(None, Verdict.INCONCLUSIVE, f"not a finite number: {value}")
    if holds(value):
        return row(value, Verdict.PASS, reason)
    return row(value, Verdict.FAIL, f"{value:.6g} is {otherwise} {limit:.6g} {unit}".rstrip())


def _limit(limit: float, positive: bool = False) -> float:
    if not math.isfinite(limit) or (positive and limit <= 0):
        raise TargetError(f"a limit must be a {'positive' if positive else 'finite'} number, not {limit}")
    return float(limit)


def _unsteady(steady: Stability, *measurements: Measurement) -> str:
    if any(measurement.conditions.get("throttled") for measurement in measurements):
        return "the device throttled during the run"
    return "" if steady.stable else steady.reason


def scope_of(measurement: Measurement) -> str:
    """Words before a metric: nothing for the model alone."""
    if measurement.conditions.get("scope") != "end_to_end":
        return ""
    return "planned end-to-end " if measurement.conditions.get("stand_in") else "end-to-end "


def _core_share(measurement: Measurement) -> float:
    """How much of its core a contended run had; alone it would have taken at least that share of its time."""
    return float(measurement.conditions.get("cpu_share", 1.0)) if measurement.conditions.get("contended") else 1.0


def _advice(total: int | None, taken: int) -> str:
    if total is None:
        return f"too near to the limit for {MOST_SAMPLES} samples: prune more, or move the limit"
    return f"about {max(total - taken, 1)} more samples would settle it"
