"""A group of channels as a criterion reads it: every layer they run through, and the weights that belong to each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeprune.pruning.channels import Slot
from edgeprune.pruning.structure import Part, Structure


def weight_axis(module: nn.Module, kind: str) -> int:
    """Axis of a convolution's or linear layer's weight that its channels lie along: ``out``, ``in`` or ``depthwise``.

    With groups of several channels axis 1 holds those of one group alone.
    """
    if kind == "depthwise":  # of shape (channels, 1, height, width) in either direction
        return 0
    return int((kind == "in") != isinstance(module, nn.ConvTranspose2d))


@dataclass(frozen=True)
class GroupSlot:
    """One place where a group's channels occur.

    Attributes:
        module: the layer.
        kind: ``out``, ``in``, ``depthwise``, ``norm`` or ``param:<name>``, as in
            :class:`~edgeprune.pruning.channels.Slot`.
        positions: int64 of shape (channels, occurrences): where along the axis each channel sits.
    """

    module: Any
    kind: str
    positions: np.ndarray

    @property
    def is_norm(self) -> bool:
        """Whether this is a normalisation layer."""
        return self.kind == "norm"

    @cached_property
    def weight(self) -> torch.Tensor:
        """Float32 of shape (channels, everything else): the weights that belong to each channel."""
        tensor = getattr(self.module, self.kind.partition(":")[2] or "weight").detach().float()
        if tensor.ndim > 1 and weight_axis(self.module, self.kind) == 1:
            tensor = tensor.transpose(0, 1)
        channels = len(self.positions)
        return tensor[torch.from_numpy(self.positions.ravel())].reshape(channels, -1)


@dataclass(frozen=True)
class Group:
    """Channels that are kept or removed one by one, with every weight that goes with them.

    Attributes:
        name: name of the part.
        slots: where they occur; pinned occurrences too.
        gradients: float32 of shape (batches, channels): derivative of each calibration batch's loss by a factor on
            each channel (1 = as it is); None without batches.
        generator: seeded per group.
    """

    name: str
    slots: list[GroupSlot]
    gradients: torch.Tensor | None
    generator: torch.Generator

    @property
    def layers(self) -> list[GroupSlot]:
        """The slots that are convolutions or linear layers."""
        return [slot for slot in self.slots if slot.kind in ("out", "in", "depthwise")]

    @property
    def channels(self) -> int:
        """How many channels there are to score."""
        return len(self.slots[0].positions)


def group_of(
    structure: Structure,
    modules: Mapping[str, nn.Module],
    part: Part,
    *,
    gradients: torch.Tensor | None,
    generator: torch.Generator,
) -> Group:
    """Gather a part's slots from a model's modules, by name, but those that do not ship; the rest as in
    :class:`Group`."""
    slots = []
    for name in part.members:
        if name in structure.training_only:
            continue
        kinds = [f"param:{key}" for key, _ in modules[name].named_parameters(recurse=False)]
        for kind in ("out", "in", "depthwise", "norm", *kinds):
            slot = structure.trace.slots.get((name, kind))
            if slot is not None:
                positions = _positions(slot, structure.unit, part.units)
                if positions.size:
                    slots.append(GroupSlot(modules[name], kind, positions))
    return Group(part.name, slots, gradients, generator)


def _positions(slot: Slot, unit: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Positions of every unit along a slot's axis: shape (units, occurrences)."""
    rank = np.full(int(unit.max()) + 1, -1, dtype=np.int64)
    rank[units] = np.arange(len(units))
    ranks = rank[unit[slot.labels]]
    at = np.flatnonzero(ranks >= 0)
    return at[np.argsort(ranks[at], kind="stable")].reshape(len(units), -1) if len(at) else np.zeros((0, 0), np.int64)
