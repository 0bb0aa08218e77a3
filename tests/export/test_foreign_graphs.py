"""Graphs as others export them: NMS inside, plugins of TensorRT, and models that find nothing."""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import onnxsim
import pytest
import torch
from typer.testing import CliRunner

from edgeprune.cli import app as every_command
from edgeprune.cli.export import app
from edgeprune.deploy.shipped import ShippedModel
from edgeprune.errors import DataError
from edgeprune.export.graph import load_graph, outputs_of
from edgeprune.export.half import cast_to_fp16
from edgeprune.export.images import batch_from_images
from edgeprune.export.int8 import quantize_to_int8
from edgeprune.export.lint import lint
from edgeprune.export.metadata import facts_of, facts_to_run
from edgeprune.export.parity import parity
from edgeprune.export.quantize import dataset_for
from edgeprune.export.run import outputs_of_onnx
from edgeprune.export.simplify import simplify_onnx
from edgeprune.measure.accuracy import accuracy
from edgeprune.records.gates import agreement_gate, parity_gate
from edgeprune.runtimes.bench_worker import JobError, open_session
from edgeprune.samples.gates import Verdict
from tests.export.helpers import simplify_wrongly
from tests.situations import datasets, graphs, models


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("foreign")


@pytest.fixture(scope="module")
def data(folder) -> Path:
    return datasets.dataset(folder / "data", "detect")


@pytest.fixture(scope="module")
def images(data) -> list[Path]:
    return (datasets.images_of(data, "train") * 4)[:16]


@pytest.fixture(scope="module")
def with_nms(folder) -> Path:
    return graphs.stock(models.answering(models.model()), folder / "nms.onnx", nms=True)


@pytest.fixture(scope="module")
def silent(folder) -> tuple[Path, Path]:
    """A model that detects nothing, by its raw head and with NMS inside."""
    made = models.answering(models.model())
    with torch.no_grad():
        for branch in made.model[-1].cv3:
            branch[-1].bias.fill_(-20.0)
    return graphs.stock(made, folder / "raw.onnx"), graphs.stock(made, folder / "silent.onnx", nms=True)


@pytest.mark.parametrize(
    ("recipe", "method"), [("cpu", "entropy"), ("cpu", "minmax"), ("tensorrt", "entropy"), ("tensorrt", "percentile")]
)
def test_nms_inside_stays_out_of_int8_calibration(with_nms, images, tmp_path, recipe, method):
    info = quantize_to_int8(with_nms, tmp_path / "int8.onnx", images, recipe=recipe, method=method)
    assert info.quantized_layers > 10
    source, made = (onnx.load(str(path)) for path in (with_nms, tmp_path / "int8.onnx"))
    onnx.checker.check_model(made, full_check=True)
    assert [value.name for value in made.graph.output] == [value.name for value in source.graph.output]
    pixels = batch_from_images(images[:2], imgsz=(64, 64))
    (before,), (after,) = outputs_of_onnx(source, pixels), outputs_of_onnx(made, pixels)
    assert before.shape == after.shape
    found = [np.count_nonzero(rows[..., 4]) for rows in (before, after)]
    assert found[0]
    assert found[1] == pytest.approx(found[0], rel=0.2)


def test_nms_inside_is_cast_to_half_precision_too(with_nms, images, tmp_path):
    cast_to_fp16(with_nms, tmp_path / "half.onnx")
    pixels = batch_from_images(images[:2], imgsz=(64, 64))
    (before,), (after,) = outputs_of_onnx(with_nms, pixels), outputs_of_onnx(tmp_path / "half.onnx", pixels)
    found = [np.count_nonzero(rows[..., 4]) for rows in (before, after)]
    assert found[1] == pytest.approx(found[0], rel=0.1)


@pytest.mark.parametrize("head", ["raw", "end-to-end", "nms"])
@pytest.mark.parametrize("task", ["detect", "segment", "pose", "obb", "classify"])
def test_outputs_that_are_not_those_of_the_task_and_head_that_a_file_says_are_refused(
    folder, images, data, tmp_path, task, head
):
    raw = graphs.stock(models.model(), folder / "plain.onnx")
    told = graphs.with_metadata(raw, tmp_path / "told.onnx", task=task, edgeprune_head=head, kpt_shape="[2, 3]")
    runs = (
        lambda: parity(told, told, images[:1]),
        lambda: parity(raw, told, images[:1]),
        lambda: accuracy(told, data=data),
        lambda: dataset_for(told, data, split="train"),
    )
    if (task, head) == ("detect", "raw"):
        assert facts_to_run(told) == facts_of(told)
        return
    for run in runs:
        with pytest.raises(DataError, match=f"says that it is a {task} model of 3 classes with head {head}"):
            run()


@pytest.mark.parametrize("head", ["detect", "segment", "pose", "obb", "classify", "end-to-end"])
@pytest.mark.parametrize("nms", [False, True])
def test_what_ultralytics_exports_has_the_outputs_that_it_says(tmp_path, head, nms):
    if nms and head in ("classify", "end-to-end"):
        pytest.skip("Ultralytics puts no NMS behind these")
    facts = facts_to_run(graphs.stock(models.model(head), tmp_path / "m.onnx", nms=nms))
    assert facts.head == ("nms" if nms else "end-to-end" if head == "end-to-end" else "raw")


@pytest.mark.parametrize("nms", [False, True])
def test_rows_of_a_head_that_an_older_exporter_did_not_tell_of_are_called_that(tmp_path, images, nms):
    made = graphs.stock(models.model("detect" if nms else "end-to-end"), tmp_path / "m.onnx", nms=nms)
    old = graphs.with_metadata(made, tmp_path / "old.onnx", end2end=None, args=None)
    assert facts_of(old).head == "raw"
    with pytest.raises(
        DataError, match=r"rows of 6 values.* end-to-end head \(YOLOv10\).*\(end2end\).*edgeprune export CHECKPOINT$"
    ):
        parity(old, old, images[:1])


