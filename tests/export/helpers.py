"""What several tests of this room need: data that may be written beside, and stock models of every task."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from ultralytics.nn.tasks import ClassificationModel, DetectionModel, OBBModel, PoseModel, SegmentationModel

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
    family: str, task: str, *, nc: int = 3, seed: int = 0, kpt_shape: tuple[int, ...] | None = None, bias: float = -1.0
) -> Any:
    """An Ultralytics model with seeded random weights whose scores are spread over [0, 1], not all near zero."""
    torch.manual_seed(seed)
    kind, suffix = TASKS[task]
    extra = {"data_kpt_shape": kpt_shape or (4, 3)} if task == "pose" else {}
    model = kind(f"{family}n{suffix}.yaml", nc=nc, verbose=False, **extra)
    model.names = {index: f"class{index}" for index in range(nc)}
    model.task = task
    with torch.no_grad():
        for _ in range(4):  # statistics of the normalisation layers; untouched ones make activations vanish
            model.train()
            model(torch.rand(2, 3, 64, 64))
        head = model.model[-1]
        for name in ("cv3", "one2one_cv3"):
            for branch in getattr(head, name, None) or ():
                branch[-1].bias.fill_(bias)
                branch[-1].weight.mul_(8.0)
    model.eval()
    return model


def saved(model: Any, path: Path) -> Path:
    """A checkpoint of a model, as Ultralytics lays it out."""
    torch.save({"model": model, "train_args": {"task": model.task, "imgsz": 64}}, path)
    return path
