"""Ultralytics and torch are the same before and after training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import ultralytics.engine.trainer
import ultralytics.engine.validator
import ultralytics.models.yolo.classify.train
import ultralytics.models.yolo.detect.train
import ultralytics.models.yolo.obb.train
import ultralytics.models.yolo.pose.train
import ultralytics.models.yolo.segment.train
import ultralytics.nn.distill_model
import ultralytics.nn.tasks
import ultralytics.utils.callbacks.base
import ultralytics.utils.checks
import ultralytics.utils.torch_utils

from edgeprune import checkpoint
from edgeprune.settings import SparsitySettings, TrainSettings
from edgeprune.training.sparsify import sparsify

WATCHED = (
    ultralytics.engine.trainer,
    ultralytics.engine.validator,
    ultralytics.models.yolo.classify.train,
    ultralytics.models.yolo.detect.train,
    ultralytics.models.yolo.obb.train,
    ultralytics.models.yolo.pose.train,
    ultralytics.models.yolo.segment.train,
    ultralytics.nn.distill_model,
    ultralytics.nn.modules.head,
    ultralytics.nn.modules.block,
    ultralytics.nn.modules.conv,
    ultralytics.nn.tasks,
    ultralytics.utils.checks,
    ultralytics.utils.torch_utils,
    torch.optim,
)


def everything() -> dict[str, Any]:
    """Every function, class and attribute of the watched modules and of the classes in them, by name."""
    found: dict[str, Any] = {}
    for module in WATCHED:
        for name, value in vars(module).items():
            if callable(value):
                found[f"{module.__name__}.{name}"] = value
            if isinstance(value, type) and value.__module__.startswith(("ultralytics", "torch.optim")):
                found |= {f"{module.__name__}.{name}.{key}": item for key, item in vars(value).items()}
    return found


def test_training_changes_no_class_and_no_function_of_ultralytics(
    tmp_path: Path, narrow: Path, full: Path, digits: Path, settings: TrainSettings
) -> None:
    checkpoint.load(full)  # fills what Ultralytics' own loader looks up once a process
    before = everything()
    defaults = {event: list(called) for event, called in ultralytics.utils.callbacks.base.default_callbacks.items()}
    assert len(before) > 1000
    taught = replace(settings, epochs=1, teacher=full, feature=1.0)
    sparsify(narrow, data=digits, out=tmp_path / "o", work=tmp_path / "w", settings=taught, sparsity=SparsitySettings())
    after = everything()
    lazily = {"__abstractmethods__", "_abc_impl", "__annotations__", "__annotations_cache__"}
    changed = [k for k in before if after.get(k) is not before[k] and k.rpartition(".")[2] not in lazily]
    assert changed == []
    assert {k: list(v) for k, v in ultralytics.utils.callbacks.base.default_callbacks.items()} == defaults
