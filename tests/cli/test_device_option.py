"""Every command that measures takes the device on its line, as a build does."""

from __future__ import annotations

import pytest
import yaml
from typer.testing import CliRunner

from edgeprune.cli import app
from edgeprune.errors import DeviceError, EdgepruneError
from tests.export.helpers import saved, stock_model
from tests.runtimes.models import convolutions

NOWHERE = "user@nowhere.invalid"
MEASURING = {
    "profile": "{pt} --target {profile} --cache {tmp}/c",
    "search": "{pt} --target {profile} -o {tmp}/o.pt --cache {tmp}/c",
    "sweep": "{pt} --target {profile} --data {data} --speed-up 1.5 --epochs 0 --out {tmp}/s",
    "frontier": "{pt} --target {profile} --data {data} --speed-up 1.5 --epochs 0 --out {tmp}/f",
    "bench": "{onnx} --target {profile}",
    "compare": "{pt} --data {data} --target {profile}",
    "val": "{onnx} --data {data} --target {profile}",
}


@pytest.fixture(scope="module")
def inputs(shared, tmp_path_factory):
    tmp = tmp_path_factory.mktemp("device")
    (tmp / "own.yaml").write_text("extends: cpu\ndescription: mine\nimgsz: 64\n")
    made = {"tmp": tmp, "profile": tmp / "own.yaml", "data": shared / "data" / "coco8" / "coco8.yaml"}
    model = stock_model("yolov8", "detect", nc=80)
    model.names = yaml.safe_load(made["data"].read_text())["names"]
    return {**made, "pt": saved(model, tmp / "m.pt"), "onnx": convolutions(tmp / "m.onnx")}


@pytest.mark.parametrize("command", MEASURING)
def test_a_command_that_measures_goes_to_the_device_that_is_named(command, inputs):
    line = [command, *MEASURING[command].format(**inputs).split(), "--device", NOWHERE]
    done = CliRunner().invoke(app, line)
    assert isinstance(done.exception, DeviceError), (done.output, done.exception)
    assert f"{NOWHERE} cannot be reached" in str(done.exception)


def test_what_pytorch_runs_is_run_here(inputs):
    line = ["val", str(inputs["pt"]), "--data", str(inputs["data"]), "--device", NOWHERE]
    done = CliRunner().invoke(app, line)
    assert isinstance(done.exception, EdgepruneError)
    assert "--device: is for an exported file, and PyTorch runs a checkpoint on this machine" in str(done.exception)
