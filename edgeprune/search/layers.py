"""The layers that a runtime spends time on, their sizes as functions of the widths, and whose a timed node is."""

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
PREPARES = ("ReorderInput", "Concat", "Split", "Slice", "Resize", "Upsample", "MaxPool", "AveragePool", "Pad", "Gather")
TAILS = ("", ".conv", ".conv1.conv")  # an activation names its Conv, a fused RepConv only itself
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
    """Every layer of a traced model, in order of execution; one that is called several times is one layer."""
    modules, found = dict(model.named_modules()), {}
    for cost in structure.trace.costs:
        name, _, product = cost.module.partition(" ")
        rows = structure.expression(cost.rows)
        columns = np.zeros_like(rows) if cost.columns is None else structure.expression(cost.columns)
        module = modules[name]
        if product:  # one layer for both products of an attention block
            known = found.get(name)
            rows = rows if known is None else known.rows + rows
            found[name] = Layer(name, "attention", rows, columns, 1.0, cost.coefficient, cost.coefficient**0.5)
            continue
        weight = getattr(module, "weight", None)
        kernel = float(np.prod(weight.shape[2:])) if isinstance(weight, nn.Parameter) else 1.0
        taps = kernel / getattr(module, "groups", 1) if cost.columns is not None else kernel
        calls = 1.0 if name not in found else found[name].outputs / (cost.coefficient / taps) + 1
        outputs = calls * cost.coefficient / taps
        stride = float(np.prod(getattr(module, "stride", 1)))
        inputs = outputs * stride
        if isinstance(module, nn.ConvTranspose2d):  # its cost is counted over the positions that it reads
            outputs, inputs = outputs * stride, outputs
            taps /= stride
        kind = "depthwise" if cost.columns is None else f"{type(module).__name__} {kernel:g} taps"
        found[name] = Layer(name, kind, rows, columns, taps, outputs, inputs)
    return list(found.values())


def path_of(node: str) -> str:
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


def owner_of(node: str, known: set[str]) -> str:
    """The layer that a node belongs to by its name alone, empty when none is named."""
    path = path_of(node)
    while path:
        for tail in TAILS:
            if path + tail in known:
                return path + tail
        path = path.rpartition(".")[0]
    return ""


def _decoding(node: str, last: Layer) -> str:
    """A node of the head that names none of its layers works on outputs whose widths are fixed."""
    head = ".".join(last.name.split(".")[:2])
    return FIXED if f"{path_of(node)}.".startswith(f"{head}.") else ""


def attributed(times: Sequence[LayerTime], layers: Sequence[Layer]) -> dict[str, float]:
    """Milliseconds by layer name, of nodes in order of execution; what belongs to no layer is under ``(fixed)``.

    A node that names no layer (a reorder, a concatenation, an addition) belongs to the layer whose input it prepares,
    else to the one whose output it finishes.
    """
    known = {layer.name for layer in layers}
    owners = [owner_of(one.name, known) or _decoding(one.name, layers[-1]) for one in times]
    following, nearest = [""] * len(owners), ""
    for place in range(len(owners) - 1, -1, -1):
        nearest = owners[place] or nearest
        following[place] = nearest
    spent: dict[str, float] = {}
    before = ""
    for one, owner, after in zip(times, owners, following, strict=True):
        before = owner or before
        if not owner:
            prepares = any(one.op.startswith(word) or one.name.startswith(word) for word in PREPARES)
            owner = (after if prepares or not before else before) if after else (before or FIXED)
        spent[owner] = spent.get(owner, 0.0) + float(one.detail.get("median_ms", one.mean_ms))
    return spent
