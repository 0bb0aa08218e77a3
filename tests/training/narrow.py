"""Models that stand for pruned ones: narrower than the YAML they carry, so that a rebuild from it is noticed."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from ultralytics.nn.tasks import guess_model_task, yaml_model_load
from ultralytics.utils import DEFAULT_CFG_DICT


def narrow_checkpoint(
    path: Path,
    config: str = "yolov8n.yaml",
    *,
    names: tuple[str, ...] = (),
    factor: float = 0.5,
    seed: int = 0,
    channels: int = 3,
) -> Path:
    """Save a randomly initialised model of ``factor`` times ``config``'s width that still carries ``config`` itself."""
    from ultralytics import YOLO

    torch.manual_seed(seed)
    full: dict[str, Any] = yaml_model_load(config)
    if channels != 3:
        full["channels"] = channels
    full["nc"] = len(names) or full.get("nc", 80)
    narrow = deepcopy(full)
    depth, width, most = narrow["scales"][full["scale"]]
    narrow["scales"] = {full["scale"]: [depth, width * factor, most]}
    task = str(guess_model_task(full))
    model = YOLO(config).task_map[task]["model"](narrow, ch=channels, verbose=False)
    model.yaml = full
    model.task = task
    if names:
        model.names = dict(enumerate(names))
    torch.save({"model": model, "ema": None, "epoch": -1, "optimizer": None, "train_args": {**DEFAULT_CFG_DICT}}, path)
    return path
