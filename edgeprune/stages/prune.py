"""prune: the mildest plan whose engine, measured on the target next to the unpruned one, meets the budget.

The engine does not care what the weights are worth, so a budget that cannot be met is found here, before any training.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprune.errors import TargetError
from edgeprune.samples.gates import at_least, pending
from edgeprune.stages import compiling, timing
from edgeprune.stages.base import Context, Judged, Output, Stage
from edgeprune.stages.searching import Workshop
from edgeprune.stages.sparsify import inputs_to_prune, model_to_prune
from edgeprune.workspace import Key, Record

PROFILES = "profiles"  # folder of the run directory for layer times: they outlive the stages that used them


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
            "scope": {"copies": target.measure.copies, "cuda_graph": target.measure.cuda_graph},
            "seed": context.seed,
        },
    }


def _run(context: Context, folder: Path, key: Key) -> Output:
    from edgeprune import checkpoint

    source = checkpoint.load(model_to_prune(context))
    workshop = Workshop(context, source, folder)
    budget, limit = context.target.budget, workshop.macs_limit
    probes: list[dict[str, Any]] = []
    if budget.kind == "macs_speed_up":
        if budget.value > limit:
            raise TargetError(
                f"the budget {budget} is out of reach for this model: ×{limit:.2f} fewer MACs is all that its layers "
                "allow. Ask for less, take a smaller scale of the model or a smaller --imgsz"
            )
        files, plan = workshop.by_macs(budget.value)
    elif not context.usable:
        files, plan = workshop.by_macs(min(context.target.prune.planning_macs_speed_up, limit))
    else:
        found = workshop.within_budget(context.records["baseline"].path("engine"), context.workspace.root / PROFILES)
        files, plan, probes = found.files, found.plan, found.probes
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
            "removed": list(plan.removed),
        },
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
    version=2,
    inputs=_inputs,
    run=_run,
    judge=_judge,
    packages=(*compiling.PACKAGES, "torch-pruning"),
)
