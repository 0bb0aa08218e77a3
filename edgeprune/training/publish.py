"""From a finished run's scratch folder to the checkpoint that a stage hands on."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from edgeprune import checkpoint
from edgeprune.artifact import sha256_of, write_atomically
from edgeprune.training.run import FinishedRun, TrainResult, validated
from edgeprune.training.settings import TrainSettings


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
    """Write ``model`` as ``out/best.pt`` (float32), its curves as ``out/results.csv``, and validate the file itself.

    ``epoch`` is the model's, counted from 1; without one it is the run's best.
    A second call with the file still there and unchanged does not validate again.
    """
    out = Path(out)
    best = out / "best.pt"
    record = Path(work) / "result.json"
    source = weights_digest(model)
    known = _read(record)
    if known.get("source") != source or not best.is_file() or sha256_of(best) != known.get("best"):
        out.mkdir(parents=True, exist_ok=True)
        checkpoint.save(model, best, like=checkpoint.load(run.best), metadata=metadata)
        results = run.best.parent.parent / "results.csv"
        if results.is_file():
            shutil.copyfile(results, out / "results.csv")
        figure = validated(best, data=data, settings=settings, work=work)
        known = {"source": source, "best": sha256_of(best), "map50_95": figure}
        write_atomically(record, json.dumps(known))
    return TrainResult(
        best=best,
        epochs_run=run.epochs_run,
        best_epoch=run.best_epoch if epoch is None else epoch,
        curves=run.curves,
        map50_95=float(known["map50_95"]),
        seconds=run.seconds,
    )


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
