"""Proof that pruning removed nothing else: the original with the removed units at zero gives the same outputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeprune.checkpoint import SMALLEST_PX, input_channels
from edgeprune.errors import NOT_OF_THE_INPUT, StageError, first_line
from edgeprune.pruning.copies import copy_sharing_weights, output_tensors, set_raw_outputs
from edgeprune.pruning.group import weight_axis
from edgeprune.pruning.structure import Structure
from edgeprune.quiet import one_thread

LARGEST_ERROR = 1e-4  # float32 sums in another order give about 1e-6; wrong channels 1e-3 and more


@contextmanager
def single_thread() -> Iterator[None]:
    """Run small images on one thread: on a busy machine, waiting for a second one costs more than it computes."""
    with one_thread():  # here of Python's: two that overlap would leave the process with one of torch's
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@torch.no_grad()
def masked_outputs(model: nn.Module, structure: Structure, keep: np.ndarray, image: torch.Tensor) -> list[torch.Tensor]:
    """Raw head maps of the original model with every removed unit held at zero: what pruning must reproduce.

    Outputs are masked as they come, so no second set of weights is held.
    """
    copy: Any = set_raw_outputs(copy_sharing_weights(model))
    for slot in structure.trace.slots.values():
        mask = keep[structure.unit[slot.labels]]
        if slot.kind != "in" and not mask.all():
            module, (_, _, parameter) = copy.get_submodule(slot.module), slot.kind.partition(":")
            if parameter:
                values = getattr(module, parameter)
                setattr(module, parameter, nn.Parameter(_zero_removed(values, mask, 0), values.requires_grad))
            else:
                module.register_forward_hook(lambda module, inputs, output, mask=mask: _zero_removed(output, mask, 1))
    return output_tensors(copy(image))


def masked_parameters(model: nn.Module, structure: Structure, keep: np.ndarray) -> dict[str, torch.Tensor]:
    """The parameters that make removed units, with zeros in place of those units; by name, only those that change."""
    parameters: dict[str, torch.Tensor] = dict(model.named_parameters())
    masked: dict[str, torch.Tensor] = {}
    for slot in structure.trace.slots.values():
        mask = keep[structure.unit[slot.labels]]
        if slot.kind != "in" and not mask.all():
            for key in ("weight", "bias") if ":" not in slot.kind else (slot.kind.partition(":")[2],):
                name = f"{slot.module}.{key}"
                if name in parameters:
                    tensor = masked.get(name, parameters[name]).detach()
                    axis = weight_axis(model.get_submodule(slot.module), slot.kind) if tensor.ndim > 1 else 0
                    masked[name] = _zero_removed(tensor, mask, axis)
    return masked


def _zero_removed(tensor: torch.Tensor, mask: np.ndarray, axis: int) -> torch.Tensor:
    """A tensor with zeros along one axis wherever the mask is False."""
    shape = [1] * tensor.ndim
    shape[axis] = -1
    return tensor * torch.from_numpy(mask).to(tensor).reshape(shape)


@torch.no_grad()
def raw_outputs(model: nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    """Raw head maps of a model, without touching it."""
    return output_tensors(set_raw_outputs(copy_sharing_weights(model))(image))


def largest_difference(first: list[torch.Tensor], second: list[torch.Tensor]) -> float:
    """Largest difference relative to how far the values vary over positions; infinite when the shapes differ.

    The maps' biases are much larger than what varies, so a difference relative to the values would hide a lost
    channel; a fiftieth of the values is added so that rounding of a nearly constant map is not taken for one.
    """
    if [tensor.shape for tensor in first] != [tensor.shape for tensor in second] or not first:
        return float("inf")
    worst = 0.0
    for a, b in zip(first, second, strict=True):
        centre = a.flatten(2).mean(2, keepdim=True) if a.ndim > 2 else a.mean()
        spread = (a.flatten(2) - centre if a.ndim > 2 else a - centre).abs().max()
        error = float((a - b).abs().max() / (spread + 0.02 * a.abs().max()).clamp_min(1e-12))
        if error != error:  # not a number on either side
            return float("inf")
        worst = max(worst, error)
    return worst


def check_image(model: nn.Module) -> torch.Tensor:
    """A fixed noise image of :data:`SMALLEST_PX` pixels."""
    generator = torch.Generator().manual_seed(0)
    size = max(SMALLEST_PX, int(max(getattr(model, "stride", torch.tensor([32])))))
    image = torch.rand(1, input_channels(model), size, size, generator=generator)
    return image.to(next(model.parameters()))


def check_forward(model: nn.Module, image: torch.Tensor) -> None:
    """Raise StageError unless the model's ordinary evaluation pass runs on the image and gives finite numbers."""
    copy = copy_sharing_weights(model).eval()  # the head keeps anchors of the last image; the model itself must not
    try:
        with torch.no_grad():
            outputs = output_tensors(copy(image))
    except NOT_OF_THE_INPUT:
        raise
    except Exception as error:
        raise StageError(
            f"the pruned model's forward pass fails: {type(error).__name__}: {first_line(error)}"
        ) from error
    if not all(torch.isfinite(tensor).all() for tensor in outputs):
        raise StageError("the pruned model gives numbers that are not finite")
