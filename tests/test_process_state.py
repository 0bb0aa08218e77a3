"""What a function changes in the process that calls it: nothing, of threads and random numbers."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgeprune
from edgeprune.measure.predictions import predict
from edgeprune.quiet import process_state_kept
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
    return torch.get_num_threads(), torch.get_rng_state().tolist(), numbers[1].tolist(), numbers[2], random.getstate()


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
    "predict": lambda place, out: predict(place / "m.pt", datasets.images_of(data_of(place), "val")),
}


@pytest.mark.parametrize("name", CALLS)
def test_threads_and_random_numbers_are_as_they_were(place: Path, tmp_path: Path, name: str) -> None:
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
