"""What the loss says about each channel: derivatives by a factor on every channel, from labelled batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeprune.errors import DataError
from edgeprune.pruning.structure import Structure
from edgeprune.pruning.trace import raw_head

Batch = Mapping[str, Any]


def loss_of(model: Any, batch: Batch) -> torch.Tensor:
    """The training loss of one Ultralytics batch in evaluation mode (batch statistics stay as they are).

    Args:
        model: from :func:`loss_model`.
        batch: ``img`` as float32 0 to 1 of shape (images, 3, height, width), and the task's labels
            (``cls``, ``bboxes``, ``batch_idx``, … as Ultralytics' collate function makes them).
    """
    first = next(model.parameters())
    batch = {key: value.to(first.device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
    batch["img"] = batch["img"].to(first.dtype)
    loss, _ = model.loss(batch, model(batch["img"]))
    return loss.sum()


@torch.no_grad()
def mean_loss(ready: Any, batches: Sequence[Batch]) -> float:
    """Loss per image, mean over batches; arguments as in :func:`loss_of`."""
    return sum(float(loss_of(ready, batch)) / len(batch["img"]) for batch in batches) / len(batches)


def loss_model(model: nn.Module) -> Any:
    """A copy of a model that can compute its loss: raw head outputs, gradients on, a fresh loss object."""
    import copy

    from ultralytics.cfg import get_cfg

    memo: dict[int, Any] = {}
    if getattr(model, "criterion", None) is not None:
        memo[id(model.criterion)] = None
    result: Any = raw_head(copy.deepcopy(model, memo))
    result.criterion = None
    result.args = get_cfg(overrides={})  # the loss reads its gains here; training's own gains do not matter for ranks
    return result


def gate_gradients(model: nn.Module, structure: Structure, batches: Iterable[Batch]) -> np.ndarray:
    """Derivative of each batch's loss by a factor on each unit's output; float32 of shape (batches, units).

    A factor on a channel is a common factor on its normalisation's scale and shift, or, where there is none, on its
    convolution's weights and bias; several makers (a residual sum) add up.

    Raises:
        DataError: there was no batch, or the loss was not finite.
    """
    ready = loss_model(model)
    for parameter in ready.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    modules = dict(ready.named_modules())
    norms = {name for name, kind in structure.trace.slots if kind == "norm"}
    makers = [
        (modules[slot.module], structure.unit[slot.labels])
        for (name, kind), slot in structure.trace.slots.items()
        if kind == "norm" or (kind in ("out", "depthwise") and name.removesuffix(".conv") + ".bn" not in norms)
    ]
    rows = []
    for batch in batches:
        ready.zero_grad(set_to_none=True)
        loss = loss_of(ready, batch)
        if not torch.isfinite(loss):
            raise DataError(f"the loss of calibration batch {len(rows)} is {float(loss)}; check the labels")
        loss.backward()
        row = np.zeros(int(structure.unit.max()) + 1, dtype=np.float32)
        for module, units in makers:
            np.add.at(row, units, _gate(module))
        rows.append(row)
    if not rows:
        raise DataError("there is no calibration batch; pass at least one labelled batch")
    return np.stack(rows)


@torch.no_grad()
def _gate(module: Any) -> np.ndarray:
    """Derivative by a factor on each output channel of one layer."""
    total = torch.zeros(getattr(module, "num_features", None) or module.weight.shape[_axis(module)])
    for parameter in (module.weight, module.bias):
        if parameter is not None and parameter.grad is not None:
            product = (parameter * parameter.grad).float().cpu()
            total += product.movedim(_axis(module) if product.ndim > 1 else 0, 0).reshape(len(total), -1).sum(1)
    return total.numpy()


def _axis(module: nn.Module) -> int:
    return 1 if isinstance(module, nn.ConvTranspose2d) else 0
