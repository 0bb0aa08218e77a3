"""The run directory: whole stages or none, reuse by content, reasons for a re-run, one build at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from edgeprune.errors import StageError, TargetError, ToolError
from edgeprune.workspace import (
    BUNDLE,
    LOCK,
    OLD_BUNDLE,
    REASON,
    BuildState,
    Key,
    StageRun,
    Workspace,
    differences,
    flat,
    held,
    held_build,
    last_failure,
    open_workspace,
    user_cache,
)


@dataclass(frozen=True)
class Nodes:
    """Facts of a made-up stage."""

    nodes: int


@dataclass(frozen=True)
class Edges:
    """What its facts were called once."""

    edges: int


OTHER, YOUNG = Key("finetune", {"epochs": 7}), Key("finetune", {"epochs": 8})
KEY = Key("export", {"params.imgsz": 320, "source.model": "ab"})


def publish(workspace: Workspace, key: Key = KEY, content: str = "x"):
    with workspace.partial(key) as folder:
        (folder / "model.onnx").write_text(content)
        return workspace.publish(key, folder, {"onnx": folder / "model.onnx"}, Nodes(3), 1.5)


def test_a_published_stage_is_found_again(tmp_path: Path) -> None:
    with open_workspace(tmp_path / "run") as workspace:
        made = publish(workspace)
        found = workspace.find(KEY, Nodes)
    assert found == made
    assert found.path("onnx").read_text() == "x"
    assert found.facts == Nodes(3)


def test_another_key_is_not_found(tmp_path: Path) -> None:
    with open_workspace(tmp_path) as workspace:
        publish(workspace)
        assert workspace.find(Key("export", {**KEY.inputs, "params.imgsz": 640}), Nodes) is None
        assert workspace.find(Key("simplify", KEY.inputs), Nodes) is None


def test_facts_of_another_form_do_not_count(tmp_path: Path) -> None:
    with open_workspace(tmp_path) as workspace:
        publish(workspace)
        assert workspace.find(KEY, Edges) is None


@pytest.mark.parametrize("damage", ["change", "delete", "record"])
def test_a_damaged_stage_does_not_count_and_can_be_made_again(tmp_path: Path, damage: str) -> None:
    with open_workspace(tmp_path) as workspace:
        record = publish(workspace)
        if damage == "change":
            record.path("onnx").write_text("y")
        elif damage == "delete":
            record.path("onnx").unlink()
        else:
            (record.folder / "record.json").write_text("{")
        assert workspace.find(KEY, Nodes) is None
        assert publish(workspace).path("onnx").read_text() == "x"
        assert workspace.find(KEY, Nodes) is not None


def test_a_stage_that_fails_leaves_its_reason_alone(tmp_path: Path) -> None:
    with open_workspace(tmp_path) as workspace:
        with pytest.raises(RuntimeError), workspace.partial(KEY) as folder:
            (folder / "half").write_text("x")
            raise RuntimeError("out of reach\nand more")
        assert not list(tmp_path.glob(".partial-*"))
        assert [path.name for path in workspace.failed_logs(KEY).iterdir()] == [REASON]
        assert workspace.find(KEY, Nodes) is None


def test_the_logs_of_a_stage_that_fails_stay_until_it_finishes(tmp_path: Path) -> None:
    with open_workspace(tmp_path) as workspace:
        for words in ("first", "second"):
            with pytest.raises(RuntimeError), workspace.partial(KEY) as folder:
                (folder / "log.txt").write_text(words)
                (folder / "inside").mkdir()
                (folder / "inside" / "engine.log").write_text("[E] why")
                (folder / "engine.log").write_text("[I] another")
                raise RuntimeError
            logs = workspace.failed_logs(KEY)
            assert {path.name: path.read_text() for path in logs.iterdir()} == {
                "reason.txt": "RuntimeError",
                "log.txt": words,
                "inside__engine.log": "[E] why",
                "engine.log": "[I] another",
            }
        publish(workspace)
        assert not logs.exists()


def test_a_stage_that_is_tried_again_and_stopped_did_not_fail(tmp_path: Path) -> None:
    with open_workspace(tmp_path) as workspace:
        run = StageRun(KEY.stage, KEY.digest, KEY.folder_name, False, None, ())
        workspace.write_state(BuildState(("edgeprune", "build"), (run,)))
        with pytest.raises(RuntimeError), workspace.partial(KEY) as folder:
            (folder / "log.txt").write_text("the log")
            raise RuntimeError("out of reach")
        assert "out of reach" in last_failure(tmp_path)
        with pytest.raises(KeyboardInterrupt), workspace.partial(KEY):
            assert last_failure(tmp_path) == "", "while it runs"
            raise KeyboardInterrupt
        assert last_failure(tmp_path) == ""
        assert [path.name for path in workspace.failed_logs(KEY).iterdir()] == ["log.txt"]


def test_the_log_of_what_failed_stays_where_its_folder_is_gone(tmp_path: Path) -> None:
    with open_workspace(tmp_path) as workspace:
        with pytest.raises(StageError), workspace.partial(KEY) as folder:
            try:
                with TemporaryDirectory(dir=folder):
                    error = ToolError(["trtexec"], 1, "last")
                    error.log = "all of it"
                    raise error
            except ToolError as error:
                raise StageError("m.onnx: it failed") from error
        logs = workspace.failed_logs(KEY)
        assert {path.name: path.read_text() for path in logs.iterdir()} == {
            "failed.log": "all of it",
            "reason.txt": "m.onnx: it failed",
        }


def test_leftovers_of_a_killed_build_are_cleared_but_scratch_stays(tmp_path: Path) -> None:
    with open_workspace(tmp_path) as workspace:
        (workspace.scratch(KEY) / "last.pt").write_text("epoch 3")
        (tmp_path / f".partial-{KEY.folder_name}-9").mkdir()
        (tmp_path / ".partial-upload").mkdir()
    with open_workspace(tmp_path) as workspace:
        assert [path.name for path in tmp_path.glob(".partial-*")] == [".partial-upload"], "what is not ours stays"
        assert (workspace.scratch(KEY) / "last.pt").read_text() == "epoch 3"
        publish(workspace)
        assert not list((tmp_path / ".scratch").glob("*/*"))


def test_the_reason_for_a_new_run_names_what_changed(tmp_path: Path) -> None:
    with open_workspace(tmp_path) as workspace:
        publish(workspace)
        changed = Key("export", {"params.imgsz": 640, "source.model": "ab", "env.torch": "2"})
        earlier = workspace.earlier(changed)
    assert earlier is not None and earlier[0].name == KEY.folder_name
    assert differences(earlier[1].inputs, changed.inputs) == ["env.torch: nothing → 2", "params.imgsz: 320 → 640"]


def test_a_key_that_was_written_and_read_differs_by_nothing(tmp_path: Path) -> None:
    inputs = {"params.prune.ignore": (), "params.imgsz": (320, 640), "env.torch": "2"}
    with open_workspace(tmp_path) as workspace:
        publish(workspace, Key("export", inputs))
        earlier = workspace.earlier(Key("export", {**inputs, "env.torch": "3"}))
    assert earlier is not None
    assert differences(earlier[1].inputs, {**inputs, "env.torch": "3"}) == ["env.torch: 2 → 3"]


def test_nested_inputs_become_dotted_names() -> None:
    assert flat({"a": {"b": {"c": 1}, "d": None}, "e": {}}) == {"a.b.c": 1, "a.d": None, "e": {}}


def test_a_second_build_in_the_same_directory_is_refused(tmp_path: Path) -> None:
    holder = (
        "import sys, pathlib; from edgeprune.workspace import open_workspace\n"
        "with open_workspace(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(StageError, match=f"process {process.pid}"), open_workspace(tmp_path):
        pass
    process.kill()
    process.wait()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:  # a killed holder leaves no lock behind
        try:
            with open_workspace(tmp_path):
                return
        except StageError:
            time.sleep(0.05)
    pytest.fail("the lock outlived its holder")


def test_a_directory_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TargetError, match="cannot be written"), open_workspace(tmp_path / "file" / "run"):
        pass


def test_a_record_is_plain_json(tmp_path: Path) -> None:
    with open_workspace(tmp_path) as workspace:
        record = publish(workspace)
    content = json.loads((record.folder / "record.json").read_text())
    assert content["stage"] == "export"
    assert content["artifacts"]["onnx"]["file"] == "model.onnx"
    assert Workspace(tmp_path / "nowhere").find(KEY, Nodes) is None


@pytest.mark.parametrize("form", ["folder", "file", "empty"])
def test_a_bundle_of_somebody_else_is_not_replaced(tmp_path: Path, form: str) -> None:
    if form == "file":
        (tmp_path / BUNDLE).write_text("mine")
    else:
        (tmp_path / BUNDLE).mkdir()
    if form == "folder":
        (tmp_path / BUNDLE / "app.js").write_text("mine")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    if form == "empty":
        with open_workspace(tmp_path):
            return
    with pytest.raises(TargetError, match=r"has a 'bundle' that no build of edgeprune wrote.*--out DIRECTORY"):
        with open_workspace(tmp_path):
            pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    with open_workspace(tmp_path, "sweep"):  # which writes none
        pass


@pytest.mark.parametrize("stopped", ["before the new one", "behind the new one"])
def test_a_bundle_outlives_a_kill_while_it_is_replaced(tmp_path: Path, stopped: str) -> None:
    for name in (OLD_BUNDLE, ".partial-bundle-1", *([BUNDLE] if stopped.startswith("behind") else [])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "build.json").write_text(name)
    with open_workspace(tmp_path):
        pass
    left = BUNDLE if stopped.startswith("behind") else OLD_BUNDLE
    assert (tmp_path / BUNDLE / "build.json").read_text() == left
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [BUNDLE]


def test_only_a_run_directory_is_held(tmp_path: Path) -> None:
    with held(tmp_path):
        pass
    assert not list(tmp_path.iterdir())
    with open_workspace(tmp_path), pytest.raises(StageError, match="another build"), held(tmp_path):
        pass


def test_who_comes_second_is_told_what_works_there(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("123")  # as an older version leaves it
    told = rf"another sweep \(process {os.getpid()}\) works here; wait for it or give another folder"
    with open_workspace(tmp_path, "sweep"), pytest.raises(StageError, match=told), open_workspace(tmp_path):
        pass
    with (tmp_path / LOCK).open("a+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.truncate(0)
        other.write("123")
        other.flush()
        with pytest.raises(StageError, match=r"another build \(process 123\)"), open_workspace(tmp_path):
            pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EIO])
def test_a_file_system_without_locks_is_not_told_as_another_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def no_locks(handle: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    told = rf"{tmp_path}: locks do not work on this file system \({os.strerror(number)}\).*: --out DIRECTORY"
    with pytest.raises(TargetError, match=told), open_workspace(tmp_path):
        pass


@pytest.mark.parametrize("name", ["", BUNDLE])
def test_a_build_is_held_by_its_run_directory_or_its_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / BUNDLE).mkdir()
    monkeypatch.chdir(tmp_path / name)
    for directory in (tmp_path / name, Path()):
        with open_workspace(tmp_path), pytest.raises(StageError, match="another build"), held_build(directory):
            pass
        with held_build(directory), pytest.raises(StageError, match="another build"), open_workspace(tmp_path):
            pass
    assert [path.name for path in (tmp_path / BUNDLE).iterdir()] == []


def test_a_child_that_outlives_a_build_does_not_hold_its_run_directory(tmp_path):
    """Loaders of images are forked, and live on for a moment when what forked them is killed."""
    reading, writing = os.pipe()
    begun, begins = os.pipe()
    with open_workspace(tmp_path, "training"):
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.write(begins, b"1")
            os.read(reading, 1)  # until the test has ended
            os._exit(0)
        os.read(begun, 1)
    try:
        with open_workspace(tmp_path):
            pass
    finally:
        os.close(writing)
        os.waitpid(child, 0)
        for end in (reading, begun, begins):
            os.close(end)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("EDGEPRUNE_CACHE", "cache", "{here}/cache/tmp"),
        ("EDGEPRUNE_CACHE", "/elsewhere", "/elsewhere/tmp"),
        ("EDGEPRUNE_CACHE", "~/cache", "{here}/home/cache/tmp"),
        ("EDGEPRUNE_CACHE", "", "{here}/home/.cache/edgeprune/tmp"),
        ("XDG_CACHE_HOME", "cache", "{here}/home/.cache/edgeprune/tmp"),
        ("XDG_CACHE_HOME", "/elsewhere", "/elsewhere/edgeprune/tmp"),
        ("XDG_CACHE_HOME", "", "{here}/home/.cache/edgeprune/tmp"),
    ],
)
def test_the_cache_is_an_absolute_path(variable, value, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("EDGEPRUNE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    assert user_cache("tmp") == Path(expected.format(here=tmp_path))


def test_a_finished_build_removes_what_was_left_a_month_ago_by_stages_that_it_has_not(tmp_path):
    month = 30 * 24 * 3600
    with open_workspace(tmp_path) as workspace:
        for place in (tmp_path / ".scratch", tmp_path / "failed"):
            for key, name, age in ((KEY, "last.pt", 2 * month), (OTHER, "old", 2 * month), (YOUNG, "new", month / 2)):
                file = place / key.folder_name / "run" / name
                file.parent.mkdir(parents=True)
                file.touch()
                for path in (file, file.parent, file.parent.parent):
                    os.utime(path, (time.time() - 2 * month,) * 2)
                os.utime(file, (time.time() - age,) * 2)
        for place in (tmp_path / ".scratch", tmp_path / "failed"):
            other = place / "exp1"  # of somebody who calls a folder so
            other.mkdir()
            os.utime(other, (time.time() - 2 * month,) * 2)
        workspace.remove_old([KEY])
        left = [{path.name for path in place.iterdir()} for place in (tmp_path / ".scratch", tmp_path / "failed")]
        assert left == [{KEY.folder_name, YOUNG.folder_name, "exp1"}] * 2
