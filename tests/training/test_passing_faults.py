"""Images that the system does not read to Ultralytics for a moment: it would leave them out ever after."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgeprune.dataset import Dataset
from edgeprune.errors import DataError
from edgeprune.measure.accuracy import accuracy
from edgeprune.settings import TrainSettings
from edgeprune.training.run import run_training
from edgeprune.workspace import user_cache


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """One image of every split that cannot be opened, until this is undone."""
    whole = Image.open

    def failing(file: Any, *more: Any, **named: Any) -> Any:
        if Path(str(file)).stem == "0000001":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))
        return whole(file, *more, **named)

    monkeypatch.setattr(Image, "open", failing)
    return monkeypatch


def forget_labels() -> None:
    """Have Ultralytics look at every image again."""
    for noted in user_cache("datasets").rglob("*.cache"):
        noted.unlink()


@pytest.mark.parametrize("task", ["detect", "classify"])
def test_a_training_without_an_image_that_was_checked_is_refused_and_the_next_one_has_it(
    tmp_path: Path, narrow: Path, digits: Path, task_data: Any, settings: TrainSettings, task: str, request: Any
) -> None:
    data, weights = (digits, narrow) if task == "detect" else (task_data("classify"), "yolo11n-cls.yaml")
    Dataset.load(data, task=task)
    forget_labels()
    monkeypatch = request.getfixturevalue("fault")
    with pytest.raises(DataError, match=r"1 of the \d+ images of split 'train' could no longer be read; once they can"):
        run_training(tmp_path, weights, data=data, settings=settings)
    monkeypatch.undo()
    assert len(run_training(tmp_path, weights, data=data, settings=settings).epochs) == 2


def test_an_accuracy_without_an_image_that_was_checked_is_refused(
    narrow: Path, digits: Path, request: pytest.FixtureRequest
) -> None:
    checked = Dataset.load(digits)
    forget_labels()
    request.getfixturevalue("fault")
    with pytest.raises(DataError, match="1 of the 8 images of split 'val' could no longer be read"):
        accuracy(narrow, data=checked, imgsz=64, split="val")
