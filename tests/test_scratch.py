"""Temporary files lie in one place below the cache, and what a killed process left is gone after the next start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeprune import scratch
from edgeprune.errors import TargetError
from edgeprune.frontier.run import frontier
from edgeprune.measure.bench import bench
from edgeprune.measure.compare import compare
from edgeprune.search.run import profile, search
from edgeprune.sweep.run import sweep
from edgeprune.workspace import user_cache

LIVES = """
import sys, tempfile
from edgeprune.scratch import scratch
with scratch():
    folder = tempfile.mkdtemp(prefix="edgeprune-export-")
    open(folder + "/half.onnx", "w").close()
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache with a short path, as a home has one."""
    with tempfile.TemporaryDirectory(prefix="c-", dir="/tmp") as folder:
        monkeypatch.setenv("EDGEPRUNE_CACHE", folder)
        yield Path(folder)


def living() -> tuple[subprocess.Popen[str], Path]:
    """A process in the middle of something, and its temporary folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", LIVES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_the_next_start_removes_what_a_killed_process_left_and_nothing_else(cache: Path) -> None:
    (killed, left), (alive, used) = living(), living()
    others = [cache / "tmp" / name for name in ("mine", "12-abcd", "12-abcde")]  # the cache may be any folder
    for other in others:
        other.mkdir()
        (other / "thesis.txt").touch()
    (others[-1] / ".lock").touch()
    try:
        assert left.is_relative_to(cache / "tmp") and used.is_relative_to(cache / "tmp")
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert (left / "half.onnx").is_file()
        with scratch.scratch():
            assert not left.exists()
            assert (used / "half.onnx").is_file()
    finally:
        for process in (killed, alive):
            process.communicate()
    assert not used.exists(), "a process that ends cleans up itself"
    assert all((other / "thesis.txt").is_file() for other in others)
    assert {path.name for path in (cache / "tmp").iterdir()} == {".lock", *(other.name for other in others)}


def test_libraries_and_children_use_it_and_afterwards_all_is_as_before(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tempfile.gettempdir()
    monkeypatch.setenv("TMPDIR", before)
    with scratch.scratch():
        inner = tempfile.gettempdir()
        assert inner == os.environ["TMPDIR"] != before
        with scratch.scratch():
            assert tempfile.gettempdir() == inner
        assert tempfile.gettempdir() == inner
    assert tempfile.gettempdir() == os.environ["TMPDIR"] == before


def test_without_a_cache_that_can_be_written_the_system_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    before = tempfile.gettempdir()
    monkeypatch.setenv("EDGEPRUNE_CACHE", "/proc/nowhere")
    with scratch.scratch():
        assert tempfile.gettempdir() == before


def test_a_path_that_is_too_long_for_sockets_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / ("n" * 80)))
    with scratch.scratch():
        assert len(tempfile.gettempdir()) < scratch.LONGEST_PATH
        assert not user_cache("").exists()


def test_a_temporary_folder_that_is_too_long_for_sockets_is_not_used_either(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deep = tmp_path / ("ü" * 40)  # two bytes each
    deep.mkdir()
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(deep))
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with scratch.scratch():
        assert len(os.fsencode(tempfile.gettempdir())) <= scratch.LONGEST_PATH


def test_onnx_runtime_leaves_nothing_in_the_home(tmp_path: Path) -> None:
    code = "import edgeprune, onnxruntime as ort; ort.get_available_providers(); ort.SessionOptions()"
    code += "\ntry: ort.InferenceSession(b'')\nexcept Exception: pass"
    for module in ("edgeprune", "edgeprune.runtimes.bench_worker"):
        env = {**os.environ, "HOME": str(tmp_path)}
        env.pop("ORT_DISABLE_TELEMETRY", None)
        subprocess.run([sys.executable, "-c", f"import {module}\n{code}"], env=env, check=True, timeout=120)
        assert list(tmp_path.rglob("*.db")) == []


