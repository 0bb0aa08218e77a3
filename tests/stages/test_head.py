"""Which head a target gets: INT8 for TensorRT 10.3 takes the raw one, since top-k inside cannot be built there."""

from __future__ import annotations

from typing import Any

import pytest

from edgeprune.artifact import Artifact
from edgeprune.errors import TargetError
from edgeprune.export.onnx import describe_onnx
from edgeprune.measure.accuracy import measure_artifact
from edgeprune.measure.compiling import compile_checkpoint, export_onnx
from edgeprune.records.facts import PrecisionChoice, QuantizeFacts
from edgeprune.stages import engine
from edgeprune.stages.unpruned import shipped_site, unpruned_inputs
from edgeprune.target import load_target
from edgeprune.workspace import Key, Record
from tests.export.helpers import saved, stock_model
from tests.records.sample import build_record

NOBODY: Any = None
BASELINE = build_record().stages.baseline.facts

JETSON = """
extends: jetson-orin-nano
description: a board
imgsz: 64
precision: PRECISION
device: {tensorrt: "RANGE"}
calibration: {images: 16, method: minmax}
"""


@pytest.mark.parametrize(
    ("precision", "versions", "head"),
    [
        ("int8", ">=10.3,<12", "raw"),
        pytest.param("int8-fp16", "==10.3.*", "raw", marks=pytest.mark.slow),
        ("int8", ">=10.16", "end-to-end"),
        ("fp16", ">=10.3,<12", "end-to-end"),
    ],
)
def test_a_model_with_two_heads_ships_the_one_that_the_target_can_build(precision, versions, head, build_at, tmp_path):
    model = stock_model("yolo26", "detect")
    model.names = {0: "RBC", 1: "WBC", 2: "Platelets"}
    build = build_at(JETSON.replace("PRECISION", precision).replace("RANGE", versions))
    (tmp_path / "out").mkdir()
    files = compile_checkpoint(build.site, saved(model, tmp_path / "m.pt"), tmp_path / "out", build.dataset)
    onnx = files.onnx
    assert describe_onnx(onnx).head == head
    assert [finding for finding in engine._lint(build, onnx) or () if finding.severity == "error"] == []
    measured = measure_artifact(
        build.site, files.onnx, files.engine, build.dataset
    )  # decoded outside where the graph does not
    assert 0 <= measured.value <= 1


@pytest.mark.parametrize("export", ["{nms: true}", "{head: end-to-end}"])
def test_what_cannot_be_built_is_refused_with_the_profile(export, tmp_path):
    path = tmp_path / "board.yaml"
    path.write_text(JETSON.replace("PRECISION", "int8").replace("RANGE", ">=10.3") + f"export: {export}\n")
    with pytest.raises(TargetError, match="cannot build INT8 with top-k or NMS"):
        load_target(path)
    path.write_text(path.read_text().replace(">=10.3", ">=10.4"))
    assert load_target(path).exported_head in {"nms", "end-to-end"}


@pytest.mark.parametrize(("versions", "head"), [("==10.3.*", "raw"), ("==8.6.*", "raw"), ("==10.16.*", "end-to-end")])
def test_the_unpruned_model_has_the_head_of_what_ships_where_a_plainer_format_does(versions, head, build_at, tmp_path):
    """INT8 was exported with its raw head before FP16 took its place: an end-to-end one computes more than that."""
    given = saved(stock_model("yolo26", "detect"), tmp_path / "m.pt")
    choice = PrecisionChoice("int8", "fp16", 0.9, 0.5, 0.5, "fp16", "")
    quantized = QuantizeFacts(NOBODY, NOBODY, 1, choice)
    build = build_at(JETSON.replace("PRECISION", "int8").replace("RANGE", versions))
    build.records = {
        "baseline": Record(Key("baseline", {}), tmp_path, {"model": Artifact(given, "")}, BASELINE, 0.0, ""),
        "quantize": Record(Key("quantize", {}), tmp_path, {}, quantized, 0.0, ""),
    }
    exported = tmp_path / "unpruned.onnx"
    there = shipped_site(build).target
    assert there.precision == "fp16"
    export_onnx(there, given, exported)
    assert describe_onnx(exported).head == head
    inputs = unpruned_inputs(build)["unpruned"]
    assert inputs["export"]["head"] == ("raw" if head == "raw" else "auto")  # an engine made before is another's


def test_a_cpu_knows_no_tensorrt():
    target = load_target("cpu").model_copy(update={"precision": "int8"})
    assert (target.oldest_tensorrt, target.exported_head) == (None, "auto")


def test_a_range_that_is_no_range_is_refused(tmp_path):
    path = tmp_path / "board.yaml"
    path.write_text(JETSON.replace("PRECISION", "int8").replace("RANGE", "ten"))
    with pytest.raises(TargetError, match="not a version specifier"):
        load_target(path)
