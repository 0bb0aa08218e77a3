"""The training loss of a model on labelled batches, without training it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from edgeprune.pruning.batches import Batch
from edgeprune.pruning.copies import copy_without_criterion, set_raw_outputs


def loss_model(model: nn.Module) -> Any:
    """A copy of a model that can compute its loss: raw head outputs, gradients on, a fresh loss object."""
    from ultralytics.cfg import get_cfg

    result: Any = set_raw_outputs(copy_without_criterion(model))
    result.criterion = None
    result.args = get_cfg(overrides={})  # the loss reads its gains here; training's own gains do not matter for ranks
    return result


def batch_loss(model: Any, batch: Batch) -> torch.Tensor:
    """The loss of one batch, summed over its images, in evaluation mode (batch statistics stay as they are).

    Args:
        model: from :func:`loss_model`.
        batch: images with labels of the model's task.
    """
    first = next(model.parameters())
    images = batch.images.to(first)
    labels = {key: value.to(first.device) for key, value in batch.labels.items()}
    loss, _ = model.loss({**labels, "img": images}, model(images))
    return loss.sum()


@torch.no_grad()
def mean_loss(model: Any, batches: Sequence[Batch], parameters: Mapping[str, torch.Tensor] | None = None) -> float:
    """Loss per image, mean over batches.

    Args:
        model: from :func:`loss_model`.
        batches: at least one.
        parameters: values by name that replace the model's own during this call.
    """
    replaced = {name: parameter for name, parameter in model.named_parameters() if name in (parameters or {})}
    before = {name: parameter.data for name, parameter in replaced.items()}
    try:
        for name, parameter in replaced.items():
            parameter.data = (parameters or {})[name]
        return sum(float(batch_loss(model, batch)) / len(batch.images) for batch in batches) / len(batches)
    finally:
        for name, data in before.items():
            replaced[name].data = data
