"""Cut a model down to the units that a plan keeps, and prove that nothing but the removed units is missing."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeprune.errors import StageError
from edgeprune.pruning.channels import Labels
from edgeprune.pruning.rules import ATTENTION, rewrite_noted_widths, rewrite_split
from edgeprune.pruning.structure import Structure
from edgeprune.pruning.trace import input_channels, raw_head, twin_of

CHECK_PX = 64  # side of the images that outputs are compared on: the smallest that every stride 32 and 64 model takes


def narrowed(model: nn.Module, structure: Structure, keep: np.ndarray) -> nn.Module:
    """A new model of the same classes that holds only the kept units; the given one is not touched.

    Args:
        model: the model that ``structure`` was traced from.
        keep: one boolean per unit.
    """
    memo: dict[int, Any] = {}
    modules: dict[str, Any] = dict(model.named_modules())
    slots = structure.trace.slots
    for name in dict.fromkeys(name for name, _ in slots):
        module = modules[name]
        at = {kind: structure.span(slot, keep) for (owner, kind), slot in slots.items() if owner == name}
        for key, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            cut = _cut(module, key, tensor, at)
            memo[id(tensor)] = nn.Parameter(cut, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else cut
    if getattr(model, "criterion", None) is not None:
        memo[id(model.criterion)] = None
    result = copy.deepcopy(model, memo)

    def kept(labels: Labels) -> np.ndarray:
        return keep[structure.unit[labels]]

    modules = dict(result.named_modules())
    for name in dict.fromkeys(name for name, _ in slots):
        _rewrite_layer(modules[name])
    for split in structure.trace.splits:
        rewrite_split(modules[split.owner], [int(kept(labels).sum()) for labels in split.parts])
    for name, module in modules.items():
        rewrite_noted_widths(module)
        rule = ATTENTION.get(type(module).__name__)
        if rule is not None and (f"{name}.qkv.conv", "out") in slots:
            rule.rewrite(module, slots[f"{name}.qkv.conv", "out"].labels, kept)
    return result


def _cut(module: nn.Module, key: str, tensor: torch.Tensor, at: Mapping[str, np.ndarray]) -> torch.Tensor:
    """One parameter or buffer, cut along the axes that carry channels."""
    data = tensor.detach()
    if f"param:{key}" in at:
        return data[at[f"param:{key}"]].clone()
    outputs = next((at[kind] for kind in ("out", "depthwise", "norm") if kind in at), None)
    if outputs is None or data.ndim == 0:  # num_batches_tracked
        return data.clone()
    if key != "weight" or data.ndim == 1:
        return data[outputs].clone()
    if "in" not in at:
        return data[outputs].clone()
    first, second = (at["in"], outputs) if isinstance(module, nn.ConvTranspose2d) else (outputs, at["in"])
    if module_groups(module) > 1:  # grouped convolutions are pinned on both sides
        return data.clone()
    return data[torch.from_numpy(first)][:, torch.from_numpy(second)].contiguous()


def shapes_after(model: nn.Module, structure: Structure, widths: np.ndarray) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter and buffer once every dimension has its width; no weights are touched."""
    shapes = {name: list(tensor.shape) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    modules = dict(model.named_modules())
    for (name, kind), slot in structure.trace.slots.items():
        module, width = modules[name], round(float(structure.expression(slot.labels) @ widths))
        transposed = isinstance(module, nn.ConvTranspose2d)
        if kind.startswith("param:"):
            shapes[f"{name}.{kind.partition(':')[2]}"] = [width]
        elif kind == "in":
            shapes[f"{name}.weight"][0 if transposed else 1] = width // (1 if transposed else module_groups(module))
        else:
            for key in ("weight", "bias", "running_mean", "running_var"):
                if f"{name}.{key}" in shapes:
                    shape = shapes[f"{name}.{key}"]
                    shape[1 if transposed and len(shape) > 1 else 0] = width
    return {name: tuple(shape) for name, shape in shapes.items()}


def module_groups(module: Any) -> int:
    """Groups of a convolution, 1 for anything else."""
    return getattr(module, "groups", 1)


def _rewrite_layer(module: Any) -> None:
    """Make a layer's own numbers agree with its weight."""
    if isinstance(module, nn.ConvTranspose2d):
        module.in_channels, module.out_channels = module.weight.shape[:2]
    elif isinstance(module, nn.Conv2d):
        depthwise = module.groups == module.in_channels == module.out_channels
        module.out_channels = module.weight.shape[0]
        if depthwise:
            module.groups = module.in_channels = module.out_channels
        else:
            module.in_channels = module.weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.num_features = len(module.weight)


@contextmanager
def single_thread() -> Iterator[None]:
    """Run small images on one thread: on a busy machine, waiting for a second one costs more than it computes."""
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
    twin: Any = raw_head(twin_of(model))
    for slot in structure.trace.slots.values():
        mask = keep[structure.unit[slot.labels]]
        if slot.kind != "in" and not mask.all():
            module, (_, _, parameter) = twin.get_submodule(slot.module), slot.kind.partition(":")
            if parameter:
                own = getattr(module, parameter)
                setattr(module, parameter, nn.Parameter(_masked(own, mask, 0), own.requires_grad))
            else:
                module.register_forward_hook(lambda module, inputs, output, mask=mask: _masked(output, mask, 1))
    return tensors_of(twin(image))


def masked_state(model: nn.Module, structure: Structure, keep: np.ndarray) -> dict[str, torch.Tensor]:
    """The parameters that put removed units out, with zeros in their place; by name, only those that change."""
    own: dict[str, torch.Tensor] = dict(model.named_parameters())
    state: dict[str, torch.Tensor] = {}
    for slot in structure.trace.slots.values():
        mask = keep[structure.unit[slot.labels]]
        if slot.kind != "in" and not mask.all():
            for key in ("weight", "bias") if ":" not in slot.kind else (slot.kind.partition(":")[2],):
                name = f"{slot.module}.{key}"
                if name in own:
                    tensor = state.get(name, own[name]).detach()
                    transposed = tensor.ndim > 1 and isinstance(model.get_submodule(slot.module), nn.ConvTranspose2d)
                    state[name] = _masked(tensor, mask, 1 if transposed else 0)
    return state


def _masked(tensor: torch.Tensor, mask: np.ndarray, axis: int) -> torch.Tensor:
    shape = [1] * tensor.ndim
    shape[axis] = -1
    return tensor * torch.from_numpy(mask).to(tensor).reshape(shape)


@torch.no_grad()
def raw_outputs(model: nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    """Raw head maps of a model, without touching it."""
    return tensors_of(raw_head(twin_of(model))(image))


def tensors_of(output: Any) -> list[torch.Tensor]:
    """All tensors of a nested output but the head's inputs, in order."""
    if isinstance(output, torch.Tensor):
        return [output]
    if isinstance(output, Mapping):
        return [tensor for key, value in output.items() if key != "feats" for tensor in tensors_of(value)]
    if isinstance(output, (list, tuple)):
        return [tensor for value in output for tensor in tensors_of(value)]
    return []


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
    """A fixed noise image of :data:`CHECK_PX` pixels."""
    generator = torch.Generator().manual_seed(0)
    size = max(CHECK_PX, int(max(getattr(model, "stride", torch.tensor([32])))))
    image = torch.rand(1, input_channels(model), size, size, generator=generator)
    return image.to(next(model.parameters()))


def check_forward(model: nn.Module, image: torch.Tensor) -> None:
    """Raise StageError unless the model's ordinary evaluation pass runs on the image and gives finite numbers."""
    twin = twin_of(model).eval()  # the head keeps anchors of the last image; the model itself must not
    try:
        with torch.no_grad():
            outputs = tensors_of(twin(image))
    except Exception as error:
        raise StageError(
            f"the pruned model's forward pass fails: {type(error).__name__}: {str(error).splitlines()[0]}"
        ) from error
    if not all(torch.isfinite(tensor).all() for tensor in outputs):
        raise StageError("the pruned model gives numbers that are not finite")
