"""The training loss of a model on labelled batches, without training it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from edgeprune.pruning.batches import Batch
from edgeprune.pruning.copies import (
    copy_sharing_weights,
    copy_without_criterion,
    head_of,
    output_tensors,
    semantic_part,
    set_raw_outputs,
)
from edgeprune.pruning.heads import has_end_to_end_head, refuse_fused_head, ships_end_to_end

MOST_PIXELS = 4 * 640 * 640
"""Of the images in one pass, the default batch at 640 px; a batch of more passes in parts, of one image at least, since
memory grows with them: a large model at 1280 px would not fit with four."""


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


def loss_model(model: nn.Module, head: str = "auto", *, own_weights: bool = True) -> Any:
    """A copy of a model that can compute its loss: raw head outputs, gradients on, a fresh loss object.

    Args:
        model: of one head or two.
        head: which of two heads ships, one of :data:`~edgeprune.pruning.heads.HEADS`: its loss alone counts.
        own_weights: False shares them with the given model: for a loss alone, without gradients or other values.

    Raises:
        DataError, TargetError: the model has not this head, or ``fuse()`` removed it or a part of it.
    """
    refuse_fused_head(model)
    from ultralytics.cfg import get_cfg

    copied = copy_without_criterion if own_weights else copy_sharing_weights
    result: Any = set_raw_outputs(copied(model))
    if semantic_part(result) is not None:  # it does not ship, and its loss wants masks that an export's images lack
        head_of(result).proto.training = False
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
        batch: images with labels of the model's task; more than :data:`MOST_PIXELS` pass in parts.
    """
    return _loss_of(model, batch, _joined([model(part) for part in _parts(model, batch)]))


def loss_backward(model: Any, batch: Batch) -> torch.Tensor:
    """The loss of one batch as :func:`batch_loss` gives it, its derivative added to the gradients of the parameters.

    Of a batch of more than :data:`MOST_PIXELS` it is the same derivative: the loss is that of all outputs together,
    and what it asks of them goes back through one part after the other. A second forward pass is the price.

    Args:
        model: from :func:`loss_model`, in whose evaluation mode no image changes another one's outputs.
        batch: images with labels of the model's task.
    """
    parts = _parts(model, batch)
    if len(parts) == 1:
        loss = batch_loss(model, batch)
        loss.backward()
        return loss.detach()
    with torch.no_grad():
        outputs = _joined([model(part) for part in parts])
    every = output_tensors(outputs)
    for tensor in every:
        tensor.requires_grad_(tensor.is_floating_point())
    loss = _loss_of(model, batch, outputs)
    loss.backward()
    asked = [None if tensor.grad is None else tensor.grad.split([len(part) for part in parts]) for tensor in every]
    for number, part in enumerate(parts):
        again = zip(output_tensors(model(part)), asked, strict=True)
        pairs = [(output, of[number]) for output, of in again if of is not None and output.requires_grad]
        torch.autograd.backward([output for output, _ in pairs], [gradient for _, gradient in pairs])
    return loss.detach()


def _parts(model: nn.Module, batch: Batch) -> Sequence[torch.Tensor]:
    """The images of a batch, as many in each part as may pass together."""
    images = batch.images.to(next(model.parameters()))
    return images.split(max(1, MOST_PIXELS // (images.shape[-2] * images.shape[-1])))


def _loss_of(model: Any, batch: Batch, outputs: Any) -> torch.Tensor:
    """The loss of a batch, summed over its images, from what the model puts out for all of them."""
    first = next(model.parameters())
    labels = {key: value.to(first.device) for key, value in batch.labels.items()}
    loss, _ = model.loss({**labels, "img": batch.images.to(first)}, outputs)
    return loss.sum() * (len(batch.images) if type(model.criterion).__name__ == "v8ClassificationLoss" else 1)


def _joined(outputs: Sequence[Any]) -> Any:
    """The nested outputs of several parts as one of all their images, which are the first axis of every tensor."""
    first = outputs[0]
    if len(outputs) == 1:
        return first
    if isinstance(first, torch.Tensor):
        return torch.cat(list(outputs))
    if isinstance(first, Mapping):
        return {key: _joined([one[key] for one in outputs]) for key in first}
    if isinstance(first, (list, tuple)):
        return type(first)([_joined(same) for same in zip(*outputs, strict=True)])
    return first


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
