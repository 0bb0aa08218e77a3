"""What a command will write is checked before anything slow begins: one line, exit code 2, nothing done."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeprune.artifact import write_atomically
from edgeprune.errors import TargetError
from edgeprune.input_size import taken_size
from edgeprune.options import output_file, output_folder, output_plot


@pytest.mark.parametrize(
    ("check", "path", "seen"),
    [
        (output_file, "folder", "is a folder"),
        (output_file, "missing/model.pt", "mkdir -p"),
        (output_file, "file/model.pt", "is a file"),
        (output_file, "pipe", "a device or a pipe"),
        (output_plot, "loss.docx", ".png, .svg, .pdf"),
        (output_plot, "missing/loss.png", "mkdir -p"),
        (output_folder, "file", "is a file"),
        (output_folder, "file/below/tuned", "is a file"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check, path: str, seen: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TargetError, match=seen):
        check(Path(path))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no regular file"):
        write_atomically(tmp_path / "pipe", "words")
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"] and (tmp_path / "pipe").is_fifo()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(TargetError, match="not writable"):
        output_file(tmp_path / "model.pt")


def test_a_folder_that_cannot_be_made_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr("edgeprune.options.os.access", lambda folder, mode: asked.append(folder))
    with pytest.raises(TargetError, match="not writable"):
        output_folder(tmp_path / "runs" / "profiles")
    assert asked == [tmp_path]  # where it would have to be made


@pytest.mark.parametrize("check", [output_file, output_plot, output_folder])
def test_a_good_place_is_given_back(tmp_path: Path, check) -> None:
    assert check(None) is None
    for name in ("new.png", "old.png"):
        (tmp_path / "old.png").unlink(missing_ok=True)
        assert check(tmp_path / name) == tmp_path / name


@pytest.mark.parametrize(
    "line",
    [
        "prune best.pt --ratio 0.3 -o missing/pruned.pt",
        "prune best.pt --ratio 0.3 --dry-run --save-plan missing/plan.json",
        "sensitivity best.pt --data data.yaml --plot loss.docx",
        "sensitivity best.pt --data data.yaml -o missing/table.json",
        "finetune best.pt --data data.yaml --out file",
        "sparsify best.pt --data data.yaml --out file",
        "export best.pt -o missing/best.onnx",
        "simplify best.onnx --output missing/small.onnx",
        "quantize best.onnx --precision fp16 --out missing/half.onnx",
    ],
)
def test_commands_check_their_outputs_first(tmp_path: Path, line: str) -> None:
    (tmp_path / "file").touch()
    argv = [sys.executable, "-m", "edgeprune", *line.split()]
    ended = subprocess.run(
        argv, cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("edgeprune: ")
    assert ended.stderr.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"file"}


@pytest.mark.parametrize(("side", "stride", "task"), [(320, 32, "detect"), (64, 64, "pose"), (224, 1, "classify")])
def test_a_side_that_fits_is_given_back(side: int, stride: int, task: str) -> None:
    assert taken_size(side, stride, task) == side


@pytest.mark.parametrize(
    ("side", "stride", "task", "near"),
    [(33, 32, "detect", 32), (16, 32, "classify", 32), (96, 64, "pose", 128), (300, 32, "segment", 288)],
)
def test_a_side_that_does_not_fit_names_the_nearest(side: int, stride: int, task: str, near: int) -> None:
    with pytest.raises(TargetError, match=f"imgsz {side} is no multiple of the model's stride {stride}; use {near}$"):
        taken_size(side, stride, task)
