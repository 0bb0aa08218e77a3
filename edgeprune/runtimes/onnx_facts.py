"""What a builder has to know of an ONNX file before it compiles it: inputs, free axes, metadata, number formats."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from edgeprune.errors import DataError, StageError, TargetError, first_line
from edgeprune.input_size import taken_size
from edgeprune.model_metadata import literal_of
from edgeprune.runtimes.base import AS_EXPORTED, FreeAxes
from edgeprune.runtimes.free_axes import NotFilled, filled_axes
from edgeprune.settings import Precision

if TYPE_CHECKING:
    import onnx

# whole-number arithmetic: by Q/DQ pairs, by operators of ONNX (static and dynamic), and by those of ONNX Runtime
INT8_OPS = {
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
    *("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"),
    *("QGemm", "QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearConcat", "QLinearLeakyRelu"),
    *("MatMulIntegerToFloat", "DynamicQuantizeMatMul", "ConvIntegerToFloat"),
}
PASSING = {"QuantizeLinear", "DequantizeLinear", "Cast", "Transpose", "Identity"}  # between a weight and its use
# to the formats that a graph has to hold for it
PRECISIONS = {name: tuple(part for part in name.split("-") if part != "fp32") for name in get_args(Precision)}


@dataclass(frozen=True)
class InputFacts:
    """One input of a graph: ``shape`` with every axis filled, ``free`` when the graph left one open."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    free: bool


@dataclass(frozen=True)
class OnnxFacts:
    """Inputs and names of outputs in their order, and ``metadata_props`` as text."""

    inputs: tuple[InputFacts, ...]
    outputs: tuple[str, ...]
    metadata: dict[str, str]

    def free_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes to build for, by input name; empty when the graph fixes all of them."""
        if not any(one.free for one in self.inputs):
            return {}
        return {one.name: one.shape for one in self.inputs}


def read_model(path: Path, *, weights: bool = True) -> Any:
    """The parsed file, without what lies in other files unless ``weights``; ``DataError`` when it is none."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(str(path), load_external_data=weights)
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{path}: not a readable ONNX file: {first_line(error)}") from error


def weight_files(model: Path) -> tuple[Path, ...]:
    """The files beside a graph that hold its weights; none where it holds them itself, or is no readable graph."""
    if model.suffix == ".onnx":
        with contextlib.suppress(DataError):  # whoever runs it says so in its own words; a stand-in has none
            return _files_beside(read_model(model, weights=False), model)
    return ()


def _files_beside(proto: Any, path: Path) -> tuple[Path, ...]:
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    held = (item for item in constants_of(proto).values() if uses_external_data(item))
    return tuple(path.parent / name for name in dict.fromkeys(ExternalDataInfo(item).location for item in held))


def require_single_file(path: Path) -> Any:
    """The parsed file, where it holds its weights itself: the bytes of one whose weights lie in other files, by which
    an engine is known again and which go to a device, say nothing of them.

    Raises:
        DataError: they do, or it is not an ONNX file.
    """
    proto = read_model(path, weights=False)
    if beside := _files_beside(proto, path):
        raise DataError(
            f"{path}: its weights lie in {', '.join(file.name for file in beside)}, and one file was expected; next: "
            f"edgeprune simplify {shlex.quote(str(path))} -o single.onnx"
        )
    return proto


def model_bytes(path: Path) -> int:
    """Size of a model's file, of an ONNX file together with the weights that lie beside it."""
    return sum(file.stat().st_size for file in (path, *weight_files(path)))


def onnx_facts(path: Path, *, precision: str = "fp32", free: FreeAxes = AS_EXPORTED) -> OnnxFacts:
    """Read a graph that is to be compiled.

    Axes that it leaves free take what ``free`` says, else the batch 1 and the image size of Ultralytics' metadata.

    Raises:
        DataError: not an ONNX file, a free axis that nothing fills, or one that is fixed at something else.
        StageError: the graph does not hold the precision that was asked.
        TargetError: no such precision, or a size that the model does not take.
    """
    proto = read_model(path)
    require_precision(proto, precision, path)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    sides: list[int] = []
    with contextlib.suppress(ValueError, TypeError):
        sides = [int(side) for side in literal_of(metadata.get("imgsz", "[]"))]
    inputs = tuple(_input(value, free, sides, path) for value in _graph_inputs(proto))
    stride = metadata.get("stride", "")
    if free.imgsz is not None and stride.isdecimal() and any(one.free and len(one.shape) == 4 for one in inputs):
        taken_size(free.imgsz, int(stride), metadata.get("task", ""))
    return OnnxFacts(inputs, tuple(value.name for value in proto.graph.output), metadata)


