"""Probe and correct: measure what the cost model proposes, rescale the model by the measurement, propose again.

Pure: what a candidate is, and how it is measured, is the caller's. Shares of the budget are used throughout: 1 uses all
of it, more misses it. A candidate is accepted by the interval of its share, not by the figure: one whose interval does
not tell is measured again, longer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgeprune.target.schema import BUDGET_WINDOW

VAGUE_USED = 1 / 1.1
"""A candidate in the window whose share may as well be less than this is measured again: it may give up too much."""
NUDGE_SHARE = 0.01  # a proposal that was measured already is moved by this share of the latency until it is another one
MAX_NUDGES = 40
MIN_SLOPE_SPAN = 0.1  # probes nearer to each other than this, in logarithms of the latency, say nothing about a slope
MAX_SLOPE = 0.6  # of the correction beyond the probes, in logarithms of the latency
FLOOR_SHARE = 1e-6  # share of a latency that nothing reaches: what is proposed for it is the fastest there is
FLOOR_PROBES = 2
"""Candidates beyond ``max_probes`` where none of these may hold the budget: the fastest there is, without which nothing
is known to be out of reach, and, where that one may hold it, one between."""


def most_repeats(retries: int) -> int:
    """How often a search with ``measure.retries`` measures one candidate again: its first look is a short one."""
    return max(1, retries)


def most_further_looks(retries: int) -> int:
    """How often it measures again, of all candidates together, once it has its probes."""
    return 1 + most_repeats(retries)


def most_looks(max_probes: int, retries: int) -> int:
    """Measurements that a search takes at most: two of the unpruned model, the probes, those at the floor, and their
    repetitions, and those once more that hold the budget and do not pass. Its verdict may rest on any of them, so each
    gets its share of the error."""
    return 2 + max_probes + FLOOR_PROBES + most_repeats(retries) + most_further_looks(retries)


@dataclass(frozen=True)
class Candidate:
    """What the solver proposes for a latency.

    Attributes:
        key: equal for equal candidates.
        share: predicted latency over the unpruned model's, before any correction.
        loss: importance given up; of two candidates within the budget the one with less is kept.
        exhausted: True when the solver has nothing faster.
        content: the solver's own.
    """

    key: Hashable
    share: float
    loss: float
    exhausted: bool
    content: Any = None


@dataclass(frozen=True)
class Reading:
    """One candidate as measured, next to the unpruned model.

    Attributes:
        used: share of the budget that its latency takes.
        used_low: lower confidence bound of ``used``; 0 where there are too few samples for one.
        used_high: upper confidence bound of ``used``; infinite where there are too few samples for one.
        speed_up_low: lower confidence bound of the unpruned model's latency over its own.
        speed_up_high: upper confidence bound of the same.
        unsteady: why the samples do not come from one steady state; empty where they do.
    """

    used: float
    used_low: float
    used_high: float
    speed_up_low: float
    speed_up_high: float
    unsteady: str = ""


@dataclass(frozen=True)
class Probe:
    """A candidate, what was predicted of it with all corrections so far, and what was measured.

    Attributes:
        candidate: what was measured.
        predicted: share of the budget that was expected.
        reading: what was measured, the last time.
        start_used: share of the budget that the unpruned model takes.
    """

    candidate: Candidate
    predicted: float
    reading: Reading
    start_used: float

    @property
    def error(self) -> float:
        """Predicted over measured, minus 1."""
        return self.predicted / self.reading.used - 1

    @property
    def holds(self) -> bool:
        """Whether it is within the budget for sure, and faster than the unpruned model by more than the noise."""
        reading = self.reading
        return reading.used_high <= BUDGET_WINDOW[1] and reading.speed_up_low > 1 and not reading.unsteady

    @property
    def misses(self) -> bool:
        """Whether it is over the budget for sure, or no faster than the unpruned model; unsteady samples show
        neither."""
        over = self.reading.used_low > BUDGET_WINDOW[1] or self.reading.speed_up_high <= 1
        return over and not self.reading.unsteady

    @property
    def untold(self) -> bool:
        """Whether it is likely within the budget, and its interval is wider than the window, too wide to tell."""
        reading = self.reading
        likely = not self.holds and not self.misses and reading.used <= BUDGET_WINDOW[1]
        return likely and reading.used_high - reading.used_low > BUDGET_WINDOW[1] - BUDGET_WINDOW[0]

    def vague(self, least_used: float) -> bool:
        """Whether measuring it longer is worth more than another candidate."""
        if self.misses:
            return False
        if self.holds:
            return self.reading.used >= least_used and self.reading.used_low < min(VAGUE_USED, least_used)
        return self.reading.used <= BUDGET_WINDOW[1] or self.candidate.exhausted or bool(self.reading.unsteady)


@dataclass(frozen=True)
class ProbeRun:
    """Outcome of a search.

    Attributes:
        best: the probe that gives up least among those that hold the budget for sure; else the fastest of those that
            may hold it; None when none may. Unsteady samples over the budget leave open whether it is held, unless a
            faster probe misses for sure.
        floor: the fastest probe.
        probes: all of them, in order.
        milder: a probe that gives up less than ``best`` and may hold the budget too, where ``best`` uses less of it
            than it should and the measurements were too coarse to tell; None else.
    """

    best: Probe | None
    floor: Probe
    probes: tuple[Probe, ...]
    milder: Probe | None = None


def run_probes(
    solve: Callable[[float], Candidate],
    measure: Callable[[Candidate, float, int], Reading],
    *,
    start_used: float,
    max_probes: int = 6,
    max_repeats: int = 2,
    least_used: float = BUDGET_WINDOW[0],
) -> ProbeRun:
    """Solve, measure, correct, until a probe lies in the window for sure.

    Args:
        solve: the best candidate whose predicted share of the unpruned latency is at most the argument.
        measure: given a candidate, the share of the budget that is predicted for it, and how often it was measured
            before: each time is worth more than the one before.
        start_used: share of the budget that the unpruned model takes.
        max_probes: most candidates; where none of them may hold the budget, and the fastest there is was not among
            them, it follows, see :data:`FLOOR_PROBES`.
        max_repeats: most further measurements of one candidate, and all candidates' together in place of candidates.
        least_used: share of the budget that a candidate uses at least; the window's lower end.
    """
    aim = math.sqrt(least_used * BUDGET_WINDOW[1])
    correction = _Correction()
    probes: list[Probe] = []
    left = max_probes + max_repeats

    def proposed() -> Candidate | None:
        return _new_candidate(solve, correction.share_for(min(aim / start_used, 1.0)), probes)

    def look(candidate: Candidate) -> Probe:
        nonlocal left
        predicted = start_used * candidate.share * correction.at(candidate.share)
        probe = Probe(candidate, predicted, measure(candidate, predicted, 0), start_used)
        left -= 1
        for attempt in range(1, min(max_repeats, left) + 1):
            if not probe.vague(least_used):
                break
            probe = replace(probe, reading=measure(candidate, predicted, attempt))
            left -= 1
        probes.append(probe)
        correction.learn(candidate.share, probe.reading.used / start_used)
        return probe

    while len(probes) < max_probes and left > 0:
        candidate = proposed()
        if candidate is None:
            break
        probe = look(candidate)
        if probe.holds and probe.reading.used >= least_used:
            break
        if candidate.exhausted and not probe.holds:
            break  # the fastest there is
        if not probe.holds and not probe.misses:  # the next one is to keep the distance that this one's interval needs
            aim = max(least_used, min(aim, probe.reading.used / probe.reading.used_high))
    if choose(probes, least_used)[0] is None and not any(probe.candidate.exhausted for probe in probes):
        left += FLOOR_PROBES
        fastest = solve(FLOOR_SHARE)
        known = any(probe.candidate.key == fastest.key for probe in probes)
        if not known and not look(fastest).misses and left > 0 and (between := proposed()) is not None:
            look(between)
    best, milder = choose(probes, least_used)
    floor = min(probes, key=lambda probe: probe.reading.used)
    return ProbeRun(best=best, floor=floor, probes=tuple(probes), milder=milder)


def choose(
    probes: Sequence[Probe], least_used: float, sure: Callable[[Probe], bool] = lambda probe: probe.holds
) -> tuple[Probe | None, Probe | None]:
    """What a search ends with, and what may be milder: ``best`` and ``milder`` of :class:`ProbeRun`.

    Args:
        probes: with their last readings.
        least_used: share of the budget that a candidate uses at least.
        sure: whether a probe holds the budget for sure.
    """
    holding = [probe for probe in probes if sure(probe)]
    missed = min((probe.reading.used for probe in probes if probe.misses), default=math.inf)
    possible = [
        probe for probe in probes if not probe.misses and (not probe.reading.unsteady or probe.reading.used < missed)
    ]
    best = (
        min(holding, key=lambda probe: probe.candidate.loss)
        if holding
        else min(possible, key=lambda probe: probe.reading.used, default=None)
    )
    milder: list[Probe] = []
    if best is not None and sure(best) and best.reading.used < min(least_used, BUDGET_WINDOW[0]):
        may_hold = [probe for probe in probes if probe.untold or (probe.holds and not sure(probe))]
        milder = [probe for probe in may_hold if probe.candidate.loss < best.candidate.loss]
    return best, min(milder, key=lambda probe: probe.reading.used, default=None)


def _new_candidate(solve: Callable[[float], Candidate], share: float, probes: list[Probe]) -> Candidate | None:
    """A candidate near this share that was not measured yet; None when the allowed widths leave none."""
    measured = {probe.candidate.key: probe for probe in probes}
    direction = 0.0
    for _ in range(MAX_NUDGES):
        candidate = solve(share)
        known = measured.get(candidate.key)
        if known is None:
            return candidate
        step = 1.0 if known.holds else -1.0  # within the budget: try a milder one; else a faster one
        if direction and step != direction:
            return None
        if step < 0 and candidate.exhausted:
            return None
        direction, share = step, share * (1 + NUDGE_SHARE * step)
        if share >= 1:
            return None
    return None


class _Correction:
    """Measured over predicted latency as a function of the predicted, from every probe; 1 at the unpruned model."""

    def __init__(self) -> None:
        self._points: dict[float, list[float]] = {0.0: [0.0]}  # log of the predicted share to logs of the factor

    def learn(self, predicted: float, measured: float) -> None:
        """A probe: predicted and measured latency, both over the unpruned model's."""
        self._points.setdefault(math.log(predicted), []).append(math.log(measured / predicted))

    def at(self, share: float) -> float:
        """Factor at a predicted share: linear between the probes around it, in logarithms, and continued below the
        lowest."""
        places, at = sorted(self._points), math.log(share)
        values = [float(np.mean(self._points[place])) for place in places]
        beyond = next((i for i, place in enumerate(places) if place - places[0] >= MIN_SLOPE_SPAN), None)
        if at >= places[0] or beyond is None:
            return math.exp(float(np.interp(at, places, values)))
        slope = (values[beyond] - values[0]) / (places[beyond] - places[0])
        return math.exp(values[0] + (at - places[0]) * max(-MAX_SLOPE, min(slope, MAX_SLOPE)))

    def share_for(self, measured: float) -> float:
        """The predicted share whose corrected share is ``measured``."""
        low, high = math.log(measured) - 2.0, 0.0
        for _ in range(60):
            middle = (low + high) / 2
            if middle + math.log(self.at(math.exp(middle))) > math.log(measured):
                high = middle
            else:
                low = middle
        return math.exp(low)
