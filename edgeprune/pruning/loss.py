"""The training loss of a model on labelled batches, without training it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from edgeprune.pruning.batches import Batch
from edgeprune.pruning.copies import copy_without_criterion, head_of, set_raw_outputs
from edgeprune.pruning.heads import has_end_to_end_head, refuse_fused_head, ships_end_to_end


class _ShippedLoss:
    """The loss of one of two heads, of that head's raw maps.

    Ultralytics weighs both (at first 0.8 for the one-to-many head), and detaches the prototypes of masks, which the
    heads share, from the one-to-one head's loss. What ships is judged by its own loss, prototypes included.
    """

    def __init__(self, criterion: Any, branch: str) -> None:
        self.loss, self.branch = getattr(criterion, branch), branch

    def __call__(self, predictions: Any, batch: Mapping[str, Any]) -> Any:
        raw = predictions[1] if isinstance(predictions, tuple) else predictions
        prototypes = {"proto": raw["one2many"]["proto"]} if "proto" in raw["one2many"] else {}
        return self.loss({**raw[self.branch], **prototypes}, batch)


def loss_model(model: nn.Module, head: str = "auto") -> Any:
    """A copy of a model that can compute its loss: raw head outputs, gradients on, a fresh loss object.

    Args:
        model: of one head or two.
        head: which of two heads ships, one of :data:`~edgeprune.pruning.heads.HEADS`: its loss alone counts.

    Raises:
        DataError, TargetError: the model has not this head, or ``fuse()`` removed it or a part of it.
    """
    refuse_fused_head(model)
    from ultralytics.cfg import get_cfg

    result: Any = set_raw_outputs(copy_without_criterion(model))
    result.criterion = None
    result.class_weights = None  # of the training that it comes from, by that data set's counts (cls_pw)
    result.args = get_cfg(overrides={})  # the loss reads its gains here; training's own gains do not matter for ranks
    end_to_end = ships_end_to_end(model, head)
    if has_end_to_end_head(model):
        head_of(result).training = False  # in training the one-to-one head is kept out of the backbone's gradients
        branch = "one2one" if end_to_end else "one2many"
        result.criterion = _ShippedLoss(result.init_criterion(), branch)
    return result


def batch_loss(model: Any, batch: Batch) -> torch.Tensor:
    """The loss of one batch, summed over its images, in evaluation mode (batch statistics stay as they are).

    Ultralytics multiplies every loss by the number of images, but a classifier's, which is a mean: it is multiplied
    here.

    Args:
        model: from :func:`loss_model`.
        batch: images with labels of the model's task.
    """
    first = next(model.parameters())
    images = batch.images.to(first)
    labels = {key: value.to(first.device) for key, value in batch.labels.items()}
    loss, _ = model.loss({**labels, "img": images}, model(images))
    return loss.sum() * (len(images) if type(model.criterion).__name__ == "v8ClassificationLoss" else 1)


@torch.no_grad()
def mean_loss(model: Any, batches: Sequence[Batch], parameters: Mapping[str, torch.Tensor] | None = None) -> float:
    """Loss per image: the sum over all batches over the number of their images.

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
        total = sum(float(batch_loss(model, batch)) for batch in batches)
        return total / sum(len(batch.images) for batch in batches)
    finally:
        for name, data in before.items():
            replaced[name].data = data
