from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from typer.testing import CliRunner

from edgeprune.cli.export import app
from edgeprune.devices.local import LocalDevice
from edgeprune.errors import DataError, DeviceError, TargetError, ToolError
from edgeprune.export.half import cast_to_fp16
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.export.parity import compare_arrays
from edgeprune.export.precision import float_nodes
from edgeprune.export.result import ParityInfo
from edgeprune.runtimes import nvidia_parser
from edgeprune.runtimes.base import Availability
from edgeprune.runtimes.jobs import ParserAnswer
from edgeprune.runtimes.nvidia_parser import parser_availability
from edgeprune.runtimes.onnxruntime_ import OnnxRuntime
from edgeprune.runtimes.trtexec_ import TrtExec
from edgeprune.samples.agreement import Counts, dice
from tests.export.helpers import saved, stock_model
from tests.runtimes import fake_trtexec


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    pt = saved(stock_model("yolov8", "classify"), folder / "m.pt")
    onnx_from_checkpoint(pt, folder / "m.onnx", imgsz=64)
    onnx_from_checkpoint(pt, folder / "free.onnx", imgsz=64, dynamic=True)
    return folder


@pytest.mark.parametrize(("name", "code"), [("m", 0), ("free", 1)])
def test_lint_exits_by_what_it_finds(name, code, files):
    result = CliRunner().invoke(app, ["lint", str(files / f"{name}.onnx"), "--json"])
    assert result.exit_code == code
    printed = json.loads(result.output)
    assert [finding["rule"] for finding in printed["findings"]] == ["dynamic-shape"] * code
    if parser_availability().ok:
        assert (printed["parser"]["refusals"], printed["parser"]["lacking"]) == ([], [])


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        (ParserAnswer("1.7", ("Det 'a': false",), (), 1.0), 1, "error from NVIDIA's parser (RTX 1.7): Det 'a': false"),
        (ParserAnswer("1.7", (), ("NonZero",), 1.0), 0, "cannot tell: it has no NonZero"),
        (ToolError(["NVIDIA's parser"], -11, ""), 0, "gave no answer: NVIDIA's parser exited with -11"),
        (DeviceError("it does not load; next: pip install it"), 0, "gave no answer: it does not load; next: pip"),
        (None, 0, "was not asked, it is not here; next: get it"),
    ],
)
def test_lint_says_what_nvidias_parser_says(answer, code, says, files, monkeypatch):
    def ask(model):
        if isinstance(answer, Exception):
            raise answer
        return answer

    available = Availability(True, "RTX 1.7") if answer else Availability(False, "it is not here", "get it")
    monkeypatch.setattr(nvidia_parser, "parser_availability", lambda: available)
    monkeypatch.setattr(nvidia_parser, "ask_parser", ask)
    result = CliRunner().invoke(app, ["lint", str(files / "m.onnx")])
    assert result.exit_code == code
    assert says in result.output
    printed = json.loads(CliRunner().invoke(app, ["lint", str(files / "m.onnx"), "--json"]).output)
    assert says in printed["parser_says"] and (printed["parser"] is None) == (not isinstance(answer, ParserAnswer))


def test_export_simplify_and_quantize_write_beside_their_source(files):
    run = CliRunner().invoke
    assert run(app, ["export", str(files / "m.pt"), "--imgsz", "64", "-o", str(files / "x.onnx")]).exit_code == 0
    assert run(app, ["simplify", str(files / "x.onnx")]).exit_code == 0
    assert run(app, ["quantize", str(files / "x-simple.onnx"), "--precision", "fp16"]).exit_code == 0
    assert (files / "x-simple-fp16.onnx").is_file()


PROFILE = """
extends: cpu
description: a classifier
imgsz: 64
accuracy: {split: test}
measure: {threads: 1}
"""


@pytest.fixture(scope="module")
def classes(files, shared):
    """A dataset of three classes with a test split, and a profile that asks for it."""
    images = sorted((shared / "data" / "bccd" / "images" / "val").glob("*.jpg"))
    for number, split in enumerate(("train", "val", "test")):
        for index in range(3):
            folder = files / "d" / split / f"class{index}"
            folder.mkdir(parents=True)
            for image in images[number * 6 + index * 2 :][: 1 + number]:
                (folder / image.name).symlink_to(image)
    (files / "small.yaml").write_text(PROFILE)
    return files


