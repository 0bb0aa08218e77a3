"""Rounds of pruning and fine-tuning reach what one shot reaches, with the same total of epochs."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeprune import checkpoint
from edgeprune.errors import DataError, TargetError
from edgeprune.pruning.pruner import Pruner
from edgeprune.settings import TrainSettings
from edgeprune.training import iterative
from edgeprune.training.finetune import finetune
from edgeprune.training.iterative import prune_in_rounds
from edgeprune.training.pretrain import pretrain
from edgeprune.training.result import TrainResult, TrainSummary


@pytest.mark.slow
def test_two_rounds_reach_the_total_and_share_the_epochs(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings
) -> None:
    thrice = replace(settings, epochs=3)
    given = {"macs_speed_up": 1.4, "rounds": 2, "data": digits, "settings": thrice}
    done = prune_in_rounds(narrow, out=tmp_path / "out", work=tmp_path / "work", **given)
    assert [each.trained.summary.epochs_run for each in done] == [1, 2]
    assert 1.4**0.5 <= done[0].macs_speed_up < 1.3
    before = Pruner(checkpoint.load(narrow).model, 64).macs()
    after = Pruner(checkpoint.load(tmp_path / "out" / "best.pt").model, 64).macs()
    assert before / after == pytest.approx(done[-1].macs_speed_up, rel=1e-6)
    assert 1.4 <= before / after < 1.5
    told: list[str] = []
    again = prune_in_rounds(
        narrow,
        out=tmp_path / "out",
        work=tmp_path / "work",
        progress=lambda text, *, done=0, total=0: told.append(text),
        **given,
    )
    assert told == []
    assert again == done


@pytest.mark.parametrize(("hours", "epochs"), [(None, 4), (2.0, 4), (2.0, 3)])
def test_rounds_share_the_time(
    tmp_path: Path,
    narrow: Path,
    digits: Path,
    settings: TrainSettings,
    hours: float | None,
    epochs: int,
    monkeypatch: Any,
) -> None:
    given: list[float | None] = []

    def trained(weights: Path, *, settings: TrainSettings, take_ended: bool, **_: Any) -> Any:
        assert take_ended, "a smaller batch in a later round trains none anew"
        given.append(settings.time_h)
        return TrainResult(weights, TrainSummary(1, 1, (), 0.5, 1.0, None))

    monkeypatch.setattr(iterative, "finetune", trained)
    limited = replace(settings, epochs=epochs, time_h=hours)
    prune_in_rounds(
        narrow, macs_speed_up=1.2, rounds=4, data=digits, out=tmp_path / "out", work=tmp_path / "work",
        settings=limited, importance="l2",
    )  # fmt: skip
    assert given == [hours and 0.5] * 4


def test_each_round_s_checkpoint_names_its_own_plan(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings, monkeypatch: Any
) -> None:
    """What was pruned before says so of a plan that it no longer follows."""
    source, said = checkpoint.load(narrow), []
    earlier = {"plan": {"of": "before"}, "plan_digest": "e" * 64, "kept": "as it is"}
    checkpoint.save(source.model, tmp_path / "before.pt", like=source, metadata=earlier)

    def trained(weights: Path, **_: Any) -> Any:
        said.append(checkpoint.load(weights))
        return TrainResult(weights, TrainSummary(1, 1, (), 0.5, 1.0, None))

    monkeypatch.setattr(iterative, "finetune", trained)
    prune_in_rounds(
        tmp_path / "before.pt", macs_speed_up=1.2, rounds=2, data=digits, out=tmp_path / "out", work=tmp_path / "work",
        settings=replace(settings, epochs=2), importance="l2",
    )  # fmt: skip
    digests = [one.plan_digest for one in said]
    assert len({"e" * 64, *digests}) == 3 and None not in digests
    for one in said:
        assert one.edgeprune["kept"] == "as it is"
        assert one.edgeprune["plan"]["result_shapes"] == one.signature == checkpoint.shape_signature(one.model)


@pytest.mark.parametrize(
    ("rounds", "speed_up"), [(0, 2.0), (3, 2.0), (1, 1.0), (1, float("nan"))], ids=["none", "too many", "1", "nan"]
)
def test_impossible_schedules_are_refused(
    tmp_path: Path, full: Path, digits: Path, settings: TrainSettings, rounds: int, speed_up: float
) -> None:
    with pytest.raises(TargetError):
        prune_in_rounds(
            full,
            macs_speed_up=speed_up,
            rounds=rounds,
            data=digits,
            out=tmp_path,
            settings=settings,
            work=tmp_path / "w",
        )


def test_a_speed_up_out_of_reach_is_refused_before_the_first_training(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings, monkeypatch: Any
) -> None:
    monkeypatch.setattr(iterative, "finetune", lambda *_, **__: pytest.fail("a round was trained"))
    with pytest.raises(TargetError, match="macs_speed_up=500 is out of reach: this model comes to "):
        prune_in_rounds(
            narrow, macs_speed_up=500, rounds=4, data=digits, out=tmp_path / "out", work=tmp_path / "work",
            settings=replace(settings, epochs=4), importance="l2",
        )  # fmt: skip
    assert not (tmp_path / "work").exists()


def test_data_that_is_changed_between_two_rounds_is_noticed(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings, monkeypatch: Any
) -> None:
    data = Path(shutil.copytree(digits.parent, tmp_path / "digits")) / digits.name
    label = next((data.parent / "labels" / "train").glob("*.txt"))
    rounds: list[Path] = []

    def trained(weights: Path, **_: Any) -> Any:
        rounds.append(weights)
        if len(rounds) == 2:
            label.write_text("")
        return TrainResult(weights, TrainSummary(1, 1, (), 0.5, 1.0, None))

    monkeypatch.setattr(iterative, "finetune", trained)
    with pytest.raises(DataError, match="the data set changed while this command used it"):
        prune_in_rounds(
            narrow, macs_speed_up=1.2, rounds=4, data=data, out=tmp_path / "out", work=tmp_path / "work",
            settings=replace(settings, epochs=4), importance="l2",
        )  # fmt: skip
    assert len(rounds) == 2


@pytest.mark.parametrize("train", [finetune, pretrain], ids=["finetune", "pretrain"])
def test_data_that_is_changed_during_a_training_is_noticed(
    train: Any, tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings, monkeypatch: Any
) -> None:
    data = Path(shutil.copytree(digits.parent, tmp_path / "digits")) / digits.name
    label = next((data.parent / "labels" / "train").glob("*.txt"))
    module = sys.modules[train.__module__]
    monkeypatch.setattr(module, "run_training", lambda *_, **__: label.write_text(""))
    weights = narrow if train is finetune else "yolov8n.yaml"
    with pytest.raises(DataError, match="the data set changed while this command used it"):
        train(weights, data=data, out=tmp_path / "out", work=tmp_path / "work", settings=settings)
    assert not (tmp_path / "out" / "best.pt").exists()
