"""Gates: pure functions from a measurement and a limit to a verdict. No torch, no clock, no file.

What a gate promises is checked by simulation. Latency and speed-up (``benchmarks/gate_calibration.py``): a wrong PASS
in at most 1 % of runs, a wrong FAIL in at most 5 %, and INCONCLUSIVE where the run was not steady. Accuracy: a wrong
PASS and a wrong FAIL in at most 5 % each (``benchmarks/accuracy_gate.py`` draws detectors, the tests classifiers).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from statistics import median

from edgeprune.errors import StageError, TargetError
from edgeprune.samples.average_precision import DropInterval
from edgeprune.samples.conditions import CoreState, may_end_otherwise, most_disturbed
from edgeprune.samples.measurement import (
    Measurement,
    differing_conditions,
    latency_bounds,
    shared_core,
    speed_up_of,
)
from edgeprune.samples.statistics import (
    Stability,
    confidence_text,
    placement_margin,
    quantile_of,
    samples_needed,
    samples_to_settle,
    stability,
)
from edgeprune.samples.telemetry import BOARD, causes_of, doubt_of, remedy_of
from edgeprune.samples.text import DIGITS, ceiled, floored, told_apart
from edgeprune.target import Target

RULES = 2
"""Raised when a gate or a statistic says something else of the same samples, or a report of the same record. A build
keeps those that it was judged by: of others, what differs is no edit. Records from before there was a number have none.
"""
PASS_CONFIDENCE = 0.995  # promised are 1 % of wrong PASS: half of it is kept for what an estimate of dependence misses
FAIL_CONFIDENCE = 0.97  # promised are 5 %: a wrong FAIL costs a second look, a wrong PASS ships
MIN_BLOCK_PAIRS = 20  # pairs of blocks, or samples, below which there is no interval and no visible drift
MAX_SAMPLES = 100_000
UNSTEADY_MARGIN = 2.0  # how far from its limit an unsteady run has to stay, in every sample or block, to decide
ACCURACY_CONFIDENCE = 0.95  # of either end of an interval on a loss of accuracy
THROTTLED = "the device throttled during the run"
QUIET = "measure again on a quiet machine, with locked clocks"
NOT_MEASURED = "not measured yet"
TOO_NEAR = f"too near to the limit for {MAX_SAMPLES} samples"  # what no run settles, however quiet
MORE_SAMPLES = "more samples would settle it"
MET_UNPRUNED = "met without pruning"  # what a verdict says of a budget that asked for nothing
ROUNDING_ERROR = 1e-9  # 0.555 - 0.545 is more than 0.01 in binary


class Verdict(str, Enum):
    """Outcome of a gate, worst first in :func:`overall_verdict`."""

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


def overall_verdict(gates: Sequence[Gate]) -> Verdict:
    """The verdict of a build: the worst of its gates. Rows without a limit do not count; no gate at all is PENDING."""
    deciding = [gate for gate in gates if gate.limit is not None or gate.verdict is not Verdict.PASS]
    for verdict in Verdict:
        if any(gate.verdict is verdict for gate in deciding):
            return verdict
    return Verdict.PENDING


def inform_by_later(gates: Sequence[Gate]) -> list[Gate]:
    """What an earlier stage said of a limit only informs once a later stage has measured against the same limit.

    A verdict is about what ships: the last stage that held a metric against a limit, with a figure, decides; the rows
    of stages before it keep their figure and say in their reason what they would have been.

    Args:
        gates: rows in the order of the stages.
    """
    kept: list[Gate] = []
    for number, gate in enumerate(gates):
        later = [
            other.stage
            for other in gates[number + 1 :]
            if other.stage != gate.stage and other.value is not None and _question(other) == _question(gate)
        ]
        if gate.limit is None or not later:
            kept.append(gate)
        else:
            reason = f"{gate.verdict.value} by itself ({gate.reason}); {later[-1]} decides"
            kept.append(replace(gate, limit=None, verdict=Verdict.PASS, reason=reason))
    return kept


def _question(gate: Gate) -> tuple[str, float | None, str]:
    """What a gate asks; a planned frame-to-boxes latency asks what a real one does."""
    return gate.metric.removeprefix("planned "), gate.limit, gate.unit


def pass_confidence(retries: int) -> float:
    """Confidence of a PASS where an INCONCLUSIVE gate is measured again ``retries`` times: every look gets its share of
    the error, so that measuring again does not make a wrong PASS likelier."""
    return 1 - (1 - PASS_CONFIDENCE) / (retries + 1)


def fail_confidence(retries: int) -> float:
    """The same of a FAIL."""
    return 1 - (1 - FAIL_CONFIDENCE) / (retries + 1)


def far_inside(values: Sequence[float], statistic: str, limit_ms: float, confidence: float) -> bool:
    """Whether so many samples stayed so far under the limit that it does not matter how they hang together: neighbours
    that move together are worth few samples, and may leave no bound at all.

    Args:
        values: samples in ms.
        statistic: a percentile such as ``p95``.
        limit_ms: the budget.
        confidence: one-sided, of the upper bound that as many independent samples would give.
    """
    return slowest_of_enough(values, statistic, confidence) * UNSTEADY_MARGIN <= limit_ms


def slowest_of_enough(values: Sequence[float], statistic: str, confidence: float) -> float:
    """The slowest sample; infinite where there are too few for :func:`far_inside`, whose arguments these are."""
    enough = len(values) >= samples_needed(quantile_of(statistic), confidence)
    return max(values) if enough else math.inf


def _far_outside(values: Sequence[float], statistic: str, limit_ms: float, confidence: float) -> bool:
    """Whether so many samples stayed so far over the limit that it does not matter how they hang together; arguments as
    of :func:`far_inside`, the confidence of the lower bound."""
    enough = len(values) >= max(samples_needed(1 - quantile_of(statistic), confidence), MIN_BLOCK_PAIRS)
    return enough and min(values) >= UNSTEADY_MARGIN * limit_ms


def latency_gate(
    stage: str,
    measurement: Measurement,
    limit_ms: float,
    statistic: str = "p95",
    confidence: float = PASS_CONFIDENCE,
    against: float = FAIL_CONFIDENCE,
) -> Gate:
    """Hold a percentile of measured latency against a limit.

    The bounds are those of :func:`~edgeprune.samples.measurement.latency_bounds`.
    PASS only when the upper confidence bound is at or under the limit and the run was steady, or when a run that was
    not steady stayed :data:`UNSTEADY_MARGIN` times under the limit in every sample; FAIL when the lower bound is over
    it, or when a run that was not steady, of a device that did not throttle and a core that was not shared, stayed as
    many times over it in every sample; INCONCLUSIVE otherwise, saying how many samples would settle it. A run that
    shared its core fails only when it would have failed alone.

    Args:
        stage: the stage behind which the gate stands.
        measurement: samples in ms.
        limit_ms: the budget.
        statistic: a percentile such as ``p95``.
        confidence: one-sided, of the upper bound, by which it passes.
        against: one-sided, of the lower bound, by which it fails.

    Raises:
        TargetError: the limit is not a positive number, or the statistic is not a percentile.
        StageError: the measurement is not in ms.
    """
    limit_ms = _checked_limit(limit_ms, positive=True)
    try:
        quantile_of(statistic)
    except ValueError as error:
        raise TargetError(f"statistic: {error}") from None
    if measurement.unit != "ms":
        raise StageError(f"a latency gate needs samples in ms, {measurement.name} is in {measurement.unit}")
    metric = f"{scope_words(measurement)}latency {statistic}"
    row = _Row(stage, metric, limit_ms, "ms", measurement.simulated, doubt_about(measurement))
    if not measurement.values:
        return row(None, Verdict.PENDING, "nothing was measured")
    if not all(math.isfinite(value) for value in measurement.values):
        return row(None, Verdict.INCONCLUSIVE, "a sample is not a finite number")
    bound = latency_bounds(measurement, statistic, confidence, against)
    steady = stability(measurement.values)
    if reason := unsteady_reason(steady, measurement):
        if not _throttled(measurement) and far_inside(measurement.values, statistic, limit_ms, confidence):
            slowest = max(measurement.values)
            most = ceiled(slowest, limit_ms, "g", 4)
            return row(bound.value, Verdict.PASS, f"at most {most} ms in every sample, though {reason}")
        undisturbed = not _throttled(measurement) and not shared_core(measurement)
        if undisturbed and _far_outside(measurement.values, statistic, limit_ms, against):
            fastest = min(measurement.values)
            least = floored(fastest, limit_ms, "g", 4)
            return row(bound.value, Verdict.FAIL, f"at least {least} ms in every sample, though {reason}")
        return row(bound.value, Verdict.INCONCLUSIVE, f"{reason}; {steadier(measurement)}")
    low = "?" if bound.low is None else floored(bound.low, limit_ms, "g", 4)
    high = "?" if bound.high is None else ceiled(bound.high, limit_ms, "g", 4)
    if bound.high is not None and bound.high <= limit_ms:
        return row(bound.value, Verdict.PASS, f"at most {high} ms {_sure(confidence, 1)}")
    core = measurement.conditions.core
    if bound.low is not None and bound.low > limit_ms >= bound.low * core.alone:
        return row(bound.value, Verdict.INCONCLUSIVE, f"at least {low} ms, but {core.disturbed_by}; {core.remedy}")
    if bound.low is not None and bound.low > limit_ms:
        return row(bound.value, Verdict.FAIL, f"at least {low} ms {_sure(against)}")
    # the distance to the limit that samples have to settle is what the allowance for places leaves of it
    margin = placement_margin(len(measurement.conditions.launches))
    under = bound.value <= limit_ms
    least = limit_ms * math.exp(-margin if under else margin)
    settles = (bound.value <= least) is under
    more = samples_to_settle(measurement.values, statistic, least, confidence, against) if settles else None
    return row(
        bound.value,
        Verdict.INCONCLUSIVE,
        f"between {low} and {high} ms after {bound.samples} samples; {_advice(more, bound.samples)}",
    )


def speed_up_gate(
    stage: str,
    baseline: Measurement,
    candidate: Measurement,
    limit: float,
    confidence: float = PASS_CONFIDENCE,
    against: float = FAIL_CONFIDENCE,
) -> Gate:
    """Hold the measured ratio baseline / candidate against a least speed-up.

    PASS only when the lower end of the paired interval reaches the limit, or when a run that was not steady stayed
    :data:`UNSTEADY_MARGIN` times over it in every block, with no other work on its core and without throttling; FAIL
    when the upper end stays under it, or such a run as many times under it in every block. The samples must be
    interleaved (``Runtime.latency``): what slows both models alike cancels, so only a movement of the ratio itself
    makes the run unsteady.

    Args:
        stage: the stage behind which the gate stands.
        baseline: samples of the unpruned model, in ms.
        candidate: samples of the pruned one, ``values[i]`` taken next to the baseline's.
        limit: least ratio.
        confidence: one-sided, of the lower end, by which it passes.
        against: one-sided, of the upper end, by which it fails.

    Raises:
        TargetError: the limit is not a positive number.
        StageError: the two were taken under different conditions, or their samples are not pairs.
    """
    limit = _checked_limit(limit, positive=True)
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
    simulated, doubt = baseline.simulated or candidate.simulated, doubt_about(baseline, candidate)
    row = _Row(stage, f"{scope_words(candidate)}speed-up", limit, "×", simulated, doubt)
    if not baseline.values:
        return row(None, Verdict.PENDING, "nothing was measured")
    if not all(math.isfinite(value) and value > 0 for value in (*baseline.values, *candidate.values)):
        return row(None, Verdict.INCONCLUSIVE, "a sample is not a positive number")
    block = candidate.conditions.samples_per_block
    count = len(candidate.values)
    if count < MIN_BLOCK_PAIRS * block:
        return row(
            None,
            Verdict.INCONCLUSIVE,
            f"{count} pairs are too few; {_advice(MIN_BLOCK_PAIRS * block, count)}",
        )
    gain = speed_up_of(baseline, candidate, tails=(1 - confidence, 1 - against))
    if reason := unsteady_reason(gain.stability, baseline, candidate):
        ratios = _undisturbed_ratios(baseline, candidate)
        if ratios and min(ratios) >= UNSTEADY_MARGIN * limit:
            return row(
                gain.ratio, Verdict.PASS, f"at least {floored(min(ratios), limit)}× in every block, though {reason}"
            )
        if ratios and max(ratios) * UNSTEADY_MARGIN <= limit:
            return row(
                gain.ratio, Verdict.FAIL, f"at most {ceiled(max(ratios), limit)}× in every block, though {reason}"
            )
        return row(gain.ratio, Verdict.INCONCLUSIVE, f"{reason}; {steadier(baseline, candidate)}")
    low, high = floored(gain.low, limit), ceiled(gain.high, limit)
    if gain.low >= limit:
        return row(gain.ratio, Verdict.PASS, f"at least {low}× {_sure(confidence, 1)}")
    if gain.high < limit:
        return row(gain.ratio, Verdict.FAIL, f"at most {high}× {_sure(against)}")
    if core := _disturbed(baseline, candidate):
        reason = f"between {low} and {high}, but {core.disturbed_by}; {core.remedy}"
        return row(gain.ratio, Verdict.INCONCLUSIVE, reason)
    away = abs(math.log(gain.ratio / limit))
    width = math.log(gain.ratio / gain.low) if gain.ratio >= limit else math.log(gain.high / gain.ratio)
    # the part of the width that more samples do not take away
    fixed = placement_margin(len(candidate.conditions.launches))
    factor = ((width - fixed) / (away - fixed)) ** 2 if away > fixed else math.inf
    more = math.ceil(count * max(factor, 1.1)) if factor < MAX_SAMPLES / count else None
    return row(
        gain.ratio,
        Verdict.INCONCLUSIVE,
        f"between {low} and {high} after {count} pairs; {_advice(more, count)}",
    )


def budget_gate(
    target: Target, stage: str, baseline: Measurement, candidate: Measurement, retries: int | None = None
) -> Gate:
    """The gate of a latency budget or of a measured speed-up; a budget of MACs asks that it is not slower, since fewer
    MACs alone are no reason to ship a model.

    Args:
        target: says the budget.
        stage: the stage behind which the gate stands.
        baseline: samples of the unpruned model.
        candidate: of the pruned one.
        retries: further looks that the verdict may rest on; as often as the target measures again when None.
    """
    budget, retries = target.budget, target.measure.retries if retries is None else retries
    confidence, against = pass_confidence(retries), fail_confidence(retries)
    if budget.kind == "latency_ms":
        return latency_gate(stage, candidate, budget.value, budget.statistic, confidence, against)
    least = budget.value if budget.kind == "speed_up" else 1.0
    return speed_up_gate(stage, baseline, candidate, least, confidence, against)


def at_most_gate(
    stage: str, metric: str, value: float | None, limit: float, unit: str, reason: str = "within the limit"
) -> Gate:
    """PASS when ``value <= limit``; a value that is missing is PENDING, one that is not a number INCONCLUSIVE.

    ``reason`` goes with a PASS; every other verdict says why by itself.
    """
    return _threshold_gate(
        stage, metric, value, limit, unit, lambda x: x <= limit + ROUNDING_ERROR, "more than", reason
    )


def at_least_gate(
    stage: str, metric: str, value: float | None, limit: float, unit: str, reason: str = "within the limit"
) -> Gate:
    """PASS when ``value >= limit``; a value that is missing is PENDING, one that is not a number INCONCLUSIVE.

    ``reason`` goes with a PASS; every other verdict says why by itself.
    """
    return _threshold_gate(
        stage, metric, value, limit, unit, lambda x: x >= limit - ROUNDING_ERROR, "less than", reason
    )


def metric_name(task: str) -> str:
    """What people call the one figure that a task is judged by."""
    return "top-1 accuracy" if task == "classify" else "mAP50-95"


def accuracy_gate(
    stage: str,
    baseline: float | None,
    candidate: float | None,
    max_drop: float,
    metric: str = "mAP50-95",
    *,
    interval: DropInterval | None = None,
    split: str = "",
    trained_on: str = "",
) -> Gate:
    """Hold the loss of accuracy, ``baseline - candidate``, against ``max_drop`` (absolute, in the metric's own scale).

    With an interval: PASS when its upper end is within ``max_drop``, FAIL when its lower end is over it, INCONCLUSIVE
    between, with the number of images that would do. A baseline at zero has nothing to lose and proves nothing.

    Args:
        stage: the stage behind which the gate stands.
        baseline: figure of the unpruned model, 0 to 1.
        candidate: of the pruned one.
        max_drop: largest loss allowed.
        metric: name of the figure.
        split: where the images are from, for the reason.
        trained_on: which of them the models were trained on, in words; the reason then says nothing of other images.
        interval: spread of the loss over images; without one the bare figures decide (records that have none).
    """
    drop = None if baseline is None or candidate is None else baseline - candidate
    gate = at_most_gate(stage, f"{metric} drop", drop, max_drop, metric)
    if drop is None or not math.isfinite(drop):
        return gate
    if baseline is not None and baseline <= 0:
        reason = f"the baseline's {metric} is {baseline:.4f}: it finds nothing, so the drop says nothing"
        return replace(gate, verdict=Verdict.INCONCLUSIVE, reason=reason)
    figures = f"{baseline:.4f} → {candidate:.4f}, {max_drop:.4f} may be lost"
    if interval is None:
        return replace(gate, reason=figures)
    images_of = f"images of {split}" if split else "images"
    seen = f"; {trained_on}, and tell nothing of images that were not" if trained_on else ""
    if interval.standard_error is None:
        reason = f"{figures}; {interval.images} {images_of} {interval.why_unknown}{seen}"
        return replace(gate, verdict=Verdict.INCONCLUSIVE, reason=reason)
    others = "" if trained_on else "on other images "
    low, high = interval.lower(ACCURACY_CONFIDENCE), interval.upper(ACCURACY_CONFIDENCE)
    holds = high <= max_drop + ROUNDING_ERROR
    # of one side each: what PASS and FAIL rest on, as the change that a loss is
    worst = floored(-min(high, max_drop) if holds else -high, -max_drop, digits=DIGITS, signed=True)
    best = ceiled(-low, -max_drop, digits=DIGITS, signed=True)
    if holds:
        verdict, reason = Verdict.PASS, f"{figures}; {others}{worst} or better"
    elif low > max_drop:
        verdict, reason = Verdict.FAIL, f"{figures}; {others}{best} or worse"
    else:
        images = interval.images_to_settle(max_drop, ACCURACY_CONFIDENCE)
        more = "more images cannot tell" if images is None else f"about {images} images would settle it"
        verdict, reason = Verdict.INCONCLUSIVE, f"{figures}; {others}{worst} to {best}, {more}"
    sure = confidence_text(ACCURACY_CONFIDENCE) + (" for each end" if verdict is Verdict.INCONCLUSIVE else "")
    reason = f"{reason} ({sure}, {interval.images} {images_of}){seen}"
    return replace(gate, verdict=verdict, reason=reason)


def info_gate(stage: str, metric: str, value: float | None, unit: str, reason: str = "for information") -> Gate:
    """A row without a limit; it never decides a build (see :func:`overall_verdict`), not by a figure that is none
    either."""
    if value is None or not math.isfinite(value):
        return Gate(stage, metric, None, None, unit, Verdict.PASS, f"not a number: {value}; {reason}")
    return Gate(stage, metric, value, None, unit, Verdict.PASS, reason)


def unpruned_gate(stage: str, limit: float) -> Gate:
    """The row of a speed-up that the unpruned model has by definition: held against itself it is as fast as itself."""
    reason = f"{MET_UNPRUNED}: it is the unpruned model itself"
    return Gate(stage, "speed-up", 1.0, limit, "×", Verdict.PASS, reason)


def pending_gate(stage: str, metric: str, limit: float | None, unit: str, next_command: str, *, but: str = "") -> Gate:
    """A gate that could not be held here.

    Args:
        stage, metric, limit, unit: as in :class:`Gate`.
        next_command: what to type where it can be.
        but: what was done without it, in words.
    """
    reason = f"{NOT_MEASURED}; next: {next_command}"
    return Gate(stage, metric, None, limit, unit, Verdict.PENDING, f"{but}; {reason}" if but else reason)


def simulated_gate(gate: Gate) -> Gate:
    """What a stand-in device said: a PASS of it is INCONCLUSIVE."""
    if gate.verdict is not Verdict.PASS or gate.limit is None:
        return gate
    return replace(gate, verdict=Verdict.INCONCLUSIVE, reason=f"simulated, no device was measured ({gate.reason})")


@dataclass(frozen=True)
class _Row:
    """Everything of a gate that is known before the outcome; a simulated PASS does not stand, and a ``doubt`` about the
    run decides nothing and stands behind whatever was measured."""

    stage: str
    metric: str
    limit: float
    unit: str
    simulated: bool = False
    doubt: str = ""

    def __call__(self, value: float | None, verdict: Verdict, reason: str) -> Gate:
        reason = f"{reason}; {self.doubt}" if self.doubt and verdict is not Verdict.PENDING else reason
        gate = Gate(self.stage, self.metric, value, self.limit, self.unit, verdict, reason)
        return simulated_gate(gate) if self.simulated else gate


def _threshold_gate(
    stage: str,
    metric: str,
    value: float | None,
    limit: float,
    unit: str,
    holds: Callable[[float], bool],
    otherwise: str,
    reason: str,
) -> Gate:
    row = _Row(stage, metric, _checked_limit(limit), unit)
    if value is None:
        return row(None, Verdict.PENDING, "was not measured")
    if not math.isfinite(value):
        return row(None, Verdict.INCONCLUSIVE, f"not a finite number: {value}")
    if holds(value):
        return row(value, Verdict.PASS, reason)
    seen, allowed = told_apart(value, limit, lambda number, digits: f"{number:.{digits}g}", 6)
    return row(value, Verdict.FAIL, f"{seen} is {otherwise} {allowed} {unit}".rstrip())


def _checked_limit(limit: float, positive: bool = False) -> float:
    if not math.isfinite(limit) or (positive and limit <= 0):
        raise TargetError(f"a limit must be a {'positive' if positive else 'finite'} number, not {limit}")
    return float(limit)


def _throttled(*measurements: Measurement) -> bool:
    return any(measurement.conditions.device.throttled for measurement in measurements)


def doubt_about(*measurements: Measurement) -> str:
    """What speaks against taking runs for undisturbed ones and proves nothing: it is told beside them, and decides
    nothing; empty where nothing does."""
    return next(filter(None, (doubt_of(measurement.conditions.device) for measurement in measurements)), "")


def unsteady_reason(steady: Stability, *measurements: Measurement) -> str:
    """Why a run cannot pass whatever its figures are: the device throttled, was not held or was set otherwise
    meanwhile, each with its cause, or the samples moved; else empty."""
    if _throttled(*measurements):
        causes = causes_of([one.conditions.device for one in measurements])
        own = [cause for cause in causes if cause.startswith(BOARD)]
        others = "; ".join(cause for cause in causes if cause not in own)
        throttled = [] if own and not others else [f"{THROTTLED}: {others}" if others else THROTTLED]
        return "; ".join([*own, *throttled])
    return "" if steady.stable else steady.reason


def moved_reason(first: Measurement, second: Measurement | None = None) -> str:
    """Why what two interleaved measurements tell of each other, or one of itself, is that of a disturbed run: a device
    that throttled, samples that moved, other work on the core; empty where nothing speaks against it."""
    both = [first] if second is None else [first, second]
    steady = stability(first.values) if second is None else speed_up_of(first, second).stability
    core = _disturbed(*both)
    return "; ".join(filter(None, (unsteady_reason(steady, *both), core.disturbed_by if core is not None else "")))


def steadier(*measurements: Measurement) -> str:
    """What makes the next run a steady one: by what the device says of this one, else by what mostly does."""
    core = _disturbed(*measurements)
    by_quota = core.remedy if core is not None and core.by_quota else ""
    return remedy_of(causes_of([one.conditions.device for one in measurements])) or by_quota or QUIET


def may_settle_quietly(reason: str) -> bool:
    """Whether a quiet machine may settle what a reason says of an undecided latency: not where a quota stopped the run,
    the device throttled or was set otherwise, or the figure lies on its limit."""
    of_device = reason.startswith((THROTTLED, BOARD))
    return may_end_otherwise(reason) and not of_device and TOO_NEAR not in reason


def least_undisturbed_ratio(baseline: Measurement, candidate: Measurement) -> float:
    """The least ratio of the medians of two blocks taken side by side; 0 where the device throttled, other work shared
    the core, or there are fewer than :data:`MIN_BLOCK_PAIRS`: then none shows anything."""
    return min(_undisturbed_ratios(baseline, candidate), default=0.0)


def _undisturbed_ratios(baseline: Measurement, candidate: Measurement) -> list[float]:
    """The ratio of the medians of every two blocks taken side by side; none where :func:`least_undisturbed_ratio` is
    0."""
    first, second, block = baseline.values, candidate.values, candidate.conditions.samples_per_block
    disturbed = _throttled(baseline, candidate) or shared_core(baseline, candidate)
    if disturbed or len(second) < MIN_BLOCK_PAIRS * block:
        return []
    starts = range(0, len(second) - block + 1, block)
    return [median(first[at : at + block]) / median(second[at : at + block]) for at in starts]


def scope_words(measurement: Measurement) -> str:
    """Words before a metric: nothing for the model alone."""
    if measurement.conditions.scope != "end_to_end":
        return ""
    state = measurement.conditions.end_to_end
    return "planned end-to-end " if state is not None and state.stand_in else "end-to-end "


def _sure(confidence: float, digits: int = 0) -> str:
    return f"with {confidence_text(confidence, digits)} confidence"


def _disturbed(*measurements: Measurement) -> CoreState | None:
    return most_disturbed(measurement.conditions.core for measurement in measurements)


def _advice(total: int | None, taken: int) -> str:
    if total is None:
        return f"{TOO_NEAR}: prune more, or move the limit"
    return f"about {max(total - taken, 1)} {MORE_SAMPLES}"
