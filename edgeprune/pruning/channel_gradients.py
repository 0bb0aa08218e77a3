"""Derivatives of the loss by a factor on each channel, which ``taylor`` and ``fisher`` rank by."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeprune.errors import DataError
from edgeprune.progress import Progress, silent
from edgeprune.pruning.batches import Batch
from edgeprune.pruning.loss import loss_backward, loss_model
from edgeprune.pruning.structure import Structure


def channel_gradients(
    model: nn.Module,
    structure: Structure,
    batches: Iterable[Batch],
    *,
    head: str = "auto",
    progress: Progress = silent,
) -> np.ndarray:
    """Derivative of each batch's loss by a factor on each unit's output; float32 of shape (batches, units).

    A factor on a channel is a common factor on its normalisation's scale and shift, or, where none reads what its
    convolution gives, on that convolution's weights and bias; several makers (a residual sum) add up. Of two heads it
    is the loss of the one that ships with ``head``. A batch is one sample, a row, also where its images do not pass
    together (:func:`~edgeprune.pruning.loss.loss_backward`).

    Raises:
        DataError: there was no batch, or the loss was not finite.
    """
    differentiable = loss_model(model, head)
    for parameter in differentiable.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    modules = dict(differentiable.named_modules())
    makers = [
        (modules[slot.module], structure.unit[slot.labels])
        for key, slot in structure.trace.slots.items()
        if slot.kind == "norm" or (slot.kind in ("out", "depthwise") and key not in structure.trace.normalised)
    ]
    rows = []
    for batch in batches:
        progress(f"ranking channels: images of batch {len(rows) + 1}", done=len(rows), total=_count(batches))
        differentiable.zero_grad(set_to_none=True)
        loss = loss_backward(differentiable, batch)
        if not torch.isfinite(loss):
            raise DataError(f"the loss of calibration batch {len(rows)} is {float(loss)}; check the labels")
        row = np.zeros(int(structure.unit.max()) + 1, dtype=np.float32)
        for module, units in makers:
            np.add.at(row, units, _layer_gradient(module))
        rows.append(row)
    if not rows:
        raise DataError("there is no calibration batch; pass at least one labelled batch")
    return np.stack(rows)


def _count(batches: Iterable[Batch]) -> int:
    return len(batches) if isinstance(batches, Sized) else 0


@torch.no_grad()
def _layer_gradient(module: Any) -> np.ndarray:
    """Derivative by a factor on each output channel of one layer, from the gradients of its weights."""
    transposed = isinstance(module, nn.ConvTranspose2d)
    total = torch.zeros(module.out_channels if transposed else module.weight.shape[0])
    for parameter in (module.weight, module.bias):
        if parameter is not None and parameter.grad is not None:
            product = (parameter * parameter.grad).float().cpu()
            if transposed and product.ndim > 1:  # (inputs, outputs of a group, ...): a group's outputs lie together
                product = product.unflatten(0, (module.groups, -1)).movedim(1, 2).flatten(0, 1)
            total += product.reshape(len(total), -1).sum(1)
    return total.numpy()
