"""Groups of channels as Torch-Pruning's importance classes read them, and their scores.

Torch-Pruning (https://github.com/VainF/Torch-Pruning) finds a group by walking autograd graphs; here the group comes
from our own trace, and only what Torch-Pruning computes from a group is used. The adapter builds its real ``Group`` of
real ``Dependency`` objects, so that any object of :mod:`torch_pruning.pruner.importance` can score it, one written by
a user too. These groups are for scoring: they belong to no dependency graph, so their ``prune`` does not work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgeprune.errors import NOT_OF_THE_INPUT, StageError, TargetError
from edgeprune.pruning.group import Group, GroupSlot

Estimator = Callable[[tp.Group], Any]


def torch_pruning_group(group: Group) -> tp.Group:
    """A group in Torch-Pruning's form: the layer that makes the channels first, then the others in order of execution.

    A channel can occur several times along one axis: a map that is concatenated four times, a query and its key. Each
    occurrence becomes an item of its own, so that every item has each channel exactly once, which the reductions of
    Torch-Pruning need; ``mean`` is then the mean over occurrences. Torch-Pruning itself makes one item of a layer and
    adds occurrences up. For magnitudes the two differ by a constant factor, which normalising within the group takes
    out again; FPGM tells them apart: here it measures distances among the columns of one occurrence.

    Returns:
        Items whose ``idxs`` are positions along the layer's axis, ascending, and whose ``root_idxs`` say which of the
        group's channels, 0 to ``group.channels - 1``, sits there.

    Raises:
        StageError: a layer that Torch-Pruning has no pruning function for.
    """
    slots = sorted(group.slots, key=lambda slot: slot.kind not in ("out", "depthwise"))[:1]
    slots += [slot for slot in group.slots if slot is not slots[0]]
    result = tp.Group()
    nodes: dict[int, tp.Node] = {}
    root = None
    for slot in slots:
        layer = _layer_of(slot)
        node = nodes.setdefault(id(layer), tp.Node(layer, None))
        function = _pruning_function(slot, layer)
        root = root or (node, function)
        for column in slot.positions.T:
            order = np.argsort(column)
            result.add_dep(tp.Dependency(root[1], function, source=root[0], target=node), column[order].tolist())
            result[-1].root_idxs = order.tolist()
    return result


def torch_pruning_scores(estimator: Estimator, group: Group) -> torch.Tensor | None:
    """What a Torch-Pruning importance object makes of a group; float of shape (channels,).

    Random numbers that it draws come from the group's generator, and torch's own are left as they were. A group whose
    weights are all zero, which normalising would turn into 0 / 0, scores zero.

    Returns:
        None where the object finds no layer in the group that it can read.

    Raises:
        TargetError: it failed, or did not give one number per channel.
    """
    adapted = torch_pruning_group(group)
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(group.generator.get_state())
        try:
            scores = estimator(adapted)
        except NOT_OF_THE_INPUT:
            raise
        except Exception as error:  # a user's object, or one of Torch-Pruning's that was not made ready
            raise TargetError(
                f"{type(estimator).__name__} cannot score {group.name}: {type(error).__name__}: {error}; one that "
                "reads gradients needs a backward pass on the model before"
            ) from error
        group.generator.set_state(torch.get_rng_state())
    if scores is None:
        return None
    if not isinstance(scores, torch.Tensor) or scores.shape != (group.channels,):
        seen = f"shape {tuple(scores.shape)}" if isinstance(scores, torch.Tensor) else f"a {type(scores).__name__}"
        raise TargetError(
            f"{type(estimator).__name__} gave {seen} for {group.name}; an importance gives one number for each of its "
            f"{group.channels} channels: check group_reduction"
        )
    scores = scores.detach().float()
    return scores.masked_fill(scores.isnan(), 0.0)


def _layer_of(slot: GroupSlot) -> Any:
    _, _, parameter = slot.kind.partition(":")
    return getattr(slot.module, parameter) if parameter else slot.module


def _pruning_function(slot: GroupSlot, layer: Any) -> Any:
    """The pruning function by which importance classes tell what a layer has to do with the channels."""
    if isinstance(layer, nn.Parameter):
        return tp.prune_parameter_out_channels
    if isinstance(layer, _BatchNorm):
        return tp.prune_batchnorm_out_channels
    if slot.kind == "depthwise":
        return tp.prune_depthwise_conv_out_channels
    if isinstance(layer, nn.Linear):
        return tp.prune_linear_out_channels if slot.kind == "out" else tp.prune_linear_in_channels
    if isinstance(layer, nn.modules.conv._ConvNd):
        return tp.prune_conv_out_channels if slot.kind == "out" else tp.prune_conv_in_channels
    raise StageError(f"Torch-Pruning has no pruning function for a {type(layer).__name__} that carries {slot.kind}")
