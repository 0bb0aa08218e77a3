"""From a finished run's scratch folder to the checkpoint that a stage hands on."""

from __future__ import annotations

import hashlib
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from ultralytics.cfg import TASK2METRIC
from ultralytics.utils import RANK

from edgeprune import checkpoint
from edgeprune.artifact import sha256_of, write_atomically
from edgeprune.training.processes import by_first
from edgeprune.training.run import FinishedRun, TrainResult, validated
from edgeprune.training.settings import TrainSettings

SHOWN = ("results.csv", "*.png", "*.jpg", "events.out.tfevents.*")
"""What a run leaves for people to look at: curves, plots where ``plots`` asked for them, TensorBoard's events."""


def publish(
    run: FinishedRun,
    model: nn.Module,
    *,
    epoch: int | None = None,
    data: Path | str,
    out: Path | str,
    settings: TrainSettings,
    work: Path | str,
    metadata: dict[str, Any] | None,
) -> TrainResult:
    """Write ``model`` as ``out/best.pt`` (float32), :data:`SHOWN` beside it, and validate the file itself.

    ``epoch`` is the model's, counted from 1; without one it is the run's best.
    A second call with the file still there and unchanged does not validate again. Of several processes the first one
    writes, and the figure is that of the epoch: Ultralytics' validator would wait for the others.
    """
    epoch = run.best_epoch if epoch is None else epoch
    where = {"data": data, "out": Path(out), "work": Path(work)}
    write = partial(_written, run, model, epoch, settings=settings, metadata=metadata, **where)
    return TrainResult(
        best=Path(out) / "best.pt",
        epochs_run=run.epochs_run,
        best_epoch=epoch,
        curves=run.curves,
        map50_95=by_first(write),
        seconds=run.seconds,
    )


def _written(
    run: FinishedRun,
    model: nn.Module,
    epoch: int,
    *,
    data: Path | str,
    out: Path,
    settings: TrainSettings,
    work: Path,
    metadata: dict[str, Any] | None,
) -> float:
    best = out / "best.pt"
    record = work / "result.json"
    source = weights_digest(model)
    known = _read(record)
    if known.get("source") != source or not best.is_file() or sha256_of(best) != known.get("best"):
        out.mkdir(parents=True, exist_ok=True)
        checkpoint.save(model, best, like=checkpoint.load(run.best), metadata=metadata)
        for pattern in SHOWN:
            for file in run.best.parent.parent.glob(pattern):
                shutil.copyfile(file, out / file.name)
        if RANK == -1:
            figure = validated(best, data=data, settings=settings, work=work)
        else:
            figure = next(row[TASK2METRIC[run.task]] for row in run.curves if row["epoch"] == epoch)
        known = {"source": source, "best": sha256_of(best), "map50_95": figure}
        write_atomically(record, json.dumps(known))
    return float(known["map50_95"])


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over every value of a model, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read(record: Path) -> dict[str, Any]:
    try:
        return json.loads(record.read_text())
    except (OSError, ValueError):
        return {}
