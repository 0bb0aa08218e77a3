"""End fine-tuning as soon as the accuracy gate would pass."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultralytics.cfg import TASK2METRIC

from edgeprune import checkpoint
from edgeprune.artifact import write_atomically
from edgeprune.errors import TargetError
from edgeprune.training.classes import require_names
from edgeprune.training.run import class_names, validated
from edgeprune.training.settings import TrainSettings


@dataclass(frozen=True)
class UntilDrop:
    """Ultralytics callback for ``on_fit_epoch_end``: stop once the drop is small enough, with room to spare.

    The figure of an epoch comes from the averaged weights, as in the gate, but on another runtime; hence the margin.

    Attributes:
        baseline: the unpruned model's figure (mAP50-95 and the like, 0 to 1), as :func:`unpruned_figure` gives it.
        most: the drop that is allowed.
        margin: how far below it the drop must be.

    Raises:
        TargetError: on construction, if a value is out of range.
    """

    baseline: float
    most: float
    margin: float = 0.002

    def __post_init__(self) -> None:
        for name in ("baseline", "most", "margin"):
            if not 0 <= getattr(self, name) <= 1:
                raise TargetError(f"until: {name}={getattr(self, name)!r}: allowed is 0 to 1")

    def __call__(self, trainer: Any) -> None:
        figure = (trainer.metrics or {}).get(TASK2METRIC[trainer.args.task])
        if figure is not None and self.baseline - figure <= self.most - self.margin:
            trainer.stop = True  # Ultralytics reads it after this event, and tells the other processes


def unpruned_figure(weights: Path, *, data: Path | str, settings: TrainSettings, work: Path | str) -> float:
    """What the trainer's own validation would say of ``weights``; kept in ``work``, so that a run goes on unchanged.

    An accuracy measured on another runtime does not serve: with other padding or thresholds it differs by more than the
    drops that are asked for.

    Raises:
        DataError: the weights cannot be read, or know other classes than ``data``.
    """
    unpruned = checkpoint.load(weights)
    require_names(f"baseline {weights}", unpruned.names, class_names(data, unpruned.task, quiet=settings.quiet))
    kept = Path(work) / "unpruned.json"
    if kept.is_file():
        known = json.loads(kept.read_text())
        if known["weights"] == unpruned.sha256:
            return float(known["figure"])
    # the trainer validates in batches of twice its size, and rectangular batches are padded to their largest image
    figure = validated(weights, data=data, settings=settings, work=work, batch=2 * settings.batch)
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(kept, json.dumps({"weights": unpruned.sha256, "figure": figure}))
    return figure
