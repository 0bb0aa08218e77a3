"""What trains on several GPUs ends with the process that wants it, is heard and seen, and trains alone; on CPUs, by
torchrun itself and programs that stand for a training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ultralytics.utils import LOGGER

from edgeprune.errors import StageError
from edgeprune.logs import capture_output
from edgeprune.settings import TrainSettings
from edgeprune.training import launcher, several_gpus
from edgeprune.training.finetune import finetune
from edgeprune.training.result import Epoch
from edgeprune.training.run import EpochReporter, alone_in
from edgeprune.training.several_gpus import alone_on_gpus, obey_launcher, run_torchrun, train_on_several
from edgeprune.workspace import open_workspace

ROOT = Path(__file__).parents[2]
SLEEPS = """
import os, sys, time
from pathlib import Path
Path(sys.argv[1], str(os.getpid())).touch()
time.sleep(600)
"""
PARENT = """
import signal, sys
from edgeprune.training.several_gpus import run_torchrun
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
run_torchrun([sys.executable, "-m", "torch.distributed.run", *sys.argv[1:]])
"""


def command(script: Path, *arguments: Path | str, processes: int = 1) -> list[str]:
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes]
    return [str(part) for part in (*argv, script, *arguments)]


def until(true: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


def lives(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel of Linux tells of a parent's end")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_the_training_ends_its_processes(tmp_path: Path, number: signal.Signals) -> None:
    """They are in sessions of their own, which no signal to this one's group reaches."""
    script, living = tmp_path / "sleeps.py", tmp_path / "living"
    script.write_text(SLEEPS)
    living.mkdir()
    argv = [sys.executable, "-c", PARENT, *command(script, living, processes=2)[3:]]
    parent = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: len(list(living.iterdir())) == 2)
        processes = [int(path.name) for path in living.iterdir()]
        assert all(map(lives, processes))
        parent.send_signal(number)
        assert parent.wait(timeout=60) == (143 if number == signal.SIGTERM else -signal.SIGKILL)
        until(lambda: not any(map(lives, processes)))
    finally:
        parent.kill()


def test_a_process_whose_parent_has_ended_does_not_begin() -> None:
    with pytest.raises(SystemExit, match="has ended"):
        launcher.end_with(1 if os.getppid() != 1 else 2)


SPEAKS = """
import os, sys, time
from pathlib import Path
print("in the log \\u2713", os.environ["EDGEPRUNE_LOG_LEVEL"], os.getppid() == int(os.environ["EDGEPRUNE_LAUNCHER"]))
print("on the other stream", file=sys.stderr, flush=True)
rows = ["epoch,time,metrics/mAP50-95(B)", "1,10,0.25", "2,20,0.5", "3,30,0.125"]
for count in range(2, 5):
    Path(sys.argv[1]).write_text("\\n".join(rows[:count]) + "\\n")
    time.sleep(1.5)
"""


def test_it_is_heard_by_the_stage_and_its_epochs_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, csv, told, cleaned = tmp_path / "speaks.py", tmp_path / "results.csv", [], []
    script.write_text(SPEAKS)
    monkeypatch.setattr(several_gpus, "generate_ddp_command", lambda _: (command(script, csv), script))
    monkeypatch.setattr(several_gpus, "ddp_cleanup", lambda _, file: cleaned.append(file))
    reporter = EpochReporter("fine-tune", lambda text, *, done=0, total=0: told.append((text, done, total)))
    arguments = SimpleNamespace(rect=False, task="detect", time=None)
    trainer = SimpleNamespace(
        args=arguments, callbacks={"on_fit_epoch_end": [print, reporter]}, csv=csv, resume=False, epochs=3
    )
    before = LOGGER.level
    LOGGER.setLevel(30)
    try:
        with capture_output(tmp_path / "log.txt", show=False):
            train_on_several(trainer)
    finally:
        LOGGER.setLevel(before)
    log = (tmp_path / "log.txt").read_text()
    assert "in the log ✓ 30 True" in log and "on the other stream" in log
    assert told == [
        ("fine-tune epoch 1/3, mAP50-95(B) 0.250, about 20 s left", 1, 3),
        ("fine-tune epoch 2/3, mAP50-95(B) 0.500, about 10 s left", 2, 3),
        ("fine-tune epoch 3/3, mAP50-95(B) 0.125", 3, 3),
    ]
    assert cleaned == [str(script)]
    told.clear()
    arguments.time = 2.0
    reporter.finished(trainer, Epoch(7, 70.0, {}))  # type: ignore[arg-type]
    assert told == [("fine-tune epoch 7", 7, 0)], "by time nobody here knows how many it will be"


FAILS = """
import sys, time
sys.stderr.write("RuntimeError: CUDA out ")
sys.stderr.flush()
for step in range(100):  # however small the pieces are that it comes in, and whatever comes between them
    sys.stdout.write(f"{step}%\\r")
    sys.stdout.flush()
    time.sleep(0.005)
sys.stderr.write("of memory\\n")
sys.exit(1)
"""


def test_what_it_printed_last_says_why_it_failed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "fails.py"
    script.write_text(FAILS)
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run_torchrun(command(script))
    assert "RuntimeError: CUDA out of memory" in caught.value.output.splitlines()
    assert "RuntimeError: CUDA out of memory" in capfd.readouterr().err


def test_its_first_process_holds_the_folder_after_the_training_that_started_it(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(several_gpus, "RANK", 0)
    monkeypatch.setenv(launcher.STARTED_BY, "1")
    run = tmp_path / "work" / "run"
    refused = rf"{run}: another training \(process {os.getpid()}\) works here"
    with alone_on_gpus(run):
        with pytest.raises(StageError, match=refused):
            with alone_in(tmp_path / "work", tmp_path / "out"):
                pytest.fail("a second training begins")
        with pytest.raises(StageError, match=refused):
            finetune(narrow, data=digits, out=tmp_path / "out", settings=settings, work=tmp_path / "work")
    with alone_in(tmp_path / "work", tmp_path / "out"):
        pass


def test_a_trainer_that_was_started_so_trains_while_it_holds_the_folder(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(several_gpus, "RANK", 0)
    monkeypatch.setenv(launcher.STARTED_BY, "7")
    monkeypatch.setenv(several_gpus.LEVEL, "30")
    worked_for: list[int] = []
    monkeypatch.setattr(launcher, "end_with", worked_for.append)
    seen: list[str] = []

    def look(trainer: Any) -> None:
        with pytest.raises(StageError) as caught:
            with open_workspace(trainer.save_dir, "training"):
                pass
        seen.append(str(caught.value))

    where = {"data": digits, "out": tmp_path / "out", "work": tmp_path / "work", "settings": settings}
    finetune(narrow, **where, watchers=[("on_train_epoch_start", look)])
    assert len(seen) == settings.epochs and "works here" in seen[0]
    assert worked_for == [7]


def test_it_logs_what_the_training_that_started_it_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "end_with", lambda _: None)
    monkeypatch.setenv(launcher.STARTED_BY, "7")
    monkeypatch.setenv(several_gpus.LEVEL, "30")
    before = LOGGER.level
    try:
        for rank, own, level in ((-1, 20, 20), (0, 20, 30), (1, 40, 40)):
            monkeypatch.setattr(several_gpus, "RANK", rank)
            LOGGER.setLevel(own)
            obey_launcher()
            assert LOGGER.level == level
    finally:
        LOGGER.setLevel(before)
