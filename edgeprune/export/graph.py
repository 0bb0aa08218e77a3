"""ONNX files at the edge of the room: read with a clear refusal, described, written whole or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from edgeprune.artifact import not_written, write_atomically
from edgeprune.errors import DataError, StageError, first_line
from edgeprune.model_file import require_model
from edgeprune.runtimes.onnx_facts import constants_of

MAX_BYTES = 2**31 - 1  # a protobuf message cannot be larger
STANDARD = ("", "ai.onnx")
PLUGIN_DOMAINS = ("TRT", "trt.plugins")  # of TensorRT's plugins: as exporters write it, and as ONNX Runtime wants it
# of these no constant may be infinite; elsewhere that is a mask or a bound
FINITE = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "QuantizeLinear", "DequantizeLinear")
FLOATS = tuple(getattr(onnx.TensorProto, name) for name in ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE"))


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a graph: ``shape`` holds a name where the size is not fixed."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str


def load_made(path: Path, maker: str) -> onnx.ModelProto:
    """Read an ONNX file that a library wrote into a scratch folder, which no message shall name.

    Raises:
        StageError: it did not write one that can be read; says which library.
    """
    try:
        return load_graph(path)
    except DataError as error:
        said = str(error).replace(str(path), "the graph").removesuffix("; export it again")
        raise StageError(f"{maker} gave no good graph: {said}") from error


def load_graph(path: Path | str) -> onnx.ModelProto:
    """Read an ONNX file, its external data included.

    Raises:
        DataError: it is missing, another kind of model, over 2 GB, damaged, or not an ONNX model.
    """
    path = Path(path)
    require_model(path, ".onnx")
    if path.stat().st_size > MAX_BYTES:
        raise DataError(
            f"{path} is over 2 GB ({path.stat().st_size / 2**30:.2f} GiB), more than ONNX can hold in a file"
        )
    try:
        model = onnx.load(str(path))
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError, RuntimeError) as error:
        # RuntimeError: what the file system says of weights that lie in another file
        raise DataError(f"{path} cannot be read as ONNX ({first_line(error)}); export it again") from error
    if not model.graph.node or not model.opset_import:
        raise DataError(f"{path} is not an ONNX model: it has no graph; export it again")
    try:
        if fault := fault_of(model):
            raise DataError(f"{path} is not a valid ONNX model ({fault}); export it again")
    except ValueError as error:  # over the size the checker takes
        raise DataError(f"{path} cannot be checked ({first_line(error)})") from error
    _refuse_broken_weights(model, path)
    return model


def fault_of(model: onnx.ModelProto) -> str:
    """Why ONNX's checker takes a model for broken; empty where it does not, or has no schema to judge it by."""
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        # ONNX Runtime's own fused operators and TensorRT's plugins have no public schema: foreign to the checker, not
        # wrong
        if all(opset.domain in STANDARD for opset in model.opset_import) and not tensorrt_plugins(model):
            return first_line(error)
    return ""


def _refuse_broken_weights(model: onnx.ModelProto, path: Path) -> None:
    """Raise DataError for a constant with NaN in it, or a layer's weight with infinity, by name."""
    layers = {name: node.op_type for node in model.graph.node if node.op_type in FINITE for name in node.input[1:]}
    for name, weight in constants_of(model).items():
        if weight.data_type not in FLOATS:
            continue
        values = onnx.numpy_helper.to_array(weight).astype(np.float64, copy=False)
        if np.isnan(values).any() or (name in layers and not np.isfinite(values).all()):
            seen = "NaN" if np.isnan(values).any() else "infinity"
            raise DataError(
                f"{path}: weight {name} has {seen} in it; export a checkpoint whose training did not diverge"
            )


def tensorrt_plugins(model: onnx.ModelProto) -> tuple[str, ...]:
    """Operators that only TensorRT has, as ``domain::type``: plugins that exporters write for NMS and the like."""
    found = (
        f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        for node in model.graph.node
        if node.domain in PLUGIN_DOMAINS or (node.domain in STANDARD and node.op_type.endswith("_TRT"))
    )
    return tuple(dict.fromkeys(found))


def refuse_plugins(model: onnx.ModelProto, what: str) -> None:
    """Raise DataError for a graph that ONNX Runtime cannot run because it holds plugins of TensorRT."""
    if plugins := tensorrt_plugins(model):
        raise DataError(
            f"{what} holds {', '.join(plugins)}, a plugin that runs on TensorRT only: its outputs and accuracy cannot "
            "be had here; export it with --head nms, whose NMS every runtime has, or with --head raw"
        )


