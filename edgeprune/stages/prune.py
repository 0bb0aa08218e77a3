"""prune: the mildest plan whose engine, measured on the target next to the unpruned one, meets the budget.

The engine does not care what the weights are worth, so a budget that cannot be met is found here, before any training.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.errors import TargetError
from edgeprune.gate import at_least, pending
from edgeprune.measure.measurement import Measurement
from edgeprune.stages import compiling, timing
from edgeprune.stages.base import Context, Judged, Output, Stage
from edgeprune.stages.sparsify import importance_to_prune, inputs_to_prune, model_to_prune
from edgeprune.target import Budget
from edgeprune.workspace import Key, Record

if TYPE_CHECKING:
    from edgeprune.checkpoint import Checkpoint
    from edgeprune.pruning.plan import Plan
    from edgeprune.pruning.pruner import Pruner

UNBOUNDED = 1.05  # a probe has too few samples for a bound on a high percentile; the gate behind the stage has enough
PROBE_EFFORT = 0.5  # a probe only has to place a point; the gate behind the stage measures in full


def _inputs(context: Context) -> Mapping[str, Any]:
    target = context.target
    return {
        **inputs_to_prune(context),
        "params": {
            **compiling.export_inputs(context),
            **compiling.engine_inputs(context),
            "budget": target.budget.model_dump(),
            "channel_alignment": target.channel_alignment,
            "prune": target.prune.model_dump(),
            "data": context.dataset.digest,
            "threads": target.measure.threads,
            "seed": context.seed,
        },
    }


def _run(context: Context, folder: Path, key: Key) -> Output:
    from edgeprune import checkpoint
    from edgeprune.pruning.pruner import Pruner

    source = checkpoint.load(model_to_prune(context))
    target = context.target
    pruner = Pruner(
        source.model,
        target.imgsz,
        ignore=target.prune.ignore,
        max_ratio=target.prune.max_ratio,
        align=target.channel_alignment,
        min_width=target.prune.min_width,
    )
    workshop = _Workshop(context, source, pruner, folder)
    if target.budget.kind == "macs_speed_up":
        ratio = target.budget.value
        if ratio > workshop.limit:
            raise TargetError(
                _out_of_reach(target.budget, f"×{workshop.limit:.2f} fewer MACs is all that its layers allow")
            )
        files, plan = workshop.candidate(ratio)
        probes: list[dict[str, Any]] = []
    elif not context.usable:
        files, plan = workshop.candidate(min(target.prune.planning_macs_speed_up, workshop.limit))
        probes = []
    else:
        files, plan, probes = workshop.searched()
    plan.save(folder / "plan.json")
    return Output(
        {**files, "plan": ("plan", folder / "plan.json")},
        {
            "probes": probes,
            "macs": dict(zip(("before", "after"), plan.macs, strict=True)),
            "parameters": dict(zip(("before", "after"), plan.params, strict=True)),
            "signature": plan.result_shapes,
            "plan": plan.digest,
            "importance": plan.settings["importance"],
        },
    )


class _Workshop:
    """Makes candidates of one model; keeps what is the same for all of them."""

    def __init__(self, context: Context, source: Checkpoint, pruner: Pruner, folder: Path) -> None:
        from edgeprune.pruning.batches import calibration_batches
        from edgeprune.pruning.criteria import importance_named
        from edgeprune.pruning.pruner import AUTO, resolved

        self.context = context
        self.source = source
        self.pruner = pruner
        self.folder = folder
        narrowest = {dimension.name: min(dimension.allowed) for dimension in pruner.dimensions if dimension.allowed}
        self.limit = pruner.macs() / pruner.macs(narrowest)
        asked = importance_to_prune(context)
        batches = None
        if asked == AUTO or importance_named(asked).needs_batches:
            context.reporter.progress("reading images for the importance of channels")
            batches = calibration_batches(
                context.dataset.source, source.task, context.target.imgsz, seed=context.seed, stride=source.stride
            )
        self.importance = resolved(asked, batches)
        context.reporter.progress(f"ranking channels by {self.importance}")
        self.scores = pruner.scores(self.importance, batches=batches, seed=context.seed)

    def candidate(self, ratio: float, name: str = "chosen") -> tuple[dict[str, tuple[str, Path]], Plan]:
        """Plan, prune, save and compile for a MACs ratio, in a folder of that name."""
        from edgeprune import checkpoint

        plan = self.pruner.plan(
            macs_speed_up=min(max(ratio, 1.0), self.limit),
            importance=self.importance,
            scores=self.scores,
            seed=self.context.seed,
        )
        model = self.pruner.apply(plan)
        folder = self.folder / name
        folder.mkdir()
        path = folder / "model.pt"
        checkpoint.save(model, path, like=self.source, metadata={"plan": plan.digest, "signature": plan.result_shapes})
        return {"model": ("checkpoint", path), **compiling.compiled(self.context, path, folder)}, plan

    def searched(self) -> tuple[dict[str, tuple[str, Path]], Plan, list[dict[str, Any]]]:
        """Search the MACs ratio whose measured latency meets the budget."""
        from edgeprune.measure.statistics import value_of
        from edgeprune.pruning.search import Probe, search

        context, budget = self.context, self.context.target.budget
        engine = context.records["baseline"].path("engine")
        before, again = timing.raced(context, engine, engine, PROBE_EFFORT)
        start, _ = margin(context, before, again)
        if start >= 1:  # fast enough as it is: an identity plan keeps every channel
            return *self.candidate(1.0), []
        made: list[tuple[float, dict[str, tuple[str, Path]], Plan]] = []

        def measure(ratio: float, expected: float | None) -> Probe:
            number = len(made) + 1
            context.reporter.progress(
                f"probe {number}: MACs ×{ratio:.2f}", done=number - 1, total=context.target.prune.max_probes
            )
            files, plan = self.candidate(ratio, f"probe-{number}")
            baseline, candidate = timing.raced(context, engine, files["engine"][1], PROBE_EFFORT)
            reached, low = margin(context, baseline, candidate)
            real = plan.macs[0] / plan.macs[1]
            made.append((real, files, plan))
            detail = {
                "baseline_ms": value_of(baseline.values, budget.statistic),
                "candidate_ms": value_of(candidate.values, budget.statistic),
                "statistic": budget.statistic,
                "parameters": plan.params[1],
            }
            context.reporter.note(
                f"probe {number}: MACs ×{real:.2f}, {budget.statistic} {detail['baseline_ms']:.2f} → "
                f"{detail['candidate_ms']:.2f} ms, {100 / reached:.0f} % of the budget"
            )
            return Probe(real, reached, low, expected, detail)

        result = search(measure, start_margin=start, limit=self.limit, max_probes=context.target.prune.max_probes)
        if result.best is None:
            raise TargetError(_out_of_reach(budget, _floor(budget, result.floor, self.limit)))
        files, plan = next((files, plan) for real, files, plan in made if real == result.best.ratio)
        for _, others, _ in made:
            if others is not files:
                shutil.rmtree(others["model"][1].parent)
        return files, plan, [asdict(probe) for probe in result.probes]


def margin(context: Context, baseline: Measurement, candidate: Measurement) -> tuple[float, float]:
    """Budget divided by measurement, and its lower bound with the gate's confidence; 1 and more meets the budget."""
    from edgeprune.measure.statistics import bounds, ratio

    budget, sure = context.target.budget, timing.confidence(context)
    if budget.kind == "latency_ms":
        seen = bounds(candidate.values, budget.statistic, sure)
        return budget.value / seen.value, budget.value / (seen.high or seen.value * UNBOUNDED)
    block = int(candidate.conditions.get("per_round", 5))
    interval = ratio(baseline.values, candidate.values, tails=(1 - sure, 1 - sure), block=block)
    return interval.ratio / budget.value, interval.low / budget.value


