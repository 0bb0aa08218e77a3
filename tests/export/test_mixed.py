from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeprune import checkpoint
from edgeprune.dataset import Dataset
from edgeprune.errors import StageError
from edgeprune.export.graph import load_graph
from edgeprune.export.half import cast_to_fp16
from edgeprune.export.int8 import quantize_to_int8
from edgeprune.export.mixed import quantized_layers, restore_float, restore_float_layers, with_float_layers
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.export.precision import float_nodes, precision_of
from edgeprune.export.regions import name_nodes
from edgeprune.export.run import outputs_of_onnx
from edgeprune.measure.accuracy import accuracy
from tests.export.helpers import linked_copy, saved, stock_model
from tests.export.imbalanced import imbalanced


@pytest.fixture(scope="module", params=["tensorrt", "cpu"])
def pair(request, tmp_path_factory, shared):
    """A small FP32 graph, its deliberately bad INT8 form (per tensor, minmax, 16 images), and images."""
    folder = tmp_path_factory.mktemp("mixed")
    images = sorted((shared / "data" / "bccd" / "images" / "train").glob("*.jpg"))[:16]
    source, quantized = folder / "fp32.onnx", folder / "int8.onnx"
    onnx_from_checkpoint(saved(stock_model("yolov8", "classify"), folder / "m.pt"), source, imgsz=64)
    bad = {"method": "minmax", "per_channel": False, "head_in_float": False, "recipe": request.param}
    quantize_to_int8(source, quantized, images, **bad)
    return source, quantized, images[:2]


def pixels() -> np.ndarray:
    return np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)


def closeness(source: Path):
    """An accuracy without a dataset: 1 minus the relative difference of the outputs to the FP32 graph's."""
    expected = outputs_of_onnx(source, pixels())[0]

    def of(path: Path) -> float:
        found = outputs_of_onnx(path, pixels())[0]
        return 1.0 - float(np.linalg.norm(found - expected) / np.linalg.norm(expected))

    return of


def test_every_layer_back_in_float_is_the_source_again(pair):
    source, quantized, _ = pair
    plain, int8 = name_nodes(load_graph(source)), load_graph(quantized)
    back = restore_float(plain, int8, quantized_layers(int8))
    assert precision_of(back) == "fp32"
    of_source, of_back = (outputs_of_onnx(model, pixels())[0] for model in (plain, back))
    np.testing.assert_allclose(of_back, of_source, atol=1e-6)


def test_no_layer_back_is_the_int8_graph(pair):
    source, quantized, _ = pair
    int8 = load_graph(quantized)
    same = restore_float(name_nodes(load_graph(source)), int8, [])
    np.testing.assert_array_equal(outputs_of_onnx(same, pixels())[0], outputs_of_onnx(int8, pixels())[0])


def test_one_layer_back_leaves_the_others(pair):
    source, quantized, _ = pair
    int8 = load_graph(quantized)
    layers = quantized_layers(int8)
    mixed = restore_float(name_nodes(load_graph(source)), int8, layers[3:4])
    assert quantized_layers(mixed) == [name for name in layers if name != layers[3]]


def test_the_floor_is_reached_with_few_named_layers_and_the_cost_is_told(pair, tmp_path):
    source, quantized, images = pair
    accuracy_of = closeness(source)
    before = accuracy_of(quantized)
    floor = before + 0.3 * (1.0 - before)
    (tmp_path / "mixed-low.onnx").write_text("somebody's")
    timed: list[Path] = []
    found = restore_float_layers(
        source,
        quantized,
        tmp_path / "mixed.onnx",
        images,
        floor=floor,
        accuracy_of=accuracy_of,
        latency_of=lambda paths: timed.extend(paths) or [1.0, 1.25],
    )
    assert found.reached
    assert [path.name for path in timed] == ["mixed-low.onnx", "mixed.onnx"]
    assert {path.name for path in tmp_path.iterdir()} == {"mixed-low.onnx", "mixed.onnx"}
    assert (tmp_path / "mixed-low.onnx").read_text() == "somebody's"
    assert accuracy_of(tmp_path / "mixed.onnx") == pytest.approx(found.accuracy_after)
    assert found.accuracy_after >= floor > found.accuracy_before
    assert 0 < len(found.layers) < found.layers_low
    assert set(quantized_layers(load_graph(tmp_path / "mixed.onnx"))).isdisjoint(found.layers)
    ranks = list(found.sensitivity.values())
    assert ranks == sorted(ranks, reverse=True)
    assert found.layers == tuple(found.sensitivity)[: len(found.layers)]
    assert "+25.0%" in found.reason
    fewer = [value for count, value in found.trials if count < len(found.layers)]
    assert all(value < floor for value in fewer)


def test_the_layers_of_one_graph_go_back_in_another(pair, tmp_path):
    source, quantized, _ = pair
    layers = quantized_layers(load_graph(quantized))
    returned = with_float_layers(source, quantized, tmp_path / "m.onnx", [layers[1], "/gone/Conv", layers[4]])
    assert returned == (layers[1], layers[4])
    mixed = load_graph(tmp_path / "m.onnx")
    assert set(layers) - set(quantized_layers(mixed)) == set(returned)
    assert set(returned) == set(float_nodes(mixed)) - set(float_nodes(load_graph(quantized)))


