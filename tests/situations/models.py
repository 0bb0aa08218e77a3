"""Checkpoints of a few hundred kilobytes, made in a moment: every task and family of models, and what is wrong in them.

All have random weights of one seed. :func:`answering` gives a detector statistics and scores that depend on the image,
so that its detections are some and its accuracy on its own labels is not zero.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

SIDE = 64  # of the images, in pixels
NAMES = {0: "circle", 1: "square", 2: "bar"}
BACKBONE: list[Any] = [
    [-1, 1, "Conv", [16, 3, 2]],
    [-1, 1, "Conv", [16, 3, 2]],
    [-1, 1, "C2f", [16, True]],
    [-1, 1, "Conv", [32, 3, 2]],
    [-1, 1, "Conv", [32, 3, 2]],
    [-1, 1, "Conv", [32, 3, 2]],
]
HEADS: dict[str, list[Any]] = {
    "detect": [[[3, 4, 5], 1, "Detect", ["nc"]]],
    "segment": [[[3, 4, 5], 1, "Segment", ["nc", 8, 16]]],
    "pose": [[[3, 4, 5], 1, "Pose", ["nc", "kpt_shape"]]],
    "obb": [[[3, 4, 5], 1, "OBB", ["nc", 1]]],
    "classify": [[-1, 1, "Classify", ["nc"]]],
    "end-to-end": [[[3, 4, 5], 1, "v10Detect", ["nc"]]],
}


def description(head: str = "detect", *, nc: int = 3, channels: int = 3, backbone: list[Any] | None = None) -> dict:
    """A model YAML as Ultralytics reads it."""
    return copy.deepcopy(
        {
            "nc": nc,
            "ch": channels,
            "kpt_shape": [2, 3],
            "backbone": backbone or BACKBONE,
            "head": HEADS[head],
        }
    )


def model(head: str = "detect", *, nc: int = 3, channels: int = 3, backbone: list[Any] | None = None) -> Any:
    """A stock Ultralytics model of :func:`description`, float32, evaluation mode."""
    from ultralytics.nn import tasks

    kind = {
        "segment": tasks.SegmentationModel,
        "pose": tasks.PoseModel,
        "obb": tasks.OBBModel,
        "classify": tasks.ClassificationModel,
    }.get(head, tasks.DetectionModel)
    torch.manual_seed(0)
    made: Any = kind(description(head, nc=nc, channels=channels, backbone=backbone), ch=channels, nc=nc, verbose=False)
    made.names = {index: NAMES.get(index, f"class{index}") for index in range(nc)}
    if head == "classify":  # as folders are read: by name
        made.names = dict(enumerate(sorted(made.names.values())))
    made.task = {"end-to-end": "detect"}.get(head, head)
    return made.eval()


def answering(made: Any, channels: int = 3) -> Any:
    """The model with statistics of images in its normalisation layers, and scores that spread over [0, 1]."""
    torch.manual_seed(1)
    images = torch.nn.functional.interpolate(torch.rand(8, channels, 8, 8), size=(SIDE, SIDE), mode="bilinear")
    with torch.no_grad():
        made.train()
        for _ in range(8):
            made(images)
        made.eval()
        head = made.model[-1]
        for branch in (*(getattr(head, "cv2", None) or ()), *(getattr(head, "one2one_cv2", None) or ())):
            branch[-1].bias.copy_(-0.7 * torch.arange(head.reg_max).repeat(4))  # small boxes
            branch[-1].weight.mul_(0.5)
        branches = [*(getattr(head, "cv3", None) or ()), *(getattr(head, "one2one_cv3", None) or ())]
        handles = []
        for layer in [branch[-1] for branch in branches] or [head.linear]:
            layer.bias.fill_(-1.0)
            handles.append(layer.register_forward_hook(_spread))
        made(images)
        for handle in handles:
            handle.remove()
    return made


def _spread(layer: Any, inputs: Any, output: torch.Tensor) -> None:
    layer.weight.mul_(2.0 / max(float((output - layer.bias.mean()).std()), 1e-3))


def saved(made: Any, path: Path, *, train_args: Mapping[str, Any] | None = None, **entries: Any) -> Path:
    """A checkpoint as Ultralytics lays it out; ``entries`` replace or add to what it holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"task": getattr(made, "task", "detect"), "imgsz": SIDE, **(train_args or {})}
    content = {"epoch": -1, "model": made, "ema": None, "train_args": told, "version": "8.4.184", **entries}
    torch.save(content, path)
    return path


def rt_detr() -> Any:
    """RT-DETR with a decoder of one small layer."""
    from ultralytics.nn.tasks import RTDETRDetectionModel

    head = [[[3, 4, 5], 1, "RTDETRDecoder", ["nc", 32, 12, 2, 2, 1, 32]]]
    torch.manual_seed(0)
    made: Any = RTDETRDetectionModel({**description(), "head": head}, ch=3, nc=3, verbose=False)
    made.names, made.task = dict(NAMES), "detect"
    return made.eval()