@pytest.fixture
def by_process(classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A trtexec on the PATH that computes, an engine, its graph beside it, and a run of ``val``."""
    programs = tmp_path / "bin"
    programs.mkdir()
    program = fake_trtexec.install(programs, computes=True, takes="1x3x64x64")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "cache"))
    look = LocalDevice._look
    monkeypatch.setattr(LocalDevice, "_look", lambda self: replace(look(self), l4t="36.4.3"))  # a board has its GPU
    graph, engine = tmp_path / "m.onnx", tmp_path / "m.engine"
    shutil.copy(classes / "m.onnx", graph)
    TrtExec(LocalDevice(), program=(str(program),)).engine_from_onnx(graph, engine, precision="fp32")
    built = len(fake_trtexec.calls(program))

    def val(artifact: Path, *more: str):
        given = ("--data", str(classes / "d"), "--json", "--runtime", "trtexec")
        return CliRunner().invoke(app, ["val", str(artifact), *given, *more])

    def inferences() -> int:
        return len([call for call in fake_trtexec.calls(program)[built:] if "--loadInputs" in call])

    def taking(shape: str) -> None:
        fake_trtexec.install(programs, computes=True, takes=shape)

    return SimpleNamespace(graph=graph, engine=engine, val=val, inferences=inferences, taking=taking, program=program)


@pytest.mark.parametrize("form", ["engine", "graph", "alone"])
def test_val_by_a_process_an_inference_takes_the_graph_s_accuracy_and_some_outputs(
    form: str, classes: Path, by_process: SimpleNamespace
) -> None:
    if form == "alone":
        by_process.graph.unlink()
    result = by_process.val(by_process.graph if form == "graph" else by_process.engine, "--split", "test")
    assert result.exit_code == (0 if form == "alone" else 5), result.output  # nine images do not tell
    found = json.loads(result.stdout)
    plain = ["val", str(classes / "m.onnx"), "--data", str(classes / "d"), "--split", "test", "--json"]
    assert found["map50_95"] == json.loads(CliRunner().invoke(app, plain).stdout)["map50_95"]
    assert found["images"] == by_process.inferences() == 9
    if form == "alone":
        assert found["runtime"] == "trtexec" and found["agreement"] is None
        assert "trtexec starts a process for every inference" in result.stderr and "m.onnx" in result.stderr
    else:
        assert found["runtime"] == "onnxruntime on this CPU" and found["agreement"]["detections_agreement"] == 1
        assert "hours" not in result.stderr


@pytest.mark.parametrize(
    ("exported", "options", "takes", "built_for"),
    [
        ({"batch": 3}, [], "3x3x64x64", None),
        ({"batch": 3}, ["--batch", "3"], "3x3x64x64", None),
        ({"batch": 3}, ["--imgsz", "64"], "3x3x64x64", None),
        ({"dynamic": True}, [], "1x3x64x64", "images:1x3x64x64"),
        ({"dynamic": True}, ["--batch", "3", "--imgsz", "64,96"], "3x3x64x96", "images:3x3x64x96"),
    ],
)
def test_val_builds_an_engine_for_what_is_asked_and_asks_nothing_that_a_graph_fixes(
    exported: dict, options: list[str], takes: str, built_for: str | None, classes: Path, by_process: SimpleNamespace
) -> None:
    onnx_from_checkpoint(classes / "m.pt", by_process.graph, imgsz=64, **exported)
    by_process.taking(takes)
    result = by_process.val(by_process.graph, "--split", "test", *options)
    assert result.exit_code == 5, result.exception  # nine images do not tell
    assert json.loads(result.stdout)["agreement"]["detections_agreement"] == 1
    assert by_process.inferences() == 9 / int(takes[0])
    _, build = [call for call in fake_trtexec.calls(by_process.program) if "--onnx" in call]  # behind the fixture's
    assert build.get("--shapes") == built_for


def test_val_by_a_profile_of_another_batch_keeps_that_of_the_graph(
    classes: Path, by_process: SimpleNamespace, tmp_path: Path
) -> None:
    onnx_from_checkpoint(classes / "m.pt", by_process.graph, imgsz=64, batch=3)
    by_process.taking("3x3x64x64")
    profile = tmp_path / "board.yaml"
    profile.write_text(f"extends: desktop-tensorrt\nbatch: 2\ndevice: {{trtexec: {by_process.program}}}\n")
    given = ["val", str(by_process.graph), "--data", str(classes / "d"), "--split", "test", "--target", str(profile)]
    result = CliRunner().invoke(app, [*given, "--json"])
    assert result.exit_code == 5, result.exception
    assert json.loads(result.stdout)["agreement"]["detections_agreement"] == 1 and by_process.inferences() == 3


def test_val_by_a_process_an_inference_knows_whose_graph_lies_beside_an_engine(
    files: Path, by_process: SimpleNamespace, tmp_path: Path
) -> None:
    other = saved(stock_model("yolov8", "classify", seed=5), tmp_path / "other.pt")
    onnx_from_checkpoint(other, by_process.graph, imgsz=64)
    refused = by_process.val(by_process.engine)
    assert isinstance(refused.exception, DataError) and "was not built from" in str(refused.exception)
    assert by_process.inferences() == 0
    missing = by_process.val(tmp_path / "none.engine")
    assert isinstance(missing.exception, DataError) and "hours" not in missing.stderr


def test_val_by_a_process_an_inference_fails_where_the_outputs_are_others(
    by_process: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody kept whose graph it is, the agreement is what tells."""

    def apart(*given, **named):
        found = compare_arrays(*given, **named)
        counts = (Counts(10, 10, 7),) * found.images
        return replace(found, detections_agreement=dice(counts), by_image=counts)

    monkeypatch.setattr(import_module("edgeprune.export.parity"), "compare_arrays", apart)
    result = by_process.val(by_process.engine)
    assert result.exit_code == 1 and json.loads(result.stdout)["agreement"]["detections_agreement"] == 0.7


def test_val_by_a_process_an_inference_takes_a_size_and_the_judging_split(
    files: Path, classes: Path, by_process: SimpleNamespace, tmp_path: Path
) -> None:
    """What a graph leaves free is built as it is measured; a profile's split may be the one that judges."""
    profile = tmp_path / "auto.yaml"
    profile.write_text("extends: jetson-orin-nano\nimgsz: 96\nprecision: fp32\naccuracy: {split: auto}\n")
    given = ["val", str(files / "free.onnx"), "--data", str(classes / "d"), "--target", str(profile), "--json"]
    result = CliRunner().invoke(app, [*given, "--device", "fake:orin-nano"])
    assert result.exit_code in (1, 5), result.output  # a stand-in device computes nothing, and the images are nine
    found = json.loads(result.stdout)
    assert found["split"] == "test" and found["agreement"] is not None


def test_a_file_that_nobody_named_is_refused_before_the_work(classes: Path, tmp_path: Path) -> None:
    """As one that somebody named is; what is missing itself is told as missing."""
    shutil.copy(classes / "m.onnx", tmp_path / "m.onnx")
    shutil.copy(classes / "m.pt", tmp_path / "n.pt")
    for name in ("m-simple.onnx", "m-fp16.onnx", "n.onnx"):
        (tmp_path / name).mkdir()
    asked = (["simplify", "m.onnx"], ["quantize", "m.onnx", "--precision", "fp16"], ["export", "n.pt"])
    for command, source, *more in asked:
        result = CliRunner().invoke(app, [command, str(tmp_path / source), *more])
        assert isinstance(result.exception, TargetError) and "is a folder" in str(result.exception), result.output
        missing = CliRunner().invoke(app, [command, str(tmp_path / "none" / source), *more])
        assert isinstance(missing.exception, DataError) and "mkdir" not in str(missing.exception)


@pytest.mark.parametrize(
    ("name", "runtime"), [("m.pt", "PyTorch"), ("m.onnx", "onnxruntime"), ("engine.onnx", "onnxruntime")]
)
def test_val_measures_any_form_as_a_profile_asks(name, runtime, classes):
    if name == "engine.onnx":
        OnnxRuntime().engine_from_onnx(classes / "m.onnx", classes / name)
    given = [
        "val",
        str(classes / name),
        "--data",
        str(classes / "d"),
        "--target",
        str(classes / "small.yaml"),
        "--json",
    ]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert (found["runtime"], found["split"], found["images"], found["task"]) == (runtime, "test", 9, "classify")
    assert set(found["per_class"]) == {"class0", "class1", "class2"}
    other = json.loads(CliRunner().invoke(app, [*given, "--split", "val"]).output)
    assert (other["split"], other["images"]) == ("val", 6)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        (["--target", "cpu", "--runtime", "onnxruntime"], TargetError, "leave one out"),
        (["--runtime", "cuda"], TargetError, "onnxruntime, onnxruntime-cuda"),
        (["--imgsz", "640"], TargetError, "64 × 64, not of 640"),
        (["--target", "jetson-orin"], DeviceError, "next:"),
    ],
)
def test_val_refuses_what_cannot_be_measured(options, error, says, classes):
    result = CliRunner().invoke(app, ["val", str(classes / "m.onnx"), "--data", str(classes / "d"), *options])
    assert isinstance(result.exception, error)
    assert says in str(result.exception)


