"""Two trainings of one folder: the second is refused, whatever trains there, and takes nothing of the first one's, nor
of one that has long ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeprune import checkpoint
from edgeprune.artifact import sha256_of
from edgeprune.errors import StageError, TargetError
from edgeprune.options import refuse_other_training
from edgeprune.settings import TrainSettings
from edgeprune.training import result_from_run
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


@pytest.mark.parametrize("train", [finetune, sparsify, pretrain, prune_in_rounds])
@pytest.mark.parametrize("name", ["best.pt", "results.csv"])
def test_what_another_training_left_is_not_replaced(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings, train: Callable[..., Any], name: str
) -> None:
    out = tmp_path / "models"
    out.mkdir()
    (out / name).write_bytes(b"hours")
    weights = "yolov8n.yaml" if train is pretrain else narrow
    more = {"macs_speed_up": 1.2, "rounds": 1, "importance": "l2"} if train is prune_in_rounds else {}
    for work in (tmp_path / "work", out / ".training"):
        with pytest.raises(TargetError, match=rf"has a {name}.* would replace it; give another folder, or move it"):
            train(weights, data=digits, out=out, settings=settings, work=work, **more)
        assert not work.exists()
    assert [(path.name, path.read_bytes()) for path in out.iterdir()] == [(name, b"hours")]


def test_a_description_is_not_trained_over_its_own_teacher(tmp_path: Path, digits: Path) -> None:
    teacher = tmp_path / "out" / "best.pt"
    (tmp_path / "out" / ".training").mkdir(parents=True)
    teacher.write_bytes(b"hours")
    settings = TrainSettings(imgsz=64, teacher=teacher)
    with pytest.raises(TargetError, match="which is read; give the result another path"):
        pretrain("yolov8n.yaml", data=digits, out=tmp_path / "out", settings=settings, work=tmp_path / "work")


def test_a_training_knows_what_it_left_itself(tmp_path: Path) -> None:
    """Also where it was stopped while it wrote: by its scratch folder, wherever that lies."""
    out, work = tmp_path / "out", tmp_path / "work"
    for folder in (out, work):
        folder.mkdir()
    refuse_other_training(out, work)  # nothing is there
    (out / "best.pt").write_bytes(b"best")
    (out / "results.csv").write_bytes(b"epochs")
    result = work / "result.json"
    for said in (None, "no JSON", "[1]", {"best": "0" * 64}, {"writing": str(tmp_path / "another")}):
        if said is not None:
            result.write_text(said if isinstance(said, str) else json.dumps(said))
        with pytest.raises(TargetError, match=r"best\.pt that is not known to be of the training in "):
            refuse_other_training(out, work)
    for known in ({"writing": str(out)}, {"best": sha256_of(out / "best.pt")}):
        result.write_text(json.dumps(known))
        refuse_other_training(out, work)
    (out / "best.pt").unlink()
    with pytest.raises(TargetError, match=r"results\.csv that is not known"):
        refuse_other_training(out, work)
    result.write_text(json.dumps({"results": sha256_of(out / "results.csv")}))
    refuse_other_training(out, work)


@pytest.mark.parametrize("stopped", [False, True], ids=["ended", "stopped in its validation"])
def test_a_training_that_wrote_its_result_writes_it_again_and_no_other_does(
    tmp_path: Path, narrow: Path, settings: TrainSettings, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    def validated(*_: Any, **__: Any) -> float:
        if not said:
            said.append("validated")
            if stopped:
                raise KeyboardInterrupt
        return 0.5

    said: list[str] = []
    monkeypatch.setattr(result_from_run, "validation_accuracy", validated)

    def result(name: str, **metadata: object) -> Any:
        work = tmp_path / name
        (work / "run" / "weights").mkdir(parents=True, exist_ok=True)
        best = work / "run" / "weights" / "best.pt"
        best.write_bytes(narrow.read_bytes())
        (work / "run" / "results.csv").write_text(f"epoch,time\n1,{len(metadata)}\n")
        run: Any = SimpleNamespace(
            best=best, task="detect", best_epoch=1, epochs_run=1, epochs=(), seconds=1.0, given=None
        )
        model = checkpoint.load(narrow).model
        given = {"data": "d.yaml", "out": tmp_path / "out", "settings": settings, "work": work}
        return result_from_run.result_from_run(run, model, metadata=metadata, **given)

    with pytest.raises(KeyboardInterrupt) if stopped else nullcontext():
        result("first")
    first = sha256_of(tmp_path / "out" / "best.pt")
    with pytest.raises(TargetError, match=r"not known to be of the training in .*second"):  # which began before
        result("second", note="theirs")
    assert sha256_of(tmp_path / "out" / "best.pt") == first
    result("first", note="ours")
    assert checkpoint.load(tmp_path / "out" / "best.pt").edgeprune["note"] == "ours"
