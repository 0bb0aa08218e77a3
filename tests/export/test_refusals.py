"""Every command on a file that it cannot use, or a place that it cannot write: exit 2, one line, nothing left."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest

from edgeprune import cli
from edgeprune.errors import DataError
from edgeprune.export.half import cast_to_fp16
from edgeprune.export.int8 import quantize_to_int8
from edgeprune.export.mixed import _MixedGraphs
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.export.simplify import simplify_onnx
from edgeprune.progress import silent
from tests.export.helpers import saved, stock_model
from tests.runtimes.models import convolutions


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A small model, its checkpoint beside it."""
    folder = tmp_path_factory.mktemp("good")
    onnx_from_checkpoint(saved(stock_model("yolov8", "classify"), folder / "m.pt"), folder / "m.onnx", imgsz=64)
    return folder / "m.onnx"


def foreign(path: Path) -> None:
    """A valid ONNX file that no detector exporter wrote."""
    value = onnx.helper.make_tensor_value_info
    nodes = [onnx.helper.make_node("Add", ["a", "b"], ["c"])]
    shapes = [value(name, onnx.TensorProto.FLOAT, [2]) for name in "abc"]
    graph = onnx.helper.make_graph(nodes, "g", shapes[:2], shapes[2:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), str(path))


BROKEN = {
    "corrupt": lambda path: path.write_bytes(b"\x08\x01 this is no graph"),
    "empty": lambda path: path.write_bytes(b""),
    "foreign": foreign,
    "missing": lambda path: None,
}
COMMANDS = {
    "export": ["export", "MODEL.pt", "-o", "OUT"],
    "simplify": ["simplify", "MODEL.onnx", "-o", "OUT"],
    "fp16": ["quantize", "MODEL.onnx", "--precision", "fp16", "-o", "OUT"],
    "int8": ["quantize", "MODEL.onnx", "--precision", "int8", "--data", "DATA", "-o", "OUT"],
    "parity": ["parity", "MODEL.onnx", "MODEL.onnx", "--data", "DATA"],
    "lint": ["lint", "MODEL.onnx"],
    "val": ["val", "MODEL.onnx", "--data", "DATA"],
}
# what a foreign graph of numbers is good for: it can be linted, and cast where nothing is asked of its meaning
TAKES_FOREIGN = {"lint", "fp16"}


def refused(arguments: list[str], monkeypatch, capsys) -> str:
    """Run the command line; its one line of refusal."""
    monkeypatch.setattr(sys, "argv", ["edgeprune", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    told = capsys.readouterr()
    assert end.value.code == 2, told
    lines = [line for line in told.err.splitlines() if line.startswith("edgeprune: ")]
    assert len(lines) == 1, told.err
    assert "Traceback" not in told.err
    return lines[0]


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_model_that_cannot_be_used_is_one_line_and_leaves_nothing(
    command, kind, shared, tmp_path, monkeypatch, capsys
):
    if kind == "foreign" and command in TAKES_FOREIGN:
        pytest.skip("this command takes any graph")
    suffix = ".pt" if command == "export" else ".onnx"
    model = tmp_path / f"m{suffix}"
    BROKEN[kind](model)
    places = {f"MODEL{suffix}": str(model), "OUT": str(tmp_path / "out.onnx")}
    places["DATA"] = str(shared / "data" / "bccd" / "data.yaml")
    line = refused([places.get(word, word) for word in COMMANDS[command]], monkeypatch, capsys)
    assert str(model) in line or "no image input" in line or "inputs" in line
    assert [path.name for path in tmp_path.iterdir()] == ([model.name] if kind != "missing" else [])


@pytest.mark.parametrize("command", ["export", "simplify", "fp16"])
def test_a_place_that_cannot_be_written_is_one_line_and_leaves_nothing(command, good, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("in the way")
    places = {
        "MODEL.pt": str(good.with_suffix(".pt")),
        "MODEL.onnx": str(good),
        "OUT": str(tmp_path / "file" / "m.onnx"),
    }
    arguments = [places.get(word, word) for word in COMMANDS[command]]
    line = refused([*arguments, "--imgsz", "64"] if command == "export" else arguments, monkeypatch, capsys)
    assert str(tmp_path / "file") in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_graph_that_does_not_say_its_size_is_refused_alike_by_whatever_runs_images_through_it(tmp_path):
    model, images = convolutions(tmp_path / "m.onnx", shape=("n", 3, "h", "w")), [Path("none.jpg")] * 16
    graph = onnx.load(model)
    del graph.metadata_props[:]
    onnx.save(graph, model)
    low = tmp_path / "half.onnx"
    cast_to_fp16(model, low)
    for run in (
        lambda: simplify_onnx(model, tmp_path / "out.onnx"),
        lambda: simplify_onnx(model, tmp_path / "out.onnx", images=images),
        lambda: quantize_to_int8(model, tmp_path / "out.onnx", images),
        lambda: _MixedGraphs(model, low, half=True).sensitivity(images, silent),
    ):
        with pytest.raises(DataError, match=r"takes images of any size \(n, 3, h, w\) and does not say which ones"):
            run()
    assert not (tmp_path / "out.onnx").exists()


def test_int8_without_images_is_one_line(good, tmp_path, monkeypatch, capsys):
    line = refused(["quantize", str(good), "--precision", "int8", "-o", str(tmp_path / "q.onnx")], monkeypatch, capsys)
    assert "--data" in line
    missing = str(tmp_path / "nowhere.yaml")
    arguments = ["quantize", str(good), "--precision", "int8", "--data", missing, "-o", str(tmp_path / "q.onnx")]
    assert "nowhere" in refused(arguments, monkeypatch, capsys)
    assert not list(tmp_path.iterdir())


def test_a_model_over_two_gigabytes_is_one_line(tmp_path, monkeypatch, capsys):
    with (tmp_path / "m.onnx").open("wb") as file:
        file.truncate(2**31)  # sparse: takes no room
    for command in (["lint"], ["simplify", "-o", str(tmp_path / "out.onnx")]):
        line = refused([command[0], str(tmp_path / "m.onnx"), *command[1:]], monkeypatch, capsys)
        assert "over 2 GB" in line
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