def test_mlflow_leaves_nothing_in_the_home(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    env = {key: value for key, value in os.environ.items() if key != "MLFLOW_DISABLE_TELEMETRY"}
    env |= {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / ".config")}
    code = "import edgeprune, mlflow; mlflow.set_tracking_uri('sqlite:///:memory:')"
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=600, cwd=tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def as_another_left_it(folder: Path, kind: str) -> None:
    """The folder that takes the cache's place, made by somebody else before this user came."""
    if kind == "link":
        (target := folder.with_name("elsewhere")).mkdir(mode=0o700)
        folder.symlink_to(target)
    elif kind == "file":
        folder.write_text("")
    else:
        folder.mkdir(mode=0o700)
        if kind == "open to others":
            folder.chmod(0o777)


@pytest.mark.parametrize("kind", ["link", "file", "open to others", "another's"])
def test_a_folder_that_another_may_have_made_is_not_taken(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """The fallback has a name that anybody can foresee, below a folder that anybody may write to."""
    with tempfile.TemporaryDirectory(prefix="s-", dir="/tmp") as shared:
        monkeypatch.setenv("EDGEPRUNE_CACHE", f"{shared}/{'n' * 80}")
        monkeypatch.setattr("tempfile.tempdir", shared)
        uid = os.getuid() + (kind == "another's")
        monkeypatch.setattr(os, "getuid", lambda: uid)
        taken = Path(shared) / f"edgeprune-{uid}"
        as_another_left_it(taken, kind)
        with scratch.scratch():
            assert tempfile.gettempdir() == shared
        assert kind == "file" or list(taken.iterdir()) == []


def test_nobody_else_may_enter_what_takes_the_place_of_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0)
    try:
        with tempfile.TemporaryDirectory(prefix="s-", dir="/tmp") as shared:
            monkeypatch.setenv("EDGEPRUNE_CACHE", f"{shared}/{'n' * 80}")
            monkeypatch.setattr("tempfile.tempdir", shared)
            with scratch.scratch():
                inner = Path(tempfile.gettempdir())
                assert inner.parent == Path(shared) / f"edgeprune-{os.getuid()}"
                assert [oct(one.stat().st_mode & 0o777) for one in (inner, inner.parent)] == ["0o700", "0o700"]
    finally:
        os.umask(before)


def test_a_lock_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / ".lock").symlink_to(tmp_path / "made by the lock")
    with pytest.raises(OSError), scratch.locked(tmp_path / ".lock", wait=False):
        pass
    assert not (tmp_path / "made by the lock").exists()


def test_temporary_files_lie_where_children_look_that_start_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="c-", dir="/tmp") as folder:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("EDGEPRUNE_CACHE", "cache")
        with scratch.scratch():
            assert Path(os.environ["TMPDIR"]).is_relative_to(Path(folder) / "cache" / "tmp")
        monkeypatch.chdir("/")


class Seen:
    """Stands for the first path or name that a function reads: says where temporary files go by then."""

    def __init__(self) -> None:
        self.place: Path | None = None

    def __fspath__(self) -> str:
        self.place = Path(tempfile.gettempdir())
        raise TargetError("seen")

    __str__ = __fspath__


@pytest.mark.parametrize("function", [search, profile, sweep, frontier, bench, compare], ids=lambda one: one.__name__)
def test_what_compiles_models_leaves_nothing_for_ever_when_python_calls_it(function: Any, cache: Path) -> None:
    seen, before = Seen(), tempfile.gettempdir()
    folder = {"data": "d.yaml", "out": cache / "out"}
    more: dict[Any, dict[str, Any]] = {
        search: {"output": cache / "o.pt"},
        sweep: {**folder, "budgets": [("speed_up", 2.0)]},
        frontier: {**folder, "kind": "speed_up", "budgets": [2.0]},
    }
    with pytest.raises(TargetError, match="seen"):
        if function is bench:
            function("cpu", [seen])
        else:
            function([seen] if function is compare else seen, "data.yaml", **more.get(function, {}))
    assert seen.place is not None and seen.place.parent == cache / "tmp"
    assert tempfile.gettempdir() == before and not seen.place.exists()
