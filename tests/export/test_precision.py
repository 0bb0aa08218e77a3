from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.calibrate import HistogramCalibrater

from edgeprune.errors import DataError, StageError, TargetError
from edgeprune.export import int8
from edgeprune.export.graph import (
    count_ops,
    inputs_of,
    load_graph,
    metadata_of,
    opset_of,
    outputs_of,
    read_by,
    rename_tensors,
    tensor_names,
    with_shapes,
)
from edgeprune.export.half import cast_to_fp16
from edgeprune.export.images import batch_from_images
from edgeprune.export.int8 import calibration_warnings, quantize_to_int8
from edgeprune.export.metadata import PRECISION_KEY
from edgeprune.export.mixed import quantized_layers
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.export.parity import parity
from edgeprune.export.precision import precision_of
from edgeprune.export.regions import Regions, _counts_up, decoding_arithmetic, handlers_of, name_nodes, regions_of
from edgeprune.export.run import outputs_of_onnx
from edgeprune.export.simplify import simplify_onnx
from edgeprune.runtimes.onnxruntime_ import OnnxRuntime
from tests.export.helpers import noise_images, saved, stock_model
from tests.export.imbalanced import imbalanced


@pytest.fixture(scope="module")
def train_images(shared: Path) -> list[Path]:
    return sorted((shared / "data" / "bccd" / "images" / "train").glob("*.jpg"))[:16]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Small FP32 exports of every kind of head."""
    folder = tmp_path_factory.mktemp("small")
    done: dict[tuple[str, str], Path] = {}

    def get(family: str = "yolov8", task: str = "detect") -> Path:
        if (family, task) not in done:
            path = folder / f"{family}-{task}.onnx"
            onnx_from_checkpoint(saved(stock_model(family, task), folder / "m.pt"), path, imgsz=64)
            done[family, task] = path
        return done[family, task]

    return get


@pytest.mark.parametrize(
    ("family", "task", "layers"),
    [
        ("yolov8", "detect", 6),
        ("yolov8", "segment", 10),  # three branches of three scales, and the prototypes
        ("yolo11", "obb", 9),
        ("yolo26", "detect", 6),
        ("yolov8", "classify", 1),
    ],
)
def test_the_heads_last_layers_are_found_in_the_graph(family, task, layers, small):
    found = regions_of(name_nodes(load_graph(small(family, task))))
    assert len(found.output_layers) == layers
    ops = {node.name: node.op_type for node in load_graph(small(family, task)).graph.node}
    assert {ops[name] for name in found.output_layers} <= {"Conv", "Gemm"}
    assert not found.output_layers & found.decoder


HEADS = list(itertools.product(["yolov8", "yolo11", "yolo26"], ["detect", "segment", "pose", "obb"], [1, 2]))
QUICK = [("yolov8", "detect", 1), ("yolov8", "pose", 1), ("yolo11", "obb", 2), ("yolo26", "obb", 1)]


@pytest.mark.parametrize(
    ("family", "task", "nc"),
    [("yolov10", "detect", 1), *(pytest.param(*row, marks=() if row in QUICK else pytest.mark.slow) for row in HEADS)],
)
def test_only_what_is_no_trained_layer_is_of_the_decoder_however_few_channels_it_gives(family, task, nc, tmp_path):
    """A single output channel is not only DFL's: it is a score of one class, and an angle."""
    onnx_from_checkpoint(
        saved(stock_model(family, task, nc=nc), tmp_path / "m.pt"), tmp_path / "raw.onnx", imgsz=64, head="raw"
    )
    simplify_onnx(tmp_path / "raw.onnx", tmp_path / "m.onnx")
    for name in ("raw.onnx", "m.onnx"):
        graph = name_nodes(load_graph(tmp_path / name))
        found = regions_of(graph)
        convolutions = {node.name for node in graph.graph.node if node.op_type in {"Conv", "ConvTranspose"}}
        fixed = convolutions & found.decoder
        assert ["dfl" in node for node in fixed] == ([] if family == "yolo26" else [True])
        branches = 2 if task == "detect" else 3
        assert len(found.output_layers) == 3 * branches + (task == "segment")  # and the prototypes
        assert not set(decoding_arithmetic(graph)) & convolutions - fixed


@pytest.mark.parametrize("recipe", ["tensorrt", "cpu"])
def test_an_opset_without_a_scale_a_channel_is_refused_before_the_calibration(recipe, tmp_path, monkeypatch):
    source, images = tmp_path / "m.onnx", noise_images(tmp_path, 16)
    onnx_from_checkpoint(saved(stock_model("yolov8", "detect"), tmp_path / "m.pt"), source, imgsz=64, opset=12)
    read = []
    monkeypatch.setattr(int8, "batch_from_images", lambda *_, **__: read.append(1))
    with pytest.raises(DataError, match=r"INT8 per channel needs opset 13 or more; seen: 12; next: .* --opset 17"):
        quantize_to_int8(source, tmp_path / "q.onnx", images, recipe=recipe, method="minmax")
    assert not read and not (tmp_path / "q.onnx").exists()
    monkeypatch.undo()
    made = quantize_to_int8(source, tmp_path / "q.onnx", images, recipe=recipe, method="minmax", per_channel=False)
    assert made.quantized_layers


