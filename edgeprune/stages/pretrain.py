"""pretrain: ordinary Ultralytics training, only when the weights are a model YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgeprune.input_size import both_sides
from edgeprune.records.facts import PretrainFacts
from edgeprune.samples.gates import Gate, info_gate, metric_name
from edgeprune.settings import Training, TrainSettings
from edgeprune.stages.base import Build, Judgement, Output, Stage
from edgeprune.training.best_by import best_by
from edgeprune.training.result import TrainSummary
from edgeprune.workspace import Key, Record


def train_inputs(build: Build, training: Training) -> dict[str, object]:
    """Key entries of a training stage; where it runs and the number of loaders do not change what is asked of it, and a
    teacher is known by its bytes."""
    return {
        **{name: value for name, value in asdict(training).items() if name not in ("device", "workers", "teacher")},
        **run_of(build),
        **best_by(build.weights.task),
        **_kept_in_memory(build, training),
        "data": build.dataset.digest,
    }


def _kept_in_memory(build: Build, training: Training) -> dict[str, str]:
    """Key entry of a training on images that are kept in memory at a size that is no square: older versions cropped
    them, and what was trained on those is not reused."""
    height, width = both_sides(build.target.imgsz)
    in_memory = str(training.train.get("cache")).lower() in ("true", "ram")
    return {"images": "letterboxed"} if in_memory and height != width else {}


def run_of(build: Build) -> dict[str, Any]:
    """What a training takes from the target and the site, by the names of :class:`~edgeprune.settings.Run`."""
    return {"imgsz": build.target.imgsz, "seed": build.site.seed, "head": build.target.exported_head}


def accuracy_row(build: Build, stage: str, training: TrainSummary, reason: str, form: str = "PyTorch") -> Gate:
    """What a training says of its own result on the validation split, under the name of the task's figure."""
    return info_gate(stage, f"{metric_name(build.weights.task)} ({form})", training.map50_95, "", reason)


def _inputs(build: Build) -> Mapping[str, Any]:
    return {
        "source.weights": build.weights.sha256,
        "params": train_inputs(build, build.target.pretrain),
    }


def _run(build: Build, folder: Path, key: Key) -> Output[PretrainFacts]:
    from edgeprune.training.pretrain import pretrain

    result = pretrain(
        build.weights.path,
        data=build.dataset.source,
        out=folder,
        settings=TrainSettings.of(build.target.pretrain, **run_of(build)),
        work=build.workspace.scratch(key),
    )
    return Output({"model": result.best}, PretrainFacts(result.summary))


def _judge(build: Build, record: Record[PretrainFacts]) -> Judgement:
    training = record.facts.training
    return Judgement([accuracy_row(build, "pretrain", training, training.which_epoch)])


STAGE = Stage(
    name="pretrain",
    version=3,
    facts=PretrainFacts,
    inputs=_inputs,
    run=_run,
    judge=_judge,
    packages=("torch", "ultralytics"),
    needed=lambda build: not build.weights.trained,
    shows_output=True,
)
