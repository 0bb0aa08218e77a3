"""How an earlier training weighed its classes stays with that training (``cls_pw``)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeprune import checkpoint
from edgeprune.data.digits import CLASSES
from edgeprune.pruning.loss import loss_model
from edgeprune.settings import TrainSettings
from edgeprune.training.finetune import finetune
from tests.training.narrow import narrow_checkpoint


def weighed(path: Path, names: tuple[str, ...]) -> Path:
    """A checkpoint as Ultralytics leaves one that it trained with ``cls_pw``: a plain attribute of the model."""
    narrow_checkpoint(path, names=names)
    content = torch.load(path, weights_only=False)
    content["model"].class_weights = torch.linspace(0.5, 1.5, len(names))
    torch.save(content, path)
    return path


@pytest.mark.parametrize("cls_pw", [None, 1.0])
@pytest.mark.parametrize("names", [("cell",), tuple(reversed(CLASSES)), CLASSES], ids=["fewer", "reordered", "same"])
def test_a_training_weighs_classes_as_it_is_asked_to(
    names: tuple[str, ...], cls_pw: float | None, tmp_path: Path, digits: Path, settings: TrainSettings
) -> None:
    seen: list[Any] = []

    def watch(trainer: Any) -> None:
        seen.append(trainer.model.criterion.class_weights)

    asked: dict[str, Any] = {} if cls_pw is None else {"cls_pw": cls_pw}
    done = finetune(
        weighed(tmp_path / "given.pt", names),
        data=digits,
        out=tmp_path / "out",
        settings=replace(settings, epochs=1, train=asked),
        work=tmp_path / "work",
        watchers=[("on_train_epoch_end", watch)],
    )
    if cls_pw is None:
        assert seen == [None]
    else:
        weights = seen[0].flatten()
        assert len(weights) == len(CLASSES) and not torch.allclose(weights.float(), torch.linspace(0.5, 1.5, 10))
    assert not hasattr(checkpoint.load(done.best).model, "class_weights")


def test_neither_ranks_nor_files_take_them_over(tmp_path: Path) -> None:
    source = checkpoint.load(weighed(tmp_path / "given.pt", CLASSES))
    assert loss_model(source.model).init_criterion().class_weights is None
    checkpoint.save(source.model, tmp_path / "saved.pt", like=source)
    assert not hasattr(checkpoint.load(tmp_path / "saved.pt").model, "class_weights")
    assert len(source.model.class_weights) == len(CLASSES), "the given model stays as it is"  # pyright: ignore[reportArgumentType]