def world() -> Any:
    """YOLO-World: its head takes the embeddings of class names beside the image."""
    from ultralytics.nn.tasks import WorldModel

    head = [[[3, 4, 5], 1, "WorldDetect", ["nc", 512, False]]]
    torch.manual_seed(0)
    made: Any = WorldModel({**description(), "head": head}, ch=3, nc=3, verbose=False)
    made.names, made.task = dict(NAMES), "detect"
    return made.eval()


def yoloe() -> Any:
    """YOLOE: prompts by text or image."""
    from ultralytics.nn.tasks import YOLOEModel

    head = [[[3, 4, 5], 1, "YOLOEDetect", ["nc", 512, True]]]
    torch.manual_seed(0)
    made: Any = YOLOEModel({**description(), "head": head}, ch=3, nc=3, verbose=False)
    made.names, made.task = dict(NAMES), "detect"
    return made.eval()


def with_focus() -> Any:
    """YOLOv5's first stem: four pixels of a square become channels."""
    return model(backbone=[[-1, 1, "Focus", [16, 3]], *BACKBONE[1:]])


def with_activation(activation: str) -> Any:
    """The activation that a model YAML names: ``torch.nn.PReLU()``."""
    from ultralytics.nn.modules import Conv
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    before = Conv.default_act  # parse_model changes the class
    try:
        made: Any = DetectionModel({**description(), "activation": activation}, ch=3, nc=3, verbose=False)
    finally:
        Conv.default_act = before
    made.names, made.task = dict(NAMES), "detect"
    return made.eval()


def with_masks(made: Any, *, kind: str = "unstructured") -> Any:
    """Weights pruned by ``torch.nn.utils.prune`` whose masks were never made permanent."""
    for module in made.modules():
        if isinstance(module, nn.Conv2d) and module.out_channels > 1:
            if kind == "structured":
                torch_prune.ln_structured(module, "weight", amount=0.25, n=2, dim=0)
            else:
                torch_prune.l1_unstructured(module, "weight", amount=0.3)
    return made


def with_value(made: Any, value: float, *, where: str = "first") -> Any:
    """A tensor with NaN or infinity in it: the first weight, a running statistic, or the last bias."""
    tensors = {
        "first": next(made.parameters()).data,
        "statistic": next(buffer for name, buffer in made.named_buffers() if name.endswith("running_var")),
        "last": [parameter for name, parameter in made.named_parameters() if name.endswith("bias")][-1].data,
        "whole": None,
    }
    chosen = tensors[where]
    for tensor in [chosen] if chosen is not None else [p.data for p in made.parameters()]:
        tensor.view(-1)[: 1 if chosen is not None else None] = value
    return made


def with_attribute(made: Any, **attributes: Any) -> Any:
    """The model with other metadata on it."""
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def old_modules(source: Path, path: Path, renamed: Mapping[bytes, bytes]) -> Path:
    """A copy of a checkpoint whose pickle names classes as an older Ultralytics did.

    Args:
        source: a checkpoint.
        path: where the copy goes.
        renamed: module path to the older one, both as bytes.
    """
    import zipfile

    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for item in old.infolist():
            data = old.read(item)
            if item.filename.endswith("data.pkl"):
                data = _renamed_globals(data, renamed)
            new.writestr(item, data)
    return path


def _renamed_globals(data: bytes, renamed: Mapping[bytes, bytes]) -> bytes:
    """Module names in a pickle of protocol 2 (``GLOBAL`` opcodes: ``c`` module newline name newline) replaced."""
    for new, old in renamed.items():
        data = data.replace(b"c" + new, b"c" + old)
    return data


OLD_PATHS: dict[str, dict[bytes, bytes]] = {
    "8.0": {  # up to 8.0.13x everything lay below ultralytics.yolo and ultralytics.nn.modules was one file
        b"ultralytics.utils\n": b"ultralytics.yolo.utils\n",
        b"ultralytics.utils.tal\n": b"ultralytics.yolo.utils.tal\n",
        b"ultralytics.utils.loss\n": b"ultralytics.yolo.utils.loss\n",
        b"ultralytics.nn.modules.conv\n": b"ultralytics.nn.modules\n",
        b"ultralytics.nn.modules.block\n": b"ultralytics.nn.modules\n",
        b"ultralytics.nn.modules.head\n": b"ultralytics.nn.modules\n",
    },
    "8.0 blocks": {b"ultralytics.nn.modules.block\n": b"ultralytics.nn.modules\n"},
}

Maker = Callable[[], Any]
