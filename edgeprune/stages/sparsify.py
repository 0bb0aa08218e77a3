"""sparsify: let training say which channels it can do without; only when the profile asks for it.

It changes what is pruned, not what the result is compared with: speed and accuracy are held against the baseline, which
is the model before sparsity training.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprune.samples.gates import Gate, informs
from edgeprune.stages.base import Context, Judged, Output, Stage
from edgeprune.stages.pretrain import train_inputs, train_settings, trained
from edgeprune.workspace import Key, Record


def model_to_prune(context: Context) -> Path:
    """The checkpoint that pruning starts from."""
    return context.records[_before_prune(context)].path("model")


def inputs_to_prune(context: Context) -> dict[str, str]:
    """Key entry for :func:`model_to_prune`."""
    return context.source((_before_prune(context), "model"))


def importance_to_prune(context: Context) -> str:
    """The criterion that the profile asks for; its ``auto`` is the size of the scales once they have been trained."""
    asked = context.target.prune.importance
    return "bn_scale" if asked == "auto" and _before_prune(context) == "sparsify" else asked


def _before_prune(context: Context) -> str:
    return "sparsify" if "sparsify" in context.records else "baseline"


def _inputs(context: Context) -> Mapping[str, Any]:
    assert context.target.sparsify is not None  # the stage is not needed without it
    return {**context.source(("baseline", "model")), "params": train_inputs(context, context.target.sparsify)}


def _run(context: Context, folder: Path, key: Key) -> Output:
    from edgeprune.training.sparsify import sparsify
    from edgeprune.training.sparsity import SparsitySettings

    asked = context.target.sparsify
    assert asked is not None
    result = sparsify(
        context.records["baseline"].path("model"),
        data=context.dataset.source,
        out=folder,
        settings=train_settings(context, asked),
        work=context.workspace.scratch(key),
        sparsity=SparsitySettings(asked.strength, asked.bias_strength, asked.schedule, asked.final, asked.tied),
    )
    artifacts, facts = trained(result.trained)
    return Output(artifacts, {**facts, "scales": result.to_json()})


def _judge(context: Context, record: Record) -> Judged:
    facts, scales = record.facts, record.facts["scales"]
    before, after = (scales[when]["overall"]["share_off"] for when in ("before", "after"))
    rows: list[Gate] = [
        informs("sparsify", "mAP50-95 (PyTorch)", facts["map50_95"], "", f"after {facts['epochs_run']} epochs"),
        informs("sparsify", "channels off", 100 * after, "%", f"{100 * before:.1f} % before; {scales['verdict']}"),
    ]
    return Judged(rows)


STAGE = Stage(
    name="sparsify",
    version=1,
    inputs=_inputs,
    run=_run,
    judge=_judge,
    packages=("torch", "ultralytics"),
    needed=lambda context: context.target.sparsify is not None,
    shows_output=True,
)
