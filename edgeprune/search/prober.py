"""Probes of a budget search: candidates timed next to the unpruned model, as shares of the budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeprune.dataset import Dataset
from edgeprune.measure.latency import latency_settings
from edgeprune.records.facts import ProbeLatency
from edgeprune.runtimes.site import Site
from edgeprune.samples.gates import pass_confidence
from edgeprune.samples.measurement import Measurement, speed_up_of
from edgeprune.samples.statistics import bounds, value_of
from edgeprune.search.probing import Reading

UNBOUNDED = 1.05  # stands in for the bound of a high percentile, which a probe has too few samples for
PROBE_EFFORT = 0.4  # a probe only has to place a point; the gate behind the stage measures in full
PROBE_WARMUP_S = 0.3


class Prober:
    """Measures candidates next to the unpruned model, and says how much of the budget each takes.

    Milliseconds of a shared host drift between probes by more than a probe's noise. A budget in ms is therefore taken
    to speak of the latency that the candidate has while the unpruned model runs at the level that it had most of the
    time. The gate behind the stage compares plain milliseconds.

    Args:
        site: the target.
        baseline: engine of the unpruned model.
        dataset: gives the frames of an end-to-end latency.
    """

    def __init__(self, site: Site, baseline: Path, dataset: Dataset | None = None) -> None:
        self.site, self.baseline, self.dataset = site, baseline, dataset
        self.levels_ms: list[float] = []

    def start_used(self) -> float:
        """Share of the budget that the unpruned model takes."""
        budget = self.site.target.budget
        if budget.kind == "speed_up":
            return budget.value
        [alone] = self._latency([self.baseline])
        self.levels_ms.append(value_of(alone.values, "p50"))
        return value_of(alone.values, budget.statistic) / budget.value

    def measure(self, engine: Path) -> tuple[Reading, ProbeLatency]:
        """Time a candidate's engine next to the unpruned model's: its share of the budget, and the latencies."""
        budget, error = self.site.target.budget, 1 - pass_confidence(self.site.target.measure.retries)
        baseline, candidate = self._latency([self.baseline, engine])
        speed_up = speed_up_of(baseline, candidate, tails=(error, error))
        statistic = budget.statistic
        before, after = value_of(baseline.values, statistic), value_of(candidate.values, statistic)
        if budget.kind == "speed_up":
            reading = Reading(budget.value / speed_up.ratio, budget.value / speed_up.low, speed_up.low)
            return reading, ProbeLatency(before, after, statistic, speed_up.ratio)
        drift = self._drift(baseline)
        bound = bounds(candidate.values, statistic, 1 - error)
        used = bound.value / drift / budget.value
        used_high = (bound.high or bound.value * UNBOUNDED) / drift / budget.value
        reading = Reading(used, used_high, speed_up.low)
        return reading, ProbeLatency(before, after, statistic, speed_up.ratio, drift)

    def _latency(self, engines: list[Path]) -> list[Measurement]:
        settings = latency_settings(self.site, self.dataset, effort=PROBE_EFFORT)
        settings = replace(settings, warmup_s=min(settings.warmup_s, PROBE_WARMUP_S))
        return self.site.runtime.latency(engines, settings, progress=self.site.reporter.progress)

    def _drift(self, baseline: Measurement) -> float:
        """Median of this measurement's baseline over the median of all such medians so far."""
        level = value_of(baseline.values, "p50")
        self.levels_ms.append(level)
        return level / float(np.median(self.levels_ms))
