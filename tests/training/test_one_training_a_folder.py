"""Two trainings of one folder: the second is refused, whatever trains there, and takes nothing of the first one's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprune.errors import StageError
from edgeprune.settings import TrainSettings
from edgeprune.training.finetune import finetune
from edgeprune.training.iterative import prune_in_rounds
from edgeprune.training.pretrain import pretrain
from edgeprune.training.sparsify import sparsify
from edgeprune.workspace import open_workspace

REFUSED = r"another training \(process \d+\) works here; wait for it or give another folder"


@pytest.mark.parametrize("train", [finetune, sparsify, pretrain, prune_in_rounds])
def test_a_second_training_leaves_the_first_one_alone(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings, train: Callable[..., Any]
) -> None:
    work, out = tmp_path / "out" / ".training", tmp_path / "out"
    epochs = work / "run" / "weights" / "last.pt"
    epochs.parent.mkdir(parents=True)
    epochs.write_bytes(b"epochs of the first")
    weights = "yolov8n.yaml" if train is pretrain else narrow
    more = {"macs_speed_up": 1.2, "rounds": 1, "importance": "l2"} if train is prune_in_rounds else {}
    with open_workspace(work, "training"), pytest.raises(StageError, match=REFUSED):
        train(weights, data=digits, out=out, settings=settings, work=work, **more)
    assert epochs.read_bytes() == b"epochs of the first"
    assert sorted(path.name for path in work.iterdir()) == [".lock", "run"]
    assert [path.name for path in out.iterdir()] == [".training"]


def test_a_training_holds_its_folder_until_its_result_is_written(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings
) -> None:
    given = {"data": digits, "out": tmp_path / "out", "settings": settings, "work": tmp_path / "work"}
    refused: list[str] = []

    def meanwhile(_: Any) -> None:
        with pytest.raises(StageError, match=REFUSED) as error:
            finetune(narrow, **given)
        refused.append(str(error.value))

    first = finetune(narrow, **given, watchers=[("on_train_epoch_start", meanwhile)])
    assert len(refused) == settings.epochs
    assert finetune(narrow, **given) == first
