"""Of a model with two heads, every figure of training is that of the head which ships."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
import torch
from torch import nn

from edgeprune import checkpoint
from edgeprune.data.digits import CLASSES
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.export.parity import parity
from edgeprune.settings import TrainSettings
from edgeprune.target import load_target
from edgeprune.training.run import run_training, validation_accuracy
from tests.training.narrow import narrow_checkpoint


class Saw:
    """Ultralytics callback that keeps which head was validated in every epoch."""

    heads: ClassVar[list[bool]] = []

    def __call__(self, trainer: Any) -> None:
        averaged = trainer.ema.ema
        self.heads.append(getattr(averaged, "student_model", averaged).end2end)


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def two_headed(tmp_path: Path) -> Path:
    Saw.heads.clear()
    return narrow_checkpoint(tmp_path / "two.pt", "yolo26n.yaml", names=CLASSES)


@pytest.mark.parametrize(("head", "one_to_one"), [("auto", True), ("raw", False)])
def test_epochs_are_judged_by_the_head_that_ships_also_after_a_stop(
    head: Any, one_to_one: bool, two_headed: Path, digits: Path, settings: TrainSettings, tmp_path: Path
) -> None:
    def stop(trainer: Any) -> None:
        if trainer.epoch == 0:
            raise Killed

    where: dict[str, Any] = {"data": digits, "settings": replace(settings, head=head), "keep_given": True}
    saw = ("on_model_save", Saw())
    with pytest.raises(Killed):
        run_training(tmp_path / "work", two_headed, watchers=[saw, ("on_model_save", stop)], **where)
    told: list[str] = []
    run_training(tmp_path / "work", two_headed, watchers=[saw], progress=lambda text, **_: told.append(text), **where)
    assert told[0].endswith("goes on after epoch 1")
    assert Saw.heads == [one_to_one] * 2


def test_distilled_features_change_nothing_of_that(
    two_headed: Path, digits: Path, settings: TrainSettings, tmp_path: Path
) -> None:
    taught = replace(settings, epochs=1, teacher=two_headed, response=0.0, feature=6.0)
    run_training(tmp_path / "work", two_headed, data=digits, settings=taught, watchers=[("on_fit_epoch_end", Saw())])
    assert Saw.heads == [True]


def test_the_head_that_does_not_ship_is_not_heard(shared: Path, tmp_path: Path) -> None:
    """Its classes are silenced: with one head nothing is found, with the other what was found before."""
    weights, data = shared / "weights" / "bccd-yolo26n-320.pt", shared / "data" / "bccd" / "data.yaml"
    given = checkpoint.load(weights)
    silent = tmp_path / "silent.pt"
    for branch in cast(Any, given.model).model[-1].cv3:
        nn.init.constant_(branch[-1].bias, -50.0)
        nn.init.zeros_(branch[-1].weight)
    checkpoint.save(given.model, silent, like=given)
    settings = TrainSettings(device="cpu", imgsz=160, quiet=True)
    with torch.no_grad():
        found = {
            head: validation_accuracy(silent, data=data, settings=replace(settings, head=head), work=tmp_path)
            for head in ("auto", "raw")
        }
    assert found["raw"] == 0
    assert found["auto"] > 0.1


@pytest.mark.parametrize(("asked", "rows"), [({"max_det": 301, "agnostic_nms": True}, 301), ({"max_det": 9}, 300)])
def test_a_model_is_its_export_also_where_training_was_told_how_many_objects_it_keeps(
    asked: dict[str, Any], rows: int, two_headed: Path, digits: Path, settings: TrainSettings, tmp_path: Path
) -> None:
    """As Ultralytics tells itself where an image of the data set holds more than 300."""
    told = replace(settings, epochs=1, imgsz=160, train=asked)
    run = run_training(tmp_path / "work", two_headed, data=digits, settings=told)
    assert cast(Any, checkpoint.load(run.best).model).model[-1].max_det == asked["max_det"]
    info = onnx_from_checkpoint(run.best, tmp_path / "m.onnx", imgsz=160)
    assert info.outputs[0].shape == (1, rows, 6)
    images = sorted((digits.parent / "images" / "val").iterdir())[:2]
    assert parity(run.best, tmp_path / "m.onnx", images).max_abs < 1e-3


def test_a_profile_says_which_head_its_training_is_judged_by(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from edgeprune.stages.pretrain import run_of

    build: Any = SimpleNamespace(
        target=load_target("cpu").changed({"export.head": "raw"}), site=SimpleNamespace(seed=3)
    )
    assert TrainSettings.of(build.target.finetune, **run_of(build), teacher=None).head == "raw"
