"""Arguments that Ultralytics reads in methods which edgeprune's trainers replace are heard all the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from ultralytics.models.yolo.detect import DetectionValidator

from edgeprune import checkpoint
from edgeprune.errors import DataError, SettingError
from edgeprune.families import family_for
from edgeprune.settings import TrainSettings
from edgeprune.training import early_stop
from edgeprune.training.finetune import finetune
from tests.training.narrow import narrow_checkpoint


@pytest.mark.parametrize("asked", [{}, {"dropout": 0.3}], ids=["unasked", "asked"])
def test_a_classifier_is_trained_with_the_dropout_that_is_asked_for(
    asked: dict[str, Any], tmp_path: Path, task_data: Any, settings: TrainSettings
) -> None:
    """An earlier training's stays in the module that it saved."""
    weights = narrow_checkpoint(tmp_path / "given.pt", "yolo11n-cls.yaml", names=("loud", "quiet"))
    content = torch.load(weights, weights_only=False)
    for layer in content["model"].modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.7
    torch.save(content, weights)
    seen: list[float] = []

    def watch(trainer: Any) -> None:
        seen.extend(layer.p for layer in trainer.model.modules() if isinstance(layer, nn.Dropout))

    finetune(
        weights,
        data=task_data("classify"),
        out=tmp_path / "out",
        settings=replace(settings, epochs=1, train=asked),
        work=tmp_path / "work",
        watchers=[("on_train_epoch_start", watch)],
    )
    assert seen == [asked.get("dropout", 0.0)]


def test_epochs_are_kept_at_the_period_that_is_asked_for(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings
) -> None:
    finetune(
        narrow,
        data=digits,
        out=tmp_path / "out",
        settings=replace(settings, epochs=3, train={"save_period": 2}),
        work=tmp_path / "work",
    )
    weights = tmp_path / "work" / "run" / "weights"
    kept = sorted(path.name for path in weights.iterdir())
    assert kept == ["best.pt", "epoch0.pt", "epoch2.pt", "last.pt"]
    signature = checkpoint.shape_signature(checkpoint.load(narrow).model)
    assert checkpoint.shape_signature(checkpoint.load(weights / "epoch2.pt").model) == signature
    with pytest.raises(DataError, match=r"training in progress: run the same command again.*best.pt beside it"):
        checkpoint.load(weights / "last.pt")


@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [
        ("split", "test", "epochs are chosen on val"),
        ("nms", True, "use head"),
        ("classes", [0], "give a data set of these classes"),
        ("save_json", True, "edgeprune val"),
        ("augmentations", [], "give Ultralytics' own"),
        ("project", "x", "remove it"),
    ],
)
def test_what_edgeprune_says_itself_is_refused_with_what_to_do_instead(name: str, value: Any, instead: str) -> None:
    with pytest.raises(SettingError, match=f"train argument '{name}' is set by edgeprune itself; {instead}"):
        TrainSettings(train={name: value})


OF_VALIDATION = {
    "conf": 0.4,
    "iou": 0.05,
    "max_det": 7,
    "agnostic_nms": True,
    "overlap_mask": False,
    "mask_ratio": 2,
    "fraction": [1.0, 0.5],
}


def test_a_model_is_reported_by_the_validation_that_chose_its_epoch(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    validators = {family_for("detect").validator, DetectionValidator}
    for validator in validators:
        real = validator.finalize_metrics

        def note(self: Any, real: Any = real) -> None:
            seen.append({name: getattr(self.args, name) for name in OF_VALIDATION} | {"images": self.seen})
            real(self)

        monkeypatch.setattr(validator, "finalize_metrics", note)
    given = replace(settings, epochs=1, train=OF_VALIDATION)
    finetune(narrow, data=digits, out=tmp_path / "out", settings=given, work=tmp_path / "work")
    assert len(seen) == 3, "epoch 0, epoch 1, and what is reported"
    assert seen == [{**OF_VALIDATION, "images": 4}] * 3


def test_a_goal_is_measured_by_the_same_arguments(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Any] = []

    def figure(*_: Any, settings: TrainSettings, **__: Any) -> float:
        measured.append(settings.train)
        return 0.5

    monkeypatch.setattr(early_stop, "validation_accuracy", figure)
    for asked in ({}, {"max_det": 1}, {"max_det": 1, "mosaic": 0.0}):
        early_stop.baseline_accuracy(narrow, data=digits, settings=replace(settings, train=asked), work=tmp_path)
    assert measured == [{}, {"max_det": 1}]


@pytest.mark.parametrize("epochs", [1, 3])
def test_by_time_training_goes_on_whatever_epochs_says(
    epochs: int, tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings
) -> None:
    limited = replace(settings, epochs=epochs, time_h=1.0)
    seen: list[int] = []

    def watch(trainer: Any) -> None:
        seen.append(trainer.epoch)
        if trainer.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(
            narrow,
            data=digits,
            out=tmp_path / "out",
            settings=limited,
            work=tmp_path / "work",
            watchers=[("on_train_epoch_start", watch)],
        )
    assert seen == [0, 1, 2, 3]
