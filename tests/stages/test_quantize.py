"""quantize measures what its precision costs, and returns layers to float where that is too much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import edgeprune
from edgeprune import checkpoint
from edgeprune.artifact import Artifact
from edgeprune.dataset import Dataset
from edgeprune.errors import DataError
from edgeprune.export.graph import load_graph, metadata_of
from edgeprune.export.metadata import FLOAT_LAYERS_KEY
from edgeprune.export.mixed import quantized_layers
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.export.precision import precision_of
from edgeprune.export.quantize import quantize_onnx
from edgeprune.export.simplify import simplify_onnx
from edgeprune.measure.accuracy import accuracy
from edgeprune.records.facts import FinetuneFacts, PrecisionChoice, QatFacts, QuantizeFacts
from edgeprune.settings import FEWEST_IMAGES
from edgeprune.stages import mixed_precision, quantize
from edgeprune.stages.base import Build, Output
from edgeprune.stages.mixed_precision import choosing_images
from edgeprune.training.result import TrainSummary
from edgeprune.workspace import Key, Record
from tests.records.sample import build_record

# Ranges of the 99th percentile cut off what carries most of a signal: INT8 as it must not ship.
HARD = """
extends: cpu
description: INT8 that loses too much
imgsz: 192
precision: int8
calibration: {images: 16, method: percentile, percentile: 99}
measure: {warmup_s: 0.05, rounds: 4, per_round: 2}
"""
ON_VAL = "accuracy: {split: val}\n"  # judges; `reached` is measured on the images of the calibration in its place


@pytest.fixture(scope="module")
def plain(shared, tmp_path_factory) -> Path:
    """A trained YOLOv8n as the simplify stage leaves it."""
    path = tmp_path_factory.mktemp("plain") / "model.onnx"
    onnx_from_checkpoint(shared / "weights" / "bccd-yolov8n-320.pt", path, imgsz=192)
    simplify_onnx(path, path)
    return path


@pytest.fixture(scope="module")
def choosing(bccd) -> Dataset:
    """What layers are chosen on where the validation split judges."""
    return bccd.with_other_images("val", "train", bccd.images("train"))


@pytest.fixture(scope="module")
def reached(plain, choosing) -> float:
    """Accuracy of the FP32 graph there."""
    return accuracy(plain, data=choosing).map50_95


def quantized(build: Build, folder: Path) -> Output[QuantizeFacts]:
    folder.mkdir()
    return quantize.STAGE.run(build, folder, Key("quantize", {}))


def rows(build: Build, output: Output[QuantizeFacts]) -> dict[str, Any]:
    artifacts = {role: Artifact(path, "") for role, path in output.artifacts.items()}
    record = Record(Key("quantize", {}), Path(), artifacts, output.facts, 0.0, "")
    return {gate.metric: gate for gate in quantize.STAGE.judge(build, record).gates}


@pytest.fixture
def records(shared) -> Callable[[Path], dict[str, Any]]:
    """Records of the stages before: the trained model is the unpruned one."""
    stages = build_record().stages
    return lambda graph: {
        "simplify": ({"onnx": graph}, stages.simplify.facts),
        "baseline": ({"model": shared / "weights" / "bccd-yolov8n-320.pt"}, stages.baseline.facts),
    }


def test_layers_are_chosen_on_images_that_do_not_judge(build_at, bccd, records, plain):
    assert len(bccd.images("val")) < FEWEST_IMAGES <= len(bccd.images("train"))  # too few to choose by
    for split, source in (("val", "train"), ("auto", "train"), ("test", "train")):
        build = build_at(f"{HARD}accuracy: {{split: {split}}}\n", records(plain))
        chosen = choosing_images(build).images(bccd.judging_split(split))
        assert set(chosen) == set(bccd.images(source))
        assert set(chosen).isdisjoint(bccd.images(bccd.judging_split(split)))


@pytest.mark.parametrize("head", ["nms", "raw"])
def test_the_floor_is_of_the_unpruned_model_with_the_nms_that_ships(build_at, records, plain, choosing, tmp_path, head):
    build = build_at(HARD + ON_VAL + f"export: {{nms: {str(head == 'nms').lower()}, head: auto}}\n", records(plain))
    few = choosing.with_other_images("val", "val", choosing.images("val")[:4])
    shipped = tmp_path / "unpruned.onnx"
    onnx_from_checkpoint(build.records["baseline"].path("model"), shipped, imgsz=192, head=head)
    assert mixed_precision._unpruned_accuracy(build, few) == pytest.approx(
        accuracy(shipped, data=few).map50_95, abs=1e-4
    )


@pytest.mark.slow
def test_a_hard_case_is_rescued_and_the_table_names_the_layers(build_at, records, plain, reached, choosing, tmp_path):
    off = quantized(build_at(f"{HARD}{ON_VAL}mixed_precision: false\n", records(plain)), tmp_path / "off")
    before = off.facts.fallback.accuracy
    assert "off in the profile" in off.facts.fallback.reason
    assert off.facts.fallback.mixed is None
    assert FLOAT_LAYERS_KEY not in metadata_of(off.artifacts["onnx"])
    assert reached - before > 0.03

    allowed = (reached - before) / 2
    build = build_at(f"{HARD}accuracy: {{max_map_drop: {allowed}, split: val}}\n", records(plain))
    output = quantized(build, tmp_path / "out")
    mixed = output.facts.fallback.mixed
    assert mixed is not None
    assert output.facts.fallback.accuracy == pytest.approx(before)
    assert mixed.accuracy_after >= reached - allowed
    assert mixed.reached
    assert 0 < len(mixed.layers) < mixed.layers_low
    assert mixed.latency_after_ms is not None and mixed.latency_after_ms > 0
    shipped = output.artifacts["onnx"]
    assert accuracy(shipped, data=choosing).map50_95 == pytest.approx(mixed.accuracy_after, abs=5e-3)
    assert precision_of(shipped) == "int8"
    assert set(quantized_layers(load_graph(shipped))).isdisjoint(mixed.layers)
    assert metadata_of(shipped)[FLOAT_LAYERS_KEY].split(", ") == list(mixed.layers)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.onnx"]  # no trial is left

    table = rows(build, output)
    assert all(name in table["layers back in float"].reason for name in mixed.layers)
    assert "latency" in table["layers back in float"].reason
    assert table["layers back in float"].value == len(mixed.layers)
    assert table["mAP50-95 in int8"].value == pytest.approx(before)
    assert table["calibration images"].reason == "warning: INT8 was calibrated on 16 images; 64 or more are advised"
    assert any("calibrated on 16 images" in line for line in build.reporter.lines)
    assert any("missed the accuracy floor" in line for line in build.reporter.lines)


def test_nothing_is_searched_where_float_itself_is_too_bad(build_at, records, shared, tmp_path):
    source = checkpoint.load(shared / "weights" / "bccd-yolov8n-320.pt")
    model: Any = source.model
    for branch in model.model[-1].cv3:
        branch[-1].bias.data.fill_(-20.0)  # it finds nothing
    checkpoint.save(model, tmp_path / "blind.pt", like=source)
    onnx_from_checkpoint(tmp_path / "blind.pt", tmp_path / "blind.onnx", imgsz=192)
    build = build_at(HARD + ON_VAL, records(tmp_path / "blind.onnx"))
    output = quantized(build, tmp_path / "out")
    assert output.facts.fallback.mixed is None
    assert "precision is not what costs" in rows(build, output)["mAP50-95 in int8"].reason


def test_a_precision_that_costs_little_is_left_alone(build_at, records, plain, tmp_path):
    build = build_at((HARD + ON_VAL).replace("precision: int8", "precision: fp16"), records(plain))
    output = quantized(build, tmp_path / "out")
    assert output.facts.fallback.reason == "it reaches the floor"
    assert "layers back in float" not in rows(build, output)
    assert "calibration images" not in rows(build, output)


@pytest.mark.parametrize("better", ["trained", pytest.param("calibrated", marks=pytest.mark.slow)])
def test_of_trained_and_calibrated_int8_the_more_accurate_ships(build_at, records, plain, bccd, tmp_path, better):
    """A graph that is calibrated well stands in for one that was trained: what follows does not depend on how."""
    good, bad = tmp_path / "good.onnx", tmp_path / "bad.onnx"
    for path, options in ((good, {"method": "minmax"}), (bad, {"method": "percentile", "percentile": 90})):
        quantize_onnx(plain, path, precision="int8", data=bccd, images=16, recipe="cpu", **options)
    given, model = good if better == "trained" else bad, tmp_path / "trained.pt"
    before = records(plain)
    summary = TrainSummary(1, 1, (), 0.5, 1.0)
    before["finetune"] = ({"model": tmp_path / "tuned.pt"}, FinetuneFacts(summary, "", 1, None))
    before["qat"] = ({"model": model, "onnx": given}, QatFacts(summary, "", 1, 1))
    build = build_at(f"{HARD}{ON_VAL}mixed_precision: false\nkeep_precision: true\n", before)
    output = quantized(build, tmp_path / "out")
    trained = output.facts.trained
    assert trained is not None
    assert trained.ships == (better == "trained")
    assert (trained.trained >= trained.calibrated) == trained.ships
    shipped = output.artifacts["onnx"].read_bytes()
    assert (shipped == given.read_bytes()) == trained.ships
    accurate = output.facts.fallback.accuracy
    assert accurate == (trained.trained if trained.ships else trained.calibrated)
    assert f"the {better} graph goes on" in rows(build, output)["trained against calibrated INT8"].reason
    build.records["quantize"] = Record(Key("quantize", {}), tmp_path, {}, output.facts, 0.0, "")
    assert quantize.shipped_model(build) == (model if trained.ships else tmp_path / "tuned.pt")
    choice = PrecisionChoice("int8", "fp32", 1.0, 0.5, None, "fp32", "it is as fast")  # another format in its place
    plainer = rows(build, replace(output, facts=replace(output.facts, choice=choice)))
    assert plainer["trained against calibrated INT8"].reason.endswith(f"the {better} graph was tried, and fp32 ships")


def test_too_few_images_to_calibrate_on_are_refused_before_anything_is_written(shared, bccd, tmp_path):
    (tmp_path / "int8.yaml").write_text(HARD)
    images = tmp_path / "d" / "images" / "train"
    images.mkdir(parents=True)
    labels = tmp_path / "d" / "labels" / "train"
    labels.mkdir(parents=True)
    for image in bccd.images("train")[:15]:
        (images / image.name).symlink_to(image.resolve())
        (labels / f"{image.stem}.txt").write_text((bccd.root / "labels/train" / f"{image.stem}.txt").read_text())
    names = dict(bccd.names)
    (tmp_path / "d" / "data.yaml").write_text(f"train: images/train\nval: images/train\nnames: {names}\n")
    weights = shared / "weights" / "bccd-yolov8n-320.pt"
    with pytest.raises(DataError, match="got 15 images; at least 16"):
        edgeprune.build(tmp_path / "int8.yaml", weights, tmp_path / "d" / "data.yaml", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
