"""Two processes with gloo, started as torchrun starts them, train as one process does with the whole batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ultralytics.engine.trainer import BaseTrainer

from edgeprune import checkpoint
from edgeprune.data.digits import write_digits
from edgeprune.errors import StageError, TargetError
from edgeprune.settings import TrainSettings
from edgeprune.training import distributed
from edgeprune.training.arguments import check_arguments, training_device
from edgeprune.training.trainers import OWN_CALLBACKS, TRAINERS

ROOT = Path(__file__).parents[2]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def train(weights: Path, data: Path, out: Path, strength: float, nbs: int, *launcher: str) -> dict[str, torch.Tensor]:
    argv = [sys.executable, *launcher, "-m", "tests.training.two_processes", weights, data, out, strength, nbs]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([str(part) for part in argv], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return dict(checkpoint.load(out / "best.pt").model.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("nbs", [8, 16])
def test_two_processes_sparsify_like_one_with_the_doubled_batch(tmp_path: Path, narrow: Path, nbs: int) -> None:
    """Also where a step gathers the gradients of two batches, which are those of two epochs: order plays no part."""
    data = write_digits(tmp_path / "digits", train=8, val=4, test=2, imgsz=64)
    start = checkpoint.load(narrow).model.state_dict()
    alone = train(narrow, data, tmp_path / "alone", 0.5, nbs)
    shared = train(narrow, data, tmp_path / "shared", 0.5, nbs, *TORCHRUN)
    assert (tmp_path / "shared" / "results.csv").read_text().count("\n") == 4, "one process alone writes"
    scales = [name for name in start if name.endswith("bn.weight")]
    moved = max(float((alone[name] - start[name]).abs().max()) for name in scales)
    assert moved > 0.005, "training must move the scales"
    farthest = max((float((alone[name] - shared[name]).abs().max()), name) for name in start)
    assert farthest[0] < 1e-5, farthest


@pytest.mark.slow
def test_two_processes_measure_a_goal_once_and_train_to_it(tmp_path: Path, narrow: Path, digits: Path) -> None:
    """Ultralytics' validation would wait for processes that have not been joined yet."""
    argv = [
        *("finetune", narrow, "--data", digits, "--device", "cpu", "--imgsz", "64", "--epochs", "2", "--batch", "8")
    ]
    argv += ["--until", "map_drop <= 1", "--baseline", narrow, "--out", tmp_path / "out"]
    command = [sys.executable, *TORCHRUN, "-m", "edgeprune", *map(str, argv)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert json.loads((tmp_path / "out" / ".training" / "unpruned.json").read_text())["batch"] == 16
    assert (tmp_path / "out" / "results.csv").read_text().count("\n") == 2, "it ended when the goal was reached"


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda *given, **named: None)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 2)
    for batch, nominal in ((7, 8), (8, 7)):
        trainer = SimpleNamespace(batch_size=batch, args=SimpleNamespace(nbs=nominal))
        with pytest.raises(TargetError, match="7 cannot be shared by 2 processes; allowed is a multiple of 2"):
            distributed.join_on_cpu(trainer)


@pytest.mark.parametrize(("device", "batch", "count"), [("0,1,2", 16, 3), ("0,1", 1, 2), ("0,1,2,3", 6, 4)])
def test_so_it_is_where_several_gpus_share_it(device: str, batch: int, count: int) -> None:
    """Before anything runs, and on a machine that has none of them: Ultralytics leaves the rest of each batch out, or
    fails with a word about data."""
    with pytest.raises(
        TargetError, match=f"batch={batch} cannot be shared by {count} processes; .* multiple of {count}"
    ):
        check_arguments(TrainSettings(device=device, batch=batch))
    check_arguments(TrainSettings(device=device, batch=12))
    check_arguments(TrainSettings(device="0", batch=batch))


@pytest.mark.parametrize(
    ("device", "processes", "allowed"),
    [("0", 2, False), ("0,1", 4, False), ("0,1", 2, True), ("cuda:0,1", 2, True), ("cpu", 4, True)],
    ids=["one GPU, or none named", "two machines", "a GPU each", "by a longer name", "CPUs"],
)
def test_torchrun_starts_a_process_for_every_gpu_or_none_trains(
    device: str, processes: int, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "RANK", 0)
    monkeypatch.setattr(distributed, "WORLD_SIZE", processes)
    monkeypatch.setattr("ultralytics.utils.torch_utils.select_device", lambda *_, **__: None)
    settings = TrainSettings(device="" if device == "0" else device)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    if allowed:
        assert training_device(settings) == device
    else:
        with pytest.raises(
            TargetError, match=rf"started {processes} processes, and device={device} names . GPUs?; .* one machine"
        ):
            training_device(settings)


def test_the_processes_of_torchrun_are_joined_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of pruning train one after the other; a second ``init_process_group`` is refused."""
    joined: list[bool] = []

    def join(trainer: Any) -> None:
        assert not joined, "trying to initialize the default process group twice!"
        joined.append(True)
        trainer.device = torch.device("cuda", 1)

    monkeypatch.setattr(BaseTrainer, "_setup_ddp", join)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: bool(joined))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    for _ in range(2):
        trainer = TRAINERS["detect"].__new__(TRAINERS["detect"])
        trainer._setup_ddp()
        assert trainer.device == torch.device("cuda", 1)


def test_a_process_of_its_own_knows_nothing_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
        assert distributed.in_a_process_of_its_own(partial(os.getenv, name)) is None
        assert os.environ[name] == "1"
    with pytest.raises(StageError, match="the process that validates died"):
        distributed.in_a_process_of_its_own(partial(os._exit, 3))
    with pytest.raises(FileNotFoundError):
        distributed.in_a_process_of_its_own(partial(os.listdir, "/nowhere/at/all"))


def test_a_process_that_ultralytics_starts_listens_once(narrow: Path, digits: Path, tmp_path: Path) -> None:
    """It is given the callbacks of the trainer that starts it, which has added its own already."""
    given = {"model": str(narrow), "data": str(digits), "device": "cpu", "imgsz": 64, "task": "detect"}
    overrides = {**given, "project": str(tmp_path), "name": "run", "exist_ok": True}
    first: Any = TRAINERS["detect"](overrides=overrides)
    again: Any = TRAINERS["detect"](overrides=overrides, _callbacks=first.callbacks)
    for event, callback in OWN_CALLBACKS:
        assert first.callbacks[event].count(callback) == again.callbacks[event].count(callback) == 1, event
