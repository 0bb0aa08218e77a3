"""prune: the mildest plan whose engine, measured on the target next to the unpruned one, meets the budget.

The engine does not care what the weights are worth, so a budget that cannot be met is found here, before any training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeprune.errors import WHAT_MAY_END_IT, DeviceError, TargetError, first_line
from edgeprune.measure import compiling, latency
from edgeprune.pruning.plan import Plan
from edgeprune.records.facts import BaselineFacts, Change, Diagnosis, ProbeFacts, PruneFacts, SparsifyFacts
from edgeprune.records.gates import macs_gate
from edgeprune.report.diagnosis import warning_text
from edgeprune.samples.gates import MET_UNPRUNED, Gate, Verdict, info_gate, pending_gate, unpruned_gate
from edgeprune.stages.base import Build, Judgement, Output, Stage, artifacts_of, judgement_of
from edgeprune.stages.baseline import source_checkpoint
from edgeprune.stages.sparsify import importance_to_prune, record_to_prune
from edgeprune.target import Budget
from edgeprune.workspace import Key, Record

AGAIN = (
    "the same command measures this plan once more, best on a quiet machine, and searches again where that is no PASS "
    "either"
)
PROFILES = "profiles"  # folder of the run directory for layer times: they outlive the stages that used them


def _inputs(build: Build) -> Mapping[str, Any]:
    target = build.target
    return {
        **build.source((record_to_prune(build), "model")),
        "params": {
            **compiling.graph_inputs(build.target, build.dataset, build.site.seed),
            **compiling.engine_inputs(build.site),
            "budget": target.budget.model_dump(),
            "channel_alignment": target.channel_alignment,
            "prune": target.prune.model_dump(exclude={"diagnose"}),  # what is said of a plan makes it no other
            "data": build.dataset.digest,
            "timing": latency.timing_inputs(target, build.dataset),
            "seed": build.site.seed,
        },
    }


def _run(build: Build, folder: Path, key: Key) -> Output[PruneFacts]:
    from edgeprune import checkpoint
    from edgeprune.search.budget import BudgetSearch, rounded_down
    from edgeprune.search.inputs import refuse_untrainable

    source = checkpoint.load(record_to_prune(build).path("model"))
    search = BudgetSearch(
        build.site,
        source,
        folder,
        build.dataset,
        importance_to_prune(build),
        other_levers=build.other_levers(source_checkpoint(build)),
        to_train=True,
    )
    budget, limit = build.target.budget, search.macs_limit
    probes: tuple[ProbeFacts, ...] = ()
    diagnosis: Diagnosis | None = None
    said: Gate | None = None
    unpruned = budget.asks_nothing
    if unpruned:
        files, plan = search.keep_all()
    elif budget.kind == "macs_speed_up":
        if budget.value > limit:
            raise TargetError(
                f"the budget {budget} is out of reach for this model: ×{limit:.2f} fewer MACs is all that its layers "
                f"allow; ask for --macs-speed-up {rounded_down(limit):g} or less, or take a smaller scale of the model"
            )
        files, plan = search.prune_by_macs(budget.value)
    elif not build.site.usable:
        refuse_untrainable(source)
        stand_in = min(build.target.prune.planning_macs_speed_up, limit)
        files, plan = search.prune_by_macs(stand_in)
    else:
        baseline = build.record(BaselineFacts).path("engine")
        result = search.search(baseline, build.workspace.root / PROFILES, build.target.prune.least_used)
        files, plan, probes, unpruned = result.files, result.plan, result.probes, result.unpruned
        diagnosis, said = result.diagnosis, result.gate
    doubt = _doubt(build, said)
    if unpruned:
        build.reporter.note(
            f"nothing is pruned, and the model ships as it is; of the budget the search says: {doubt}"
            if doubt
            else "there is nothing to prune: the unpruned model meets the budget, and ships as it is"
        )
        if build.finished(SparsifyFacts) is not None:
            files, plan = _unpruned(build, folder)
    plan.save(folder / "plan.json")
    facts = PruneFacts(
        probes=probes,
        macs=Change(*plan.macs),
        parameters=Change(*plan.params),
        signature=plan.result_shapes,
        plan=plan.digest,
        importance=plan.settings.importance,
        removed=plan.removed,
        unpruned=unpruned,
        diagnosis=diagnosis,
        search=said,
    )
    if doubt:
        build.reporter.note(f"if this build ends without a PASS of {budget}, {AGAIN}")
    if not unpruned and budget.kind == "macs_speed_up":
        build.reporter.note(facts.price)
    elif words := facts.stand_in(budget):
        build.reporter.note(f"{budget} cannot be measured here: {words}")
    return Output({**artifacts_of(files), "plan": folder / "plan.json"}, facts)


def _complete(build: Build, record: Record[PruneFacts]) -> PruneFacts | None:
    """The facts with a diagnosis, where the profile asks for one by now and the search was made without; with why there
    is none where it cannot be had: a plan that is there is not lost for what is said about it."""
    from edgeprune import checkpoint
    from edgeprune.search.budget import BudgetSearch

    facts, profiles = record.facts, build.workspace.root / PROFILES
    kept = next((probe for probe in facts.probes if probe.kept), None)
    asked = build.target.prune.diagnose and build.site.usable and not facts.undiagnosed
    if facts.diagnosis is not None or kept is None or not asked:
        return None
    baseline = build.record(BaselineFacts).path("engine")
    with build.workspace.partial(record.key) as folder:
        try:
            source = checkpoint.load(record_to_prune(build).path("model"))
            search = BudgetSearch(build.site, source, folder, build.dataset, "l2")  # no channel is chosen any more
            plan = Plan.load(record.path("plan"))
            found = search.diagnose(baseline, plan, kept.latency.speed_up, profiles)
        except WHAT_MAY_END_IT as error:
            passes = isinstance(error, DeviceError)  # a connection that was lost
            again = "" if passes else "; it is not tried again for this plan"
            build.reporter.note(f"what the budget costs could not be measured: {first_line(error)}{again}")
            return None if passes else replace(facts, undiagnosed=first_line(error))
    return replace(facts, diagnosis=found)


def _unsure(build: Build, record: Record[PruneFacts]) -> str:
    doubt = _doubt(build, record.facts.search)
    return doubt and f"the search was not sure of its plan ({doubt}), and no measurement has shown the budget held"


def _doubt(build: Build, said: Gate | None) -> str:
    """Why a search was not sure of the budget; empty where it was. A stand-in is never sure, however often asked."""
    sure = said is None or said.verdict is Verdict.PASS or build.site.runtime.simulated
    return "" if said is None or sure else said.reason.partition("; search again")[0]


def _unpruned(build: Build, folder: Path) -> tuple[compiling.CompiledFiles, Plan]:
    """The model as it was before sparsity training, and the plan that keeps every channel of it."""
    from edgeprune import checkpoint
    from edgeprune.search.budget import BudgetSearch

    source = checkpoint.load(build.record(BaselineFacts).path("model"))
    (folder / "unpruned").mkdir()
    return BudgetSearch(build.site, source, folder / "unpruned", build.dataset, "l2").keep_all()


def _judge(build: Build, record: Record[PruneFacts]) -> Judgement:
    budget = build.target.budget
    if budget.kind == "macs_speed_up":
        return Judgement([macs_gate(record.facts, budget.value)])
    if record.facts.unpruned and budget.kind == "speed_up":
        return Judgement([unpruned_gate("prune", budget.value)])
    metric = f"latency {budget.statistic}" if budget.kind == "latency_ms" else "latency speed-up"
    unit = "ms" if budget.kind == "latency_ms" else "×"
    if not build.site.usable:
        stand_in = record.facts.stand_in(budget)
        return Judgement([pending_gate("prune", metric, budget.value, unit, build.next_command, but=stand_in)])
    baseline = build.record(BaselineFacts).path("engine")
    judged = latency.judge_latency(build.site, "prune", baseline, record.path("engine"), build.dataset)
    if judged.gate.verdict is not Verdict.PASS and not record.held and _unsure(build, record):
        reason = f"{judged.gate.reason}; the search was not sure either: if this build ends without a PASS, {AGAIN}"
        judged = replace(judged, gate=replace(judged.gate, reason=reason))
    judgement = judgement_of(met_unpruned(judged) if record.facts.unpruned else judged)
    return replace(judgement, gates=[*_price_rows(record.facts, budget), *judgement.gates])


def _price_rows(facts: PruneFacts, budget: Budget) -> list[Gate]:
    """A row that warns of a dear budget, whenever the stage is looked at: its notes are heard once."""
    found = facts.diagnosis
    if found is None or not found.dear:
        return []
    return [info_gate("prune", "fixed part of the latency", 100 * found.fixed_share, "%", warning_text(found, budget))]


def met_unpruned(judged: latency.JudgedLatency) -> latency.JudgedLatency:
    """The same with words for a budget that the unpruned model passes."""
    gate = judged.gate
    if gate.verdict is not Verdict.PASS:
        return judged
    return replace(judged, gate=replace(gate, reason=f"{MET_UNPRUNED}: {gate.reason}"))


STAGE = Stage(
    name="prune",
    version=12,
    facts=PruneFacts,
    inputs=_inputs,
    run=_run,
    judge=_judge,
    packages=(*compiling.PACKAGES, "torch-pruning"),
    complete=_complete,
    unsure=_unsure,
)
