"""Systems without what Linux has: macOS, which pins no process and has no /proc, and Windows.

The tests run on Linux, so a process takes these things away from itself before anything of edgeprune is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.export.helpers import saved, stock_model

ROOT = Path(__file__).parents[2]
# psutil has a way of its own on macOS, which here is Linux's
AS_MACOS = """
import builtins, io, os, sys

del os.sched_getaffinity, os.sched_setaffinity

def without_proc(function):
    def called(path, *args, **kwargs):
        asked_by = sys._getframe(1).f_globals.get("__name__", "")
        if str(path).startswith(("/proc", "/sys")) and not asked_by.startswith("psutil"):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return function(path, *args, **kwargs)
    return called

builtins.open = io.open = without_proc(io.open)
os.readlink = without_proc(os.readlink)
"""
AS_WINDOWS = "import os, edgeprune; os.name = 'nt'; import edgeprune.cli"


@pytest.fixture
def on_macos(tmp_path):
    """Runs the command line, and every process that it starts, without /proc and without pinning."""
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "sitecustomize.py").write_text(AS_MACOS)
    paths = os.pathsep.join((str(tmp_path / "python"), str(ROOT)))

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "edgeprune", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        return subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return saved(stock_model("yolov8", "detect"), tmp_path_factory.mktemp("weights") / "m.pt")


def test_a_model_is_timed_without_proc_and_without_pinning(on_macos, weights, tmp_path):
    done = on_macos("bench", weights, "--imgsz", 64, "--seconds", 2, "--json", tmp_path / "times.json")
    assert done.returncode == 0, done.stderr
    [model] = json.loads((tmp_path / "times.json").read_text())["models"]
    assert model["memory"]["peak_rss_bytes"] > model["memory"]["model_rss_bytes"] > 0
    assert model["latency"]["conditions"]["host"]["cpus"] == os.cpu_count()


def test_what_the_system_does_not_pin_is_refused(on_macos, weights):
    done = on_macos("bench", weights, "--imgsz", 64, "--cpus", 0)
    assert done.returncode == 2
    assert "--cpus 0: " in done.stderr
    assert "pins no process" in done.stderr


@pytest.mark.parametrize("command", [("doctor",), ("device", "probe", "local")])
def test_this_machine_is_described(on_macos, command):
    done = on_macos(*command)
    assert done.returncode == 0, done.stderr
    assert "this machine" in done.stdout


def test_windows_is_refused_before_anything_is_missed():
    done = subprocess.run([sys.executable, "-c", AS_WINDOWS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "edgeprune: this is Windows; allowed are Linux and macOS; next: the same command in WSL 2\n"