def _floor(budget: Budget, floor: Any, limit: float) -> str:
    how = "the narrowest model that its layers allow" if floor.ratio >= limit * 0.95 else f"MACs ×{floor.ratio:.1f}"
    if budget.kind == "latency_ms":
        return f"the floor measured here is {budget.statistic} {floor.detail['candidate_ms']:.2f} ms, by {how}"
    return f"the floor measured here is ×{floor.margin * budget.value:.2f}, by {how}"


def _out_of_reach(budget: Budget, why: str) -> str:
    return (
        f"the budget {budget} is out of reach for this model: {why}. "
        "Ask for less, take a smaller scale of the model or a smaller --imgsz"
    )


def _judge(context: Context, record: Record) -> Judged:
    budget = context.target.budget
    macs = record.facts["macs"]
    reduction = macs["before"] / macs["after"]
    if budget.kind == "macs_speed_up":
        row = at_least("prune", "MACs speed-up", reduction, budget.value, "×", "counted from the widths of the plan")
        return Judged([row])
    metric = f"latency {budget.statistic}" if budget.kind == "latency_ms" else "latency speed-up"
    unit = "ms" if budget.kind == "latency_ms" else "×"
    if not context.usable:
        return Judged([pending("prune", metric, budget.value, unit, context.next_command)])
    return timing.judged(context, "prune", context.records["baseline"].path("engine"), record.path("engine"))


STAGE = Stage(
    name="prune",
    version=1,
    inputs=_inputs,
    run=_run,
    judge=_judge,
    packages=(*compiling.PACKAGES, "torch-pruning"),
)
