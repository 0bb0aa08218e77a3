"""A checkpoint as the module that Ultralytics' exporter and validator take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from ultralytics.utils import DEFAULT_CFG_DICT

from edgeprune import checkpoint
from edgeprune.export.lint import LARGEST_TOPK
from edgeprune.export.modelopt import restore_quantizers

CANDIDATES = 5
"""For each detection that embedded NMS of rotated boxes has room for; Ultralytics' exporter sorts them by one TopK."""


def module_from_checkpoint(weights: Path | checkpoint.Checkpoint) -> nn.Module:
    """The model of a checkpoint, in FP32 and eval mode, on the CPU, read without running code from the file.

    It has the fake quantizers of INT8 that the checkpoint has.

    Raises:
        DeviceError: it has some, and ModelOpt is not installed.
        DataError: the file is missing, damaged, unsafe, or no Ultralytics checkpoint.
    """
    read = weights if isinstance(weights, checkpoint.Checkpoint) else checkpoint.load(weights)
    module: Any = read.model
    module.args = {**DEFAULT_CFG_DICT, **read.train_args}  # as Ultralytics' own loader leaves it
    module.task = read.task
    if read.quantizers:
        restore_quantizers(module, read.quantizers, str(read.path))
    return module


def most_detections(module: Any, *, nms: bool = False) -> int:
    """Detections of an image that an export has room for: Ultralytics' default (300), or more where the head says so,
    on which its trainer writes what the images of the data set hold at most.

    No fewer than that default, which Ultralytics takes for its checkpoints too, and no more than TensorRT sorts.

    Args:
        module: of any task.
        nms: whether NMS is embedded.
    """
    held = getattr(module.model[-1], "max_det", 0)
    sorted_at_once = CANDIDATES if nms and getattr(module, "task", "") == "obb" else 1
    return min(max(DEFAULT_CFG_DICT["max_det"], held), LARGEST_TOPK // sorted_at_once)


def head_arguments(*, end_to_end: bool, nms: bool = False) -> dict[str, Any]:
    """The arguments of Ultralytics' exporter and validator that select the head.

    Until the middle of 8.4 there was ``end2end`` beside ``nms``; later, ``nms`` alone says both: True embeds NMS, False
    asks for the one-to-one head, None for the one-to-many head with NMS outside.
    """
    if "end2end" in DEFAULT_CFG_DICT:
        return {"end2end": end_to_end, "nms": nms}
    return {"nms": True if nms else (False if end_to_end else None)}
