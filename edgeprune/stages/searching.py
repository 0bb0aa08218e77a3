"""The budget search on a target: profile, propose, probe, correct. The prune stage and ``search`` share it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeprune.errors import TargetError
from edgeprune.samples.measurement import Measurement
from edgeprune.samples.statistics import bounds, ratio, value_of
from edgeprune.search.probing import WINDOW
from edgeprune.stages import timing
from edgeprune.stages.base import Context
from edgeprune.stages.bench import ContextBench
from edgeprune.stages.sparsify import importance_to_prune
from edgeprune.target import Budget

if TYPE_CHECKING:
    from edgeprune.checkpoint import Checkpoint
    from edgeprune.pruning.plan import Plan
    from edgeprune.pruning.pruner import Pruner
    from edgeprune.search.planner import Planner
    from edgeprune.search.probing import Candidate, Probe, Reading
    from edgeprune.search.profile import Profile

UNBOUNDED = 1.05  # a probe has too few samples for a bound on a high percentile; the gate behind it has enough
PROBE_EFFORT = 0.4  # a probe only has to place a point; the gate behind the stage measures in full
PROBE_WARMUP_S = 0.3
NOTHING = 1e-6  # share of a latency that no plan reaches

Files = dict[str, tuple[str, Path]]


@dataclass(frozen=True)
class Searched:
    """What a search found.

    Attributes:
        files: role to (kind, file): ``model``, ``onnx``, ``engine``.
        plan: of the pruned model.
        probes: as the report shows them, in order; empty when the unpruned model is within the budget already.
        speed_up: measured latency of the unpruned model over the pruned one's in the probe that was kept; 1.0 without.
        profile: what the cost model was fitted to; None without probes.
    """

    files: Files
    plan: Plan
    probes: list[dict[str, Any]]
    speed_up: float
    profile: Profile | None


class Workshop:
    """One model and everything that its candidates share: dimensions, scores, a place to compile them in.

    Args:
        context: target, runtime, and who watches; its dataset may be missing, then the importance needs no data.
        source: the unpruned checkpoint.
        folder: where candidates are made.
    """

    def __init__(self, context: Context, source: Checkpoint, folder: Path) -> None:
        from edgeprune.pruning.batches import calibration_batches
        from edgeprune.pruning.criteria import importance_named
        from edgeprune.pruning.pruner import AUTO, Pruner, resolved

        target = context.target
        self.context, self.source, self.folder = context, source, folder
        self.bench = ContextBench(context, source)
        self.pruner: Pruner = Pruner(
            source.model,
            target.imgsz,
            ignore=target.prune.ignore,
            max_ratio=target.prune.max_ratio,
            align=target.channel_alignment,
            min_width=target.prune.min_width,
        )
        asked = importance_to_prune(context)
        self.batches: list[dict[str, Any]] | None = None
        if context.dataset is not None and (asked == AUTO or importance_named(asked).needs_batches):
            context.reporter.progress("reading images for the importance of channels")
            self.batches = calibration_batches(
                context.dataset.source, source.task, target.imgsz, seed=context.seed, stride=source.stride
            )
        self.importance = resolved(asked, self.batches)
        context.reporter.progress(f"ranking channels by {self.importance}")
        self.scores = self.pruner.scores(self.importance, batches=self.batches, seed=context.seed)

    @property
    def macs_limit(self) -> float:
        """Largest MACs ratio that the widths allow."""
        narrowest = {one.name: min(one.allowed) for one in self.pruner.dimensions if one.allowed}
        return self.pruner.macs() / self.pruner.macs(narrowest)

    def by_macs(self, macs_speed_up: float) -> tuple[Files, Plan]:
        """The candidate of a MACs ratio, for a budget that speaks of MACs or a target that is not here."""
        plan = self.pruner.plan(
            macs_speed_up=max(macs_speed_up, 1.0),
            importance=self.importance,
            scores=self.scores,
            seed=self.context.seed,
        )
        return self.bench.compiled(self.pruner.apply(plan), self.folder / "chosen", _metadata(plan)), plan

    def within_budget(self, baseline: Path, cache: Path | None, least_used: float = WINDOW[0]) -> Searched:
        """Search the plan that gives up least and meets the latency budget, measured on the target.

        Args:
            baseline: engine of the unpruned model.
            cache: folder of profiles.
            least_used: share of the budget that the plan is to use at least.

        Raises:
            TargetError: the budget is out of reach; says how far one gets and which layers hold it.
        """
        from edgeprune.search.probing import probed

        context, budget = self.context, self.context.target.budget
        judge = Judge(context, baseline)
        start_used = judge.start_used()
        if start_used <= 1:  # fast enough as it is: a plan that keeps every channel
            files, plan = self.by_macs(1.0)
            return Searched(files, plan, [], 1.0, None)
        planner = self.planner(cache)
        fit = planner.profile.fit
        context.reporter.note(
            f"cost model: {len(fit.timed)} layers, device step {fit.model.sizes.step}, held-out error "
            f"{fit.median_error:.1%} (median of {len(fit.errors)})"
        )
        made: dict[Any, tuple[Files, Plan]] = {}
        most = context.target.prune.max_probes

        def measure(candidate: Candidate, predicted: float) -> Reading:
            number = len(made) + 1
            context.reporter.progress(f"probe {number}: exporting and compiling", done=number - 1, total=most)
            plan, model = planner.plan(candidate)
            files = self.bench.compiled(model, self.folder / f"probe-{number}", _metadata(plan))
            made[candidate.key] = files, plan
            context.reporter.progress(f"probe {number}: measuring", done=number - 1, total=most)
            reading = judge.reading(files["engine"][1], plan)
            detail = reading.detail
            context.reporter.note(
                f"probe {number}: MACs ×{plan.macs_speed_up:.2f}, {budget.statistic} {detail['baseline_ms']:.2f} → "
                f"{detail['candidate_ms']:.2f} ms, {reading.used:.1%} of the budget, predicted {predicted:.1%} "
                f"({predicted / reading.used - 1:+.1%})"
            )
            return reading

        found = probed(planner.solve, measure, start_used=start_used, max_probes=most, least_used=least_used)
        if found.best is None:
            raise TargetError(_out_of_reach(budget, found.floor, planner))
        kept = made[found.best.candidate.key]
        for files, _ in made.values():
            if files is not kept[0]:
                shutil.rmtree(files["model"][1].parent)
        rows = [_row(probe, made[probe.candidate.key][1], probe is found.best) for probe in found.probes]
        return Searched(*kept, rows, found.best.reading.detail["speed_up"], planner.profile)

    def profile(self, cache: Path | None) -> Profile:
        """Measured layer times of the unpruned model and copies of it, from the cache where they are."""
        from edgeprune.search.profile import profiled

        return profiled(
            self.source.model,
            self.bench,
            imgsz=self.context.target.imgsz,
            align=self.context.target.channel_alignment,
            folder=self.folder / "profile",
            cache=cache,
            seed=self.context.seed,
            progress=self.context.reporter.progress,
        )

    def planner(self, cache: Path | None) -> Planner:
        """The solver, on a profile that is measured if need be."""
        from edgeprune.search.planner import Planner

        return Planner(
            self.pruner,
            self.scores,
            self.importance,
            self.profile(cache),
            batches=self.batches,
            seed=self.context.seed,
            progress=self.context.reporter.progress,
        )


class Judge:
    """Measures candidates next to the unpruned model, and says how much of the budget each takes.

    Milliseconds of a shared host drift between probes by more than a probe's noise; what is meant by a budget in ms is
    therefore the latency that the candidate has when the unpruned model runs at the level seen most of the time. The
    gate behind the stage compares plain milliseconds.
    """

    def __init__(self, context: Context, baseline: Path) -> None:
        self.context, self.baseline = context, baseline
        self.levels: list[float] = []

    def start_used(self) -> float:
        """Share of the budget that the unpruned model takes."""
        budget = self.context.target.budget
        if budget.kind == "speed_up":
            return budget.value
        [alone] = self._timed([self.baseline])
        self.levels.append(value_of(alone.values, "p50"))
        return value_of(alone.values, budget.statistic) / budget.value

    def reading(self, engine: Path, plan: Plan) -> Reading:
        """One candidate, raced against the unpruned model."""
        from edgeprune.search.probing import Reading

        budget, sure = self.context.target.budget, timing.confidence(self.context)
        baseline, candidate = self._timed([self.baseline, engine])
        block = int(candidate.conditions.get("per_round", 5))
        faster = ratio(baseline.values, candidate.values, tails=(1 - sure, 1 - sure), block=block)
        detail = {
            "baseline_ms": value_of(baseline.values, budget.statistic),
            "candidate_ms": value_of(candidate.values, budget.statistic),
            "statistic": budget.statistic,
            "speed_up": faster.ratio,
            "parameters": plan.params[1],
        }
        if budget.kind == "speed_up":
            return Reading(budget.value / faster.ratio, budget.value / faster.low, faster.low, detail)
        drift = self._drift(baseline)
        seen = bounds(candidate.values, budget.statistic, sure)
        used = seen.value / drift / budget.value
        worst = (seen.high or seen.value * UNBOUNDED) / drift / budget.value
        return Reading(used, worst, faster.low, {**detail, "drift": drift})

    def _timed(self, engines: list[Path]) -> list[Measurement]:
        settings = timing.settings(self.context, PROBE_EFFORT)
        settings = replace(settings, warmup_s=min(settings.warmup_s, PROBE_WARMUP_S))
        return self.context.runtime.latency(engines, settings, progress=self.context.reporter.progress)

    def _drift(self, baseline: Measurement) -> float:
        """Level of this measurement's baseline over the level seen most."""
        level = value_of(baseline.values, "p50")
        self.levels.append(level)
        return level / float(np.median(self.levels))