def test_a_graph_in_half_precision_names_its_layers_in_float(pair, tmp_path):
    source, *_ = pair
    cast_to_fp16(source, tmp_path / "fp16.onnx")
    layers = [node.name for node in name_nodes(load_graph(source)).graph.node if node.op_type == "Conv"]
    with_float_layers(source, tmp_path / "fp16.onnx", tmp_path / "m.onnx", layers[1:3])
    returned = set(float_nodes(tmp_path / "m.onnx")) - set(float_nodes(tmp_path / "fp16.onnx"))
    assert returned == set(layers[1:3])


def test_a_graph_that_is_accurate_enough_is_left_alone(pair, tmp_path):
    source, quantized, images = pair
    found = restore_float_layers(source, quantized, tmp_path / "m.onnx", images, floor=0.0, accuracy_of=lambda _: 0.5)
    assert (found.layers, found.reached, found.trials) == ((), True, ((0, 0.5),))


def test_a_floor_out_of_reach_is_said_and_the_best_is_kept(pair, tmp_path):
    source, quantized, images = pair
    found = restore_float_layers(
        source, quantized, tmp_path / "m.onnx", images, floor=2.0, accuracy_of=closeness(source)
    )
    assert not found.reached
    assert "does not reach" in found.reason
    assert found.accuracy_after == max(value for _, value in found.trials)
    assert (tmp_path / "m.onnx").is_file()


@pytest.mark.slow
def test_a_trained_model_that_int8_breaks_is_rescued_by_the_layers_that_broke_it(shared, tmp_path):
    """BCCD's YOLOv8n with the logits of its boxes shifted where their softmax does not care; 16 images, per tensor."""
    root = linked_copy(shared / "data" / "bccd", tmp_path / "bccd")
    for image in sorted((root / "images" / "val").iterdir())[16:]:
        image.unlink()
    dataset = Dataset.load(root / "data.yaml", task="detect")
    read = checkpoint.load(shared / "weights" / "bccd-yolov8n-320.pt")
    changed = imbalanced(read.model, octaves=9)
    checkpoint.save(read.model, tmp_path / "m.pt", like=read)
    source, low, target = (tmp_path / f"{name}.onnx" for name in ("fp32", "int8", "mixed"))
    onnx_from_checkpoint(tmp_path / "m.pt", source, imgsz=320)
    bad = {"method": "minmax", "per_channel": False, "head_in_float": False, "recipe": "cpu"}
    quantize_to_int8(source, low, dataset.sample_images("train", 16), **bad)

    def accuracy_of(path: Path) -> float:
        return accuracy(path, data=dataset).map50_95

    floor = accuracy_of(source) - 0.02
    shown = dataset.sample_images("val", 1)
    found = restore_float_layers(source, low, target, shown, floor=floor, accuracy_of=accuracy_of)
    assert found.accuracy_before < floor - 0.1
    assert found.reached
    assert accuracy_of(target) >= floor
    assert changed == [f"model.22.cv2.{level}.2" for level in range(3)]
    assert set(found.layers) <= {f"/model.22/cv2.{level}/cv2.{level}.2/Conv" for level in range(3)}


def test_a_graph_that_overflows_in_half_precision_gets_its_layers_back(shared, tmp_path):
    """Channels of an attention block rescaled by up to 2**22 and back: the same in FP32, infinite in FP16."""
    model = stock_model("yolo11", "classify")
    changed = imbalanced(model, octaves=22)
    source, half = tmp_path / "fp32.onnx", tmp_path / "fp16.onnx"
    onnx_from_checkpoint(saved(model, tmp_path / "m.pt"), source, imgsz=64)
    cast_to_fp16(source, half)
    images = sorted((shared / "data" / "bccd" / "images" / "train").glob("*.jpg"))[:1]

    def accuracy_of(path: Path) -> float:
        found = closeness(source)(path)
        return found if np.isfinite(found) else 0.0

    found = restore_float_layers(source, half, tmp_path / "mixed.onnx", images, floor=0.98, accuracy_of=accuracy_of)
    assert found.accuracy_before < 0.5
    assert found.reached
    names = [layer.removesuffix("/conv/Conv").rsplit("/", 1)[1] for layer in found.layers]
    assert names[0] == "qkv"  # where the values that overflow are made; what handles them goes along
    assert set(names) <= {name.rsplit(".", 1)[1] for name in changed}
    assert precision_of(tmp_path / "mixed.onnx") == "fp16"


def test_files_of_two_models_are_refused(pair, tmp_path):
    source, _, images = pair
    with pytest.raises(StageError, match="no INT8 or FP16 form"):
        restore_float_layers(source, source, tmp_path / "m.onnx", images, floor=0.1, accuracy_of=lambda _: 0.0)
    assert not (tmp_path / "m.onnx").exists()
