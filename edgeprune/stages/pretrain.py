"""pretrain: ordinary Ultralytics training, only when the weights are a model YAML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprune.gate import informs
from edgeprune.stages.base import Context, Judged, Output, Stage
from edgeprune.target import Training
from edgeprune.workspace import Key, Record


def train_inputs(context: Context, training: Training) -> dict[str, Any]:
    """Key entries of a training stage; the number of loaders does not change what is asked of it."""
    return {
        **training.model_dump(exclude={"workers"}),
        "imgsz": context.target.imgsz,
        "data": context.dataset.digest,
        "seed": context.seed,
    }


def train_settings(context: Context, training: Training, teacher: Path | None = None):
    """The training room's settings for a part of the profile."""
    from edgeprune.training.finetune import TrainSettings

    return TrainSettings(
        epochs=training.epochs,
        time_h=training.time_h,
        batch=training.batch,
        lr0=training.lr0,
        optimizer=training.optimizer,
        patience=training.patience,
        imgsz=context.target.imgsz,
        device=training.device,
        workers=training.workers,
        seed=context.seed,
        distill=teacher,
        extra=dict(training.train),
    )


def _inputs(context: Context) -> Mapping[str, Any]:
    return {
        "source.weights": context.weights.sha256,
        "params": train_inputs(context, context.target.pretrain),
    }


def _run(context: Context, folder: Path, key: Key) -> Output:
    from edgeprune.training.pretrain import pretrain

    result = pretrain(
        context.weights.path,
        data=context.dataset.source,
        out=folder / "model.pt",
        settings=train_settings(context, context.target.pretrain),
        work=context.workspace.scratch(key),
    )
    return Output({"model": ("checkpoint", folder / "model.pt")}, result.to_json())


def _judge(context: Context, record: Record) -> Judged:
    figure = record.facts["map50_95"]
    reason = f"best epoch {record.facts['best_epoch']} of {record.facts['epochs_run']}"
    return Judged([informs("pretrain", "mAP50-95 (PyTorch)", figure, "", reason)])


STAGE = Stage(
    name="pretrain",
    version=1,
    inputs=_inputs,
    run=_run,
    judge=_judge,
    packages=("torch", "ultralytics"),
    needed=lambda context: not context.weights.trained,
    shows_output=True,
)
