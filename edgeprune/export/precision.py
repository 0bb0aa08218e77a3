"""Precision as a transform of the graph: half precision by casting, INT8 by explicit Q/DQ pairs.

Takes an FP32 ONNX file (best simplified). Gives a file that holds its precision itself, so that a strongly typed engine
cannot silently be another one. The decoder (anchors, DFL, pixels, top-k) stays in FP32, and so do the last layers of
the head in INT8: a pixel coordinate of 600 has a step of 0.5 in half precision, and one 8-bit scale for coordinates
and scores would round every score to zero.

INT8 has two recipes, because two kinds of runtime fuse different graphs:

``tensorrt``
    symmetric int8 activations and weights, per channel, float bias, a Q/DQ pair of its own for every consumer, none on
    a convolution's output (NVIDIA's advice on placing Q/DQ: quantise the inputs of weighted layers, not their outputs,
    so that convolution and activation stay one kernel). What TensorRT's parser accepts; ONNX Runtime's CPU kernels do
    not fuse it, there it is slower than FP32.
``cpu``
    asymmetric uint8 activations, symmetric int8 weights per channel, int32 bias, activations quantised too: what ONNX
    Runtime's CPU provider fuses into integer kernels (U8S8, fast with AVX-512 VNNI or AVX2). TensorRT rejects it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeprune.errors import DataError, StageError, TargetError
from edgeprune.export.graph import (
    inputs_of,
    load_graph,
    metadata_of,
    opset_of,
    rename_tensor,
    save_graph,
    set_metadata,
)
from edgeprune.export.images import batch_from_images
from edgeprune.export.onnx import describe
from edgeprune.export.regions import regions_of, with_names

PRECISIONS = ("fp32", "fp16", "int8", "int8-fp16")
METHODS = ("entropy", "percentile", "minmax")
RECIPES = ("tensorrt", "cpu")
PRECISION_KEY = "edgeprune_precision"  # entry of metadata_props
FEWEST_IMAGES = 16  # published INT8 collapses trace to calibration on four images
FEW_IMAGES = 64
HALF_QDQ_OPSET = 19  # the first whose QuantizeLinear takes float16

CPU_OPS = ["Conv", "Sigmoid", "Mul", "Add", "Concat", "Split", "MaxPool", "Resize"]


@dataclass(frozen=True)
class PrecisionInfo:
    """What a precision transform did.

    Attributes:
        precision: fp16, int8 or int8-fp16.
        recipe: tensorrt or cpu for INT8, else empty.
        quantized_layers: convolutions that run in INT8.
        float_layers: convolutions that stay in float, by name.
        images: calibration images used; 0 for fp16.
        method: entropy, percentile or minmax for INT8, else empty.
        size_before: bytes of the source.
        size_after: bytes of the file that was written.
        warnings: one line each.
    """

    precision: str
    recipe: str
    quantized_layers: int
    float_layers: tuple[str, ...]
    images: int
    method: str
    size_before: int
    size_after: int
    warnings: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``build.json``."""
        return asdict(self)


def fp16_onnx(
    source: Path, target: Path, *, half_inputs: bool = False, keep_float: Collection[str] = ()
) -> PrecisionInfo:
    """Cast a graph to half precision, its decoder excepted.

    Args:
        source: an FP32 ONNX file.
        target: the file to write.
        half_inputs: take float16 images and give float16 outputs; FP32 on both sides when False.
        keep_float: names of further nodes that stay in FP32.

    Raises:
        DataError: the source cannot be read, or is not FP32.
        StageError: the cast graph does not load.
        TargetError: the target cannot be written, or a name is unknown.
    """
    model = with_names(_fp32_graph(source))
    before = model.ByteSize()
    _require_names(model, keep_float)
    half = half_graph(model, keep_float, half_inputs=half_inputs)
    _require_loads(half, source)
    save_graph(half, target)
    return PrecisionInfo("fp16", "", 0, tuple(sorted(keep_float)), 0, "", before, half.ByteSize())


