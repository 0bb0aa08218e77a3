"""Ordinary training, as the pipeline's optional first stage: from a model YAML or from weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from edgeprune.checkpoint import load
from edgeprune.dataset import Dataset
from edgeprune.input_size import default_side, trained_size
from edgeprune.options import BEST, refuse_other_training, refuse_source
from edgeprune.progress import Progress, Reporter, one_run, reporter_of
from edgeprune.quiet import process_state_kept
from edgeprune.settings import TrainSettings
from edgeprune.training.distributed import on_first_process
from edgeprune.training.finetune import finetune
from edgeprune.training.model_yaml import read_model_yaml
from edgeprune.training.result import TrainResult
from edgeprune.training.result_from_run import result_from_run
from edgeprune.training.run import alone_in, run_training


@one_run()
@process_state_kept()
def pretrain(
    model_yaml_or_pt: Path | str,
    *,
    data: Path | str,
    out: Path | str,
    settings: TrainSettings,
    work: Path | str,
    metadata: Mapping[str, object] | None = None,
    trust: bool = False,
    progress: Progress | Reporter | None = None,
) -> TrainResult:
    """Train an unpruned model; as resumable and as precise as :func:`edgeprune.training.finetune.finetune`.

    Args:
        model_yaml_or_pt: a model YAML (a path, or a name that Ultralytics ships such as ``yolo11n.yaml``) to build and
            train from random weights, or weights to go on from.
        data, out, settings, work, metadata, trust, progress: as in ``finetune``.

    Raises:
        TargetError, DataError, StageError: as in ``finetune``.
    """
    tell = reporter_of(progress).progress
    source = str(model_yaml_or_pt)
    if not source.endswith((".yaml", ".yml")):
        return finetune(
            source,
            data=data,
            out=out,
            settings=settings,
            work=work,
            metadata=metadata,
            trust=trust,
            label="pretrain",
            progress=tell,
        )
    refuse_source(Path(out) / BEST, settings.teacher)
    refuse_other_training(out, work)
    described = read_model_yaml(source)
    size = settings.imgsz or default_side(described.task)
    settings = replace(settings, imgsz=trained_size(size, described.stride))
    dataset = Dataset.load(data, task=described.task, trust=trust)
    identity = {"dataset": dataset.digest}
    with alone_in(work, out):
        run = run_training(
            work, source, data=data, settings=settings, identity=identity, label="pretrain", progress=tell
        )
        on_first_process(dataset.require_unchanged)
        return result_from_run(
            run, load(run.best).model, data=data, out=out, settings=settings, work=work, metadata=metadata
        )