def test_what_ships_or_is_compared_is_read_as_what_its_outputs_are(tmp_path):
    """Every tool that hands a graph on says how its outputs are read: one that would be read wrongly goes nowhere."""
    made = graphs.stock(models.model("end-to-end"), tmp_path / "m.onnx", nms=False)
    old = graphs.with_metadata(made, tmp_path / "old.onnx", end2end=None, args=None)
    foreign = graphs.with_metadata(made, tmp_path / "foreign.onnx", task="segment")
    (tmp_path / "bundle").mkdir()
    bundle, engine, out = tmp_path / "bundle", tmp_path / "e.engine", tmp_path / "out"
    engine.write_bytes(b"ftrt plan")
    for graph, words in ((old, "rows of 6 values"), (foreign, "says that it is a segment model")):
        shutil.copy(graph, bundle / "model.onnx")
        commands = (
            ["deploy", "deepstream", str(graph), "-o", str(out)],
            ["deploy", "triton", str(bundle), "-o", str(out)],
            ["engine-header", "add", str(engine), "--onnx", str(graph), "-o", str(tmp_path / "made.engine")],
            ["compare", str(made), str(graph), "--data", "d.yaml", "-o", str(out)],
        )
        for command in commands:
            refused = CliRunner().invoke(every_command, command).exception
            assert isinstance(refused, DataError) and words in str(refused), command
    assert not out.exists() and not (tmp_path / "made.engine").exists()
    assert ShippedModel.read(made).metadata.head == "end-to-end"


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 3, 10**6, 10**6), "input size"), ((10**6, 3, 64, 64), "batch"), ((1, 10**6, 64, 64), "number of channels")],
)
def test_an_input_that_no_image_fills_is_refused(folder, tmp_path, shape, message):
    model = onnx.load(str(graphs.stock(models.model(), folder / "plain.onnx")))
    for axis, side in zip(model.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        axis.dim_value = side
    with pytest.raises(DataError, match=message):
        facts_of(model)


@pytest.mark.parametrize(
    ("op", "domain", "name"),
    [
        ("EfficientNMS_TRT", "TRT", "TRT::EfficientNMS_TRT"),
        ("BatchedNMSDynamic_TRT", "trt.plugins", "trt.plugins::BatchedNMSDynamic_TRT"),
        ("EfficientNMS_TRT", "", "EfficientNMS_TRT"),
    ],
)
def test_plugins_of_tensorrt_are_called_that_and_refused_where_they_cannot_run(
    folder, images, tmp_path, op, domain, name
):
    raw = graphs.stock(models.model(), folder / "plain.onnx")
    path = graphs.with_plugin(raw, tmp_path / "plugin.onnx", op=op, domain=domain)
    found = [(finding.rule, finding.severity) for finding in lint(path)]
    assert found == [("tensorrt-plugin", "warning")]
    for run in (
        lambda: parity(path, path, images[:1]),
        lambda: quantize_to_int8(path, tmp_path / "int8.onnx", images),
    ):
        with pytest.raises(DataError, match=f"holds {name}, a plugin that runs on TensorRT only.*--head nms"):
            run()
    with pytest.raises(JobError, match="a plugin that runs on TensorRT only"):
        open_session(path, "CPUExecutionProvider")
    simplified = simplify_onnx(path, tmp_path / "simple.onnx")
    assert not simplified.changed
    assert "plugin of TensorRT" in simplified.reason


def test_what_compares_nothing_does_not_pass(silent, data, images, tmp_path):
    raw, inside = silent
    for path, verdict in ((raw, Verdict.PASS), (inside, Verdict.INCONCLUSIVE)):  # raw numbers are compared anyway
        found = parity(path, path, images[:2])
        assert found.found_nothing
        assert parity_gate("export", found, 0.01, 640, "against itself").verdict is verdict
        assert agreement_gate("engine", found).verdict is Verdict.INCONCLUSIVE
    ended = CliRunner().invoke(app, ["parity", str(raw), str(raw), "--data", str(data)])
    assert ended.exit_code == 5
    assert "INCONCLUSIVE: neither detects anything" in ended.output


@pytest.mark.parametrize("on_images", [True, False])
def test_nms_inside_that_finds_nothing_is_simplified_by_what_it_chooses_from(silent, images, tmp_path, on_images):
    _, inside = silent
    simplified = simplify_onnx(inside, tmp_path / "simple.onnx", images=images[:2] if on_images else ())
    assert simplified.changed and simplified.nodes_after < simplified.nodes_before
    assert "candidates of NMS within" in simplified.reason
    assert outputs_of(load_graph(tmp_path / "simple.onnx")) == outputs_of(load_graph(inside))


def test_a_change_in_front_of_nms_is_seen_though_it_finds_nothing(silent, tmp_path, monkeypatch):
    monkeypatch.setattr(onnxsim, "simplify", simplify_wrongly)
    _, inside = silent
    simplified = simplify_onnx(inside, tmp_path / "simple.onnx")
    assert not simplified.changed
    assert "changed what NMS chooses from by" in simplified.reason
    assert load_graph(tmp_path / "simple.onnx") == load_graph(inside)


def test_nms_that_has_nothing_in_front_to_compare_by_stays_as_it_is(silent, tmp_path, monkeypatch):
    monkeypatch.setattr(import_module("edgeprune.export.simplify"), "candidates_of", lambda model: ())
    simplified = simplify_onnx(silent[1], tmp_path / "simple.onnx")
    assert not simplified.changed and "nothing to compare" in simplified.reason
