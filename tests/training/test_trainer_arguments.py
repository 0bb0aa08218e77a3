"""Arguments that Ultralytics reads in methods which edgeprune's trainers replace are heard all the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgeprune import checkpoint
from edgeprune.errors import DataError
from edgeprune.settings import TrainSettings
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
