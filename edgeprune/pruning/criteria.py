"""How much each channel matters: a small registry of criteria over groups of channels.

A criterion is a function from a :class:`Group` to one score per channel, larger is more important. Ten lines add one::

    @importance("max_weight")
    def max_weight(group):
        return torch.stack([slot.weight.abs().amax(1) for slot in group.slots]).mean(0)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeprune.errors import TargetError
from edgeprune.pruning.channels import Slot
from edgeprune.pruning.structure import Part, Structure


@dataclass(frozen=True)
class GroupSlot:
    """One place where a group's channels occur.

    Attributes:
        module: the layer.
        kind: ``out``, ``in``, ``depthwise`` or ``norm``, as in :class:`~edgeprune.pruning.channels.Slot`.
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
        transposed = isinstance(self.module, nn.ConvTranspose2d)
        if tensor.ndim > 1 and (self.kind == "in") != transposed:
            tensor = tensor.transpose(0, 1)
        channels = len(self.positions)
        return tensor[torch.from_numpy(self.positions.ravel())].reshape(channels, -1)


@dataclass(frozen=True)
class Group:
    """Channels that are kept or removed one by one, with every weight that goes with them.

    Attributes:
        name: name of the part.
        slots: where they occur; pinned occurrences too.
        gates: float32 of shape (batches, channels): derivative of the loss by a factor on each channel (1 = as it is),
            one row per calibration batch; None without batches.
        generator: seeded per group.
    """

    name: str
    slots: list[GroupSlot]
    gates: torch.Tensor | None
    generator: torch.Generator

    @property
    def layers(self) -> list[GroupSlot]:
        """The slots that are convolutions or linear layers."""
        return [slot for slot in self.slots if slot.kind in ("out", "in", "depthwise")]

    @property
    def channels(self) -> int:
        """How many channels there are to score."""
        return len(self.slots[0].positions)


Score = Callable[[Group], torch.Tensor]


@dataclass(frozen=True)
class Importance:
    """A registered criterion."""

    name: str
    score: Score
    needs_batches: bool
    summary: str


REGISTRY: dict[str, Importance] = {}


def importance(name: str, *, needs_batches: bool = False) -> Callable[[Score], Score]:
    """Register a criterion under a name; the first line of its docstring is its description."""

    def register(score: Score) -> Score:
        summary = (score.__doc__ or name).strip().splitlines()[0]
        REGISTRY[name] = Importance(name, score, needs_batches, summary)
        return score

    return register


def importance_named(name: str) -> Importance:
    """Look a criterion up; TargetError names what there is."""
    if name not in REGISTRY:
        raise TargetError(f"unknown importance '{name}'; choose one of {', '.join(sorted(REGISTRY))}")
    return REGISTRY[name]


def group_of(structure: Structure, modules: dict[str, nn.Module], part: Part, **rest: Any) -> Group:
    """Gather a part's slots from a model's modules."""
    slots = []
    for name in part.members:
        for kind in ("out", "in", "depthwise", "norm"):
            slot = structure.trace.slots.get((name, kind))
            if slot is not None:
                positions = _positions(slot, structure.unit, part.units)
                if positions.size:
                    slots.append(GroupSlot(modules[name], kind, positions))
    return Group(part.name, slots, **rest)


def _positions(slot: Slot, unit: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Positions of every unit along a slot's axis: shape (units, occurrences)."""
    rank = np.full(int(unit.max()) + 1, -1, dtype=np.int64)
    rank[units] = np.arange(len(units))
    ranks = rank[unit[slot.labels]]
    at = np.flatnonzero(ranks >= 0)
    return at[np.argsort(ranks[at], kind="stable")].reshape(len(units), -1) if len(at) else np.zeros((0, 0), np.int64)


def _mean(scores: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(scores).mean(0)


@importance("random")
def random(group: Group) -> torch.Tensor:
    """Uniform noise: the floor that every other criterion has to beat."""
    return torch.rand(group.channels, generator=group.generator)


@importance("l1")
def l1(group: Group) -> torch.Tensor:
    """Sum of absolute weights, mean over the layers of a group, relative to the group's mean."""
    return _relative(_mean([slot.weight.abs().sum(1) for slot in group.layers]))


@importance("l2")
def l2(group: Group) -> torch.Tensor:
    """Sum of squared weights, mean over the layers of a group, relative to the group's mean."""
    return _relative(_mean([slot.weight.square().sum(1) for slot in group.layers]))


@importance("lamp")
def lamp(group: Group) -> torch.Tensor:
    """Squared weights over the sum of all squared weights that are not smaller (LAMP, arXiv 2010.07611)."""
    return _lamp(_mean([slot.weight.square().sum(1) for slot in group.layers]))


@importance("bn_scale")
def bn_scale(group: Group) -> torch.Tensor:
    """Absolute scale of the batch normalisation (network slimming, arXiv 1708.06519); for one global threshold."""
    norms = [slot.weight.abs().mean(1) for slot in group.slots if slot.is_norm]
    return _mean(norms) if norms else l1(group)


@importance("fpgm")
def fpgm(group: Group) -> torch.Tensor:
    """Distance to the other filters of a layer (geometric median, arXiv 1811.00250), relative to the group's mean."""
    return _relative(_mean([torch.cdist(slot.weight, slot.weight).sum(1) for slot in group.layers]))


@importance("taylor", needs_batches=True)
def taylor(group: Group) -> torch.Tensor:
    """First-order change of the loss when a channel goes, mean of its size over batches (arXiv 1906.10771)."""
    return _gates(group).abs().mean(0)


@importance("fisher", needs_batches=True)
def fisher(group: Group) -> torch.Tensor:
    """Mean square of that derivative: the diagonal of the empirical Fisher matrix (group Fisher, arXiv 2108.00708)."""
    return _gates(group).square().mean(0)


def _gates(group: Group) -> torch.Tensor:
    if group.gates is None:
        raise TargetError("this importance needs calibration batches: pass batches=, or --data on the command line")
    return group.gates


def _relative(scores: torch.Tensor) -> torch.Tensor:
    return scores / scores.mean().clamp_min(1e-12)


def _lamp(scores: torch.Tensor) -> torch.Tensor:
    order = torch.argsort(scores, descending=True)
    result = torch.empty_like(scores)
    result[order] = scores[order] / scores[order].cumsum(0).clamp_min(1e-20)
    return result
