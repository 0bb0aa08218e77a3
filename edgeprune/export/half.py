"""Half precision by casting the graph, all but its decoder.

Takes an FP32 ONNX file (best simplified) or an INT8 one. The decoder (anchors, DFL, pixels, top-k) stays in FP32: a
pixel coordinate of 600 has a step of 0.5 in half precision.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import onnx

from edgeprune.errors import NOT_OF_THE_INPUT, StageError, first_line
from edgeprune.export.graph import metadata_of, opset_of, rename_tensors, save_graph, set_metadata, with_value_info
from edgeprune.export.metadata import PRECISION_KEY
from edgeprune.export.precision import load_fp32, precision_of, require_loads
from edgeprune.export.regions import handlers_of, name_nodes, regions_of
from edgeprune.export.result import PrecisionInfo

HALF_QDQ_OPSET = 19  # the first whose QuantizeLinear takes float16


def cast_to_fp16(
    source: Path | str, output: Path | str, *, half_inputs: bool = False, keep_float: Collection[str] = ()
) -> PrecisionInfo:
    """Cast a graph to half precision, its decoder excepted.

    Args:
        source: an FP32 ONNX file.
        output: the file to write.
        half_inputs: take float16 images and give float16 outputs; FP32 on both sides when False.
        keep_float: names of further nodes that stay in FP32, each with what handles its output until the next
            convolution reads it.

    Raises:
        DataError: the source cannot be read, or is not FP32.
        StageError: the cast graph does not load.
        TargetError: the output cannot be written, or a name is unknown.
    """
    model = load_fp32(source, keep_float)
    before = model.ByteSize()
    half = cast_graph_to_half(model, keep_float, half_inputs=half_inputs)
    require_loads(half, source)
    save_graph(half, output)
    return PrecisionInfo("fp16", "", 0, tuple(sorted(keep_float)), 0, "", before, half.ByteSize())


def cast_graph_to_half(
    model: onnx.ModelProto, keep_float: Collection[str] = (), *, half_inputs: bool = False
) -> onnx.ModelProto:
    """A copy of an FP32 or INT8 graph with everything but its decoder in half precision; metadata says so.

    Args:
        model: the graph; an INT8 one is raised to the first opset whose Q/DQ nodes take float16.
        keep_float: as in :func:`cast_to_fp16`; of an INT8 graph no further than to the next quantizer.
        half_inputs: take and give float16.

    Raises:
        StageError: the graph cannot be raised to that opset.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    quantized = precision_of(model) == "int8"
    named = name_nodes(_raise_opset(model, HALF_QDQ_OPSET) if quantized else model)
    metadata = {**metadata_of(named), PRECISION_KEY: "int8-fp16" if quantized else "fp16"}
    _move_constants_to_initializers(named)
    own_casts = {node.name for node in named.graph.node if node.op_type == "Cast"}  # of whole numbers: no round trips
    kept = set(keep_float) | handlers_of(named, keep_float)
    blocked = sorted(set(regions_of(named).decoder) | kept | own_casts)
    half = convert_float_to_float16(named, keep_io_types=not half_inputs, node_block_list=blocked)
    _remove_half_round_trips(half)
    OnnxModel(half).topological_sort(is_deterministic=True)  # it appends its casts at the end
    half = with_value_info(name_nodes(half))
    set_metadata(half, metadata)
    return half


def _remove_half_round_trips(model: onnx.ModelProto) -> None:
    """Take out what the converter puts between two FP32 nodes: a cast to half and back, which rounds every pixel.

    It also writes the cast of a shared constant once for each consumer, with the same output; one of them is kept.
    """
    made_by = {name: node for node in model.graph.node for name in node.output}
    outputs = {value.name for value in model.graph.output}
    float_weights = {item.name for item in model.graph.initializer if item.data_type == onnx.TensorProto.FLOAT}
    kept: list[onnx.NodeProto] = []
    written: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "Cast" and node.output[0] in written:
            continue
        written.update(node.output)
        for index, name in enumerate(node.input):
            up = made_by.get(name)
            down = made_by.get(up.input[0]) if up is not None and _casts_to(up, onnx.TensorProto.FLOAT) else None
            if down is not None and _casts_to(down, onnx.TensorProto.FLOAT16):
                node.input[index] = down.input[0]
            elif up is not None and _casts_to(up, onnx.TensorProto.FLOAT) and up.input[0] in float_weights:
                node.input[index] = up.input[0]
        kept.append(node)
    for node in kept:  # the same round trip before an output: its value is renamed instead of copied
        up = made_by.get(node.input[0]) if _casts_to(node, onnx.TensorProto.FLOAT) else None
        if node.output[0] in outputs and up is not None and _casts_to(up, onnx.TensorProto.FLOAT16):
            rename_tensors(kept, {up.input[0]: node.output[0]})
            kept = [copy for copy in kept if copy is not node]
    used = {name for node in kept for name in node.input} | outputs
    unused: dict[str, str] = {}  # a float value to the name that it had before the converter cast it
    while dead := [node for node in kept if node.op_type == "Cast" and node.output[0] not in used]:
        unused |= {node.input[0]: node.output[0] for node in dead if _casts_to(node, onnx.TensorProto.FLOAT16)}
        kept = [node for node in kept if not any(node is cast for cast in dead)]
        used = {name for node in kept for name in node.input} | outputs
    made = {name for node in kept for name in node.output} - outputs
    rename_tensors(kept, {old: name for old, name in unused.items() if old in made})
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _move_constants_to_initializers(model: onnx.ModelProto) -> None:
    """Constant nodes become initializers: the converter leaves those in FP32 that only FP32 nodes use."""
    kept = []
    for node in model.graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None) if node.op_type == "Constant" else None
        if value is None:
            kept.append(node)
            continue
        weight = model.graph.initializer.add()
        weight.CopyFrom(value)
        weight.name = node.output[0]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _casts_to(node: onnx.NodeProto, dtype: int) -> bool:
    """Whether a node is a cast to this type of ``onnx.TensorProto``."""
    return node.op_type == "Cast" and any(a.name == "to" and a.i == dtype for a in node.attribute)


def _raise_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The graph with at least this opset; StageError where the converter cannot do it."""
    if opset_of(model) >= opset:
        return model
    from onnx import version_converter

    metadata = metadata_of(model)
    try:
        converted = version_converter.convert_version(model, opset)
    except NOT_OF_THE_INPUT:
        raise
    except Exception as error:  # a native converter; it raises what its adapters do
        raise StageError(
            f"the graph cannot be raised to opset {opset} ({first_line(error)}); export it with opset {opset}"
        ) from error
    set_metadata(converted, metadata)
    return converted
