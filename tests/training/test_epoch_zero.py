"""The model as it was given is epoch 0: validated once, kept in the record, and the best until an epoch is better."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ultralytics.cfg import TASK2METRIC
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.nn.tasks import torch_safe_load

from edgeprune import checkpoint
from edgeprune.cli import training as cli
from edgeprune.settings import TrainSettings
from edgeprune.training import run as run_module
from edgeprune.training.finetune import finetune
from edgeprune.training.result import TrainResult, TrainSummary
from edgeprune.training.run import FinishedRun, run_training
from edgeprune.training.trainers import PrunedDetectionTrainer
from tests.situations import datasets, models
from tests.training.test_resume import Killed, assert_equal_runs, stop_after

NAME = "metrics/mAP50-95(B)"
SETTINGS = TrainSettings(epochs=2, batch=8, device="cpu", imgsz=64, quiet=True)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch):
    """A function that says what validation gives for the given model and for each epoch after it."""

    def script(*figures: float) -> list[int]:
        validated: list[int] = []

        class Scripted(PrunedDetectionTrainer):
            def validate(self) -> Any:
                super().validate()
                validated.append(self.epoch + 1)
                before = [figures[epoch] for epoch in range(self.epoch + 1)]
                self.best_fitness = max([figure for figure in before if figure > 0], default=None)
                fitness = figures[self.epoch + 1]
                if self.best_fitness is None or self.best_fitness < fitness:
                    self.best_fitness = fitness
                return {NAME: fitness}, fitness

        monkeypatch.setitem(run_module.TRAINERS, "detect", Scripted)
        return validated

    return script


def train(folder: Path, narrow: Path, digits: Path, **more: Any) -> FinishedRun:
    return run_training(folder, narrow, data=digits, settings=SETTINGS, keep_given=True, **more)


def same_weights(one: Path, two: Path) -> bool:
    a, b = (checkpoint.load(path).model.state_dict() for path in (one, two))
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("figures", "best"),
    [((0.5, 0.4, 0.3), 0), ((0.5, 0.4, 0.6), 2), ((0.5, 0.6, 0.5), 1), ((0.5, 0.5, 0.5), 0), ((0.0, 0.0, 0.0), 2)],
    ids=["never better", "better at last", "better once", "as good", "finds nothing"],
)
def test_it_is_the_best_until_an_epoch_is_better(
    figures: tuple[float, ...], best: int, tmp_path: Path, narrow: Path, digits: Path, scripted: Any
) -> None:
    validated = scripted(*figures)
    run = train(tmp_path, narrow, digits)
    assert run.best_epoch == best
    assert same_weights(run.best, narrow) == (best == 0)
    assert validated == [0, 1, 2]
    assert run.given is not None
    assert (run.given.number, run.given.figures) == (0, {NAME: figures[0]})
    assert [epoch.number for epoch in run.epochs] == [1, 2]


def test_a_resumed_run_keeps_it_and_validates_it_once(
    tmp_path: Path, narrow: Path, digits: Path, scripted: Any
) -> None:
    validated = scripted(0.5, 0.4, 0.3)
    whole = train(tmp_path / "whole", narrow, digits)
    with pytest.raises(Killed):
        train(tmp_path / "cut", narrow, digits, watchers=stop_after(1))
    validated.clear()
    told: list[str] = []
    resumed = train(tmp_path / "cut", narrow, digits, progress=lambda text, *, done=0, total=0: told.append(text))
    assert validated == [2]
    assert told == ["training goes on after epoch 1", "training epoch 2/2, mAP50-95(B) 0.300"]
    assert_equal_runs(whole, resumed)
    assert (resumed.best_epoch, resumed.given) == (0, whole.given)
    assert same_weights(resumed.best, narrow)


def test_fine_tuning_gives_back_what_it_was_given_and_says_so(
    tmp_path: Path, narrow: Path, digits: Path, scripted: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(0.5, 0.4, 0.3)
    told: list[str] = []
    result = finetune(
        narrow,
        data=digits,
        out=tmp_path / "out",
        settings=SETTINGS,
        work=tmp_path / "work",
        progress=lambda text, *, done=0, total=0: told.append(text),
    )
    assert [text.partition(",")[0] for text in told] == [f"fine-tune epoch {epoch}/2" for epoch in range(3)]
    assert result.summary.kept_given
    assert result.summary.given is not None
    assert same_weights(result.best, narrow)
    cli._print(result)
    assert "epoch 0 is the given model: no epoch was better" in capsys.readouterr().out
    cli._print(TrainResult(result.best, TrainSummary(2, 1, result.summary.epochs, 0.6, 1.0)))
    assert "epoch 0" not in capsys.readouterr().out


def test_sparsity_training_keeps_the_last_epoch_whatever_it_was_given(
    tmp_path: Path, narrow: Path, digits: Path, scripted: Any
) -> None:
    """Its aim is scales, which the given model has not; accuracy falls on the way there."""
    validated = scripted(0.0, 0.4, 0.3)
    where = {"data": digits, "out": tmp_path / "out", "work": tmp_path / "work"}
    result = finetune(narrow, settings=SETTINGS, keep="last", **where)
    assert (result.summary.best_epoch, result.summary.given, validated) == (2, None, [1, 2])


@pytest.fixture
def stock_figures(monkeypatch: pytest.MonkeyPatch):
    """A function that says what Ultralytics' own validation gives: for epoch 0 and each after it, the task's figure and
    what its fitness adds to that."""

    def script(*figures: tuple[float, float]) -> None:
        def validate(trainer: Any) -> Any:
            figure, more = figures[trainer.epoch + 1]
            fitness = figure + more
            if trainer.best_fitness is None or trainer.best_fitness < fitness:
                trainer.best_fitness = fitness
            return {TASK2METRIC[trainer.args.task]: figure}, fitness

        monkeypatch.setattr(BaseTrainer, "validate", validate)

    return script


def train_task(task: str, folder: Path, work: str = "work", **more: Any) -> FinishedRun:
    if not (folder / "w.pt").exists():
        datasets.dataset(folder / "data", task)
        models.saved(models.model(task), folder / "w.pt")
    data = folder / "data" if task == "classify" else folder / "data" / "data.yaml"
    settings = replace(SETTINGS, batch=4, workers=0)
    return run_training(folder / work, folder / "w.pt", data=data, settings=settings, keep_given=True, **more)


@pytest.mark.parametrize("task", ["detect", "segment", "pose", "classify"])
@pytest.mark.parametrize(
    ("figures", "best"),
    [
        (((0.5, 0.2), (0.4, 0.5), (0.45, 0.5)), 0),
        (((0.3, 0.3), (0.5, 0.1), (0.4, 0.9)), 1),
        (((0.3, 0.9), (0.4, 0.0), (0.5, 0.0)), 2),
    ],
    ids=["the given", "the first", "the last"],
)
def test_the_best_is_the_best_by_the_figure_that_gates_judge(
    task: str, figures: tuple[tuple[float, float], ...], best: int, tmp_path: Path, stock_figures: Any
) -> None:
    stock_figures(*figures)
    run = train_task(task, tmp_path)
    assert run.best_epoch == best
    with pytest.raises(Killed):
        train_task(task, tmp_path, "interrupted", watchers=stop_after(1))
    again = train_task(task, tmp_path, "interrupted")
    assert (again.best_epoch, again.epochs_run) == (best, 2)
    state = torch_safe_load(str(again.last), safe_only=True)[0]
    assert state["best_fitness"] == pytest.approx(figures[best][0])


@pytest.mark.parametrize(("task", "told"), [("detect", [2]), ("pose", [0, 1, 2])], ids=["the same", "another"])
def test_a_run_whose_best_epoch_another_figure_chose_begins_anew(
    task: str, told: list[int], tmp_path: Path, stock_figures: Any
) -> None:
    stock_figures((0.3, 0.3), (0.5, 0.1), (0.4, 0.9))
    with pytest.raises(Killed):
        train_task(task, tmp_path, watchers=stop_after(1))
    last = tmp_path / "work" / "run" / "weights" / "last.pt"
    content = torch_safe_load(str(last), safe_only=True)[0]
    del content["edgeprune"]["best_by"]  # as it was written before
    torch.save(content, last)
    epochs: list[int] = []
    train_task(task, tmp_path, progress=lambda text, *, done=0, total=0: "goes on" in text or epochs.append(done))
    assert epochs == told
