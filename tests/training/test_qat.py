"""INT8 by training: refused where ModelOpt is absent; where it is, stock checkpoints, kept shapes and an INT8 graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

import edgeprune
from edgeprune import checkpoint, cli
from edgeprune.errors import DataError, DeviceError, TargetError
from edgeprune.export import modelopt
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.export.precision import precision_of
from edgeprune.export.simplify import simplify_onnx
from edgeprune.runtimes.nvidia_parser import ask_parser, parser_availability
from edgeprune.settings import TrainSettings
from edgeprune.target import load_target
from edgeprune.training.arguments import ultralytics_arguments
from edgeprune.training.finetune import finetune
from edgeprune.training.result import TrainResult
from edgeprune.training.result_from_run import QUANTIZED
from edgeprune.version import installed
from tests.training.test_resume import Killed, stop_after

here = pytest.mark.skipif(
    any(installed(package) == "absent" for package in modelopt.PACKAGES), reason="needs the extra [qat]"
)


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modelopt, "installed", lambda package: "absent")


@pytest.mark.parametrize("said", [8, "int8"])
def test_without_modelopt_no_training_begins(absent: None, settings: TrainSettings, said: int | str) -> None:
    with pytest.raises(DeviceError, match=r"nvidia-modelopt .*not installed\); next: .*pip install"):
        ultralytics_arguments(replace(settings, train={"quantize": said}))


def test_without_modelopt_the_command_says_what_to_install(absent: None, narrow: Path, digits: Path) -> None:
    with pytest.raises(DeviceError, match=r"next: .*pip install 'nvidia-modelopt"):
        CliRunner().invoke(cli.app, ["qat", str(narrow), "--data", str(digits)], catch_exceptions=False)


def test_without_modelopt_a_build_writes_nothing(absent: None, narrow: Path, digits: Path, tmp_path: Path) -> None:
    profile = tmp_path / "profile.yaml"
    profile.write_text("extends: cpu\nprecision: int8\nimgsz: 64\ncalibration: {images: 16}\nqat: {epochs: 1}\n")
    with pytest.raises(DeviceError, match="trained INT8 needs"):
        edgeprune.build(profile, narrow, digits, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_quantizers_that_are_none_are_refused(narrow: Path, tmp_path: Path) -> None:
    loaded = checkpoint.load(narrow)
    given = tmp_path / "given.pt"
    checkpoint.save(loaded.model, given, like=loaded, quantizers={"modelopt": "nothing", "ranges": {}})
    assert checkpoint.load(given).quantizers
    with pytest.raises(TargetError, match=r"opset 12: .* was trained for INT8, which needs opset 13 or more"):
        onnx_from_checkpoint(given, tmp_path / "m.onnx", opset=12)
    with pytest.raises((DataError, DeviceError), match=r"cannot put back|not installed"):
        onnx_from_checkpoint(given, tmp_path / "x.onnx", imgsz=64)
    again = checkpoint.for_ultralytics(checkpoint.load(given), tmp_path / "plain.pt")
    assert not checkpoint.load(again).quantizers, "a float training starts from float weights"


@pytest.fixture(scope="module")
def trained(narrow: Path, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    folder = tmp_path_factory.mktemp("qat")
    settings = TrainSettings(epochs=2, batch=8, device="cpu", imgsz=64, quiet=True).for_int8()
    return finetune(narrow, data=digits, out=folder / "out", work=folder / "work", settings=settings)


@here
def test_what_ships_is_stock_and_of_the_same_shapes(trained: TrainResult, narrow: Path) -> None:
    before, after = checkpoint.load(narrow), checkpoint.load(trained.best)
    assert not checkpoint.foreign_globals(trained.best)
    assert not after.quantizers
    assert checkpoint.shape_signature(before.model) == checkpoint.shape_signature(after.model)
    quantized = checkpoint.load(trained.best.with_name(QUANTIZED))
    assert quantized.quantizers
    assert not checkpoint.foreign_globals(quantized.path)


@here
def test_its_graph_is_int8_by_channel_and_is_accepted(trained: TrainResult, tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    onnx_from_checkpoint(trained.best.with_name(QUANTIZED), path, imgsz=64)
    simplify_onnx(path, path)
    graph = onnx.load(path)
    assert precision_of(graph) == "int8"
    constants = {item.name: numpy_helper.to_array(item) for item in graph.graph.initializer}
    constants |= {
        node.output[0]: numpy_helper.to_array(node.attribute[0].t)
        for node in graph.graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    scales = [constants[node.input[1]].size for node in graph.graph.node if node.op_type == "QuantizeLinear"]
    assert max(scales) > 1, "weights have a scale a channel"
    image = np.zeros((1, 3, 64, 64), np.float32)
    from edgeprune.export.run import outputs_of_onnx

    assert np.isfinite(outputs_of_onnx(path, image)[0]).all()
    if parser_availability().ok:
        assert ask_parser(path).refusals == ()


@here
@pytest.mark.slow
def test_a_stopped_training_goes_on(narrow: Path, digits: Path, tmp_path: Path, trained: TrainResult) -> None:
    settings = TrainSettings(epochs=2, batch=8, device="cpu", imgsz=64, quiet=True).for_int8()
    where = {"data": digits, "out": tmp_path / "out", "work": tmp_path / "work", "settings": settings}
    with pytest.raises(Killed):
        finetune(narrow, **where, watchers=stop_after(1))
    again = finetune(narrow, **where)
    assert again.summary.epochs_run == 2
    figures = [[epoch.figures for epoch in result.summary.epochs] for result in (again, trained)]
    assert figures[0] == figures[1]


@pytest.mark.parametrize("keys", ["precision: fp32", "precision: fp16"])
def test_a_profile_trains_int8_for_int8_alone(tmp_path: Path, keys: str) -> None:
    profile = tmp_path / "profile.yaml"
    profile.write_text(f"extends: cpu\n{keys}\nqat: {{}}\n")
    with pytest.raises(edgeprune.TargetError, match="qat: trains INT8"):
        load_target(profile)
