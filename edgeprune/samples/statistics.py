"""Latency statistics: quantiles with distribution-free bounds, paired ratios, stability.

Nothing here assumes a shape for the distribution of latency. A bound on a quantile comes from order statistics, as in
MLPerf's early stopping (https://github.com/mlcommons/inference_policies): the number of samples above a quantile is
binomial, whatever the samples look like. Samples that depend on their neighbours are worth fewer than their count; the
bounds use the effective count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STATISTICS = ("p50", "p90", "p95", "p99", "mean")
PERCENTILES = (1.0, 99.99)  # that are taken: a bound on p99.99 needs 66,000 samples, one on p99.9999 millions
MIN_EXCESS = 1  # one sample may lie above a bound, so that a single hiccup is not the bound (MLPerf: p90 at 99 %: 64)
DRIFT_TOLERANCE = 0.05  # levels that differ by less are the noise of a quiet machine; TensorRT's own is about 5 %
NOISE_TOLERANCE = 0.5  # quartiles further apart than half of the median: nothing was held still
FALSE_ALARM = 0.001  # share of steady runs that the test for moving levels may call unsteady
ROUNDING = 1e-6  # of the last printed digit: 1 - 0.03 / 3 is a little less than 0.99 in binary
MIN_TO_JUDGE = 20  # below this neither a level nor its movement can be told
PLACEMENT_ALLOWANCE = (
    0.01  # the same model loaded twice differs by this much: where its memory lies (bench_resolution.py)
)
MIN_BLOCKS = 8  # pairs of blocks that a ratio needs
INTERVAL_LEVEL = 0.95  # of an interval that is told to people
INTERVAL_END_CONFIDENCE = (1 + INTERVAL_LEVEL) / 2  # of either end of it alone
SEGMENTS = 10  # consecutive pieces of a run whose levels are compared


def scipy(module: str) -> Any:
    """A module of SciPy, loaded by the first call that needs it; it comes without types."""
    return import_module(f"scipy.{module}")


def interval_half_width(standard_error: float) -> float:
    """How far the interval of :data:`INTERVAL_LEVEL` reaches to either side of a figure of this standard error."""
    return NormalDist().inv_cdf(INTERVAL_END_CONFIDENCE) * standard_error


def quantile_of(statistic: str) -> float:
    """0.95 for ``p95``. Raises ``ValueError`` for a name that is not a percentile from p1 to p99.99."""
    try:
        percentile = float(statistic.removeprefix("p")) if statistic.startswith("p") else math.nan
    except ValueError:
        percentile = math.nan
    low, high = PERCENTILES
    if not low <= percentile <= high:
        raise ValueError(f"{statistic!r} is not a percentile from p{low:g} to p{high:g}, such as p50, p90, p95 or p99")
    return percentile / 100


def value_of(values: Sequence[float], statistic: str) -> float:
    """The statistic itself: ``mean`` or a percentile (the order statistic at ceil(q n), no interpolation).

    Raises:
        ValueError: no values, or an unknown statistic.
    """
    if len(values) == 0:
        raise ValueError("no samples")
    if statistic == "mean":
        return float(np.mean(values))
    rank = math.ceil(quantile_of(statistic) * len(values) - 1e-9)
    return float(np.sort(np.asarray(values, float))[max(rank, 1) - 1])


def samples_needed(q: float, confidence: float = 0.99, excess: int = MIN_EXCESS) -> int:
    """Fewest independent samples for an upper bound on quantile ``q`` that leaves ``excess`` samples above it.

    p90 at 99 % needs 64 and p99 needs 662 (MLPerf's numbers), p50 needs 11 and p95 130.
    """
    binomial_cdf = scipy("special").bdtr
    n = excess + 1
    while binomial_cdf(excess, n, 1 - q) > 1 - confidence:
        n += 1
    return n


@lru_cache(maxsize=4096)  # a simulation asks for the same few again and again
def upper_rank(n: int, q: float, confidence: float) -> int | None:
    """The least 1-based rank whose order statistic is >= quantile ``q`` with this confidence; None: too few samples."""
    rank = int(scipy("stats").binom.ppf(confidence, n, q)) + 1  # P(X_(k) >= Q) = P(Bin(n, q) <= k - 1)
    return rank if rank <= n - MIN_EXCESS else None


@lru_cache(maxsize=4096)
def lower_rank(n: int, q: float, confidence: float) -> int | None:
    """The greatest 1-based rank whose order statistic is <= quantile ``q`` with this confidence, or None."""
    return int(scipy("stats").binom.ppf(1 - confidence, n, q)) or None  # P(X_(k) > Q) <= P(Bin(n, q) <= k - 1)


def effective_count(values: Floats) -> int:
    """How many independent samples this series is worth: n / (1 + 2 sum of its autocorrelations).

    The sum runs over the first lags whose correlation is significant (2 / sqrt(n)), so that white noise keeps its n.
    """
    n = len(values)
    centred = values - values.mean()
    variance = float(centred @ centred)
    if n < 4 or variance <= 0:
        return n
    total = 0.0
    for lag in range(1, n // 4):
        correlation = float(centred[:-lag] @ centred[lag:]) / variance
        if correlation < 2 / math.sqrt(n):
            break
        total += correlation
    return max(2, int(n / (1 + 2 * total)))


@dataclass(frozen=True)
class Bounds:
    """A statistic with its one-sided bounds.

    Attributes:
        value: the statistic of the samples.
        low: the true statistic is at least this, with ``low_confidence``; None: too few samples to say.
        high: the true statistic is at most this, with ``confidence``; None: too few samples to say.
        confidence: of ``high``.
        low_confidence: of ``low``.
        samples: how many were taken.
        effective: how many independent ones they are worth.
    """

    value: float
    low: float | None
    high: float | None
    confidence: float
    low_confidence: float
    samples: int
    effective: int

    def widened(self, margin: float) -> Bounds:
        """With both ends this much further away, as a natural logarithm of the ratio."""
        low, high = (
            None if end is None else end * math.exp(by) for end, by in ((self.low, -margin), (self.high, margin))
        )
        return replace(self, low=low, high=high)


def placement_margin(launches: int, allowance: float = PLACEMENT_ALLOWANCE) -> float:
    """What no number of samples averages away, since each process draws anew where memory lies, as a natural logarithm.

    Args:
        launches: processes that the samples come from.
        allowance: relative difference between two that load the same model.
    """
    return math.log1p(allowance) / math.sqrt(max(1, launches))


def bounds(
    values: Sequence[float], statistic: str, confidence: float = 0.99, low_confidence: float | None = None
) -> Bounds:
    """A percentile with distribution-free bounds, in the unit of ``values``.

    Args:
        values: samples in the order they were taken.
        statistic: a percentile, such as ``p95``. (A mean has no distribution-free bound.)
        confidence: that the true percentile is not above ``high``.
        low_confidence: that it is not below ``low``; the same when not given.

    Raises:
        ValueError: no values, a value that is not finite, or not a percentile.
    """
    q = quantile_of(statistic)
    data = np.asarray(values, float)
    value = value_of(values, statistic)
    if not np.isfinite(data).all():
        raise ValueError("a sample is not a finite number")
    low_confidence = confidence if low_confidence is None else low_confidence
    ordered, n = np.sort(data), len(data)
    effective = effective_count((data <= value).astype(float))

    def at(rank: int | None, towards_end: bool) -> float | None:
        if rank is None:
            return None
        place = rank if effective == n else rank * n / effective
        return float(ordered[min(n, math.ceil(place) if towards_end else max(1, math.floor(place))) - 1])

    high = at(upper_rank(effective, q, confidence), True)
    low = at(lower_rank(effective, q, low_confidence), False)
    return Bounds(value, low, high, confidence, low_confidence, n, effective)


@dataclass(frozen=True)
class Spread:
    """The median of a few independent values, between the smallest and the largest of them.

    Attributes:
        median: of the values.
        low: the smallest.
        high: the largest.
        confidence: that the true median lies between both; it misses them only when all values are on one side of it.
    """

    median: float
    low: float
    high: float
    confidence: float


def spread_of(values: Sequence[float]) -> Spread:
    """Median and ends of values whose distribution is not known; six of them are at 96.8 %.

    Raises:
        ValueError: no values.
    """
    return Spread(value_of(values, "p50"), min(values), max(values), 1 - 2 * 0.5 ** len(values))


def samples_to_settle(
    values: Sequence[float],
    statistic: str,
    limit: float,
    confidence: float = 0.99,
    against: float = 0.99,
    most: int = 100_000,
) -> int | None:
    """About how many samples in all would bring the upper bound under ``limit``, or the lower bound over it.

    Assumes that the next samples are like these. None when even ``most`` would not do: the percentile is too near to
    the limit.
    """
    q = quantile_of(statistic)
    data = np.asarray(values, float)
    worth = effective_count((data <= value_of(values, statistic)).astype(float)) / len(data)
    share = float((data <= limit).mean())
    n = max(len(data), samples_needed(q, confidence))
    while n <= most:
        counts = max(2, int(n * worth))
        if share >= q:
            rank = upper_rank(counts, q, confidence)
            settled = rank is not None and rank <= share * counts
        else:
            rank = lower_rank(counts, q, against)
            settled = rank is not None and rank > share * counts
        if settled:
            return n
        n = math.ceil(n * 1.1)
    return None


def confidence_text(confidence: float, digits: int = 0) -> str:
    """A confidence in per cent, rounded down: what is printed is never more than what holds, and never all.

    Args:
        confidence: 0 to 1.
        digits: behind the point at least; there are as many as what is left to 100 % needs.
    """
    left = 100 * (1 - confidence)
    if left <= 0:
        return "100%"
    digits = max(digits, math.ceil(-math.log10(left) - ROUNDING))
    scale = 10**digits
    return f"{math.floor(100 * confidence * scale + ROUNDING) / scale:.{digits}f}%"


@dataclass(frozen=True)
class Stability:
    """Whether the samples come from one steady state.

    Attributes:
        stable: nothing moved more than the tolerance.
        reason: what was seen, in one line.
        change: relative size of the largest movement found, 0.0 when stable.
    """

    stable: bool
    reason: str
    change: float = 0.0


def stability(values: Sequence[float], tolerance: float = DRIFT_TOLERANCE) -> Stability:
    """Detect drift, steps (throttling) and runs that are too noisy to mean anything.

    Two conditions must meet before levels count as moving: ranks differ between ten consecutive segments more than
    chance allows (Kruskal-Wallis at :data:`FALSE_ALARM`), and the levels differ by more than ``tolerance``.

    Args:
        values: samples in the order they were taken, any unit.
        tolerance: relative difference of levels that still counts as steady.
    """
    data = np.asarray(values, float)
    n = len(data)
    if n < MIN_TO_JUDGE:
        return Stability(False, f"{n} samples are too few to tell whether the run was steady, {MIN_TO_JUDGE} needed")
    if not np.isfinite(data).all():
        return Stability(False, "a sample is not a finite number")
    middle = float(np.median(data))
    if middle <= 0:
        return Stability(False, "the median is not above zero")
    segments = min(SEGMENTS, n // 5)
    pieces = np.array_split(data, segments)
    levels = np.array([np.median(piece) for piece in pieces])
    if data.min() < data.max() and scipy("stats").kruskal(*pieces).pvalue < FALSE_ALARM:
        steady_change, reason = _movement(data, levels, middle)
        if steady_change > tolerance:
            return Stability(False, reason, steady_change)
    low, high = np.quantile(data, (0.25, 0.75))
    if (high - low) / middle > NOISE_TOLERANCE:
        spread = float((high - low) / middle)
        return Stability(False, f"too noisy: the quartiles are {spread:.0%} of the median apart", spread)
    return Stability(True, f"steady over {n} samples")


def _movement(data: Floats, levels: Floats, middle: float) -> tuple[float, str]:
    """Size and name of what moved: a step where one change of level explains it better than a slope does."""
    n = len(data)
    place = np.arange(n, dtype=float) - (n - 1) / 2
    ranks = scipy("stats").rankdata(data) - (n + 1) / 2
    spread = float((ranks**2).sum())
    slope = float(place @ ranks) ** 2 / float((place**2).sum()) / spread
    cuts = np.arange(max(3, n // 20), n - max(3, n // 20))
    sums = np.cumsum(ranks)[cuts - 1]
    gains = (sums**2 / cuts + sums**2 / (n - cuts)) / spread
    best = int(np.argmax(gains))
    cut = int(cuts[best])
    before, after = float(np.median(data[:cut])), float(np.median(data[cut:]))
    step = after / before - 1
    total = float(levels.max() - levels.min()) / middle
    if gains[best] > 1.1 * slope and abs(step) > total / 2:
        return max(
            abs(step), total
        ), f"a step of {step:+.0%} after sample {cut} of {n} (throttling, or other work started)"
    trend = float(levels[-1] / levels[0] - 1)
    if slope > 0.1 and abs(trend) > total / 2:
        return max(abs(trend), total), f"drift of {trend:+.0%} from the first tenth of the run to the last"
    return total, f"the level moved by {total:.0%} within the run (other work on the machine, or clocks that change)"


@dataclass(frozen=True)
class RatioInterval:
    """A ratio of medians a / b with a two-sided interval.

    Attributes:
        ratio: median over blocks of (median of a in the block) / (median of b in the block).
        low: lower end of the interval, with the allowance for placement; 0 where there are too few blocks to say.
        high: upper end, likewise; infinite where there are too few blocks to say.
        confidence: of the interval.
        blocks: how many pairs of blocks it rests on.
        stability: of the blocks' ratios in time; what moves both models alike does not move it.
    """

    ratio: float
    low: float
    high: float
    confidence: float
    blocks: int
    stability: Stability


def ratio(
    a: Sequence[float],
    b: Sequence[float],
    confidence: float = INTERVAL_LEVEL,
    *,
    tails: tuple[float, float] | None = None,
    allowance: float = PLACEMENT_ALLOWANCE,
    launches: int = 1,
    block: int = 5,
    resamples: int = 4000,
    seed: int = 0,
) -> RatioInterval:
    """Ratio of the medians of two interleaved series, with a paired block bootstrap.

    The series are cut into blocks of neighbours; each block gives one ratio, so whatever slows both models at one time
    (clocks, other work) cancels. Pairs of neighbouring blocks are resampled (circular, Politis and Romano 1992); the
    interval is never narrower than the distribution-free one of the blocks' median. Fewer blocks than
    :data:`MIN_BLOCKS` give a ratio without ends.

    Args:
        a: samples of the first model, for example the baseline.
        b: samples of the second, ``b[i]`` taken next to ``a[i]``; same unit, same length.
        confidence: of the two-sided interval.
        tails: probability left out below and above, when the ends are to differ; ``confidence`` is then ignored.
        allowance: relative difference that says nothing about two models: loading one model twice gives as much, and
            no number of samples in one process averages it away.
        launches: processes that the samples come from; the allowance is divided by the root of it, because each process
            draws the places anew.
        block: samples in a block: ``BenchSettings.per_round``, or a multiple.
        resamples: bootstrap repetitions.
        seed: of the resampling, so that the same samples give the same interval.

    Raises:
        ValueError: lengths differ, no pair at all, or a value that is not finite and positive.
    """
    first, second = np.asarray(a, float), np.asarray(b, float)
    if first.shape != second.shape:
        raise ValueError(f"{len(first)} and {len(second)} samples are not pairs")
    if not (np.isfinite(first).all() and np.isfinite(second).all() and (first > 0).all() and (second > 0).all()):
        raise ValueError("a sample is not a positive number")
    if not len(first):
        raise ValueError("no samples")
    block = min(block, len(first))
    count = len(first) // block
    logs = np.log(_block_medians(first, count, block)) - np.log(_block_medians(second, count, block))
    if count < MIN_BLOCKS:
        few = Stability(True, f"{count} blocks, too few to judge")
        return RatioInterval(math.exp(float(np.median(logs))), 0.0, math.inf, confidence, count, few)
    generator = np.random.default_rng(seed)
    span = 2
    starts = generator.integers(0, count, (resamples, math.ceil(count / span)))
    picks = (starts[:, :, None] + np.arange(span)) % count
    medians = np.median(logs[np.reshape(picks, (resamples, -1))[:, :count]], axis=1)
    below, above = tails or ((1 - confidence) / 2, (1 - confidence) / 2)
    low, high = np.quantile(medians, (below, 1 - above))
    centre = float(np.median(logs))
    margin = placement_margin(launches, allowance)
    # the bootstrap of a median is too sure of itself in the tails of few blocks: 1.5 % to 2.5 % where 1 % is asked
    exact = bounds(logs.tolist(), "p50", 1 - above, 1 - below)
    low = min(low, centre, exact.low if exact.low is not None else logs.min())
    high = max(high, centre, exact.high if exact.high is not None else logs.max())
    moving = (
        stability(np.exp(logs).tolist())
        if count >= MIN_TO_JUDGE
        else Stability(True, f"{count} blocks, too few to judge")
    )
    return RatioInterval(
        math.exp(centre), math.exp(low - margin), math.exp(high + margin), 1 - below - above, count, moving
    )


def _block_medians(data: Floats, count: int, block: int) -> Floats:
    return np.median(np.reshape(data[: count * block], (count, block)), axis=1)
