"""Parts of a YOLO's graph: the convolutions that give the head's outputs, and the decoder behind them.

Nothing here looks at names, so that a renamed or simplified graph is read alike.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import count

import numpy as np
import onnx
from onnx import numpy_helper

from edgeprune.export.graph import read_by, with_shapes
from edgeprune.runtimes.onnx_facts import weights_as_read

LAYER_OPS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}  # convolutions and matrix products, whose weights are trained
ARITHMETIC = {"Conv", "Softmax", "Sigmoid", "Add", "Sub", "Mul", "Div", "Pow", "Exp", "Sqrt", "Sin", "Cos", "ReduceMax"}
LEAST_STEPS = 8  # of a quantised DFL: two or three trained weights lie in even steps by chance; YOLO has 16 bins
SELECTION = {"NonMaxSuppression", "NonZero", "TopK", "ArgMax"}  # how many rows they give, or indices, is no activation


@dataclass(frozen=True)
class Regions:
    """Nodes of a graph by their part in it, as sets of names.

    Attributes:
        output_layers: layers with weights behind which no other such layer lies: the last convolutions of every branch.
        decoder: everything behind those that runs on decoded numbers: reshapes, DFL, anchors, scores, top-k, NMS.
    """

    output_layers: frozenset[str]
    decoder: frozenset[str]


def regions_of(model: onnx.ModelProto) -> Regions:
    """Find the output layers and the decoder of a graph whose nodes all have names (see :func:`name_nodes`)."""
    weights = weights_as_read(model)
    nodes = list(model.graph.node)
    consumers: dict[str, list[int]] = {}
    for index, node in enumerate(nodes):
        for name in read_by(node):
            consumers.setdefault(name, []).append(index)
    layer_behind = [False] * len(nodes)  # whether a layer with weights is reachable; nodes are in topological order
    for index in range(len(nodes) - 1, -1, -1):
        for name in nodes[index].output:
            for consumer in consumers.get(name, ()):
                if _is_layer(nodes[consumer], weights) or layer_behind[consumer]:
                    layer_behind[index] = True
    outputs = [i for i, node in enumerate(nodes) if _is_layer(node, weights) and not layer_behind[i]]
    reached: set[int] = set()
    front = list(outputs)
    while front:
        for name in nodes[front.pop()].output:
            for consumer in consumers.get(name, ()):
                if consumer not in reached:
                    reached.add(consumer)
                    front.append(consumer)
    return Regions(
        output_layers=frozenset(nodes[i].name for i in outputs),
        decoder=frozenset(nodes[i].name for i in reached),
    )


def handlers_of(model: onnx.ModelProto, layers: Collection[str]) -> set[str]:
    """Names of the nodes that handle an output of these layers until the next convolution reads it, or a quantizer: a
    value too large for half precision must not be cast to it on the way."""
    values: set[str] = set()
    handlers: set[str] = set()
    for node in model.graph.node:  # in topological order
        if node.name in layers:
            values.update(node.output)
        elif node.op_type not in {"Conv", "QuantizeLinear"} and values & set(node.input):
            values.update(node.output)
            handlers.add(node.name)
    return handlers


def from_selection_on(model: onnx.ModelProto, decoder: Collection[str]) -> set[str]:
    """Names of the decoder's nodes from the first on that chooses among boxes, with everything that reads what it
    gives; all nodes have names."""
    chosen: set[str] = set()
    ragged: set[str] = set()
    for node in model.graph.node:  # in order of execution
        if node.name in decoder and (node.op_type in SELECTION or ragged.intersection(read_by(node))):
            chosen.add(node.name)
            ragged.update(node.output)
    return chosen


def candidates_of(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the values that boxes are chosen from, by NMS or a top-k: decoded boxes, scores and what belongs to
    them, for every anchor. None where nothing is chosen."""
    named = name_nodes(model)
    decoder = regions_of(named).decoder
    choosing = from_selection_on(named, decoder)
    read = {name for node in named.graph.node if node.name in choosing for name in read_by(node)}
    typed = {value.name: value.type.tensor_type for value in with_shapes(named).graph.value_info}
    crossing = [
        name
        for node in named.graph.node
        if node.name in decoder - choosing and not node.op_type.startswith("Constant")
        for name in node.output
        if name in read and name in typed
    ]
    # of flags and sizes the numbers that they follow from are there
    return tuple(
        name
        for name in crossing
        if typed[name].elem_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16) and len(typed[name].shape.dim)
    )


def decoding_arithmetic(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the decoder's nodes that compute with numbers, in the graph's order: what has to stay in FP32 where a
    builder chooses. Nodes that only move values, or handle indices, take the format of what they are given."""
    own = {node.name for node in model.graph.node}
    named = name_nodes(model)
    decoder = regions_of(named).decoder
    typed = (*with_shapes(named).graph.value_info, *named.graph.output)
    floats = {value.name for value in typed if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    return tuple(
        node.name
        for node in named.graph.node
        if node.name in decoder & own and node.op_type in ARITHMETIC and floats.issuperset(node.output)
    )


def _is_layer(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether a node has trained weights, which DFL's convolution has not.

    That it has a single output channel does not tell it: so have the scores of a model of one class, and every angle.
    """
    if node.op_type not in LAYER_OPS or len(node.input) < 2 or node.input[1] not in weights:
        return False
    return bool(node.input[2:]) or not _counts_up(weights[node.input[1]])


def _counts_up(weight: onnx.TensorProto) -> bool:
    """Whether a weight is 0, 1, 2 and so on to one output: DFL's, which makes a distribution its mean. Quantised, it is
    that in even steps from any start, as far as whole numbers can be; of few channels anything would be."""
    longest = max(weight.dims, default=0)
    if longest < 2 or np.prod(weight.dims) != longest:
        return False
    values = numpy_helper.to_array(weight).ravel()
    if values.dtype.kind in "iu" and longest >= LEAST_STEPS:
        steps = values.astype(np.float64) - float(values[0])
        last = float(steps[-1])
        return last >= longest - 1 and bool((np.abs(steps - np.linspace(0, last, longest)) <= 1).all())
    return np.array_equal(values, np.arange(longest))


def name_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose nodes all have names of their own: an optimiser leaves some without."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    given = {node.name for node in copy.graph.node}  # of a later node too: a made name must not take it
    taken: set[str] = set()
    for index, node in enumerate(copy.graph.node):
        if not node.name or node.name in taken:
            own = f"{node.op_type}_{index}"
            tries = (f"{own}_{number}" for number in count(2))
            node.name = own if own not in given else next(name for name in tries if name not in given)
            given.add(node.name)
        taken.add(node.name)
    return copy
