"""pretrain: ordinary Ultralytics training, only when the weights are a model YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.samples.gates import informs
from edgeprune.stages.base import Context, Judged, Output, Stage
from edgeprune.target import Training
from edgeprune.workspace import Key, Record

if TYPE_CHECKING:
    from edgeprune.training.run import TrainResult
    from edgeprune.training.settings import TrainSettings


def train_inputs(context: Context, training: Training) -> dict[str, Any]:
    """Key entries of a training stage; the number of loaders does not change what is asked of it."""
    return {
        **training.model_dump(exclude={"workers"}),
        "imgsz": context.target.imgsz,
        "data": context.dataset.digest,
        "seed": context.seed,
    }


def train_settings(context: Context, training: Training, **teaching: Any) -> TrainSettings:
    """The training room's settings for a part of the profile; ``teaching`` is what it asks of a teacher."""
    import torch

    from edgeprune.training.settings import TrainSettings

    return TrainSettings(
        epochs=training.epochs,
        time_h=training.time_h,
        batch=training.batch,
        lr0=training.lr0,
        optimizer=training.optimizer,
        patience=training.patience,
        imgsz=context.target.imgsz,
        device=training.device or ("0" if torch.cuda.is_available() else "cpu"),
        workers=training.workers,
        seed=context.seed,
        extra=dict(training.train),
        **teaching,
    )


def trained(result: TrainResult) -> tuple[dict[str, tuple[str, Path]], dict[str, Any]]:
    """Artifacts and facts of a training stage."""
    facts = {key: value for key, value in asdict(result).items() if key != "best"}
    return {"model": ("checkpoint", result.best)}, facts


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
        out=folder,
        settings=train_settings(context, context.target.pretrain),
        work=context.workspace.scratch(key),
    )
    return Output(*trained(result))


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