def int8_onnx(
    source: Path,
    target: Path,
    images: Sequence[Path],
    *,
    recipe: str = "tensorrt",
    method: str = "entropy",
    percentile: float = 99.99,
    per_channel: bool = True,
    head_in_float: bool = True,
    keep_float: Collection[str] = (),
    half: bool = False,
) -> PrecisionInfo:
    """Quantise a graph's convolutions to INT8 with explicit Q/DQ pairs, by ONNX Runtime's static quantisation.

    Args:
        source: an FP32 ONNX file.
        target: the file to write.
        images: calibration images, of the training split.
        recipe: ``tensorrt`` or ``cpu``, see the module.
        method: how ranges are chosen: ``entropy``, ``percentile`` or ``minmax``.
        percentile: part of the values that a range covers, for ``percentile``.
        per_channel: a scale a channel for weights; False is one a tensor.
        head_in_float: leave the head's last layers in float.
        keep_float: names of further nodes that stay in float.
        half: cast what stays in float to FP16 (precision ``int8-fp16``).

    Raises:
        DataError: the source cannot be read or is not FP32, an image cannot be read, or fewer than 16 images.
        TargetError: an unknown recipe, method or node, or the target cannot be written.
        StageError: ONNX Runtime could not quantise the graph, or what it gave does not load.
    """
    if recipe not in RECIPES:
        raise TargetError(f"INT8 recipe '{recipe}' is unknown; {', '.join(RECIPES)} are allowed")
    if method not in METHODS:
        raise TargetError(f"calibration method '{method}' is unknown; {', '.join(METHODS)} are allowed")
    if half and recipe == "cpu":
        raise TargetError("int8-fp16 is for TensorRT; ONNX Runtime's CPU provider has no half precision kernels")
    warnings = calibration_warnings(len(images))
    model = with_names(_fp32_graph(source))
    _require_names(model, keep_float)
    regions = regions_of(model)
    excluded = set(regions.decoder) | set(keep_float) | (set(regions.output_layers) if head_in_float else set())
    quantized = _quantized(model, images, recipe, method, percentile, per_channel, excluded)
    layers = [node.name for node in model.graph.node if node.op_type == "Conv" and node.name not in regions.decoder]
    set_metadata(quantized, {**metadata_of(model), PRECISION_KEY: "int8"})
    if half:
        quantized = half_graph(quantized, keep_float)
    _require_loads(quantized, source)
    save_graph(quantized, target)
    return PrecisionInfo(
        precision="int8-fp16" if half else "int8",
        recipe=recipe,
        quantized_layers=sum(name not in excluded for name in layers),
        float_layers=tuple(name for name in layers if name in excluded),
        images=len(images),
        method=method,
        size_before=model.ByteSize(),
        size_after=quantized.ByteSize(),
        warnings=warnings,
    )


def calibration_warnings(count: int) -> tuple[str, ...]:
    """What is to be said of a calibration set of this size; ``DataError`` when it is too small to be used at all."""
    if count < FEWEST_IMAGES:
        raise DataError(
            f"INT8 calibration got {count} images; at least {FEWEST_IMAGES} are needed and {FEW_IMAGES} advised: "
            f"raise calibration.images, or give a larger training split"
        )
    if count < FEW_IMAGES:
        return (f"INT8 was calibrated on {count} images; {FEW_IMAGES} or more are advised",)
    return ()


def precision_of(model: onnx.ModelProto | Path) -> str:
    """The precision a graph holds, read from its nodes and weights, never from its metadata."""
    model = load_graph(model) if not isinstance(model, onnx.ModelProto) else model
    quantized = any(node.op_type in {"DequantizeLinear", "QLinearConv"} for node in model.graph.node)
    half = any(item.data_type == onnx.TensorProto.FLOAT16 and len(item.dims) > 1 for item in model.graph.initializer)
    return {(False, False): "fp32", (False, True): "fp16", (True, False): "int8", (True, True): "int8-fp16"}[
        quantized, half
    ]


def _fp32_graph(source: Path) -> onnx.ModelProto:
    model = load_graph(source)
    found = precision_of(model)
    if found != "fp32":
        raise DataError(f"{source} already holds {found}; give the FP32 export")
    return model


def _require_names(model: onnx.ModelProto, names: Collection[str]) -> None:
    unknown = sorted(set(names) - {node.name for node in model.graph.node})
    if unknown:
        raise TargetError(f"the graph has no node '{unknown[0]}'; node names are shown by: edgeprune lint --nodes")