def test_a_bad_graph_of_the_quantiser_is_its_fault_and_names_no_scratch_file(tmp_path, monkeypatch):
    source, images = tmp_path / "m.onnx", noise_images(tmp_path, 16)
    onnx_from_checkpoint(saved(stock_model("yolov8", "detect"), tmp_path / "m.pt"), source, imgsz=64)
    monkeypatch.setattr(
        "onnxruntime.quantization.quantize_static", lambda plain, result, *_, **__: Path(result).write_bytes(b"bad")
    )
    with pytest.raises(StageError, match="ONNX Runtime's quantisation gave no good graph: the graph") as refused:
        quantize_to_int8(source, tmp_path / "q.onnx", images, method="minmax")
    assert "edgeprune-int8-" not in str(refused.value) and "export it again" not in str(refused.value)


@pytest.mark.parametrize(
    ("recipe", "exported"), [("tensorrt", {}), ("cpu", {"dynamic": True}), ("tensorrt", {"batch": 2})]
)
def test_calibration_keeps_activations_within_a_budget_and_minmax_finds_the_same_by_any_pieces(
    recipe, exported, monkeypatch, tmp_path
):
    images, source = noise_images(tmp_path, 16), tmp_path / "m.onnx"
    onnx_from_checkpoint(saved(stock_model("yolov8", "detect"), tmp_path / "m.pt"), source, imgsz=64, **exported)
    held: list[int] = []

    def keep(calibrator: HistogramCalibrater) -> None:
        held.append(sum(output.nbytes for stack in calibrator.intermediate_outputs for output in stack))
        cleared(calibrator)

    cleared = HistogramCalibrater.clear_collected_data
    monkeypatch.setattr(HistogramCalibrater, "clear_collected_data", keep)
    kwargs = {"recipe": recipe, "method": "percentile"}
    quantize_to_int8(source, tmp_path / "whole.onnx", images, **kwargs)
    assert len(held) == (1 if "batch" in exported else 2)  # as small as it is, eight at once
    whole, stacks = max(held), 8
    for budget, pieces in ((whole // 4 + 4096, 4), (1, 8)):
        held.clear()
        monkeypatch.setattr(int8, "CALIBRATION_BYTES", budget)
        quantize_to_int8(source, tmp_path / "pieces.onnx", images, **kwargs)
        assert max(held) <= max(budget, whole // stacks) * 1.02
        assert len(held) == pieces * (1 if "batch" in exported else 2)
    of_whole, of_pieces = (activation_scales(tmp_path / f"{name}.onnx") for name in ("whole", "pieces"))
    assert of_whole.keys() == of_pieces.keys() and of_whole
    for name, scale in of_whole.items():  # histograms are merged with the bins of the first piece
        assert of_pieces[name] == pytest.approx(scale, rel=0.25)
    for name, budget in (("whole", 1 << 30), ("pieces", 1)):
        monkeypatch.setattr(int8, "CALIBRATION_BYTES", budget)
        quantize_to_int8(source, tmp_path / f"{name}.onnx", images, recipe=recipe, method="minmax")
    assert (tmp_path / "whole.onnx").read_bytes() == (tmp_path / "pieces.onnx").read_bytes()


def activation_scales(path: Path) -> dict[str, float]:
    """The scale of every activation's Q/DQ pair, by its name."""
    graph = load_graph(path).graph
    scales = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    made = {name for node in graph.node for name in node.output} | {value.name for value in graph.input}
    return {
        node.input[1]: float(scales[node.input[1]])
        for node in graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] in made
    }


@pytest.mark.parametrize("exported", [{"dynamic": True}, {"dynamic": True, "batch": 32, "head": "nms"}])
def test_any_number_of_images_is_compared_eight_at_a_time(exported, monkeypatch, tmp_path):
    source, runs = tmp_path / "m.onnx", []
    onnx_from_checkpoint(saved(stock_model("yolov8", "detect"), tmp_path / "m.pt"), source, imgsz=64, **exported)

    class Session(onnxruntime.InferenceSession):
        def run(self, output_names, input_feed, run_options=None):
            runs.extend(len(stack) for stack in input_feed.values())
            return super().run(output_names, input_feed, run_options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    images = np.random.default_rng(0).random((20, 3, 64, 64), dtype=np.float32)
    assert len(outputs_of_onnx(source, images)[0]) == 20
    assert runs == [8, 8, 8]


@pytest.mark.parametrize("everything", [False, True], ids=["head", "everything"])
@pytest.mark.parametrize(("family", "task"), [("yolov8", "detect"), ("yolo11", "segment")])
def test_the_decoder_of_a_graph_whose_head_is_quantised_is_found_and_stays_in_float(
    family, task, everything, small, monkeypatch, tmp_path
):
    source, images = small(family, task), noise_images(tmp_path)
    found = regions_of(name_nodes(load_graph(source)))
    assert found.decoder and found.output_layers
    options = {"method": "minmax", "head_in_float": False}
    with monkeypatch.context() as patched:
        if everything:  # as others do it: DFL's convolution too
            patched.setattr(int8, "regions_of", lambda model: Regions(frozenset(), frozenset()))
        quantize_to_int8(source, tmp_path / "int8.onnx", images, **options)
        quantize_to_int8(source, tmp_path / "half.onnx", images, half=True, **options)
    quantized = name_nodes(load_graph(tmp_path / "int8.onnx"))
    again = regions_of(quantized)
    assert again.output_layers == found.output_layers and found.decoder <= again.decoder
    named = load_graph(source)
    assert set(decoding_arithmetic(named)) <= set(decoding_arithmetic(load_graph(tmp_path / "int8.onnx")))
    half = load_graph(tmp_path / "half.onnx")
    assert precision_of(half) == "int8-fp16"
    assert set(decoding_arithmetic(named)) <= set(decoding_arithmetic(half))
    pixels = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
    (low, *_), (lower, *_) = (outputs_of_onnx(tmp_path / f"{name}.onnx", pixels) for name in ("int8", "half"))
    assert np.abs(low[:, :4] - lower[:, :4]).max() < 1.0


def test_what_counts_up_in_whole_numbers_is_no_trained_weight():
    for count, dtype in ((16, np.int8), (16, np.uint8), (32, np.int8)):
        most = np.iinfo(dtype).max
        steps = np.round(np.arange(count) * (most / (count - 1))).astype(dtype)
        assert _counts_up(numpy_helper.from_array(steps.reshape(1, count, 1, 1)))
        assert not _counts_up(numpy_helper.from_array(np.roll(steps, 1).reshape(1, count, 1, 1)))
    asymmetric = np.round(np.arange(16) * 17.0 - 128).astype(np.int8)  # with a zero point of -128
    assert _counts_up(numpy_helper.from_array(asymmetric.reshape(1, 16, 1, 1)))
    for trained in ([3, 90], [1, 64, 127], [-128, 0, 127], [5, 5, 5, 6, 6, 6, 7, 7, 7]):
        assert not _counts_up(numpy_helper.from_array(np.array(trained, np.int8).reshape(1, -1, 1, 1)))
    assert not _counts_up(numpy_helper.from_array(np.zeros((1, 16, 1, 1), np.int8)))


@pytest.mark.parametrize(("family", "task"), [("yolov8", "detect"), ("yolo26", "detect"), ("yolo11", "segment")])
def test_half_precision_is_in_the_graph_and_pixels_stay_exact(family, task, small, train_images, tmp_path):
    source = small(family, task)
    cast_to_fp16(source, tmp_path / "half.onnx")
    model = load_graph(tmp_path / "half.onnx")
    assert precision_of(model) == "fp16"
    assert {tensor.dtype for tensor in (*inputs_of(model), *outputs_of(model))} == {"float"}
    assert metadata_of(model) == {**metadata_of(source), PRECISION_KEY: "fp16"}
    sizes = {item.name: item.data_type for item in model.graph.initializer if len(item.dims) == 4 and item.dims[0] > 1}
    assert set(sizes.values()) == {TensorProto.FLOAT16}
    found = parity(source, tmp_path / "half.onnx", train_images[:2])
    assert 0 < found.max_abs_score < 0.05


def test_nothing_is_cast_to_half_and_back_between_float_nodes(small, tmp_path):
    cast_to_fp16(small("yolo26"), tmp_path / "half.onnx")
    graph = load_graph(tmp_path / "half.onnx").graph
    to = {n.output[0]: next(a.i for a in n.attribute if a.name == "to") for n in graph.node if n.op_type == "Cast"}
    assert TensorProto.FLOAT in to.values()
    for node in graph.node:
        if node.op_type == "Cast" and to[node.output[0]] == TensorProto.FLOAT:
            assert to.get(node.input[0]) != TensorProto.FLOAT16


def test_inputs_and_outputs_become_half_when_asked(small, tmp_path):
    cast_to_fp16(small(), tmp_path / "half.onnx", half_inputs=True)
    assert inputs_of(load_graph(tmp_path / "half.onnx"))[0].dtype == "float16"


def test_a_node_can_be_kept_in_float(small, tmp_path):
    name = next(node.name for node in load_graph(small()).graph.node if node.op_type == "Conv")
    cast_to_fp16(small(), tmp_path / "half.onnx", keep_float=[name])
    model = load_graph(tmp_path / "half.onnx")
    weights = {item.name: item.data_type for item in model.graph.initializer}
    kept = next(node for node in model.graph.node if node.name == name)
    assert weights[kept.input[1]] == TensorProto.FLOAT


def values_within(model: onnx.ModelProto, names: list[str], pixels: np.ndarray) -> list[np.ndarray]:
    """Values inside a graph, in its own number formats."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return outputs_of_onnx(copy, pixels)[-len(names) :]


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    values = with_shapes(model).graph.value_info
    return {value.name: value.type.tensor_type.elem_type for value in values}


def activation_of(model: onnx.ModelProto, layer: str) -> list[onnx.NodeProto]:
    """A convolution and its SiLU: Conv, Sigmoid, Mul."""
    conv = next(node for node in model.graph.node if node.name == layer)
    readers = [node for node in model.graph.node if conv.output[0] in node.input]
    assert [node.op_type for node in readers] == ["Sigmoid", "Mul"]
    return [conv, *readers]


@pytest.mark.parametrize("recipe", ["tensorrt", "cpu"])
@pytest.mark.parametrize(
    "layer",
    ["/model.1/conv/Conv", "/model.22/cv2.2/cv2.2.0/conv/Conv"],  # read by itself, and beside one that is quantised
)
def test_a_layer_kept_in_float_reads_and_gives_what_is_not_rounded(layer, recipe, small, tmp_path):
    source, images = small(), noise_images(tmp_path)
    quantize_to_int8(source, tmp_path / "all.onnx", images, method="minmax", recipe=recipe)
    info = quantize_to_int8(source, tmp_path / "kept.onnx", images, method="minmax", recipe=recipe, keep_float=[layer])
    whole, model, plain = (load_graph(path) for path in (tmp_path / "all.onnx", tmp_path / "kept.onnx", source))
    assert set(quantized_layers(whole)) - set(quantized_layers(model)) == {layer} <= set(info.float_layers)
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    kept = activation_of(model, layer)
    assert "DequantizeLinear" not in {made_by.get(name) for node in kept for name in node.input}
    (given, *_), (conv, _, mul) = kept[0].input, kept
    weight, bias = (numpy_helper.to_array(item) for item in plain.graph.initializer if item.name in _read(plain, layer))
    held = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    np.testing.assert_array_equal(held[conv.input[1]], weight)
    pixels = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
    read, gave = values_within(model, [given, mul.output[0]], pixels)
    strides = next(list(entry.ints) for entry in conv.attribute if entry.name == "strides")
    out = torch.nn.functional.conv2d(*map(torch.tensor, (read, weight, bias)), stride=strides, padding=1)
    np.testing.assert_allclose(gave, torch.nn.functional.silu(out).numpy(), atol=1e-4)


def _read(model: onnx.ModelProto, layer: str) -> list[str]:
    return next(list(node.input) for node in model.graph.node if node.name == layer)


@pytest.mark.parametrize(("recipe", "half", "told"), [("tensorrt", False, 1), ("tensorrt", True, 0), ("cpu", False, 0)])
def test_naming_what_int8_leaves_in_float_is_said_to_change_nothing(recipe, half, told, small, tmp_path):
    source, named = small(), ["/model.1/act/Mul", "/model.1/conv/Conv"]
    images, written = noise_images(tmp_path), []
    for kept in (named, named[1:]):
        arguments = {"method": "minmax", "recipe": recipe, "half": half, "keep_float": kept}
        info = quantize_to_int8(source, tmp_path / f"{len(kept)}.onnx", images, **arguments)
        written.append(sorted(str(node.input) for node in load_graph(tmp_path / f"{len(kept)}.onnx").graph.node))
        warned = [line for line in info.warnings if "changes nothing" in line]
        assert len(warned) == (told if kept == named else 0)
        assert all(named[0] in line and named[1] not in line for line in warned)
    if told:
        assert written[0] == written[1]


@pytest.mark.parametrize("op", ["Add", "MaxPool", "Sigmoid"])
def test_a_node_without_weights_is_kept_in_float_too(op, small, tmp_path):
    """Between a Q/DQ pair on either side ONNX Runtime would run it in whole numbers."""
    source = small()
    name = next(node.name for node in load_graph(source).graph.node if node.op_type == op)
    arguments = {"method": "minmax", "recipe": "cpu"}
    reads = []
    for kept in ([], [name]):
        quantize_to_int8(source, tmp_path / "q.onnx", noise_images(tmp_path), keep_float=kept, **arguments)
        graph = load_graph(tmp_path / "q.onnx").graph
        made_by = {output: node.op_type for node in graph.node for output in node.output}
        reads.append({made_by[given] for node in graph.node if node.name == name for given in node.input})
    assert reads[0] == {"DequantizeLinear"} and "DequantizeLinear" not in reads[1]


@pytest.mark.parametrize("precision", ["fp16", "int8-fp16"])
def test_what_is_too_large_for_half_precision_is_not_cast_to_it_behind_a_layer_kept_in_float(precision, tmp_path):
    """Channels of an attention block rescaled by up to 2**22 and back: the same in FP32, infinite in FP16."""
    model = stock_model("yolo11", "classify")
    changed = imbalanced(model, octaves=22)
    source, low = tmp_path / "fp32.onnx", tmp_path / "low.onnx"
    onnx_from_checkpoint(saved(model, tmp_path / "m.pt"), source, imgsz=64)
    plain, images = load_graph(source), noise_images(tmp_path)
    ends = tuple(f"/{name.rsplit('.', 1)[1]}/conv/Conv" for name in changed)
    layers = [node.name for node in plain.graph.node if node.name.endswith(ends)]
    assert len(layers) == len(changed) == 3  # qkv, pe, proj

    def made(keep_float: list[str]) -> onnx.ModelProto:
        if precision == "fp16":
            cast_to_fp16(source, low, keep_float=keep_float)
        else:
            quantize_to_int8(source, low, images, method="minmax", half=True, keep_float=keep_float)
        return load_graph(low)

    pixels = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
    [expected] = outputs_of_onnx(plain, pixels)
    assert not np.allclose(outputs_of_onnx(made([]), pixels)[0], expected, atol=0.05)
    kept = made(layers)
    assert precision_of(kept) == precision
    np.testing.assert_allclose(outputs_of_onnx(kept, pixels)[0], expected, atol=0.05)
    types, behind = types_of(kept), handlers_of(plain, layers[:1])
    assert {"Split", "MatMul"} <= {node.op_type for node in plain.graph.node if node.name in behind}
    given = {output for node in kept.graph.node if node.name in {*behind, *layers} for output in node.output}
    assert {types[name] for name in given if name in types} == {TensorProto.FLOAT}


def test_int8_for_tensorrt_has_what_the_parser_takes(small, train_images, tmp_path):
    info = quantize_to_int8(small(), tmp_path / "q.onnx", train_images, method="minmax")
    model = load_graph(tmp_path / "q.onnx")
    assert precision_of(model) == "int8"
    assert (info.quantized_layers, len(info.float_layers)) == (57, 6)
    assert info.warnings == ("INT8 was calibrated on 16 images; 64 or more are advised",)
    weights = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            zero = weights[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()
    made_by = {name: node for node in model.graph.node for name in node.output}
    per_channel = [
        weights[made_by[n.input[1]].input[1]].size
        for n in model.graph.node
        if n.op_type == "Conv" and n.name not in info.float_layers and n.input[1] in made_by
    ]
    assert len(per_channel) == 57
    assert min(per_channel) > 1
    consumers = [n.op_type for n in model.graph.node if any(i in _outputs_of_convs(model) for i in n.input)]
    assert "QuantizeLinear" not in consumers  # a convolution's output goes to its activation as it is


def _outputs_of_convs(model):
    return {node.output[0] for node in model.graph.node if node.op_type == "Conv"}


def test_the_recipe_for_the_cpu_is_fused_into_integer_kernels(small, train_images, tmp_path):
    from edgeprune.runtimes.onnxruntime_ import OnnxRuntime

    for recipe in ("cpu", "tensorrt"):
        quantize_to_int8(small(), tmp_path / f"{recipe}.onnx", train_images, method="minmax", recipe=recipe)
        OnnxRuntime().engine_from_onnx(
            tmp_path / f"{recipe}.onnx", tmp_path / f"{recipe}-engine.onnx", precision="int8"
        )
    assert count_ops(load_graph(tmp_path / "cpu-engine.onnx"))["QLinearConv"] == 57
    assert "QLinearConv" not in count_ops(load_graph(tmp_path / "tensorrt-engine.onnx"))


def test_int8_with_half_holds_both(small, train_images, tmp_path):
    quantize_to_int8(small("yolo26"), tmp_path / "q.onnx", train_images, method="minmax", half=True)
    model = load_graph(tmp_path / "q.onnx")
    assert precision_of(model) == "int8-fp16"
    assert opset_of(model) >= 19
    assert metadata_of(model)[PRECISION_KEY] == "int8-fp16"
    outputs_of_onnx(model, np.zeros((1, 3, 64, 64), np.float32))


@pytest.mark.parametrize("method", ["entropy", "percentile", "minmax"])
def test_calibration_is_reproducible(method, small, train_images, tmp_path):
    source = small("yolov8", "classify")
    for name in ("a", "b"):
        quantize_to_int8(source, tmp_path / f"{name}.onnx", train_images, method=method)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_the_methods_differ(small, train_images, tmp_path):
    source = small("yolov8", "classify")
    for method in ("entropy", "minmax"):
        quantize_to_int8(source, tmp_path / f"{method}.onnx", train_images, method=method)
    assert (tmp_path / "entropy.onnx").read_bytes() != (tmp_path / "minmax.onnx").read_bytes()


def test_entropy_covers_the_first_piece_of_images_whole(small, train_images, tmp_path, monkeypatch):
    """As the documentation says: of images that are all one piece it is minmax, and of several it is within."""
    source = small("yolov8", "classify")
    ranges = {}
    for name, method, most in (("all", "minmax", 16), ("one", "entropy", 16), ("several", "entropy", 1)):
        monkeypatch.setattr(int8, "MOST_STACKS", most)
        quantize_to_int8(source, tmp_path / f"{name}.onnx", train_images[:16], method=method)
        constants = load_graph(tmp_path / f"{name}.onnx").graph.initializer
        ranges[name] = {
            one.name: float(onnx.numpy_helper.to_array(one))
            for one in constants
            if one.name.endswith("_scale") and not one.dims
        }
    assert ranges["one"] == pytest.approx(ranges["all"], rel=1e-4)
    assert all(ranges["several"][name] <= scale * 1.0001 for name, scale in ranges["all"].items())
    assert ranges["several"] != pytest.approx(ranges["all"], rel=1e-3)


@pytest.mark.parametrize(
    ("batch", "count"),
    [(8, 16), (8, 17), (12, 23), (16, 16), (32, 16), (32, 63), pytest.param(64, 20, marks=pytest.mark.slow)],
)
def test_every_calibration_image_is_read_whatever_the_batch(batch, count, small, tmp_path, monkeypatch):
    onnx_from_checkpoint(
        saved(stock_model("yolov8", "classify"), tmp_path / "m.pt"), tmp_path / "m.onnx", imgsz=32, batch=batch
    )
    read: list[Path] = []
    stacks: list[int] = []

    def noted(images, **how):
        read.extend(images)
        stacks.append(len(images))
        return batch_from_images(images, **how)

    monkeypatch.setattr(int8, "batch_from_images", noted)
    images = noise_images(tmp_path, count, 32)
    info = quantize_to_int8(tmp_path / "m.onnx", tmp_path / "q.onnx", images, method="minmax")
    assert set(read) == set(images) and info.images == count
    assert set(stacks) == {batch}
    assert precision_of(load_graph(tmp_path / "q.onnx")) == "int8"


@pytest.mark.parametrize("recipe", ["tensorrt", "cpu"])
def test_a_fixed_batch_is_filled_where_the_size_is_free_too(recipe, tmp_path):
    source, fixed = tmp_path / "free.onnx", tmp_path / "fixed.onnx"
    onnx_from_checkpoint(saved(stock_model("yolov8", "classify"), tmp_path / "m.pt"), source, imgsz=32, dynamic=True)
    model = load_graph(source)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, str(fixed))
    assert inputs_of(load_graph(fixed))[0].shape == (2, 3, "height", "width")
    made, images = [], noise_images(tmp_path, 17, 32)
    for graph in (source, fixed):
        made.append(tmp_path / f"{graph.stem}-int8.onnx")
        quantize_to_int8(graph, made[-1], images, recipe=recipe, method="minmax")
    one, two = map(activation_scales, made)
    assert one and two == pytest.approx(one)  # the same images, whatever the batch


@pytest.mark.parametrize("count", [0, 4, 15])
def test_too_few_images_are_refused(count, small, train_images, tmp_path):
    with pytest.raises(DataError, match=f"got {count} images; at least 16"):
        quantize_to_int8(small(), tmp_path / "q.onnx", train_images[:count])
    assert not (tmp_path / "q.onnx").exists()


def test_few_images_are_a_warning():
    assert len(calibration_warnings(63)) == 1
    assert calibration_warnings(64) == ()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"recipe": "gpu"}, "tensorrt, cpu"),
        ({"method": "mean"}, "'entropy', 'percentile' or 'minmax'"),
        ({"keep_float": ["nowhere"]}, "no node 'nowhere'"),
        ({"recipe": "cpu", "half": True}, "for TensorRT"),
    ],
)
def test_unknown_arguments_are_refused(arguments, says, small, train_images, tmp_path):
    with pytest.raises(TargetError, match=says):
        quantize_to_int8(small(), tmp_path / "q.onnx", train_images, **arguments)
    assert not (tmp_path / "q.onnx").exists()


def test_every_layer_in_float_is_no_int8(small, train_images, tmp_path):
    layers = [node.name for node in load_graph(small()).graph.node if node.op_type == "Conv"]
    with pytest.raises(StageError, match="no layer"):
        quantize_to_int8(small(), tmp_path / "q.onnx", train_images, method="minmax", keep_float=layers)
    assert not (tmp_path / "q.onnx").exists()


def test_a_graph_that_is_not_fp32_is_refused(small, train_images, tmp_path):
    cast_to_fp16(small(), tmp_path / "half.onnx")
    with pytest.raises(DataError, match="already holds fp16"):
        quantize_to_int8(tmp_path / "half.onnx", tmp_path / "q.onnx", train_images)
    with pytest.raises(DataError, match="already holds fp16"):
        cast_to_fp16(tmp_path / "half.onnx", tmp_path / "again.onnx")


def dynamic_int8(source: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        str(source), str(target), weight_type=QuantType.QUInt8, op_types_to_quantize=["Conv", "MatMul", "Gemm"]
    )


def bfloat16(source: Path, target: Path) -> None:
    model = onnx.load(str(source))
    for index, weight in enumerate(list(model.graph.initializer)):
        if weight.data_type == TensorProto.FLOAT and len(weight.dims) > 1:
            bits = (numpy_helper.to_array(weight).view(np.uint32) >> 16).astype(np.uint16)
            cast = helper.make_node("Cast", [f"{weight.name}_bf16"], [weight.name], to=TensorProto.FLOAT)
            model.graph.node.insert(0, cast)
            model.graph.initializer[index].CopyFrom(
                helper.make_tensor(f"{weight.name}_bf16", TensorProto.BFLOAT16, weight.dims, bits.tobytes(), raw=True)
            )
    onnx.save(model, str(target))


def in_constant_nodes(source: Path, target: Path) -> None:
    """Half precision whose weights are Constant nodes, as some exporters write them."""
    cast_to_fp16(source, target)
    model = onnx.load(str(target))
    weights = list(model.graph.initializer)
    del model.graph.initializer[:]
    for weight in weights:
        model.graph.node.insert(0, helper.make_node("Constant", [], [weight.name], value=weight))
    onnx.save(model, str(target))


def fused_int8(source: Path, target: Path) -> None:
    """What ONNX Runtime makes of a Q/DQ graph."""
    quantize_to_int8(source, target, noise_images(target.parent), method="minmax", recipe="cpu")
    OnnxRuntime().engine_from_onnx(target, target, precision="int8")


@pytest.mark.parametrize(
    ("made", "held"),
    [(dynamic_int8, "int8"), (fused_int8, "int8"), (bfloat16, "bf16"), (in_constant_nodes, "fp16")],
)
def test_a_graph_that_others_made_is_no_fp32_by_whatever_it_holds_another_precision(made, held, small, tmp_path):
    source = small("yolov8", "classify")
    made(source, tmp_path / "other.onnx")
    assert precision_of(tmp_path / "other.onnx") == held
    for transform in (cast_to_fp16, lambda a, b: quantize_to_int8(a, b, noise_images(tmp_path))):
        with pytest.raises(DataError, match=f"already holds {held}; give the FP32 export"):
            transform(tmp_path / "other.onnx", tmp_path / "again.onnx")


def test_an_image_that_cannot_be_read_stops_the_calibration(small, train_images, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.jpg"):
        quantize_to_int8(small(), tmp_path / "q.onnx", [*train_images, tmp_path / "broken.jpg"], method="minmax")
    assert not (tmp_path / "q.onnx").exists()


def test_metadata_does_not_decide_what_precision_a_graph_has(small, tmp_path):
    model = onnx.load(str(small()))
    onnx.helper.set_model_props(model, {PRECISION_KEY: "int8"})
    assert precision_of(model) == "fp32"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["Relu_1", "", "last"], ["Relu_1", "Relu_1_2", "last"]),
        (["first", "", "Relu_1"], ["first", "Relu_1_2", "Relu_1"]),  # as PyTorch named nodes until 1.12
        (["", "Relu_0", "Relu_0_2"], ["Relu_0_3", "Relu_0", "Relu_0_2"]),
        (["same", "same", "Relu_1"], ["same", "Relu_1_2", "Relu_1"]),
        (["", "", ""], ["Relu_0", "Relu_1", "Relu_2"]),
    ],
)
def test_no_two_nodes_get_one_name_and_names_of_their_own_stay(given: list[str], expected: list[str]):
    nodes = [helper.make_node("Relu", [f"v{at}"], [f"v{at + 1}"], name=name) for at, name in enumerate(given)]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 4)) for name in ("v0", f"v{len(given)}")]
    model = helper.make_model(helper.make_graph(nodes, "chain", values[:1], values[1:]))
    found = [node.name for node in name_nodes(model).graph.node]
    assert len(set(found)) == len(given)
    assert found == expected


def chosen_by(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its output through branches that read it from outside, and those inside them."""
    graph = model.graph
    output = graph.output[0].name
    for node in graph.node:
        for index, name in enumerate(node.output):
            node.output[index] = "plain" if name == output else name
    branches = {}
    for name in ("then_branch", "else_branch"):
        given = helper.make_tensor_value_info(f"{name}_given", TensorProto.FLOAT, None)
        inner = helper.make_graph([helper.make_node("Neg", ["plain"], [given.name])], name, [], [given])
        given = helper.make_tensor_value_info(f"{name}_outer", TensorProto.FLOAT, None)
        nested = helper.make_node("If", ["yes"], [given.name], then_branch=inner, else_branch=inner, name=f"{name}_if")
        branches[name] = helper.make_graph([nested], name, [], [given])
    graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "half"))
    graph.node.append(helper.make_node("ReduceMax", [graph.input[0].name], ["brightest"], name="brightest", keepdims=0))
    graph.node.append(helper.make_node("Greater", ["brightest", "half"], ["bright"], name="bright"))
    graph.node.append(helper.make_node("If", ["bright"], [output], name="choice", **branches))
    return model


def test_what_a_branch_reads_from_outside_is_read_by_its_node(small):
    graph = chosen_by(load_graph(small()))
    onnx.checker.check_model(graph)
    choice = graph.graph.node[-1]
    assert {"bright", "yes", "plain"} <= set(read_by(choice)) and list(choice.input) == ["bright"]
    plain, found = (regions_of(name_nodes(model)) for model in (load_graph(small()), graph))
    assert found.output_layers == plain.output_layers
    assert found.decoder == plain.decoder | {"choice"}


def test_a_tensor_is_renamed_where_a_branch_reads_it_too_and_two_may_change_names(small):
    graph = chosen_by(load_graph(small()))
    pixels = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
    [expected] = outputs_of_onnx(graph, pixels)
    names = {"plain": "bright", "bright": "plain", "then_branch_given": "inside"}
    before = tensor_names(graph.graph)
    assert set(names) <= before
    rename_tensors(graph.graph.node, names)
    assert tensor_names(graph.graph) == before - {"then_branch_given"} | {"inside"}
    assert graph.graph.node[-1].input[0] == "plain"
    [found] = outputs_of_onnx(graph, pixels)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_graph_with_graphs_inside_is_not_converted_in_part(small, train_images, tmp_path, precision):
    make = {
        "fp16": lambda source: cast_to_fp16(source, tmp_path / "low.onnx"),
        "int8": lambda source: quantize_to_int8(source, tmp_path / "low.onnx", train_images),
    }[precision]
    onnx.save(chosen_by(load_graph(small())), str(tmp_path / "model.onnx"))
    with pytest.raises(DataError, match=r"holds If, which runs graphs of its own.* export the model again without it"):
        make(tmp_path / "model.onnx")
    assert not (tmp_path / "low.onnx").exists()


PLAIN_AVX2 = {"architecture": "x86_64", "isa": "avx2 fma"}
WITH_VNNI = {"architecture": "x86_64", "isa": "avx2 fma avx_vnni"}


def _greatest_weight(path: Path) -> int:
    """Of the 8-bit weights of convolutions."""
    weights = {item.name: numpy_helper.to_array(item) for item in load_graph(path).graph.initializer}
    return max(
        int(np.abs(value.astype(int)).max()) for value in weights.values() if value.dtype == np.int8 and value.ndim == 4
    )


@pytest.mark.parametrize(
    ("asked", "here", "reduced"),
    [(None, PLAIN_AVX2, True), (None, WITH_VNNI, False), (True, WITH_VNNI, True), (False, PLAIN_AVX2, False)],
)
def test_products_that_a_cpu_adds_in_sixteen_bits_fit_where_it_does(asked, here, reduced, small, tmp_path, monkeypatch):
    monkeypatch.setattr(int8, "cpu_identity", lambda: here)
    images, made = noise_images(tmp_path, 16), tmp_path / "q.onnx"
    info = quantize_to_int8(
        small("yolov8", "classify"), made, images, recipe="cpu", method="minmax", reduce_range=asked
    )
    fits = 2 * 255 * _greatest_weight(made) <= np.iinfo(np.int16).max
    assert info.reduced_range is reduced is fits


def test_seven_bits_are_not_asked_of_tensorrt(small, tmp_path, monkeypatch):
    images, source, made = noise_images(tmp_path, 16), small("yolov8", "classify"), {}
    for name, here in (("avx2", PLAIN_AVX2), ("vnni", WITH_VNNI)):
        monkeypatch.setattr(int8, "cpu_identity", lambda here=here: here)
        made[name] = tmp_path / f"{name}.onnx"
        assert not quantize_to_int8(source, made[name], images, method="minmax").reduced_range
        for asked in (True, False):
            with pytest.raises(TargetError, match=r"reduce_range is for the recipe cpu.*: leave it out"):
                quantize_to_int8(source, made[name], images, method="minmax", reduce_range=asked)
    assert made["avx2"].read_bytes() == made["vnni"].read_bytes()
