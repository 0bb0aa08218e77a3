"""Small data sets and narrow models for the training room."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from edgeprune.data.digits import CLASSES, write_digits
from edgeprune.settings import TrainSettings
from tests.training.narrow import narrow_checkpoint


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``data.yaml`` of 24 training and 8 validation images of 64 pixels."""
    return write_digits(tmp_path_factory.mktemp("data") / "digits", train=24, val=8, test=4, imgsz=64)


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ten-class v8n of half its YAML's width."""
    return narrow_checkpoint(tmp_path_factory.mktemp("weights") / "narrow.pt", names=CLASSES)


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ten-class v8n as its YAML says, with random weights: a teacher."""
    return narrow_checkpoint(tmp_path_factory.mktemp("weights") / "full.pt", names=CLASSES, factor=1.0, seed=1)


@pytest.fixture
def settings() -> TrainSettings:
    """Two quick epochs."""
    return TrainSettings(epochs=2, batch=8, device="cpu", imgsz=64, quiet=True)


@pytest.fixture(scope="session")
def task_data(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest):
    """A function from a task to a data set of eight images that may be written to."""
    root = tmp_path_factory.mktemp("tasks")

    def find(task: str) -> Path:
        name = {"detect": "coco8", "segment": "coco8-seg", "pose": "coco8-pose", "obb": "dota8"}.get(task, "noise")
        folder = root / name
        if not folder.exists() and name == "noise":
            for split in ("train", "val"):
                for spread, kind in ((20, "quiet"), (90, "loud")):
                    (folder / split / kind).mkdir(parents=True)
                    for index in range(4):
                        noise = Image.effect_noise((64, 64), spread).convert("RGB")
                        noise.save(folder / split / kind / f"{index}.jpg")
        elif not folder.exists():
            shutil.copytree(request.getfixturevalue("shared") / "data" / name, folder)
        return folder if name == "noise" else next(folder.glob("*.yaml"))

    return find
