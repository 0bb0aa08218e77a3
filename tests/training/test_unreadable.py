"""A last.pt that cannot be read: damage begins the run anew beside what was there, and anything else ends the call."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeprune import unpickle
from edgeprune.errors import DataError
from edgeprune.settings import TrainSettings
from edgeprune.training import run
from edgeprune.training.trainers import STATE

OWN = {"given": None, "best_epoch": 1, "seconds": 2.5, "ended": False}
CONTENT = {"train_args": {"task": "detect"}, "epoch": 1, STATE: OWN}


def prepared(work: Path, epochs: int = 3) -> tuple[int, bool]:
    settings = TrainSettings(epochs=epochs, device="cpu", imgsz=64, quiet=True)
    epochs, ended, *_ = run._prepare(work / "run", "yolo11n.pt", "data.yaml", settings, {})
    return epochs, ended


def left_by_a_run(work: Path, content: Any = CONTENT) -> Path:
    """A run as it lies there after two epochs; gives its last.pt."""
    assert prepared(work) == (0, False)
    last = work / "run" / "weights" / "last.pt"
    last.parent.mkdir(parents=True)
    if isinstance(content, bytes):
        last.write_bytes(content)
    else:
        torch.save(content, last)
    return last


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_what_is_whole_goes_on(tmp_path: Path) -> None:
    left_by_a_run(tmp_path)
    assert prepared(tmp_path) == (2, False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.json"]


DAMAGED: dict[str, Any] = {
    "empty": b"",
    "zeros": bytes(5000),
    "no pickle": b"\x89PNG\r\n",
    "half an archive": b"PK\x03\x04half",
    "of another program": {"train_args": {"task": "detect"}, "epoch": 1},
    "of an older edgeprune": {**CONTENT, STATE: {"best_epoch": 1}},
    "by another figure": {**CONTENT, "train_args": {"task": "segment"}},
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damage_begins_anew_and_what_was_there_is_kept(tmp_path: Path, content: Any) -> None:
    for number in (1, 2):
        last = left_by_a_run(tmp_path, content)
        before = last.read_bytes()
        assert prepared(tmp_path) == (0, False)
        assert not (tmp_path / "run").exists()
        assert (tmp_path / f"run.unreadable-{number}" / "weights" / "last.pt").read_bytes() == before


def test_a_truncated_checkpoint_begins_anew(tmp_path: Path) -> None:
    half(left_by_a_run(tmp_path))
    assert prepared(tmp_path) == (0, False) and (tmp_path / "run.unreadable-1").is_dir()


ELSEWHERE = (
    OSError(errno.ESTALE, os.strerror(errno.ESTALE)),
    MemoryError(),
    ImportError("libGL.so.1: cannot open shared object file"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
)


@pytest.mark.parametrize("error", ELSEWHERE, ids=lambda error: type(error).__name__)
def test_what_is_no_damage_ends_the_call_and_touches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    last = left_by_a_run(tmp_path)
    before = last.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("ultralytics.nn.tasks.torch_safe_load", fail)
    with pytest.raises((DataError, MemoryError, ImportError)) as caught:
        prepared(tmp_path)
    if isinstance(error, OSError):
        assert str(caught.value) == f"{last} cannot be read: {os.strerror(errno.ESTALE)}"
    monkeypatch.undo()
    assert last.read_bytes() == before and prepared(tmp_path) == (2, False)


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in CONTENT.items() if name != key}


@pytest.mark.parametrize("content", [without("train_args"), without("epoch")], ids=["no arguments", "no epoch"])
def test_what_another_ultralytics_writes_is_no_damage(tmp_path: Path, content: dict[str, Any]) -> None:
    last = left_by_a_run(tmp_path, content)
    with pytest.raises(KeyError):
        prepared(tmp_path)
    assert last.is_file()


def test_a_disk_that_fails_is_not_taken_for_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's reader tells a failed read as it tells a truncated archive, by one class and in much the same words."""
    last = left_by_a_run(tmp_path)
    half(last)
    real: Callable[..., Any] = Path.open

    def stale(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if path == last and mode == "rb":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", stale)
    with pytest.raises(DataError, match=os.strerror(errno.EIO)):
        prepared(tmp_path)
    assert last.is_file()


def test_a_folder_that_cannot_be_asked_is_not_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = left_by_a_run(tmp_path)
    real = Path.stat

    def stale(path: Path, **more: Any) -> os.stat_result:
        if path == last:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(path, **more)

    monkeypatch.setattr(Path, "stat", stale)
    with pytest.raises(OSError):
        prepared(tmp_path)
    monkeypatch.undo()
    assert last.is_file()


def test_a_call_with_other_settings_that_is_stopped_continues_nothing_of_the_run_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_by_a_run(tmp_path)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run.shutil, "rmtree", stop)
    with pytest.raises(KeyboardInterrupt):
        prepared(tmp_path, epochs=9)
    monkeypatch.undo()
    assert prepared(tmp_path, epochs=9) == (0, False)


def test_a_bug_in_what_prepares_a_read_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = left_by_a_run(tmp_path)
    monkeypatch.setattr(unpickle, "_known_class", lambda name, missing: None)
    monkeypatch.setattr(unpickle, "globals_of", lambda path: ["a.Class"])
    with pytest.raises(TypeError):
        prepared(tmp_path)
    assert last.is_file()
