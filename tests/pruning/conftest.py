"""Models with values in which no channel is zero and no layer is alike."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import nn


@functools.lru_cache(maxsize=8)
def _built(yaml: str) -> Any:
    from ultralytics import YOLO

    torch.manual_seed(0)
    model: Any = YOLO(yaml).model
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.3, 0.3),
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
            ):
                assert tensor is not None
                tensor.data.uniform_(low, high, generator=generator)
    return model.float().eval()


@pytest.fixture(scope="session")
def stock() -> Any:
    """``stock("yolov8n.yaml")``: a randomly initialised model; never change it."""
    return _built


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    """Small models on a shared machine: threads wait for each other longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
