"""INT8 by explicit Q/DQ pairs, through ONNX Runtime's static quantisation.

Takes an FP32 ONNX file (best simplified) and calibration images. The decoder stays in float, and so do the last layers
of the head: one 8-bit scale for coordinates and scores would round every score to zero.

There are two recipes, because two kinds of runtime fuse different graphs:

``tensorrt``
    symmetric int8 activations and weights, per channel, float bias, a Q/DQ pair of its own for every consumer, none on
    a convolution's output (NVIDIA's advice on placing Q/DQ: quantise the inputs of weighted layers, not their outputs,
    so that convolution and activation stay one kernel). What TensorRT's parser accepts; ONNX Runtime's CPU kernels do
    not fuse it, there it is slower than FP32.
``cpu``
    asymmetric uint8 activations, symmetric int8 weights per channel, int32 bias, activations quantised too: what ONNX
    Runtime's CPU provider fuses into integer kernels (U8S8, fast with VNNI or AVX2). TensorRT rejects it. On x86
    without VNNI or AMX (AVX2, AVX-512 alone) those kernels add pairs of products in 16 bits, where two of 255 × 127 do
    not fit: the sums are cut off, and accuracy goes without a word. There the weights are of 7 bits (``reduce_range``,
    as ONNX Runtime's guide says), and 255 × 64 twice fits.

``entropy`` is ONNX Runtime's: 128 bins over the values of the first piece of images (:data:`MOST_STACKS` batches at
most), and a choice only of how much to cover of what later pieces have beyond them. So it depends on which images come
first (they are sorted by name), and of images that are all one piece it is ``minmax``. Bins and order are left as they
are: more bins, which let it cut into the first piece too, cost accuracy in five figures of six. mAP50-95 of INT8 by
the recipe ``cpu``, BCCD at 320 px, validation and test split, calibrated on 205 images:

====================  ==============  ==============  ==============
ranges                YOLOv8n         YOLO11n         YOLO26n
====================  ==============  ==============  ==============
128 bins              0.5629, 0.5541  0.5387, 0.5441  0.4832, 0.4842
128, order by chance  0.5637, 0.5554  not measured    0.4795, 0.4795
2048 bins             0.5522, 0.5559  0.5277, 0.5357  0.4725, 0.4668
``minmax``            0.5555, 0.5507  0.5375, 0.5447  0.4744, 0.4837
====================  ==============  ==============  ==============

The ranges of YOLOv8n by 2048 bins took 178 s to find in place of 31.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeprune.agent.host import cpu_identity
from edgeprune.errors import NOT_OF_THE_INPUT, DataError, StageError, TargetError, first_line
from edgeprune.export.graph import inputs_of, load_made, metadata_of, opset_of, save_graph, set_metadata, with_shapes
from edgeprune.export.half import cast_graph_to_half
from edgeprune.export.images import batch_from_images
from edgeprune.export.metadata import PRECISION_KEY
from edgeprune.export.mixed import not_quantized, restore_float
from edgeprune.export.onnx import DEFAULT_OPSET, ExportInfo, describe_to_run
from edgeprune.export.precision import load_fp32, precision_of, require_loads
from edgeprune.export.regions import from_selection_on, regions_of
from edgeprune.export.result import PrecisionInfo
from edgeprune.export.run import fixed_batch
from edgeprune.options import named
from edgeprune.settings import ADVISED_IMAGES, FEWEST_IMAGES, LEAST_INT8_OPSET, Calibration
from edgeprune.target.cpus import needs_reduced_range

RECIPES = ("tensorrt", "cpu")

MOST_STACKS = 8  # batches of images whose activations the calibrators are given at once
CALIBRATION_BYTES = 1 << 30  # of those activations together; one batch is taken however large it is
NO_LAYER = "ONNX Runtime quantised no layer of the graph; is every convolution kept in float?"
CPU_OPS = ["Conv", "Sigmoid", "Mul", "Add", "Concat", "Split", "MaxPool", "Resize"]


def quantize_to_int8(
    source: Path | str,
    output: Path | str,
    images: Sequence[Path],
    *,
    recipe: str = "tensorrt",
    method: str = Calibration.method,
    percentile: float = Calibration.percentile,
    per_channel: bool = True,
    head_in_float: bool = True,
    keep_float: Collection[str] = (),
    half: bool = False,
    reduce_range: bool | None = None,
) -> PrecisionInfo:
    """Quantise a graph's convolutions to INT8 with explicit Q/DQ pairs, by ONNX Runtime's static quantisation.

    Args:
        source, output, recipe, method, percentile, keep_float, reduce_range: as in
            :func:`~edgeprune.export.quantize.quantize_onnx`.
        images: calibration images, of the training split.
        per_channel: a scale a channel for weights; False is one a tensor.
        head_in_float: leave the head's last layers in float.
        half: cast what stays in float to FP16 (precision ``int8-fp16``).

    Raises:
        DataError: the source cannot be read, is not FP32 or of an opset without a scale a channel, an image cannot be
            read, or fewer than 16 images.
        TargetError: an unknown recipe, method or node, ``half`` or ``reduce_range`` of a recipe that has none, or the
            output cannot be written.
        StageError: ONNX Runtime could not quantise the graph, or what it gave does not load.
    """
    if recipe not in RECIPES:
        raise TargetError(f"INT8 recipe '{recipe}' is unknown; {', '.join(RECIPES)} are allowed")
    Calibration.of(method=method, percentile=percentile)
    if half and recipe == "cpu":
        raise TargetError("int8-fp16 is for TensorRT; ONNX Runtime's CPU provider has no half precision kernels")
    if reduce_range is not None and recipe != "cpu":
        raise TargetError(f"{named('reduce_range')} is for the recipe cpu; TensorRT takes all 8 bits: leave it out")
    reduced = recipe == "cpu" and (_needed_here() if reduce_range is None else reduce_range)
    warnings = calibration_warnings(len(images))
    model = load_fp32(source, keep_float)
    if per_channel and (seen := opset_of(model)) < LEAST_INT8_OPSET:
        raise DataError(
            f"{source}: INT8 per channel needs opset {LEAST_INT8_OPSET} or more; seen: {seen}; next: edgeprune export "
            f"CHECKPOINT --opset {DEFAULT_OPSET}"
        )
    describe_to_run(model, str(source))
    regions = regions_of(model)
    excluded = set(regions.decoder) | (set(regions.output_layers) if head_in_float else set())
    layers = [node.name for node in model.graph.node if node.op_type == "Conv" and node.name not in regions.decoder]
    in_float = excluded | set(keep_float)
    if in_float.issuperset(layers):
        raise StageError(NO_LAYER)
    # The arithmetic before it stays in the graph that is calibrated: a layer whose output left that graph would get its
    # scale at the graph's end, where taking the layer back to float does not reach it.
    selecting = from_selection_on(model, regions.decoder)
    body = _without_nodes(model, selecting)
    body = _quantize_static(model, body, images, recipe, method, percentile, per_channel, excluded - selecting, reduced)
    quantized = _with_decoder(body, model, selecting)
    if keep_float:  # the quantiser would leave out the node alone: its input and its activation would still be rounded
        if not half and (idle := not_quantized(model, quantized, keep_float)):
            warnings = (*warnings, _without_effect(idle, recipe))
        quantized = restore_float(model, quantized, keep_float)
    set_metadata(quantized, {**metadata_of(model), PRECISION_KEY: "int8"})
    if half:
        quantized = cast_graph_to_half(quantized, keep_float)
    require_loads(quantized, source)
    save_graph(quantized, output)
    return PrecisionInfo(
        precision="int8-fp16" if half else "int8",
        recipe=recipe,
        quantized_layers=sum(name not in in_float for name in layers),
        float_layers=tuple(name for name in layers if name in in_float),
        images=len(images),
        method=method,
        size_before=model.ByteSize(),
        size_after=quantized.ByteSize(),
        warnings=warnings,
        reduced_range=reduced,
    )


def _needed_here() -> bool:
    here = cpu_identity()
    return needs_reduced_range(here["architecture"], here["isa"])


def calibration_warnings(count: int) -> tuple[str, ...]:
    """What is to be said of a calibration set of this size; ``DataError`` when it is too small to be used at all."""
    if count < FEWEST_IMAGES:
        raise DataError(
            f"INT8 calibration got {count} images; at least {FEWEST_IMAGES} are needed and {ADVISED_IMAGES} advised: "
            f"raise calibration.images, or give a larger training split"
        )
    if count < ADVISED_IMAGES:
        return (f"INT8 was calibrated on {count} images; {ADVISED_IMAGES} or more are advised",)
    return ()


def _without_effect(names: Sequence[str], recipe: str) -> str:
    """Why naming nodes that INT8 leaves in float keeps nothing in float, in a line."""
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    takes = "quantises convolutions alone" if recipe == "tensorrt" else f"quantises {', '.join(CPU_OPS)}"
    return (
        f"{named('keep_float')} {shown}: changes nothing, as INT8 leaves this in float; the recipe {recipe} {takes}, "
        "and no last layer of the head"
    )


def _without_nodes(model: onnx.ModelProto, dropped: Collection[str]) -> onnx.ModelProto:
    """A copy without these nodes, which lie behind all others; what they read of the others are its outputs.

    Calibration keeps every activation of every image: the rows that NMS finds differ in number, and none of it is
    quantised.
    """
    if not dropped:
        return model
    body = onnx.ModelProto()
    body.CopyFrom(model)
    kept = [node for node in model.graph.node if node.name not in dropped]
    made = {name for node in kept for name in node.output}
    read = {name for node in model.graph.node if node.name in dropped for name in node.input}
    ends = [value.name for value in model.graph.output if value.name in made]
    crossing = [name for node in kept for name in node.output if name in read and name not in ends]
    used = {name for node in kept for name in node.input}
    constants = [item for item in model.graph.initializer if item.name in used]
    del body.graph.node[:], body.graph.initializer[:]
    body.graph.node.extend(kept)
    body.graph.initializer.extend(constants)
    del body.graph.output[:]
    known = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
    for name in (*crossing, *ends):
        body.graph.output.append(known.get(name) or onnx.helper.make_empty_tensor_value_info(name))
    return body


def _with_decoder(body: onnx.ModelProto, model: onnx.ModelProto, dropped: Collection[str]) -> onnx.ModelProto:
    """The quantised body with the nodes of ``model`` that were left out of it, their constants and their outputs."""
    behind = [node for node in model.graph.node if node.name in dropped]
    body.graph.node.extend(behind)
    held = {item.name for item in body.graph.initializer}
    read = {name for node in behind for name in node.input}
    body.graph.initializer.extend(
        item for item in model.graph.initializer if item.name in read and item.name not in held
    )
    del body.graph.output[:]
    body.graph.output.extend(model.graph.output)
    return body


def _quantize_static(
    model: onnx.ModelProto,
    body: onnx.ModelProto,
    images: Sequence[Path],
    recipe: str,
    method: str,
    percentile: float,
    per_channel: bool,
    excluded: Collection[str],
    reduced: bool,
) -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    info, (image_input, *_) = describe_to_run(model), inputs_of(model)
    reader = _calibration_reader(images, image_input.name, info, fixed_batch(model) or 1)
    calibrated = ["Conv"] if recipe == "tensorrt" else CPU_OPS
    prepared = with_shapes(body)
    set_metadata(prepared, {"onnx.infer": "onnxruntime.quant"})  # its mark of a prepared graph; else it warns
    most = MOST_STACKS
    if method != "minmax":  # which is given two numbers of each
        shape = (reader.batch, info.channels, *info.imgsz)
        most = min(most, CALIBRATION_BYTES // activation_bytes(prepared, image_input.name, shape, calibrated))
    options: dict[str, Any] = {"WeightSymmetric": True, "CalibStridedMinMax": _largest_divisor(len(reader), most)}
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
    with tempfile.TemporaryDirectory(prefix="edgeprune-int8-") as folder:
        plain, result = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        save_graph(prepared, plain)
        try:
            with _silence_calibrators():
                quantize_static(
                    str(plain),
                    str(result),
                    reader,
                    op_types_to_quantize=calibrated,
                    per_channel=per_channel,
                    reduce_range=reduced,
                    activation_type=QuantType.QInt8 if recipe == "tensorrt" else QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    nodes_to_exclude=sorted(excluded),
                    calibrate_method=methods[method],
                    extra_options=options,
                )
        except (DataError, *NOT_OF_THE_INPUT):
            raise
        except Exception as error:  # it raises ValueError, RuntimeError and ONNX Runtime's own classes
            raise StageError(f"ONNX Runtime could not quantise the graph: {first_line(error)}") from error
        quantized = load_made(result, "ONNX Runtime's quantisation")
    del quantized.metadata_props[:]
    if precision_of(quantized) != "int8":
        raise StageError(NO_LAYER)
    return quantized


def _calibration_reader(images: Sequence[Path], name: str, info: ExportInfo, batch: int) -> Any:
    """Calibration images as ONNX Runtime's reader, read one batch at a time.

    A graph of fixed batch takes no smaller one: the last is filled up with images from the beginning. (Zeros, as where
    outputs are compared, would be in the ranges.)
    """
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            count = -(-len(images) // batch) * batch
            filled = [images[number % len(images)] for number in range(count)]
            self.stacks = [filled[start : start + batch] for start in range(0, count, batch)]
            self.next, self.end = 0, len(self.stacks)
            self.batch = batch

        def __len__(self) -> int:
            return len(self.stacks)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.next, self.end = start_index, end_index

        def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
            if self.next >= self.end:
                return None
            self.next += 1
            stack = self.stacks[self.next - 1]
            return {name: batch_from_images(stack, imgsz=info.imgsz, task=info.task, channels=info.channels)}

    return Reader()


def activation_bytes(model: onnx.ModelProto, name: str, shape: Sequence[int], ops: Collection[str]) -> int:
    """Bytes of the activations that a histogram calibrator keeps of one run: what these operators read and give.

    Args:
        model: the graph.
        name: of its input.
        shape: of what is put there, which fills axes that the graph leaves free.
        ops: operators that are calibrated.
    """
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    for value in sized.graph.input:
        if value.name == name:
            for side, length in zip(value.type.tensor_type.shape.dim, shape, strict=True):
                side.dim_value = length
    del sized.graph.value_info[:]
    graph = with_shapes(sized, data_prop=True).graph
    weights = {item.name for item in graph.initializer}
    kept = {item for node in graph.node if node.op_type in ops for item in (*node.input, *node.output)} - weights
    sizes = [
        math.prod(max(side.dim_value, 1) for side in value.type.tensor_type.shape.dim)
        for value in {value.name: value for value in (*graph.value_info, *graph.output, *graph.input)}.values()
        if value.name in kept
    ]
    return max(4 * sum(sizes), 1)


def _largest_divisor(count: int, most: int) -> int:
    return max((d for d in range(1, most + 1) if count % d == 0), default=1)


@contextlib.contextmanager
def _silence_calibrators() -> Iterator[None]:
    """Without the calibrators' prints and the root logger's advice."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(before)
