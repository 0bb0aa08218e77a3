"""The layers of a model, their sizes as functions of the widths, and which layer a runtime's timed node belongs to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from edgeprune.pruning.structure import Structure
from edgeprune.runtimes.base import LayerTime

FIXED = "(fixed)"  # what no width changes: decoding and sorting behind the last convolution
# Nodes that prepare the next layer's input; everything else without a layer of its own finishes the one before.
PREPARING_OPS = (
    "ReorderInput",
    "Concat",
    "Split",
    "Slice",
    "Resize",
    "Upsample",
    "MaxPool",
    "AveragePool",
    "Pad",
    "Gather",
)
LAYER_SUFFIXES = ("", ".conv", ".conv1.conv")  # an activation names its Conv, a fused RepConv only itself
PATH = re.compile(r"/(model\.\d+(?:/[^\s,()+]*)?)")


@dataclass(frozen=True)
class Layer:
    """One convolution, linear layer or attention product.

    Attributes:
        name: module path, ``model.2.cv1.conv``; of an attention block ``model.10.m.0.attn``.
        kind: layers of one kind share what their first estimate learns: ``conv1x1``, ``conv3x3``, ``depthwise``, …
        rows: how often each dimension goes into its output width; float64 of shape (dimensions,).
        columns: the same of its input width; zeros where output and input are one (depthwise).
        taps: multiplications per output value and input channel: kernel area over groups.
        outputs: positions of its output map.
        inputs: positions of its input map.
    """

    name: str
    kind: str
    rows: np.ndarray
    columns: np.ndarray
    taps: float
    outputs: float
    inputs: float

    def multiplications(self, widths: np.ndarray) -> float:
        """Of one image, for widths of shape (dimensions,)."""
        columns = float(self.columns @ widths) if self.columns.any() else 1.0
        return float(self.rows @ widths) * columns * self.taps * self.outputs


def layers_of(model: nn.Module, structure: Structure) -> list[Layer]:
    """Every layer of a traced model that ships, in order of execution; one that is called several times is one
    layer."""
    modules, layers = dict(model.named_modules()), {}
    for cost in structure.shipped_costs:
        name, _, product = cost.module.partition(" ")
        rows = structure.width_shares(cost.rows)
        columns = np.zeros_like(rows) if cost.columns is None else structure.width_shares(cost.columns)
        module = modules[name]
        if product:  # one layer for both products of an attention block
            known = layers.get(name)
            rows = rows if known is None else known.rows + rows
            layers[name] = Layer(name, "attention", rows, columns, 1.0, cost.coefficient, cost.coefficient**0.5)
            continue
        weight = getattr(module, "weight", None)
        kernel = float(np.prod(weight.shape[2:])) if isinstance(weight, nn.Parameter) else 1.0
        taps = kernel / getattr(module, "groups", 1) if cost.columns is not None else kernel
        calls = 1.0 if name not in layers else layers[name].outputs / (cost.coefficient / taps) + 1
        outputs = calls * cost.coefficient / taps
        stride = float(np.prod(getattr(module, "stride", 1)))
        inputs = outputs * stride
        if isinstance(module, nn.ConvTranspose2d):  # its cost is counted over the positions that it reads
            outputs, inputs = outputs * stride, outputs
            taps /= stride
        kind = "depthwise" if cost.columns is None else f"{type(module).__name__} {kernel:g} taps"
        layers[name] = Layer(name, kind, rows, columns, taps, outputs, inputs)
    return list(layers.values())


def path_of_node(node: str) -> str:
    """Module path that an exported node's name starts with, empty when it has none.

    ``/model.22/m.0/m.0.1/attn/qkv/conv/Conv_output_0`` is ``model.22.m.0.1.attn.qkv.conv.Conv_output_0``: a container's
    items repeat the container's own name.
    """
    match = PATH.search(node)
    if match is None:
        return ""
    parts: list[str] = []
    for part in match.group(1).split("/"):
        if not part:
            continue
        if parts and part.startswith(parts[-1] + "."):
            parts[-1] = part
        else:
            parts.append(part)
    return ".".join(parts)


def layer_of_node(node: str, known: set[str]) -> str:
    """Name of the layer that a node's own name speaks of, empty when it speaks of none."""
    path = path_of_node(node)
    while path:
        for tail in LAYER_SUFFIXES:
            if path + tail in known:
                return path + tail
        path = path.rpartition(".")[0]
    return ""


def _decoding(node: str, last: Layer) -> str:
    """:data:`FIXED` for a node of the head that belongs to none of its layers: it decodes outputs of fixed widths."""
    head = ".".join(last.name.split(".")[:2])
    return FIXED if f"{path_of_node(node)}.".startswith(f"{head}.") else ""


def sum_by_layer(times: Sequence[LayerTime], layers: Sequence[Layer]) -> dict[str, float]:
    """Milliseconds by layer name, of nodes in order of execution; what belongs to no layer is under ``(fixed)``.

    A node that names no layer (a reorder, a concatenation, an addition) belongs to the layer whose input it prepares,
    else to the one whose output it finishes.
    """
    known = {layer.name for layer in layers}
    owners = [layer_of_node(time.name, known) or _decoding(time.name, layers[-1]) for time in times]
    following, nearest = [""] * len(owners), ""
    for place in range(len(owners) - 1, -1, -1):
        nearest = owners[place] or nearest
        following[place] = nearest
    spent: dict[str, float] = {}
    before = ""
    for time, owner, after in zip(times, owners, following, strict=True):
        before = owner or before
        if not owner:
            prepares = any(time.op.startswith(op) or time.name.startswith(op) for op in PREPARING_OPS)
            owner = (after if prepares or not before else before) if after else (before or FIXED)
        spent[owner] = spent.get(owner, 0.0) + time.ms
    return spent
