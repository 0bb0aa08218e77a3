"""finetune: win the lost accuracy back without giving a channel back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprune.gate import informs
from edgeprune.stages.base import Context, Judged, Output, Stage, keep_signature
from edgeprune.stages.pretrain import train_inputs, train_settings, trained
from edgeprune.workspace import Key, Record


def _inputs(context: Context) -> Mapping[str, Any]:
    return {
        **context.source(("prune", "model"), ("baseline", "model")),
        "params": train_inputs(context, context.target.finetune),
    }


def _run(context: Context, folder: Path, key: Key) -> Output:
    from edgeprune import checkpoint
    from edgeprune.training.finetune import finetune

    settings = context.target.finetune
    teacher = context.records["baseline"].path("model") if settings.distill else None
    pruned = checkpoint.load(context.records["prune"].path("model"))
    result = finetune(
        context.records["prune"].path("model"),
        data=context.dataset.source,
        out=folder,
        settings=train_settings(context, settings, teacher),
        work=context.workspace.scratch(key),
        metadata=pruned.edgeprune,
    )
    tuned = checkpoint.load(result.best)
    signature = checkpoint.shape_signature(tuned.model)
    keep_signature("finetune", context.records["prune"].facts["signature"], signature)
    artifacts, facts = trained(result)
    return Output(artifacts, {**facts, "signature": signature, "parameters": checkpoint.parameter_count(tuned.model)})


def _judge(context: Context, record: Record) -> Judged:
    facts = record.facts
    reason = f"best epoch {facts['best_epoch']} of {facts['epochs_run']}; the artifact is judged below"
    return Judged([informs("finetune", "mAP50-95 (PyTorch)", facts["map50_95"], "", reason)])


STAGE = Stage(
    name="finetune",
    version=1,
    inputs=_inputs,
    run=_run,
    judge=_judge,
    packages=("torch", "ultralytics"),
    shows_output=True,
)
