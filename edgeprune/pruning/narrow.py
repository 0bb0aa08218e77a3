"""Cut a model down to the units that a plan keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeprune.pruning.channels import Labels
from edgeprune.pruning.copies import copy_without_criterion
from edgeprune.pruning.group import weight_axis
from edgeprune.pruning.rules import ATTENTION, rewrite_repeated_widths, rewrite_split
from edgeprune.pruning.structure import Structure


def narrow_model(model: nn.Module, structure: Structure, keep: np.ndarray) -> nn.Module:
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
        at = {kind: structure.kept_positions(slot, keep) for (owner, kind), slot in slots.items() if owner == name}
        for key, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            cut = _kept_part(module, key, tensor, at)
            memo[id(tensor)] = nn.Parameter(cut, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else cut
    result = copy_without_criterion(model, memo)

    def kept_mask(labels: Labels) -> np.ndarray:
        return keep[structure.unit[labels]]

    modules = dict(result.named_modules())
    for name in dict.fromkeys(name for name, _ in slots):
        _rewrite_layer(modules[name])
    for split in structure.trace.splits:
        rewrite_split(modules[split.owner], [int(kept_mask(labels).sum()) for labels in split.parts])
    for name, module in modules.items():
        rewrite_repeated_widths(module)
        rule = ATTENTION.get(type(module).__name__)
        if rule is not None and (f"{name}.qkv.conv", "out") in slots:
            rule.rewrite(module, slots[f"{name}.qkv.conv", "out"].labels, kept_mask)
    return result


def _kept_part(module: nn.Module, key: str, tensor: torch.Tensor, at: Mapping[str, np.ndarray]) -> torch.Tensor:
    """One parameter or buffer, cut along the axes that carry channels."""
    data = tensor.detach()
    if f"param:{key}" in at:
        return data[at[f"param:{key}"]].clone()
    outputs = next((at[kind] for kind in ("out", "depthwise", "norm") if kind in at), None)
    if outputs is None or data.ndim == 0:  # num_batches_tracked
        return data.clone()
    if key != "weight" or data.ndim == 1 or "in" not in at:
        return data[outputs].clone()
    first, second = (outputs, at["in"]) if weight_axis(module, "out") == 0 else (at["in"], outputs)
    if module_groups(module) > 1:  # grouped convolutions are pinned on both sides
        return data.clone()
    return data[torch.from_numpy(first)][:, torch.from_numpy(second)].contiguous()


def shapes_for_widths(model: nn.Module, structure: Structure, widths: np.ndarray) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter and buffer once every dimension has its width; no weights are touched."""
    shapes = {name: list(tensor.shape) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    modules = dict(model.named_modules())
    for (name, kind), slot in structure.trace.slots.items():
        module, width = modules[name], round(float(structure.width_shares(slot.labels) @ widths))
        if kind.startswith("param:"):
            shapes[f"{name}.{kind.partition(':')[2]}"] = [width]
            continue
        keys = ("weight",) if kind == "in" else ("weight", "bias", "running_mean", "running_var")
        for shape in (shapes[f"{name}.{key}"] for key in keys if f"{name}.{key}" in shapes):
            axis = weight_axis(module, kind) if len(shape) > 1 else 0
            shape[axis] = width // (module_groups(module) if axis else 1)
    return {name: tuple(shape) for name, shape in shapes.items()}


def module_groups(module: Any) -> int:
    """Groups of a convolution, 1 for anything else."""
    return getattr(module, "groups", 1)


def _rewrite_layer(module: Any) -> None:
    """Make a layer's own numbers agree with its weight."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        first, second = module.weight.shape[:2]
        if module.groups == module.in_channels == module.out_channels:
            module.groups = module.in_channels = module.out_channels = first
        elif weight_axis(module, "out") == 0:
            module.out_channels, module.in_channels = first, second * module.groups
        else:
            module.in_channels, module.out_channels = first, second * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.num_features = len(module.weight)
