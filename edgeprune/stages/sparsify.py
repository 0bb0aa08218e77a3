"""sparsify: let training say which channels it can do without; only when the profile asks for it, and not for a model
that is within its budget as it is: that one is not pruned.

It changes what is pruned, not what the result is compared with: speed and accuracy are held against the baseline, which
is the model before sparsity training.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprune.records.facts import BaselineFacts, SparsifyFacts
from edgeprune.samples.gates import info_gate
from edgeprune.settings import SparsitySettings, TrainSettings
from edgeprune.stages.base import Build, Judgement, Output, Stage
from edgeprune.stages.baseline import within_budget_unpruned
from edgeprune.stages.pretrain import accuracy_row, run_of, train_inputs
from edgeprune.workspace import Key, Record


def record_to_prune(build: Build) -> Record[SparsifyFacts] | Record[BaselineFacts]:
    """The stage whose checkpoint pruning starts from."""
    return build.finished(SparsifyFacts) or build.record(BaselineFacts)


def importance_to_prune(build: Build) -> str:
    """The criterion that the profile asks for; its ``auto`` is the size of the scales once they have been trained."""
    importance = build.target.prune.importance
    return "bn_scale" if importance == "auto" and build.finished(SparsifyFacts) is not None else importance


def _needed(build: Build) -> bool:
    """A look at the unpruned model near its budget may come out otherwise the next time: what was trained by then stays
    in the build, with all that rests on it."""
    if build.target.sparsify is None or build.target.budget.asks_nothing:
        return False
    return not within_budget_unpruned(build) or build.workspace.find(STAGE.key(build), SparsifyFacts) is not None


def _left_out(build: Build) -> str:
    if build.target.sparsify is None:
        return ""
    return "stage sparsify is left out: the unpruned model is within the budget as it is, so nothing is to be pruned"


def _inputs(build: Build) -> Mapping[str, Any]:
    assert build.target.sparsify is not None  # the stage is not needed without it
    return {
        **build.source((build.record(BaselineFacts), "model")),
        "params": train_inputs(build, build.target.sparsify),
    }


def _run(build: Build, folder: Path, key: Key) -> Output[SparsifyFacts]:
    from edgeprune.training.sparsify import sparsify

    section = build.target.sparsify
    assert section is not None
    result = sparsify(
        build.record(BaselineFacts).path("model"),
        data=build.dataset.source,
        out=folder,
        settings=TrainSettings.of(section, **run_of(build)),
        work=build.workspace.scratch(key),
        sparsity=SparsitySettings.of(section),
    )
    return Output({"model": result.trained.best}, SparsifyFacts(result.trained.summary, result.scales))


def _judge(build: Build, record: Record[SparsifyFacts]) -> Judgement:
    training, scales = record.facts.training, record.facts.scales
    before, after = 100 * scales.before.overall.share_off, 100 * scales.after.overall.share_off
    reason = f"after {training.epochs_run} epochs, on split val"
    return Judgement(
        [
            accuracy_row(build, "sparsify", training, reason),
            info_gate("sparsify", "channels off", after, "%", f"{before:.1f} % before; {scales.summary}"),
        ]
    )


STAGE = Stage(
    name="sparsify",
    version=3,
    facts=SparsifyFacts,
    inputs=_inputs,
    run=_run,
    judge=_judge,
    packages=("torch", "ultralytics"),
    needed=_needed,
    left_out=_left_out,
    shows_output=True,
)
