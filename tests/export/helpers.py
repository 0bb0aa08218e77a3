"""What several tests of this room need: data that may be written beside, and stock models of every task."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from PIL import Image
from ultralytics.nn.tasks import ClassificationModel, DetectionModel, OBBModel, PoseModel, SegmentationModel

from edgeprune.export.half import cast_to_fp16
from edgeprune.export.int8 import quantize_to_int8
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.export.simplify import simplify_onnx
from edgeprune.pruning.api import prune

TASKS: dict[str, tuple[Any, str]] = {
    "detect": (DetectionModel, ""),
    "segment": (SegmentationModel, "-seg"),
    "pose": (PoseModel, "-pose"),
    "obb": (OBBModel, "-obb"),
    "classify": (ClassificationModel, "-cls"),
}


def linked_copy(source: Path, target: Path) -> Path:
    """A dataset with its images linked and its labels copied: Ultralytics writes a cache beside labels."""
    for path in sorted(source.rglob("*")):
        if path.is_file() and path.suffix != ".cache":
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix.lower() in {".jpg", ".png"}:
                place.symlink_to(path)
            else:
                shutil.copyfile(path, place)
    return target


def stock_model(
    family: str,
    task: str,
    *,
    size: str = "n",
    nc: int = 3,
    seed: int = 0,
    kpt_shape: tuple[int, ...] | None = None,
    bias: float = -1.0,
    random_norms: bool = False,
) -> Any:
    """An Ultralytics model with seeded random weights whose scores are spread over [0, 1], not all near zero.

    ``random_norms`` gives every normalisation layer scales and shifts of its own, as training does.
    """
    torch.manual_seed(seed)
    kind, suffix = TASKS[task]
    extra = {"data_kpt_shape": kpt_shape or (4, 3)} if task == "pose" else {}
    model = kind(f"{family}{size}{suffix}.yaml", nc=nc, verbose=False, **extra)
    model.names = {index: f"class{index}" for index in range(nc)}
    model.task = task
    with torch.no_grad():
        for layer in model.modules() if random_norms else ():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.normal_(0.0, 0.2)
        model.train()
        for _ in range(8):  # statistics of the normalisation layers; untouched ones make activations vanish
            model(torch.rand(2, 3, 64, 64))
        model.eval()
        head = model.model[-1]
        branches = [*(getattr(head, "cv3", None) or ()), *(getattr(head, "one2one_cv3", None) or ())]
        layers = [branch[-1] for branch in branches] or [head.linear]
        for layer in layers:  # scores spread out: a standard deviation of 2 before the sigmoid
            layer.bias.fill_(bias)
            layer.register_forward_hook(_spread)
        model(torch.rand(1, 3, 64, 64))
        for layer in layers:
            layer._forward_hooks.clear()
    return model


def with_channels(channels: int) -> Any:
    """A detector for images of so many channels."""
    model = stock_model("yolov8", "detect")
    first = model.model[0].conv
    torch.manual_seed(1)
    model.model[0].conv = torch.nn.Conv2d(
        channels, first.out_channels, first.kernel_size, first.stride, first.padding, bias=False
    )
    model.yaml["channels"] = channels
    return model


def _spread(layer, inputs, output):
    layer.weight.mul_(2.0 / max(float((output - layer.bias.mean()).std()), 1e-3))


def saved(model: Any, path: Path) -> Path:
    """A checkpoint of a model, as Ultralytics lays it out."""
    torch.save({"model": model, "train_args": {"task": model.task, "imgsz": 64}}, path)
    return path


def noise_images(folder: Path, count: int = 16, side: int = 64) -> list[Path]:
    """Seeded noise to calibrate on where what is found does not matter."""
    generator = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(count)]
    for path in paths:
        Image.fromarray(generator.integers(0, 256, (side, side, 3), np.uint8)).save(path)
    return paths


def pruned_forms(
    family: str, task: str, folder: Path, *, size: str = "n", head: str = "auto", imgsz: int = 64
) -> dict[str, Path]:
    """A stock model, pruned, exported and simplified, in every precision that ships for TensorRT; by precision."""
    model = stock_model(family, task, size=size)
    pruned: Any = prune(model, ratio=0.4, imgsz=imgsz, importance="lamp").model
    pruned.names, pruned.task = model.names, task
    forms = {precision: folder / f"{precision}.onnx" for precision in ("fp32", "fp16", "int8", "int8-fp16")}
    onnx_from_checkpoint(saved(pruned, folder / "m.pt"), folder / "raw.onnx", imgsz=imgsz, head=head)
    simplify_onnx(folder / "raw.onnx", forms["fp32"])
    cast_to_fp16(forms["fp32"], forms["fp16"])
    images = noise_images(folder, side=imgsz)
    for precision in ("int8", "int8-fp16"):
        quantize_to_int8(forms["fp32"], forms[precision], images, method="minmax", half=precision == "int8-fp16")
    return forms


def simplify_wrongly(model: onnx.ModelProto, **_: Any) -> tuple[onnx.ModelProto, bool]:
    """In place of onnxsim's: a graph that computes something else."""
    for node in model.graph.node:
        if node.op_type == "Sigmoid":
            node.op_type = "Tanh"
    return model, True
