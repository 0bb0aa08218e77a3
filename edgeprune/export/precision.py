"""Which precision a graph holds, and the checks that every transform of precision makes.

Precision is a property of the graph itself, so that a strongly typed engine cannot silently be another one.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import onnx

from edgeprune.errors import DataError, StageError, TargetError, first_line
from edgeprune.export.graph import load_graph, refuse_plugins
from edgeprune.export.regions import name_nodes

PRECISIONS = ("fp32", "fp16", "int8", "int8-fp16")


def precision_of(model: onnx.ModelProto | Path) -> str:
    """The precision a graph holds, read from its nodes and weights, never from its metadata."""
    model = load_graph(model) if not isinstance(model, onnx.ModelProto) else model
    quantized = any(node.op_type in {"DequantizeLinear", "QLinearConv"} for node in model.graph.node)
    half = any(item.data_type == onnx.TensorProto.FLOAT16 and len(item.dims) > 1 for item in model.graph.initializer)
    return {(False, False): "fp32", (False, True): "fp16", (True, False): "int8", (True, True): "int8-fp16"}[
        quantized, half
    ]


def load_fp32(source: Path | str, keep_float: Collection[str]) -> onnx.ModelProto:
    """Read an FP32 graph, every node with a name of its own.

    Raises:
        DataError: it cannot be read, or is not FP32.
        TargetError: ``keep_float`` names a node that it does not have.
    """
    model = name_nodes(load_graph(source))
    refuse_plugins(model, str(source))
    precision = precision_of(model)
    if precision != "fp32":
        raise DataError(f"{source} already holds {precision}; give the FP32 export")
    unknown = sorted(set(keep_float) - {node.name for node in model.graph.node})
    if unknown:
        raise TargetError(f"the graph has no node '{unknown[0]}'; node names are shown by: edgeprune lint --nodes")
    return model


def require_loads(model: onnx.ModelProto, source: Path | str) -> None:
    """Raise StageError unless ONNX Runtime loads what was made of ``source``."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise StageError(f"what {source} became does not load in ONNX Runtime: {first_line(error)}") from error