def half_graph(
    model: onnx.ModelProto, keep_float: Collection[str] = (), *, half_inputs: bool = False
) -> onnx.ModelProto:
    """A copy of an FP32 or INT8 graph with everything but its decoder in half precision; metadata says so.

    Args:
        model: the graph; an INT8 one is raised to the first opset whose Q/DQ nodes take float16.
        keep_float: names of further nodes that stay in FP32.
        half_inputs: take and give float16.

    Raises:
        StageError: the graph cannot be raised to that opset.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    quantized = precision_of(model) == "int8"
    named = with_names(_at_least_opset(model, HALF_QDQ_OPSET) if quantized else model)
    metadata = {**metadata_of(named), PRECISION_KEY: "int8-fp16" if quantized else "fp16"}
    _constants_as_weights(named)
    blocked = sorted(set(regions_of(named).decoder) | set(keep_float))
    half = convert_float_to_float16(named, keep_io_types=not half_inputs, node_block_list=blocked)
    _join_float_nodes(half)
    OnnxModel(half).topological_sort(is_deterministic=True)  # it appends its casts at the end
    half = with_names(half)
    set_metadata(half, metadata)
    return half


def _join_float_nodes(model: onnx.ModelProto) -> None:
    """Take out what the converter puts between two FP32 nodes: a cast to half and back, which rounds every pixel.

    It also writes the cast of a shared constant once for each consumer, with the same output; one of them is kept.
    """
    made_by = {name: node for node in model.graph.node for name in node.output}
    outputs = {value.name for value in model.graph.output}
    float_weights = {item.name for item in model.graph.initializer if item.data_type == onnx.TensorProto.FLOAT}
    kept: list[onnx.NodeProto] = []
    seen: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "Cast" and node.output[0] in seen:
            continue
        seen.update(node.output)
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
            rename_tensor(kept, up.input[0], node.output[0])
            kept = [other for other in kept if other is not node]
    used = {name for node in kept for name in node.input} | outputs
    unused: dict[str, str] = {}  # a float value to the name that it had before the converter cast it
    while dead := [node for node in kept if node.op_type == "Cast" and node.output[0] not in used]:
        unused |= {node.input[0]: node.output[0] for node in dead if _casts_to(node, onnx.TensorProto.FLOAT16)}
        kept = [node for node in kept if not any(node is other for other in dead)]
        used = {name for node in kept for name in node.input} | outputs
    made = {name for node in kept for name in node.output} - outputs
    renamed = {old: name for old, name in unused.items() if old in made}
    for old, name in renamed.items():
        rename_tensor(kept, old, name)
    shapes = [value for value in model.graph.value_info if value.name not in {*renamed, *renamed.values()}]
    del model.graph.value_info[:]  # of the types before
    model.graph.value_info.extend(shapes)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _constants_as_weights(model: onnx.ModelProto) -> None:
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
    return node.op_type == "Cast" and any(a.name == "to" and a.i == dtype for a in node.attribute)


def _at_least_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    if opset_of(model) >= opset:
        return model
    from onnx import version_converter

    metadata = metadata_of(model)
    try:
        converted = version_converter.convert_version(model, opset)
    except Exception as error:  # a native converter; it raises what its adapters do
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StageError(
            f"the graph cannot be raised to opset {opset} ({line}); export it with opset {opset}"
        ) from error
    set_metadata(converted, metadata)
    return converted


def _quantized(
    model: onnx.ModelProto,
    images: Sequence[Path],
    recipe: str,
    method: str,
    percentile: float,
    per_channel: bool,
    excluded: Collection[str],
) -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    info, (image_input, *_) = describe(model), inputs_of(model)
    reader = _reader(images, image_input.name, info.imgsz, info.task, info.batch if not info.dynamic else 1)
    # in pieces: the histogram calibrators keep every activation of the images they are given at once
    options: dict[str, Any] = {"WeightSymmetric": True, "CalibStridedMinMax": _divisor(len(reader), 8)}
    if method == "percentile":
        options["CalibPercentile"] = percentile
    if recipe == "tensorrt":
        options |= {
            "ActivationSymmetric": True,
            "CalibTensorRangeSymmetric": True,
            "QuantizeBias": False,
            "DedicatedQDQPair": True,
            "AddQDQPairToWeight": True,
            "OpTypesToExcludeOutputQuantization": ["Conv"],
        }
    methods = {
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
        "minmax": CalibrationMethod.MinMax,
    }
    prepared = onnx.shape_inference.infer_shapes(model)
    set_metadata(prepared, {"onnx.infer": "onnxruntime.quant"})  # its mark of a prepared graph; else it warns
    with tempfile.TemporaryDirectory(prefix="edgeprune-int8-") as folder:
        plain, result = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        save_graph(prepared, plain)
        try:
            with _silenced():
                quantize_static(
                    str(plain),
                    str(result),
                    reader,
                    op_types_to_quantize=["Conv"] if recipe == "tensorrt" else CPU_OPS,
                    per_channel=per_channel,
                    activation_type=QuantType.QInt8 if recipe == "tensorrt" else QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    nodes_to_exclude=sorted(excluded),
                    calibrate_method=methods[method],
                    extra_options=options,
                )
        except DataError:
            raise
        except Exception as error:  # it raises ValueError, RuntimeError and ONNX Runtime's own classes
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise StageError(f"ONNX Runtime could not quantise the graph: {line}") from error
        quantized = load_graph(result)
    del quantized.metadata_props[:]
    if precision_of(quantized) != "int8":
        raise StageError("ONNX Runtime quantised no layer of the graph; is every convolution kept in float?")
    return quantized


def _reader(images: Sequence[Path], name: str, imgsz: tuple[int, int], task: str, batch: int) -> Any:
    """Calibration images as ONNX Runtime's reader, read one batch at a time."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.stacks = [images[start : start + batch] for start in range(0, len(images) - batch + 1, batch)]
            self.next, self.end = 0, len(self.stacks)

        def __len__(self) -> int:
            return len(self.stacks)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.next, self.end = start_index, end_index

        def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
            if self.next >= self.end:
                return None
            self.next += 1
            return {name: batch_from_images(self.stacks[self.next - 1], imgsz=imgsz, task=task)}

    return Reader()


def _divisor(count: int, most: int) -> int:
    return max(d for d in range(1, most + 1) if count % d == 0)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Without the calibrators' prints and the root logger's advice."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(before)


def _require_loads(model: onnx.ModelProto, source: Path) -> None:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        line = str(error).splitlines()[0]
        raise StageError(f"what {source} became does not load in ONNX Runtime: {line}") from error
