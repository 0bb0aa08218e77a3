"""The caller's side of a worker: live progress, crashes, and no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from edgeprune.agent.host import WorkerState
from edgeprune.errors import ToolError
from edgeprune.runtimes import bench_worker
from edgeprune.runtimes.jobs import Done, Sampling, WorkerProgress
from edgeprune.runtimes.worker import run_worker

MODULE = "tests.runtimes.crashing_worker"
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class CrashJob:
    """How to end; ``tests/runtimes/crashing_worker.py``."""

    module: ClassVar[str] = MODULE
    how: str


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [("exit", 7, "last words"), ("kill", -9, "nothing"), ("silent", 0, "nothing"), ("late", 3, "nothing")],
)
def test_a_crash_is_a_tool_error(how: str, code: int, said: str) -> None:
    seen = []
    with pytest.raises(ToolError, match=said) as caught:
        run_worker(CrashJob(how), Done, seen.append)
    assert caught.value.returncode == code
    assert MODULE in str(caught.value)
    assert not alive(seen[0].done)


def test_an_exception_on_the_way_ends_the_worker() -> None:
    seen = []

    def told(progress: WorkerProgress) -> None:
        seen.append(progress.done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_worker(CrashJob("hang"), Done, told)
    assert not alive(seen[0])


def test_ctrl_c_ends_the_worker() -> None:
    code = (
        # a shell that put the tests into the background has told them to ignore Ctrl-C
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from tests.runtimes.test_worker import CrashJob, Done, run_worker\n"
        "run_worker(CrashJob('hang'), Done, lambda progress: print(progress.done, flush=True))\n"
    )
    caller = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert caller.stdout is not None
    pid = int(caller.stdout.readline())
    assert alive(pid)
    caller.send_signal(signal.SIGINT)
    caller.wait(timeout=1200)
    deadline = time.perf_counter() + 120
    while alive(pid) and time.perf_counter() < deadline:
        time.sleep(0.05)
    assert not alive(pid)


def test_models_that_take_turns_get_their_own_times(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    class Scripted(bench_worker.Timer):
        """A model that takes so many seconds of a clock that nothing else moves."""

        def __init__(self, seconds: float) -> None:
            super().__init__()
            self.seconds, self.shapes, self.load_ms, self.report = seconds, {}, 0.0, {}

        def run(self) -> None:
            nonlocal now
            now += self.seconds

    monkeypatch.setattr(bench_worker, "perf_counter", lambda: now)
    job = Sampling(0.05, 0, 6, 3, 0, 20, 0, True, (), ())
    timed = bench_worker.take_turns(job, [Scripted(0.002), Scripted(0.005)], WorkerState)
    assert [model.values_ms for model in timed.models] == [pytest.approx([ms] * 18) for ms in (2.0, 5.0)]
