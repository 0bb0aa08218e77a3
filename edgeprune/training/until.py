"""End fine-tuning as soon as the accuracy gate would pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ultralytics.cfg import TASK2METRIC

from edgeprune.errors import TargetError


@dataclass(frozen=True)
class UntilDrop:
    """Ultralytics callback for ``on_fit_epoch_end``: stop once the drop is small enough, with room to spare.

    The figure of an epoch comes from the averaged weights, as in the gate, but on another runtime; hence the margin.

    Attributes:
        baseline: the unpruned model's figure (mAP50-95 and the like, 0 to 1).
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
