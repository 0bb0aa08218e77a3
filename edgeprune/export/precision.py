"""Which precision a graph holds, and the checks that every transform of precision makes.

Precision is a property of the graph itself, so that a strongly typed engine cannot silently be another one.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path
from typing import get_args

import onnx

from edgeprune.errors import NOT_OF_THE_INPUT, DataError, StageError, TargetError, first_line
from edgeprune.export.graph import graphs_in, load_graph, refuse_plugins, with_shapes
from edgeprune.export.regions import LAYER_OPS, name_nodes, regions_of
from edgeprune.runtimes.onnx_facts import holds_int8, weight_types
from edgeprune.settings import Precision

PRECISIONS = get_args(Precision)
FRACTIONS = {getattr(onnx.TensorProto, name) for name in ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")}
NOT_CHOSEN = {"Constant", "Cast", "QuantizeLinear", "DequantizeLinear"}  # what they give is said by themselves


def precision_of(model: onnx.ModelProto | Path) -> str:
    """The precision a graph holds, read from its nodes and weights, never from its metadata: one of
    :data:`PRECISIONS`, or for a graph that others made ``bf16`` or ``int8-bf16``."""
    model = load_graph(model) if not isinstance(model, onnx.ModelProto) else model
    kinds = weight_types(model)
    parts = ["int8"] if holds_int8(model) else []
    if onnx.TensorProto.BFLOAT16 in kinds:
        parts.append("bf16")
    elif onnx.TensorProto.FLOAT16 in kinds:
        parts.append("fp16")
    return "-".join(parts) or "fp32"


def float_nodes(model: onnx.ModelProto | Path) -> tuple[str, ...]:
    """Names of the convolutions and matrix products that a graph below FP32 has in float: in an INT8 graph what does
    not read a Q/DQ pair, in an FP16 graph what reads FP32. None of an FP32 graph, whose builder is told otherwise; a
    node without a name is passed over, for no layer can be told to be made of it."""
    model = load_graph(model) if not isinstance(model, onnx.ModelProto) else model
    precision = precision_of(model)
    if precision == "fp32":
        return ()
    nodes = [node for node in model.graph.node if node.name and node.op_type in LAYER_OPS]
    if precision.startswith("int8"):
        made_by = {name: node.op_type for node in model.graph.node for name in node.output}
        return tuple(node.name for node in nodes if made_by.get(node.input[0]) != "DequantizeLinear")
    graph = with_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info)}
    return tuple(node.name for node in nodes if types.get(node.input[0]) == onnx.TensorProto.FLOAT)


def nodes_to_keep(model: onnx.ModelProto | Path) -> tuple[str, ...]:
    """Names of the nodes that a precision below FP32 can change, in the graph's order: what ``keep_float`` can name to
    an effect in FP16. Those that give whole numbers are changed by none, and the decoder stays in FP32 by itself. INT8
    changes fewer (by the recipe ``tensorrt`` convolutions alone, by no recipe the head's last layers), and
    :func:`~edgeprune.export.int8.quantize_to_int8` warns of the others."""
    named = name_nodes(load_graph(model) if not isinstance(model, onnx.ModelProto) else model)
    decoder, graph = regions_of(named).decoder, with_shapes(named).graph
    typed = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    whole = {name for name, elem_type in typed.items() if elem_type not in FRACTIONS}
    return tuple(
        node.name
        for node in named.graph.node
        if node.name not in decoder and node.op_type not in NOT_CHOSEN and not whole.issuperset(node.output)
    )


def load_fp32(source: Path | str, keep_float: Collection[str]) -> onnx.ModelProto:
    """Read an FP32 graph, every node with a name of its own.

    Raises:
        DataError: it cannot be read, or is not FP32.
        TargetError: ``keep_float`` names a node that it does not have.
    """
    model = name_nodes(load_graph(source))
    refuse_plugins(model, str(source))
    if running := sorted({node.op_type for node in model.graph.node if graphs_in(node)}):
        raise DataError(
            f"{source} holds {', '.join(running)}, which runs graphs of its own: what is inside them stays as it is, "
            "so that no format below FP32 is made of it; export the model again without it"
        )
    precision = precision_of(model)
    if precision != "fp32":
        raise DataError(f"{source} already holds {precision}; give the FP32 export")
    unknown = sorted(set(keep_float) - {node.name for node in model.graph.node})
    if unknown:
        listed = f"edgeprune lint {shlex.quote(str(source))} --nodes"
        raise TargetError(f"the graph has no node '{unknown[0]}'; its nodes are listed by: {listed}")
    return model


def require_loads(model: onnx.ModelProto, source: Path | str) -> None:
    """Raise StageError unless ONNX Runtime loads what was made of ``source``."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except NOT_OF_THE_INPUT:
        raise
    except Exception as error:
        raise StageError(f"what {source} became does not load in ONNX Runtime: {first_line(error)}") from error
