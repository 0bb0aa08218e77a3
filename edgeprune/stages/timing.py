"""Latency against the budget, baseline and candidate side by side: what prune's probes and two gates share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgeprune.measure.bench import least_rounds
from edgeprune.runtimes.base import BenchSettings
from edgeprune.samples.gates import PASS_CONFIDENCE, Gate, Verdict, latency_gate, speed_up_gate
from edgeprune.samples.measurement import Measurement
from edgeprune.stages.base import Context, Judged
from edgeprune.target import Target

LAUNCHES = 3  # processes of a measurement that is judged
FRAMES = 8  # validation images that an end-to-end measurement goes through in turn


def settings(context: Context, effort: float = 1.0, *, trained: bool = True) -> BenchSettings:
    """The profile's measurement settings; ``effort`` scales the number of rounds.

    With the scope ``end_to_end`` a frame goes all the way to boxes. A candidate that is not ``trained`` yet finds
    nothing, or everything: the unpruned model's outputs go through its post-processing.
    """
    measure = context.target.measure
    whole = context.target.budget.scope == "end_to_end"
    wanted = BenchSettings(
        threads=measure.threads,
        warmup_s=measure.warmup_s,
        rounds=max(4, round(measure.rounds * effort)),
        per_round=measure.per_round,
        time_limit_s=measure.time_limit_s * max(effort, 1.0),
        seed=context.seed,
        batch=context.target.batch,
        imgsz=(context.target.imgsz, context.target.imgsz),
        copies=measure.copies,
        cuda_graph=measure.cuda_graph,
        launches=LAUNCHES if effort >= 1 else 1,
        scope=context.target.budget.scope,
        frames=tuple(context.dataset.sample_images(context.target.accuracy.split, FRAMES, context.seed))
        if whole
        else (),
        stand_in=whole and not trained,
    )
    if effort < 1:
        return wanted
    # Fewer samples than this can never pass: p99 has no upper bound before hundreds of them.
    least = least_rounds(context.target.budget.statistic, confidence(context), wanted)
    return replace(wanted, rounds=max(wanted.rounds, least))


def confidence(context: Context) -> float:
    """See :func:`confidence_of`."""
    return confidence_of(context.target)


def confidence_of(target: Target) -> float:
    """Of a PASS: every look that the retries allow gets its share of the error, so that trying again is no cheat."""
    return 1 - (1 - PASS_CONFIDENCE) / (target.measure.retries + 1)


def raced(
    context: Context, baseline: Path, candidate: Path, effort: float = 1.0, *, trained: bool = False
) -> tuple[Measurement, Measurement]:
    """Latency of both engines in the budget's scope, interleaved on the target."""
    wanted = settings(context, effort, trained=trained)
    first, second = context.runtime.latency([baseline, candidate], wanted, progress=context.reporter.progress)
    return first, second


def budget_gate(context: Context, stage: str, baseline: Measurement, candidate: Measurement) -> Gate:
    """See :func:`gate_of`."""
    return gate_of(context.target, stage, baseline, candidate)


def gate_of(target: Target, stage: str, baseline: Measurement, candidate: Measurement) -> Gate:
    """The gate of a latency budget or of a measured speed-up; a budget of MACs asks that it is not slower."""
    budget = target.budget
    if budget.kind == "latency_ms":
        return latency_gate(stage, candidate, budget.value, budget.statistic, confidence_of(target))
    least = budget.value if budget.kind == "speed_up" else 1.0
    return speed_up_gate(stage, baseline, candidate, least, confidence_of(target))


def judged(context: Context, stage: str, baseline: Path, candidate: Path, *, trained: bool = False) -> Judged:
    """Measure afresh and judge; what is INCONCLUSIVE is measured again with twice the samples, as often as allowed."""
    attempt = 0
    while True:
        before, after = raced(context, baseline, candidate, 2.0**attempt, trained=trained)
        gate = budget_gate(context, stage, before, after)
        if gate.verdict is not Verdict.INCONCLUSIVE or attempt == context.target.measure.retries:
            break
        attempt += 1
        context.reporter.note(f"{stage}: inconclusive, {gate.reason}; measuring again with twice the samples")
    if attempt:
        gate = replace(gate, reason=f"{gate.reason} (measured {attempt + 1} times)")
    return Judged([gate], [("baseline", before), ("candidate", after)])
