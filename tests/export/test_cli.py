from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from edgeprune.export.cli import app
from edgeprune.export.onnx import onnx_from_checkpoint
from tests.export.helpers import saved, stock_model


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
    assert [finding["rule"] for finding in json.loads(result.output)["findings"]] == ["dynamic-shape"] * code


def test_export_simplify_and_quantize_write_beside_their_source(files):
    run = CliRunner().invoke
    assert run(app, ["export", str(files / "m.pt"), "--imgsz", "64", "-o", str(files / "x.onnx")]).exit_code == 0
    assert run(app, ["simplify", str(files / "x.onnx")]).exit_code == 0
    assert run(app, ["quantize", str(files / "x-simple.onnx"), "--precision", "fp16"]).exit_code == 0
    assert (files / "x-simple-fp16.onnx").is_file()


def test_help_imports_nothing_heavy():
    code = "import sys, edgeprune.export.cli; print([m for m in ('torch', 'onnx', 'ultralytics') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