def test_export_offers_every_form_of_the_output():
    text = CliRunner().invoke(app, ["export", "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    for word in ("--dynamic", "--batch", "--opset", "--output-name", "end-to-end", "raw", "nms"):
        assert word in text


def test_help_imports_nothing_heavy():
    code = "import sys, edgeprune.cli.export; print([m for m in ('torch', 'onnx', 'ultralytics') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("apart", "code"),
    [
        (ParityInfo(16, "detect", "end-to-end", math.inf, 0.0, 0.0, math.inf, 0.0, 600, 0, 9, 0, 0.0, 600), 1),
        (ParityInfo(16, "detect", "end-to-end", 0.0, 0.0, 0.0, 0.0, 0.0, 600, 0, 9, 9, 0.0, 600), 1),
        (ParityInfo(16, "detect", "end-to-end", math.inf, 0.0, 0.0, math.inf, 0.0, 600, 0, 0, 0, 1.0, 600), 1),
        (ParityInfo(16, "detect", "end-to-end", 0.004, 0.0, 0.0, 0.004, 0.0, 600, 0, 0, 0, 1.0, 600), 5),  # faint
    ],
)
def test_a_limit_of_parity_is_not_kept_by_what_shares_nothing(apart, code, monkeypatch, tmp_path):
    for name in ("m.pt", "m.onnx"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    images = SimpleNamespace(sample_images=lambda split, count: [])
    monkeypatch.setattr(import_module("edgeprune.export.quantize"), "dataset_for", lambda *given, **named: images)
    monkeypatch.setattr(import_module("edgeprune.export.parity"), "parity", lambda *given, **named: apart)
    command = ["parity", "m.pt", "m.onnx", "--data", "d.yaml", "--limit", "0.01"]
    assert CliRunner().invoke(app, command).exit_code == code


@pytest.mark.parametrize(
    ("task", "extra", "code", "says"),
    [
        ("segment", 3.5, 1, "at most 0.001 px, 0.0001 of score, 3.5 of mask coefficients and prototypes apart"),
        ("obb", 0.4, 1, "at most 0.001 px, 0.0001 of score, 0.4 rad apart"),
        ("obb", 0.001, 0, "0.001 rad apart"),
        ("detect", 0.0, 0, "at most 0.001 px, 0.0001 of score apart"),
    ],
)
def test_a_limit_of_parity_is_on_angles_and_masks_too_and_they_are_told(task, extra, code, says, monkeypatch, tmp_path):
    for name in ("m.pt", "m.onnx"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    found = ParityInfo(16, task, "raw", max(0.001, extra), 1e-5, 0.001, 0.0001, extra, 0, 0, 9, 9, 1.0)
    images = SimpleNamespace(sample_images=lambda split, count: [])
    monkeypatch.setattr(import_module("edgeprune.export.quantize"), "dataset_for", lambda *given, **named: images)
    monkeypatch.setattr(import_module("edgeprune.export.parity"), "parity", lambda *given, **named: found)
    result = CliRunner().invoke(app, ["parity", "m.pt", "m.onnx", "--data", "d.yaml", "--limit", "0.01"])
    assert result.exit_code == code
    assert says in result.output and "100.0% of 9 detections agree" in result.output


@pytest.mark.parametrize("limit", ["nan", "inf", "-1"])
def test_a_limit_of_parity_is_a_number_that_can_be_kept(limit, files):
    given = ["parity", str(files / "m.onnx"), str(files / "m.onnx"), "--data", "d.yaml", "--limit", limit]
    result = CliRunner().invoke(app, given)
    by_range = result.exit_code == 2 and "--limit" in result.output
    assert by_range or (isinstance(result.exception, TargetError) and "a finite number" in str(result.exception))


@pytest.mark.parametrize(
    ("artifact", "options", "says"),
    [
        ("m.pt", ["--runtime", "trtexec"], "--runtime: is for an exported file, and PyTorch runs a checkpoint"),
        ("m.pt", ["--device", "user@board"], "--device: is for an exported file, and PyTorch runs a checkpoint"),
        ("m.onnx", ["--head", "raw"], "--head: of m.onnx it was chosen when it was exported; leave it out"),
        ("m.onnx", ["--batch", "4"], "--batch: m.onnx was exported for 1; leave it out"),
    ],
)
def test_val_refuses_what_would_change_nothing(artifact, options, says, files, classes):
    result = CliRunner().invoke(app, ["val", str(files / artifact), "--data", str(classes / "d"), *options])
    assert isinstance(result.exception, TargetError) and says in str(result.exception)


def test_every_node_that_lint_lists_can_be_kept_in_float(tmp_path):
    """Matrix products and softmax of attention too, not only convolutions."""
    onnx_from_checkpoint(saved(stock_model("yolo11", "detect"), tmp_path / "m.pt"), tmp_path / "m.onnx", imgsz=64)
    listed = CliRunner().invoke(app, ["lint", str(tmp_path / "m.onnx"), "--nodes"]).output.split()
    ops = {node.name: node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node}
    assert {"Conv", "MatMul", "Softmax", "Add", "MaxPool"} <= {ops[name] for name in listed}
    assert not {"Constant", "Shape"} & {ops[name] for name in listed}
    product = next(name for name in listed if ops[name] == "MatMul")
    for kept in ((), (product,), tuple(listed)):
        cast_to_fp16(tmp_path / "m.onnx", tmp_path / "half.onnx", keep_float=kept)
        held = onnx.load(tmp_path / "half.onnx")
        assert (product in (float_nodes(held) or listed)) == (product in kept), len(kept)
        in_half = [node.name for node in held.graph.node if any(half(held, name) for name in node.output)]
        assert not {name for name in in_half if ops.get(name, "Cast") != "Cast"} & set(kept)


def half(model, name):
    graph = model.graph
    typed = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    return typed.get(name) == onnx.TensorProto.FLOAT16


def test_lint_refuses_what_a_list_of_nodes_does_not_ask_for(files):
    result = CliRunner().invoke(app, ["lint", str(files / "m.onnx"), "--nodes", "--tensorrt", "10.3"])
    assert isinstance(result.exception, TargetError) and "--tensorrt: is what the graph is held against" in str(
        result.exception
    )


def test_a_batch_that_an_export_leaves_free_is_not_asked_for(files):
    given = ["export", str(files / "m.pt"), "--imgsz", "64", "--dynamic", "--batch", "4", "-o", str(files / "no.onnx")]
    refused = CliRunner().invoke(app, given).exception
    assert isinstance(refused, TargetError) and not (files / "no.onnx").exists()
    assert str(refused) == "--batch: is the most for head nms, and --dynamic leaves it free; leave it out"
