"""Whatever stands in the place of a model is told apart, by every command in the same words."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import onnx
import pytest

from edgeprune import cli
from edgeprune.checkpoint import load
from edgeprune.errors import DataError
from edgeprune.model_file import KINDS, require_model
from edgeprune.runtimes.onnxruntime_ import OnnxRuntime
from edgeprune.stages.inputs import _read_weights

COMMANDS = {  # where MODEL is what a command reads; the suffixes that it takes there
    "export MODEL": (".pt",),
    "adopt MODEL -o out.pt": (".pt",),
    "prune MODEL --ratio 0.5 -o out.pt": (".pt",),
    "sensitivity MODEL --data d.yaml": (".pt",),
    "simplify MODEL -o out.onnx": (".onnx",),
    "quantize MODEL --precision fp16 -o out.onnx": (".onnx",),
    "quantize MODEL --precision int8 --data d.yaml -o out.onnx": (".onnx",),
    "lint MODEL": (".onnx",),
    "lint MODEL --nodes": (".onnx",),
    "parity MODEL good.onnx --data d.yaml": (".pt", ".onnx"),
    "parity good.onnx MODEL --data d.yaml": (".onnx",),
    "val MODEL --data d.yaml": (".pt", ".onnx", ".engine"),
    "bench MODEL": (".pt", ".onnx", ".engine"),
    "bench good.onnx --vs MODEL": (".pt", ".onnx", ".engine"),
    "compare good.onnx MODEL --data d.yaml": (".pt", ".onnx"),
    "deploy triton MODEL -o repository": (".onnx",),
    "deploy deepstream MODEL": (".onnx",),
    "engine-header show MODEL": (".engine",),
    "engine-header strip MODEL -o out.engine": (".engine",),
    "engine-header add MODEL --onnx good.onnx -o out.engine": (".engine",),
    "engine-header add e.plan --onnx MODEL -o out.engine": (".onnx",),
}


def said(command: str, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a refusal."""
    argv = ["edgeprune", *shlex.split(command.replace("MODEL", model))]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr()
    assert ended.value.code == 2 and not told.out, told
    [line] = [one for one in told.err.splitlines() if one.startswith("edgeprune: ")]
    return line


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relu: bytes) -> Path:
    """A folder with a file of every kind and the folders that a build and a training leave."""
    monkeypatch.chdir(tmp_path)
    for name in ("run/bundle/model.onnx", "good.onnx", "other.onnx"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(relu)
    for name in ("run/best.pt", "other.pt", "other.engine", "e.plan"):
        Path(name).write_bytes(b"other")
    Path("empty").mkdir()
    return tmp_path


@pytest.fixture(scope="module")
def relu() -> bytes:
    """A graph of one node."""
    shape = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 32, 32]) for name in "ab"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["a"], ["b"])], "g", shape[:1], shape[1:])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]).SerializeToString()


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_is_no_missing_file(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = "run/bundle/model.onnx" if ".onnx" in COMMANDS[command] else "run/best.pt"
    line = said(command, "run", monkeypatch, capsys)
    if "deploy" in command or "--onnx MODEL" in command:  # takes a bundle too
        assert "give run/bundle" in line
    elif ".engine" in COMMANDS[command][:1]:
        assert "run is a folder; an engine (.engine) was expected" in line
    else:
        assert f"run is a folder; give {given}" in line
    assert "does not exist" not in said(command, "empty", monkeypatch, capsys)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", COMMANDS)
def test_another_kind_of_model_is_told_by_its_name(
    command: str, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind in COMMANDS[command]:
        return
    line = said(command, f"other{kind}", monkeypatch, capsys)
    assert f"other{kind} is " in line and "cannot be read" not in line and "Wire format" not in line
    if kind == ".pt" and ".onnx" in COMMANDS[command]:
        assert line.endswith("; next: edgeprune export other.pt -o other.onnx")
    else:
        assert "; give the " in line
    assert not Path("out.onnx").exists() and not Path("out.engine").exists()


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_missing_model_is_missing(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = f"gone{COMMANDS[command][-1]}"
    line = said(command, gone, monkeypatch, capsys)
    assert gone in line and ("does not exist" in line or "no such file" in line) and "Errno" not in line


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("command", COMMANDS)
def test_an_address_is_told_from_a_mistyped_path(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = f"https://example.invalid/v1/model{COMMANDS[command][-1]}"
    assert "is an address; download the file, and give its path" in said(command, given, monkeypatch, capsys)


@pytest.mark.usefixtures("place")
def test_a_graph_by_an_engines_name_is_no_engine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("graph.engine").write_bytes(Path("good.onnx").read_bytes())
    Path("weights.plan").write_bytes(b"PK\x03\x04 and so on")
    for name, kind in (("graph.engine", "an ONNX graph"), ("weights.plan", "a checkpoint")):
        for command in ("show MODEL", "strip MODEL -o out.engine", "add MODEL --onnx good.onnx -o out.engine"):
            assert f"{name} holds {kind}" in said(f"engine-header {command}", name, monkeypatch, capsys)
    assert not Path("out.engine").exists()


def test_a_link_to_nowhere_and_a_pipe_are_neither(tmp_path: Path) -> None:
    (tmp_path / "link.onnx").symlink_to(tmp_path / "gone.onnx")
    os.mkfifo(tmp_path / "pipe.onnx")
    for name, words in (("link.onnx", "is a link to nowhere"), ("pipe.onnx", "is a pipe or a device")):
        with pytest.raises(DataError, match=words):
            require_model(tmp_path / name, ".onnx")
    with pytest.raises(DataError, match="is a folder"):
        OnnxRuntime().layer_times(tmp_path)


@pytest.mark.parametrize("read", [load, lambda path: _read_weights(path, trust=False)], ids=["load", "build"])
@pytest.mark.parametrize("name", ["yolo8n.pt", "yolov8n", "yolov8nn.pt"])
def test_a_name_close_to_published_weights_is_answered_with_theirs(
    read: object, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"did you mean yolov8n\.pt\?"):
        read(name)  # type: ignore[operator]


def test_a_path_and_a_name_of_ones_own_are_close_to_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("runs/yolo8n.pt", "best.pt", "last.pt"):
        with pytest.raises(DataError, match="no such file; check the path"):
            load(name)
