"""The size that a model is trained at, by the rule of :mod:`edgeprune.input_size`."""

from __future__ import annotations

from dataclasses import replace

from ultralytics.utils import LOGGER

from edgeprune.checkpoint import Checkpoint
from edgeprune.input_size import trained_size
from edgeprune.settings import TrainSettings


def sized(settings: TrainSettings, weights: Checkpoint) -> TrainSettings:
    """The settings with the size in them: their own, else what the weights were trained at. The log says which.

    Raises:
        TargetError: the model does not take the size that was asked for, or is not trained at it.
    """
    size = weights.size_for(command=settings.imgsz)
    trained_size(size.side, weights.stride)
    if not settings.quiet:
        LOGGER.info(str(size))
    return replace(settings, imgsz=size.side)
