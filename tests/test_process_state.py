"""What a function changes in the process that calls it: nothing, of threads, random numbers, GPU and determinism."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgeprune
from edgeprune.measure.predictions import predict
from edgeprune.quiet import DETERMINISM, process_state_kept
from edgeprune.search.inputs import require_training_arguments
from edgeprune.target import load_target
from tests.situations import datasets, models


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small detector and labelled images."""
    folder = tmp_path_factory.mktemp("state")
    models.saved(models.model(), folder / "m.pt", train_args={"imgsz": 64})
    datasets.dataset(folder / "data", counts={"train": 4, "val": 2, "test": 2})
    return folder


def state() -> tuple[Any, ...]:
    numbers: Any = np.random.get_state()
    flags: Any = torch.utils.deterministic
    return (
        *(torch.get_num_threads(), torch.get_rng_state().tolist(), numbers[1].tolist(), numbers[2], random.getstate()),
        *(torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        *(torch.backends.cudnn.deterministic, flags.fill_uninitialized_memory),
        *(os.environ.get(name) for name in DETERMINISM),
    )


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that asked for deterministic algorithms itself."""
    monkeypatch.setenv(DETERMINISM[0], ":16:8")
    monkeypatch.setenv(DETERMINISM[1], "7")
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def data_of(folder: Path) -> Path:
    return next((folder / "data").glob("*.yaml"))


CALLS: dict[str, Callable[[Path, Path], Any]] = {
    "prune": lambda place, out: edgeprune.prune(
        place / "m.pt", ratio=0.3, data=data_of(place), images=4, importance="taylor", imgsz=64
    ),
    "prune without data": lambda place, out: edgeprune.prune(place / "m.pt", ratio=0.3, imgsz=64, importance="random"),
    "val": lambda place, out: edgeprune.val(place / "m.pt", data=data_of(place), imgsz=64),
    "finetune": lambda place, out: edgeprune.finetune(
        place / "m.pt",
        data=data_of(place),
        out=out / "tuned",
        work=out / "work",
        settings=edgeprune.TrainSettings(epochs=1, batch=2, imgsz=64, device="cpu", quiet=True),
    ),
    "export": lambda place, out: edgeprune.export(place / "m.pt", out / "m.onnx", imgsz=64),
    "build, sweep and frontier before they start": lambda place, out: require_training_arguments(
        load_target("cpu"), {"finetune": load_target("cpu").finetune}
    ),
    "predict": lambda place, out: predict(place / "m.pt", datasets.images_of(data_of(place), "val")),
}


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("name", CALLS)
def test_the_process_is_as_it_was(place: Path, tmp_path: Path, name: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        before = state()
        CALLS[name](place, tmp_path)
        assert state() == before
    finally:
        torch.set_num_threads(threads)


def test_they_come_back_after_a_fault_too() -> None:
    before = state()
    with pytest.raises(ZeroDivisionError), process_state_kept():
        torch.set_num_threads(before[0] + 1)
        torch.rand(1), np.random.rand(), random.random()
        _ = 1 / 0
    assert state() == before


def test_the_current_gpu_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    current = [1]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1])
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    with process_state_kept():
        torch.cuda.set_device(0)
    assert current == [1, 0, 1]


def test_no_gpu_is_woken_to_ask_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def wake(*_: object) -> int:
        raise AssertionError("CUDA would be initialised")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "current_device", wake)
    monkeypatch.setattr(torch.cuda, "set_device", wake)
    with process_state_kept():
        pass
