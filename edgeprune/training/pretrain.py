"""Ordinary training, as the pipeline's optional first stage: from a model YAML or from weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ultralytics.nn.tasks import guess_model_task, yaml_model_load

from edgeprune.checkpoint import load
from edgeprune.errors import DataError
from edgeprune.progress import Progress, silent
from edgeprune.training.finetune import finetune
from edgeprune.training.publish import publish
from edgeprune.training.run import TrainResult, class_names, train_in
from edgeprune.training.settings import TrainSettings, first_line
from edgeprune.training.trainers import trainer_for


def pretrain(
    model_yaml_or_pt: Path | str,
    *,
    data: Path | str,
    out: Path | str,
    settings: TrainSettings,
    work: Path | str,
    metadata: dict[str, Any] | None = None,
    progress: Progress = silent,
) -> TrainResult:
    """Train an unpruned model; as resumable and as precise as :func:`edgeprune.training.finetune.finetune`.

    Args:
        model_yaml_or_pt: a model YAML (a path, or a name that Ultralytics ships such as ``yolo11n.yaml``) to build and
            train from random weights, or weights to go on from.
        data, out, settings, work, metadata, progress: as in ``finetune``.

    Raises:
        TargetError, DataError, StageError: as in ``finetune``.
    """
    source = str(model_yaml_or_pt)
    if not source.endswith((".yaml", ".yml")):
        given: dict[str, Any] = {"data": data, "out": out, "settings": settings, "work": work, "metadata": metadata}
        return finetune(source, **given, label="pretrain", progress=progress)
    try:
        task = str(guess_model_task(yaml_model_load(source)))
    except Exception as error:
        raise DataError(f"model {source} cannot be built: {first_line(error)}") from error
    trainer_for(task)
    class_names(data, task, quiet=settings.quiet)
    run = train_in(work, source, data=data, settings=settings, label="pretrain", progress=progress)
    return publish(run, load(run.best).model, data=data, out=out, settings=settings, work=work, metadata=metadata)
