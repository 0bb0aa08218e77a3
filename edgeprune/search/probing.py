"""Probe and correct: measure what the cost model proposes, rescale the model by the measurement, propose again.

Pure: what a candidate is, and how it is measured, is the caller's. Shares of the budget are used throughout: 1 uses all
of it, more misses it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeprune.target.schema import BUDGET_WINDOW

CLEAR_SHARE = 0.25
"""Share of the window next to its end that a probe has to leave free, unless its upper bound lies within: the gate
behind the search has the samples to settle what keeps this distance."""
NUDGE_SHARE = 0.01  # a proposal that was measured already is moved by this share of the latency until it is another one
MAX_NUDGES = 40
MIN_SLOPE_SPAN = 0.1  # probes nearer to each other than this, in logarithms of the latency, say nothing about a slope
MAX_SLOPE = 0.6  # of the correction beyond the probes, in logarithms of the latency


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
        used_high: upper confidence bound of ``used``.
        speed_up_low: lower confidence bound of the unpruned model's latency over its own.
    """

    used: float
    used_high: float
    speed_up_low: float


@dataclass(frozen=True)
class Probe:
    """A candidate, what was predicted of it with all corrections so far, and what was measured.

    Attributes:
        candidate: what was measured.
        predicted: share of the budget that was expected.
        reading: what was measured.
        start_used: share of the budget that the unpruned model takes.
        clear_at: share of the budget from which on only the bound counts.
    """

    candidate: Candidate
    predicted: float
    reading: Reading
    start_used: float
    clear_at: float = BUDGET_WINDOW[1] - CLEAR_SHARE * (BUDGET_WINDOW[1] - BUDGET_WINDOW[0])

    @property
    def error(self) -> float:
        """Predicted over measured, minus 1."""
        return self.predicted / self.reading.used - 1

    @property
    def meets(self) -> bool:
        """Whether it is within the budget, and faster than the unpruned model by more than the noise."""
        return self.reading.used <= BUDGET_WINDOW[1] and self.reading.speed_up_low > 1

    @property
    def clear(self) -> bool:
        """Whether it keeps a distance from the budget's end, or its bound is within the budget too."""
        return self.meets and (self.reading.used_high <= BUDGET_WINDOW[1] or self.reading.used <= self.clear_at)


@dataclass(frozen=True)
class ProbeRun:
    """Outcome of a search.

    Attributes:
        best: the probe that gives up least among those that meet the budget for sure, else among those that meet it;
            None when none does.
        floor: the fastest probe.
        probes: all of them, in order.
    """

    best: Probe | None
    floor: Probe
    probes: tuple[Probe, ...]


def run_probes(
    solve: Callable[[float], Candidate],
    measure: Callable[[Candidate, float], Reading],
    *,
    start_used: float,
    max_probes: int = 6,
    least_used: float = BUDGET_WINDOW[0],
) -> ProbeRun:
    """Solve, measure, correct, until a probe lies in the window.

    Args:
        solve: the best candidate whose predicted share of the unpruned latency is at most the argument.
        measure: given a candidate and the share of the budget that is predicted for it.
        start_used: share of the budget that the unpruned model takes, above 1.
        max_probes: most calls of ``measure``.
        least_used: share of the budget that a candidate uses at least; the window's lower end.
    """
    aim = math.sqrt(least_used * BUDGET_WINDOW[1])
    clear_at = BUDGET_WINDOW[1] - CLEAR_SHARE * (BUDGET_WINDOW[1] - least_used)
    correction = _Correction()
    probes: list[Probe] = []
    while len(probes) < max_probes:
        candidate = _new_candidate(solve, correction.share_for(aim / start_used), probes)
        if candidate is None:
            break
        predicted = start_used * candidate.share * correction.at(candidate.share)
        probe = Probe(candidate, predicted, measure(candidate, predicted), start_used, clear_at)
        probes.append(probe)
        correction.learn(candidate.share, probe.reading.used / start_used)
        if probe.clear and probe.reading.used >= least_used:
            break
        if candidate.exhausted and not probe.meets:
            break  # the fastest there is, and still too slow
    meets = [probe for probe in probes if probe.clear] or [probe for probe in probes if probe.meets]
    return ProbeRun(
        best=min(meets, key=lambda probe: probe.candidate.loss, default=None),
        floor=min(probes, key=lambda probe: probe.reading.used),
        probes=tuple(probes),
    )


def _new_candidate(solve: Callable[[float], Candidate], share: float, probes: list[Probe]) -> Candidate | None:
    """A candidate near this share that was not measured yet; None when the allowed widths leave none."""
    measured = {probe.candidate.key: probe for probe in probes}
    direction = 0.0
    for _ in range(MAX_NUDGES):
        candidate = solve(share)
        known = measured.get(candidate.key)
        if known is None:
            return candidate
        step = 1.0 if known.clear else -1.0  # within the budget: try a milder one; else a faster one
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