def require_precision(proto: Any, precision: str, path: Path) -> None:
    """Refuse a precision that the graph does not hold: a flag that is silently ignored builds an FP32 engine."""
    from onnx import TensorProto

    if precision not in PRECISIONS:
        raise TargetError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    held = {"fp16": TensorProto.FLOAT16 in weight_types(proto), "int8": holds_int8(proto)}
    for part in PRECISIONS[precision]:
        if not held[part]:
            raise StageError(
                f"{path}: asked for {precision}, but its graph holds no {part}; run the quantize stage on it first"
            )


def is_below_fp32(proto: Any) -> bool:
    """Whether a graph holds weights in half precision or computes in whole numbers."""
    from onnx import TensorProto

    return TensorProto.FLOAT16 in weight_types(proto) or holds_int8(proto)


def holds_int8(proto: Any) -> bool:
    """Whether any part of a graph computes in whole numbers, by whatever operators."""
    return any(node.op_type in INT8_OPS for node in proto.graph.node)


def weight_types(proto: Any) -> set[int]:
    """Element types of a graph's weights: of its constants of two axes or more. A scale, a bound or a table of one axis
    may be in a format that the graph does not compute in."""
    return {item.data_type for item in constants_of(proto).values() if len(item.dims) > 1}


def constants_of(proto: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Constants by tensor name, initializers and Constant nodes alike."""
    constants = {item.name: item for item in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant":
            constants.update((node.output[0], entry.t) for entry in node.attribute if entry.name == "value")
    return constants


def weights_as_read(proto: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Constants by the names that layers read them by: a quantised weight stands behind its DequantizeLinear, a trained
    one behind a QuantizeLinear too. Their numbers are those that the file holds."""
    known = constants_of(proto)
    for node in proto.graph.node:  # in order of execution
        if node.op_type in PASSING and node.input[0] in known:
            known[node.output[0]] = known[node.input[0]]
    return known


def frees(path: Path) -> tuple[bool, bool]:
    """Whether every image input of a graph leaves its batch free, and whether it leaves its size free."""
    shapes = [_sizes(value) for value in _graph_inputs(read_model(path))]
    images = [shape for shape in shapes if len(shape) == 4]
    return (
        bool(images) and all(shape[0] <= 0 for shape in images),
        bool(images) and all(max(shape[2:]) <= 0 for shape in images),
    )


def is_whole(path: Path) -> bool:
    """Whether a graph's file alone says what an engine of it is: it holds its weights and leaves no axis free."""
    proto = read_model(path, weights=False)
    return not _files_beside(proto, path) and all(min(_sizes(value), default=1) > 0 for value in _graph_inputs(proto))


def output_names(path: Path) -> list[str]:
    """Names of a graph's outputs, in its order; ``DataError`` when the file is none."""
    return [value.name for value in read_model(path).graph.output]


def input_types(path: Path) -> dict[str, str]:
    """Types of a graph's inputs by name, whatever axes it leaves free; ``DataError`` when the file is none."""
    from onnx import helper

    kinds = {value.name: value.type.tensor_type.elem_type for value in _graph_inputs(read_model(path))}
    return {name: str(helper.tensor_dtype_to_np_dtype(kind)) for name, kind in kinds.items() if kind}


def _graph_inputs(proto: Any) -> list[Any]:
    constants = {one.name for one in proto.graph.initializer}
    return [value for value in proto.graph.input if value.name not in constants]


def _sizes(value: Any) -> list[int]:
    """Sizes of an input's axes, 0 for a free one."""
    return [axis.dim_value if axis.HasField("dim_value") else 0 for axis in value.type.tensor_type.shape.dim]


def _input(value: Any, free: FreeAxes, own: list[int], path: Path) -> InputFacts:
    from onnx import helper

    kind = value.type.tensor_type
    if not kind.elem_type:
        raise DataError(f"{path}: input {value.name} is no tensor; a model of images was expected")
    sizes = _sizes(value)
    try:
        filled = filled_axes(value.name, sizes, free.batch, free.imgsz, own)
    except NotFilled as error:
        raise DataError(f"{path}: {error}") from error
    dtype = str(helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return InputFacts(value.name, dtype, filled, filled != tuple(sizes))
