"""The result of training: the checkpoint that is handed on, from a finished run's scratch folder."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import nn
from ultralytics.cfg import TASK2METRIC
from ultralytics.utils import RANK

from edgeprune import checkpoint, serial
from edgeprune.artifact import sha256_of, write_atomically
from edgeprune.model_metadata import is_plain
from edgeprune.options import BEST, RESULT, RESULTS, WRITING, read_result, refuse_other_training
from edgeprune.settings import TrainSettings
from edgeprune.training.distributed import on_first_process
from edgeprune.training.result import TrainResult, TrainSummary
from edgeprune.training.run import FinishedRun, validation_accuracy
from edgeprune.unpickle import content_of

QUANTIZED = "quantized.pt"
"""The same weights with their fake quantizers, after training for INT8: what its graph is exported from."""
COPIED_FILES = (RESULTS, "*.png", "*.jpg", "events.out.tfevents.*")
"""What a run leaves for people to look at: curves, plots where ``plots`` asked for them, TensorBoard's events."""


def result_from_run(
    run: FinishedRun,
    model: nn.Module,
    *,
    epoch: int | None = None,
    data: Path | str,
    out: Path | str,
    settings: TrainSettings,
    work: Path | str,
    metadata: Mapping[str, object] | None,
) -> TrainResult:
    """Write ``model`` as ``out/best.pt`` (float32), :data:`COPIED_FILES` beside it, and validate the file itself.

    After training for INT8 there is :data:`QUANTIZED` too, and that is validated.

    ``epoch`` is the model's, counted from 1, or 0; without one it is the run's best.
    A second call with the file still there and unchanged does not validate again. Of several processes the first one
    writes, and the figure is that of the epoch: Ultralytics' validator would wait for the others.
    """
    epoch = run.best_epoch if epoch is None else epoch
    where = {"data": data, "out": Path(out), "work": Path(work)}
    write = partial(_write, run, model, epoch, settings=settings, metadata=metadata, **where)
    summary = TrainSummary(run.epochs_run, epoch, run.epochs, on_first_process(write), run.seconds, run.given)
    return TrainResult(Path(out) / BEST, summary)


def _write(
    run: FinishedRun,
    model: nn.Module,
    epoch: int,
    *,
    data: Path | str,
    out: Path,
    settings: TrainSettings,
    work: Path,
    metadata: Mapping[str, object] | None,
) -> float:
    best, record = out / BEST, work / RESULT
    # epoch 0 may be kept again with other data or settings, so that weights alone do not tell one result from another
    request = (work / "run.json").read_text() if (work / "run.json").is_file() else ""
    source = serial.digest_of([weights_digest(model), request, dict(metadata or {})])
    written = read_result(work)
    if written.get("source") != source or not best.is_file() or sha256_of(best) != written.get("best"):
        refuse_other_training(out, work)  # again: hours have passed
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(record, json.dumps({WRITING: str(out.absolute())}))  # whose they are after a kill
        trained = _trained(run, epoch)
        metadata = {key: value for key, value in (metadata or {}).items() if key != checkpoint.RECTANGLE}
        if isinstance(settings.side, tuple):
            metadata[checkpoint.RECTANGLE] = list(settings.side)
        save = partial(checkpoint.save, model, like=trained, metadata=metadata, same_weights=True)
        save(best)
        judged = best
        if trained.quantizers:  # their ranges are fixed before the first epoch: every epoch has the same
            judged = out / QUANTIZED
            save(judged, quantizers=trained.quantizers)
        for pattern in COPIED_FILES:
            for file in run.best.parent.parent.glob(pattern):
                shutil.copyfile(file, out / file.name)
        left = {Path(name).stem: sha256_of(out / name) for name in (BEST, RESULTS) if (out / name).is_file()}
        write_atomically(record, json.dumps(left))
        if RANK == -1:
            accuracy = validation_accuracy(judged, data=data, settings=settings, work=work)
        else:
            accuracy = next(
                row.figures[TASK2METRIC[run.task]] for row in (run.given, *run.epochs) if row and row.number == epoch
            )
        written = {"source": source, **left, "map50_95": accuracy}
        write_atomically(record, json.dumps(written))
    return float(written["map50_95"])


def _trained(run: FinishedRun, epoch: int) -> checkpoint.Checkpoint:
    """What a run says of the weights of ``epoch``: its best.pt, with the figures of the last epoch where it is that."""
    best = checkpoint.load(run.best)
    if epoch == run.best_epoch:
        return best
    # last.pt is not for checkpoint.load: under distillation it is no model
    measured = content_of(run.last, trust=False).get("train_metrics")
    others = {key: value for key, value in best.extra.items() if key not in checkpoint.OF_THE_WEIGHTS}
    return replace(best, extra={**others, **({"train_metrics": measured} if is_plain(measured) else {})})


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over every value of a model, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