def _metadata(plan: Plan) -> dict[str, Any]:
    return {"plan": plan.digest, "signature": plan.result_shapes}


def _row(probe: Probe, plan: Plan, kept: bool) -> dict[str, Any]:
    """A probe as plain data, for the record and the report."""
    return {
        "ratio": plan.macs_speed_up,
        "margin": 1 / probe.reading.used,
        "low": 1 / probe.reading.worst,
        "predicted": 1 / probe.predicted,
        "uncorrected": 1 / (probe.candidate.share * probe.start_used),
        "error": probe.error,
        "removed": list(plan.removed),
        "kept": kept,
        "detail": probe.reading.detail,
    }


def _out_of_reach(budget: Budget, floor: Probe, planner: Planner) -> str:
    detail: Mapping[str, Any] = floor.reading.detail
    reached = (
        f"{budget.statistic} {detail['candidate_ms']:.2f} ms"
        if budget.kind == "latency_ms"
        else f"×{detail['speed_up']:.2f}"
    )
    slower = "" if floor.reading.faster > 1 else ", which is not faster than the unpruned model beyond the noise"
    held = ", ".join(planner.held_by(planner.solve(NOTHING)))
    what = "the floor measured here is" if floor.candidate.exhausted else "the fastest of the probes measured here is"
    return (
        f"the budget {budget} is out of reach for this model: {what} {reached}{slower}; the floor is held by {held}. "
        "Ask for less, take a smaller scale of the model or a smaller --imgsz"
    )
