"""What a stock block keeps about its widths outside its parameters, and the two attention blocks.

Everything here is a fact about one Ultralytics class. A new class that is not listed is still pruned wherever its
channels can be followed; only the channels behind a size it keeps in an attribute stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeprune.pruning.channels import Cost, Labels, Split, Trace

KeptMask = Callable[[Labels], np.ndarray]  # labels to booleans: which of them stay

# Blocks that keep the width of one half in ``c`` (their ``forward`` or ``forward_split`` cuts by it).
_CUT_IN_HALVES = {"C2", "C2f", "C3k2", "C2fCIB", "C2fPSA", "C2fAttn", "C2PSA", "PSA", "RepNCSPELAN4", "ELAN1"}
# Blocks that keep a list of the widths they cut into.
_CUT_BY_LIST = {"CBLinear": "c2s"}


def splits_by_attribute(module: nn.Module) -> str:
    """Name of the attribute by which a block cuts its channels; empty when it is not known."""
    name = type(module).__name__
    return "c" if name in _CUT_IN_HALVES else _CUT_BY_LIST.get(name, "")


def rewrite_split(module: Any, widths: list[int]) -> None:
    """Tell a block the new widths of what it cuts."""
    attribute = splits_by_attribute(module)
    if attribute == "c":
        setattr(module, attribute, widths[0])
    elif attribute:
        setattr(module, attribute, list(widths))


def rewrite_repeated_widths(module: Any) -> None:
    """``RepConv`` and ``RepVGGDW`` keep their widths a second time; ``fuse()`` leaves one convolution in either."""
    kind = type(module).__name__
    if kind == "RepConv":
        layer = module.conv1.conv if hasattr(module, "conv1") else module.conv
        module.c1, module.c2, module.g = layer.in_channels, layer.out_channels, layer.groups
    elif kind == "RepVGGDW":
        layer = module.conv if isinstance(module.conv, nn.Conv2d) else module.conv.conv
        module.dim = layer.out_channels


@dataclass(frozen=True)
class AttentionRule:
    """How channels run through one attention block, and how it is narrowed.

    Attributes:
        follow: ``(trace, name, module, input labels, positions)``; unites, ties and prices what is inside.
        rewrite: ``(module, labels of qkv's outputs, function from labels to their kept mask)``; sets the block's own
            numbers once its weights are cut.
    """

    follow: Callable[[Trace, str, nn.Module, Labels, int], None]
    rewrite: Callable[[nn.Module, Labels, KeptMask], None]


def _follow_attention(trace: Trace, name: str, module: Any, inputs: Labels, positions: int) -> None:
    """``Attention``: rows of ``qkv`` are heads of [key_dim, key_dim, head_dim]; the forward pass reshapes by them and
    by its input's width, so every head keeps equally many channels and head_dim x heads stays the input's width."""
    heads, key = module.num_heads, module.key_dim
    rows = trace.slots[f"{name}.qkv.conv", "out"].labels.reshape(heads, -1)
    query, keys, value = rows[:, :key].ravel(), rows[:, key : 2 * key].ravel(), rows[:, 2 * key :].ravel()
    trace.unite(query, keys)
    _join_value(trace, name, value)
    trace.splits.append(Split(name, [inputs, value], even=True))
    trace.head_rows += [(query, heads), (value, heads)]
    trace.costs += _attention_costs(name, query, value, positions * positions)


def _follow_area_attention(trace: Trace, name: str, module: Any, inputs: Labels, positions: int) -> None:
    """``AAttn`` (YOLO12): as above with one width for query, key and value, over ``area`` strips of the map."""
    heads = module.num_heads
    rows = trace.slots[f"{name}.qkv.conv", "out"].labels.reshape(heads, 3, -1)
    query, keys, value = (rows[:, part].ravel() for part in range(3))
    trace.unite(query, keys)
    _join_value(trace, name, value)
    trace.splits.append(Split(name, [query, value], even=True))
    trace.head_rows += [(query, heads), (value, heads)]
    trace.costs += _attention_costs(name, query, value, positions * positions / module.area)


def _join_value(trace: Trace, name: str, value: Labels) -> None:
    """The value's channels come out of the block's reshape as the channels of ``pe`` and ``proj``."""
    trace.unite(value, trace.slots[f"{name}.pe.conv", "depthwise"].labels)
    trace.unite(value, trace.slots[f"{name}.proj.conv", "in"].labels)


def _attention_costs(name: str, query: Labels, value: Labels, coefficient: float) -> list[Cost]:
    return [Cost(f"{name} q.k", query, None, coefficient), Cost(f"{name} attention.v", value, None, coefficient)]


def _rewrite_attention(module: Any, qkv: Labels, kept_mask: KeptMask) -> None:
    """``scale`` stays what it was: the products of the kept channels must not change."""
    heads, key = module.num_heads, module.key_dim
    rows = kept_mask(qkv).reshape(heads, -1)
    module.key_dim = int(rows[0, :key].sum())
    module.head_dim = int(rows[0, 2 * key :].sum())


def _rewrite_area_attention(module: Any, qkv: Labels, kept_mask: KeptMask) -> None:
    """The forward pass scales by ``head_dim ** -0.5``; the query's weights take up what that changes."""
    heads, before = module.num_heads, module.head_dim
    width = int(kept_mask(qkv).reshape(heads, 3, -1)[0, 2].sum())
    layer = module.qkv.bn if hasattr(module.qkv, "bn") else module.qkv.conv
    query = torch.arange(3 * heads * width).reshape(heads, 3, width)[:, 0].ravel()
    with torch.no_grad():
        for parameter in (layer.weight, layer.bias):
            parameter[query] *= (width / before) ** 0.5
    module.head_dim = width
    if hasattr(module, "all_head_dim"):
        module.all_head_dim = width * heads


ATTENTION = {
    "Attention": AttentionRule(_follow_attention, _rewrite_attention),
    "AAttn": AttentionRule(_follow_area_attention, _rewrite_area_attention),
}
