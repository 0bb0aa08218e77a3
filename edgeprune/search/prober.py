"""Probes of a budget search: candidates timed next to the unpruned model, as shares of the budget."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgeprune.dataset import Dataset
from edgeprune.measure.latency import MAX_EFFORT, latency_settings, wait_before_again
from edgeprune.records.facts import ProbeLatency
from edgeprune.runtimes.site import Site
from edgeprune.samples.conditions import most_disturbed
from edgeprune.samples.gates import (
    MIN_BLOCK_PAIRS,
    Gate,
    Verdict,
    budget_gate,
    far_inside,
    pass_confidence,
    unsteady_reason,
)
from edgeprune.samples.measurement import (
    Measurement,
    core_speed_up_of,
    latency_bounds,
    speed_up_of,
    with_input_of,
)
from edgeprune.samples.statistics import value_of
from edgeprune.search.probing import Reading, most_looks

PROBE_EFFORT = 0.4  # a first probe only has to place a point; what it leaves open is measured in full
PROBE_WARMUP_S = 0.3


class Start(NamedTuple):
    """What the unpruned model takes of the budget.

    Attributes:
        used: share of the budget.
        used_high: its upper confidence bound.
        gate: the budget held against the same samples; None where nothing was measured.
    """

    used: float
    used_high: float
    gate: Gate | None = None

    @property
    def undecided(self) -> bool:
        """Whether the samples do not decide."""
        return self.gate is not None and self.gate.verdict is Verdict.INCONCLUSIVE


class Prober:
    """Measures candidates next to the unpruned model, and says how much of the budget each takes.

    A search takes many looks and keeps what looks best, so each look has its share of the error of one gate.

    Milliseconds of a shared host drift between probes by more than a probe's noise. A budget in ms is therefore taken
    to speak of the latency that the candidate has while the unpruned model runs at the level that it had most of the
    time. That chooses the plan; the verdict on it compares plain milliseconds, as the gate behind the stage does.

    Args:
        site: the target.
        baseline: engine of the unpruned model.
        dataset: gives the frames of an end-to-end latency.
        unpruned: engine that the candidates are pruned from, where ``baseline`` is another model, or takes another
            size or number format: each then takes what it was made for.
    """

    def __init__(
        self, site: Site, baseline: Path, dataset: Dataset | None = None, unpruned: Path | None = None
    ) -> None:
        self.site, self.baseline, self.dataset, self.unpruned = site, baseline, dataset, unpruned
        self.levels_ms: list[float] = []
        self.unpruned_used: float | None = None  # share of the budget that ``unpruned`` takes, once it is known
        self._before: list[Measurement] = []  # what was measured last
        self.retries = most_looks(site.target.prune.max_probes, site.target.measure.retries) - 1

    def start_used(self, attempt: int = 0) -> Start:
        """What the unpruned model takes of the budget."""
        if self.unpruned is not None:
            reading, _, gate = self.measure(self.unpruned, attempt)
            self.unpruned_used = reading.used
            return Start(reading.used, reading.used_high, gate)
        budget = self.site.target.budget
        if budget.kind == "speed_up":
            return Start(budget.value, budget.value)
        [alone] = self._latency([self.baseline], attempt)
        self.levels_ms.append(value_of(alone.values, "p50"))
        confidence = pass_confidence(self.retries)
        bound = latency_bounds(alone, budget.statistic, confidence)
        high = math.inf if bound.high is None else bound.high
        if far_inside(alone.values, budget.statistic, budget.value, confidence):
            high = min(high, max(alone.values))
        return Start(bound.value / budget.value, high / budget.value, self._gate(alone, alone))

    def measure(self, engine: Path, attempt: int = 0) -> tuple[Reading, ProbeLatency, Gate]:
        """Time a candidate's engine next to the unpruned model's: its share of the budget, the latencies, and the gate
        that a build holds such samples against, at this look's share of the error.

        Where ``baseline`` is another model than the one that is pruned, how much faster than that one a candidate is
        follows from the shares of the budget that both take.

        Args:
            engine: of the candidate.
            attempt: how often it was timed before; the second time is a gate's measurement in full, and each one after
                it is twice the one before.
        """
        budget, error = self.site.target.budget, 1 - pass_confidence(self.retries)
        baseline, candidate = self._latency([self.baseline, engine], attempt)
        speed_up = speed_up_of(baseline, candidate, tails=(error, error))
        statistic = budget.statistic
        before, after = value_of(baseline.values, statistic), value_of(candidate.values, statistic)
        share, unsteady = 1.0, unsteady_reason(speed_up.stability, baseline, candidate)
        if shared := most_disturbed([baseline.conditions.core, candidate.conditions.core]):
            share = shared.alone
            unsteady = unsteady and f"{unsteady}; {shared.disturbed_by}"
        if budget.kind == "speed_up":
            by_core = core_speed_up_of(baseline, candidate) if shared else None
            ratio = speed_up.ratio if by_core is None else by_core.ratio  # what other work took is not the model's
            used, drift = budget.value / ratio, None
            low, high = budget.value / speed_up.high, budget.value / speed_up.low if speed_up.low > 0 else math.inf
        else:
            drift = self._drift(baseline)
            bound = latency_bounds(candidate, statistic, 1 - error)
            used = bound.value / drift / budget.value
            low = (bound.low or 0.0) * share / drift / budget.value
            high = math.inf if bound.high is None else bound.high / drift / budget.value
        gains = speed_up.low, speed_up.high
        if self.unpruned is not None:
            start = used if self.unpruned_used is None else self.unpruned_used
            gains = start / high, start / low if low > 0 else math.inf
        reading = Reading(used, low, high, *gains, unsteady)
        found = ProbeLatency(before, after, statistic, speed_up.ratio, drift)
        return reading, found, self._gate(baseline, candidate)

    def _gate(self, baseline: Measurement, candidate: Measurement) -> Gate:
        """The budget against the samples as they are. That a stand-in proves nothing is said of the search's end."""
        if self.unpruned is not None:
            baseline = with_input_of(baseline, candidate)
        baseline, candidate = (replace(one, simulated=False) for one in (baseline, candidate))
        return budget_gate(self.site.target, "search", baseline, candidate, self.retries)

    def _latency(self, engines: list[Path], attempt: int) -> list[Measurement]:
        effort = min(2.0 ** (attempt - 1), MAX_EFFORT) if attempt else PROBE_EFFORT
        settings = latency_settings(self.site, self.dataset, effort=effort, trained=False, retries=self.retries)
        if attempt:
            wait_before_again(self.site, *self._before)
        else:
            settings = replace(settings, warmup_s=min(settings.warmup_s, PROBE_WARMUP_S))
            if self.site.target.budget.kind == "speed_up":  # with fewer a ratio has no verdict
                settings = replace(settings, rounds=max(settings.rounds, MIN_BLOCK_PAIRS))
        if self.unpruned is not None:
            settings = replace(settings, batch=0, imgsz=None)
        self._before = self.site.runtime.latency(engines, settings, progress=self.site.reporter.progress)
        return self._before

    def _drift(self, baseline: Measurement) -> float:
        """Median of this measurement's baseline over the median of all such medians so far."""
        level = value_of(baseline.values, "p50")
        self.levels_ms.append(level)
        return level / float(np.median(self.levels_ms))