def save_graph(model: onnx.ModelProto, path: Path | str) -> None:
    """Write an ONNX file whole or not at all.

    Raises:
        DataError: the model is over 2 GB.
        TargetError: the place cannot be written to.
    """
    try:
        size = model.ByteSize()
        data = model.SerializeToString() if size <= MAX_BYTES else b""
    except (ValueError, MemoryError, DecodeError):  # what protobuf raises past its limit differs between its versions
        size, data = MAX_BYTES + 1, b""
    if not data:
        raise DataError(f"the model for {path} is over 2 GB, more than ONNX can hold in a file; prune it further")
    write_file(path, data)


def with_value_info(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with types and shapes of its values as they follow from its nodes; what it said of them before goes:
    a transform that changes types leaves the old ones behind, and a strict reader refuses the file."""
    del model.graph.value_info[:]
    return with_shapes(model, data_prop=True)


def with_shapes(model: onnx.ModelProto, *, data_prop: bool = False) -> onnx.ModelProto:
    """The model with the shapes that follow from its nodes, through shape arithmetic too with ``data_prop``.

    Raises:
        DataError: they contradict each other.
    """
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=data_prop)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise DataError(
            f"the shapes of the graph cannot be worked out ({first_line(error)}); export it again"
        ) from error


def write_file(path: Path | str, data: bytes) -> None:
    """Atomic write into a folder that is made when it is missing; ``TargetError`` where that is not possible,
    ``StageError`` where the disk is full or fails."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except OSError as error:
        raise not_written(path, error, "choose another output") from error


def metadata_of(model: onnx.ModelProto | Path | str) -> dict[str, str]:
    """The ``metadata_props`` of a model or a file, as text."""
    if not isinstance(model, onnx.ModelProto):
        model = load_graph(model)
    return {entry.key: entry.value for entry in model.metadata_props}


def set_metadata(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Add entries to ``metadata_props``; an entry of the same name is replaced."""
    merged = {**metadata_of(model), **{key: str(value) for key, value in metadata.items()}}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, merged)


def _tensor_infos(values: Any, skip: frozenset[str] = frozenset()) -> tuple[TensorInfo, ...]:
    """Names, shapes and types of a graph's inputs or outputs."""
    return tuple(
        TensorInfo(
            value.name,
            tuple(
                d.dim_value if d.HasField("dim_value") else (d.dim_param or "?")
                for d in value.type.tensor_type.shape.dim
            ),
            onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower(),
        )
        for value in values
        if value.name not in skip
    )


def inputs_of(model: onnx.ModelProto) -> tuple[TensorInfo, ...]:
    """A graph's inputs without its weights (which old files list as inputs too)."""
    return _tensor_infos(model.graph.input, frozenset(item.name for item in model.graph.initializer))


def outputs_of(model: onnx.ModelProto) -> tuple[TensorInfo, ...]:
    """A graph's outputs."""
    return _tensor_infos(model.graph.output)


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operator set."""
    return max((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), default=0)


def graphs_in(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Graphs that a node runs: branches of an If, bodies of a Loop or a Scan; those inside them are theirs."""
    one = [entry.g for entry in node.attribute if entry.type == onnx.AttributeProto.GRAPH]
    return one + [graph for entry in node.attribute for graph in entry.graphs]


def read_by(node: onnx.NodeProto) -> list[str]:
    """Names of the values that a node reads: its inputs, and what the graphs that it runs take from around them."""
    names, within = list(node.input), graphs_in(node)
    while within:
        graph = within.pop()
        names += (value.name for value in graph.output)  # a value from outside may be given as it is
        for inner in graph.node:
            names += inner.input
            within += graphs_in(inner)
    return names


def count_ops(model: onnx.ModelProto) -> dict[str, int]:
    """Nodes by operator type, sorted by name."""
    return dict(sorted(Counter(node.op_type for node in model.graph.node).items()))


def tensor_names(graph: onnx.GraphProto) -> set[str]:
    """Names of all tensors that a graph has, those of the graphs inside its nodes too."""
    names = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    for node in graph.node:
        names |= {*node.input, *node.output}.union(*map(tensor_names, graphs_in(node)))
    return names - {""}  # an input that a node was not given


def rename_tensors(nodes: Iterable[onnx.NodeProto], names: Mapping[str, str]) -> None:
    """Give tensors other names wherever these nodes, or the graphs inside them, write or read them. All at once, so
    that two may change names with each other: ``names`` is from old to new."""
    for node in nodes:
        for values in (node.input, node.output):
            for index, name in enumerate(values):
                values[index] = names.get(name, name)
        for graph in graphs_in(node):
            rename_tensors(graph.node, names)
            for value in graph.output:  # a value from outside may be given as it is
                value.name = names.get(value.name, value.name)
