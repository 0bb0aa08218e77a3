"""finetune: win the lost accuracy back without giving a channel back; left out where none was taken."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprune.records.facts import BaselineFacts, FinetuneFacts, PruneFacts
from edgeprune.settings import AccuracyGoal, TrainSettings
from edgeprune.stages.base import Build, Judgement, Output, Stage
from edgeprune.stages.pretrain import accuracy_row, run_of, train_inputs
from edgeprune.training.result import TrainSummary
from edgeprune.workspace import Key, Record


def record_to_ship(build: Build) -> Record[FinetuneFacts] | Record[PruneFacts]:
    """The stage whose checkpoint ships: fine-tuned, or as it was given where there was nothing to prune."""
    return build.finished(FinetuneFacts) or build.record(PruneFacts)


def teacher_of(build: Build) -> Path | None:
    """Weights of the teacher that the profile asks for; None where it asks for none."""
    section = build.target.finetune
    if section.teacher is not None:
        return Path(section.teacher)
    return build.record(BaselineFacts).path("model") if section.distill else None


def teacher_inputs(build: Build) -> dict[str, str]:
    """Key entry for a teacher that the profile names."""
    from edgeprune.checkpoint import load

    named = build.target.finetune.teacher
    return {} if named is None else {"source.teacher": load(named, trust=build.trust).sha256}


def _inputs(build: Build) -> Mapping[str, Any]:
    return {
        **build.source((build.record(PruneFacts), "model"), (build.record(BaselineFacts), "model")),
        **teacher_inputs(build),
        "params": {**train_inputs(build, build.target.finetune), **_goal_inputs(build)},
    }


def _goal_inputs(build: Build) -> dict[str, str]:
    from edgeprune.training.early_stop import goal_conditions

    return {} if build.target.finetune.until is None else goal_conditions(build.weights.task)


def _run(build: Build, folder: Path, key: Key) -> Output[FinetuneFacts]:
    from edgeprune import checkpoint
    from edgeprune.training.early_stop import baseline_accuracy
    from edgeprune.training.finetune import finetune

    section, work = build.target.finetune, build.workspace.scratch(key)
    unpruned = build.record(BaselineFacts).path("model")
    settings = TrainSettings.of(section, **run_of(build), teacher=teacher_of(build))
    goal = None
    if section.until is not None:
        baseline = baseline_accuracy(unpruned, data=build.dataset.source, settings=settings, work=work)
        goal = AccuracyGoal(baseline=baseline, max_drop=section.until)
    pruned = build.record(PruneFacts)
    result = finetune(
        pruned.path("model"),
        data=build.dataset.source,
        out=folder,
        settings=settings,
        work=work,
        metadata=checkpoint.load(pruned.path("model")).edgeprune,
        until=goal,
        trust=build.trust,
        teacher_is_named=False,  # one that is was told of before anything began
    )
    tuned = checkpoint.load(result.best)
    checkpoint.require_shapes(tuned.model, pruned.facts.signature, "fine-tuning")
    parameters = checkpoint.parameter_count(tuned.model)
    return Output({"model": result.best}, FinetuneFacts(result.summary, pruned.facts.signature, parameters, goal))


def _judge(build: Build, record: Record[FinetuneFacts]) -> Judgement:
    section, facts = build.target.finetune, record.facts
    teacher = (section.teacher or "the unpruned model") if section.distill else None
    reason = training_text(facts.training, teacher, facts.goal)
    return Judgement([accuracy_row(build, "finetune", facts.training, reason)])


def training_text(training: TrainSummary, teacher: str | None, goal: AccuracyGoal | None) -> str:
    """How fine-tuning went: which epoch was kept, and of what split its figure is; the teacher only where it taught."""
    if training.kept_given and not training.found_nothing:
        epochs = "the only epoch was not" if training.epochs_run == 1 else f"none of {training.epochs_run} epochs was"
        text = f"epoch 0: {epochs} better on split val than the pruned model, which is kept as it was"
    else:
        text = training.kept_epoch
        text += f", taught by {teacher}{_distances(training)}" if teacher and not training.kept_given else ""
    if goal is not None:
        text += f", until within {goal.max_drop:g} of {goal.baseline:.4f}"
    return "; ".join(filter(None, (text, training.advice, "the artifact is judged below")))


def _distances(training: TrainSummary) -> str:
    """How far the answers were from the teacher's in the first epoch and in the last, as the loss sees it."""
    name = "train/kd_loss"
    distances = [epoch.figures[name] for epoch in training.epochs if name in epoch.figures]
    return f" (distance of answers {distances[0]:.3g} → {distances[-1]:.3g})" if distances else ""


def _needed(build: Build) -> bool:
    pruned = build.finished(PruneFacts)
    return pruned is None or not pruned.facts.unpruned


STAGE = Stage(
    name="finetune",
    version=5,
    facts=FinetuneFacts,
    inputs=_inputs,
    run=_run,
    judge=_judge,
    packages=("torch", "ultralytics"),
    needed=_needed,
    shows_output=True,
)
