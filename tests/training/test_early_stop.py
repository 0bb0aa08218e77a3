"""Fine-tuning ends when the allowed drop holds, and not before."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from ultralytics import YOLO

from edgeprune.errors import TargetError
from edgeprune.settings import AccuracyGoal, TrainSettings
from edgeprune.training import early_stop
from edgeprune.training.early_stop import StopAtGoal, baseline_accuracy
from edgeprune.training.finetune import finetune
from edgeprune.training.run import run_training, validation_accuracy
from tests.situations import datasets, models
from tests.training.test_resume import Killed, stop_after


@pytest.mark.parametrize(
    ("figure", "stops"),
    [(0.4921, True), (0.4919, False), (0.55, True), (0.0, False)],
    ids=["with margin", "without margin", "better than the baseline", "far off"],
)
def test_it_stops_with_margin_only(figure: float, stops: bool) -> None:
    trainer = SimpleNamespace(metrics={"metrics/mAP50-95(B)": figure}, args=SimpleNamespace(task="detect"), stop=False)
    StopAtGoal(AccuracyGoal(baseline=0.5, max_drop=0.01, margin=0.002))(trainer)
    assert trainer.stop == stops


def test_other_processes_without_metrics_do_not_stop() -> None:
    trainer = SimpleNamespace(metrics=None, args=SimpleNamespace(task="detect"), stop=False)
    StopAtGoal(AccuracyGoal(baseline=0.0, max_drop=1.0))(trainer)
    assert not trainer.stop


def test_a_run_that_ended_early_is_finished(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings
) -> None:
    def run(told: list[str]):
        return finetune(
            narrow,
            data=digits,
            out=tmp_path / "out",
            settings=settings,
            work=tmp_path / "work",
            until=AccuracyGoal(baseline=0.0, max_drop=0.5),
            progress=lambda text, *, done=0, total=0: told.append(text),
        )

    told: list[str] = []
    first = run(told)
    assert first.summary.epochs_run == 1
    assert run(told) == first
    assert len(told) == 2, "epochs 0 and 1"


@pytest.mark.parametrize("by_goal", [True, False], ids=["goal", "clock"])
def test_a_run_that_was_stopped_after_its_epoch_was_saved_is_over_wherever_it_is_killed(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings, by_goal: bool
) -> None:
    """The clock stands for what Ultralytics itself counts only once the epoch is saved."""

    def out_of_time(trainer: Any) -> None:
        trainer.stop = True

    def killed(trainer: Any) -> None:
        raise Killed

    told: list[str] = []

    def run(watchers: Any) -> int:
        done = finetune(
            narrow,
            data=digits,
            out=tmp_path / "out",
            settings=settings,
            work=tmp_path / "work",
            until=AccuracyGoal(baseline=0.0, max_drop=0.5) if by_goal else None,
            watchers=watchers,
            progress=lambda text, *, done=0, total=0: told.append(text),
        )
        return done.summary.epochs_run

    with pytest.raises(Killed):
        run([*([] if by_goal else [("on_fit_epoch_end", out_of_time)]), ("on_train_end", killed)])
    told.clear()
    assert run([]) == 1
    assert told == [], "nothing was trained"


def test_the_unpruned_figure_is_what_the_trainer_itself_would_say(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings
) -> None:
    """The same weights, once validated by the trainer at the end of their epoch, once as a baseline."""
    eager = replace(settings, epochs=3, batch=4, lr0=5e-3)
    trained = finetune(narrow, data=digits, out=tmp_path / "out", settings=eager, work=tmp_path / "work")
    by_trainer = trained.summary.epochs[trained.summary.best_epoch - 1].figures["metrics/mAP50-95(B)"]
    where = {"data": digits, "settings": eager, "work": tmp_path / "other"}
    assert baseline_accuracy(trained.best, **where) == pytest.approx(by_trainer, abs=1e-4)
    record = tmp_path / "other" / "unpruned.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "figure": 0.25}))
    assert baseline_accuracy(trained.best, **where) == 0.25, "a run that goes on keeps the goal that it began with"
    assert baseline_accuracy(narrow, **where) != 0.25


def test_the_unpruned_figure_is_measured_again_where_anything_that_it_depends_on_is_another(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []
    monkeypatch.setattr(early_stop, "validation_accuracy", lambda *_, **__: measured.append(0) or 0.01 * len(measured))
    relabelled = tmp_path / "relabelled"
    shutil.copytree(digits.parent, relabelled)
    label = next((relabelled / "labels" / "val").iterdir())
    label.write_text("0 0.5 0.5 0.25 0.25\n")

    def figure(data: Path = digits, **changes: Any) -> float:
        return baseline_accuracy(narrow, data=data, settings=replace(settings, **changes), work=tmp_path / "work")

    seen = [figure(), figure(imgsz=96), figure(batch=7), figure(head="raw"), figure(relabelled / digits.name)]
    assert seen == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05])
    assert figure(relabelled / digits.name) == pytest.approx(0.05)


def of_task(task: str, folder: Path) -> tuple[Path, Path, TrainSettings]:
    """A data set, weights for it, and how they are trained."""
    data = datasets.dataset(folder / "data", task, counts={"train": 8, "val": 8})
    weights = models.saved(models.model(task), folder / "w.pt")
    return data, weights, TrainSettings(epochs=1, batch=4, device="cpu", imgsz=64, workers=0, quiet=True)


@pytest.mark.parametrize(("task", "times"), [("detect", 1), ("classify", 2)])
def test_a_figure_that_was_taken_on_other_class_folders_is_measured_again(
    task: str, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, weights, settings = of_task(task, tmp_path)
    measured: list[int] = []
    monkeypatch.setattr(early_stop, "validation_accuracy", lambda *_, **__: measured.append(0) or 0.5)
    for as_written in ({}, early_stop.CLASS_FOLDERS):  # an older version's conditions, then this one's
        monkeypatch.setattr(early_stop, "CLASS_FOLDERS", as_written)
        baseline_accuracy(weights, data=data, settings=settings, work=tmp_path / "work")
    assert len(measured) == times


def test_a_run_with_a_goal_goes_on_with_another_batch(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The goal would differ in the digits that the padding of another batch moves, and a run of another goal is another
    run."""
    figures = iter([0.9, 0.9000001])
    monkeypatch.setattr(early_stop, "validation_accuracy", lambda *_, **__: next(figures))
    told: list[str] = []

    def run(settings: TrainSettings, watchers: Any = ()) -> None:
        work = tmp_path / "work"
        figure = baseline_accuracy(narrow, data=digits, settings=settings, work=work)
        goal = AccuracyGoal(baseline=figure, max_drop=0.01)
        given = {"data": digits, "out": tmp_path / "out", "settings": settings, "work": work, "until": goal}
        finetune(narrow, **given, watchers=watchers, progress=lambda text, *, done=0, total=0: told.append(text))

    with pytest.raises(Killed):
        run(settings, stop_after(1))
    told.clear()
    run(replace(settings, batch=4))
    assert told[0] == "fine-tune goes on after epoch 1"
    assert not (tmp_path / "work" / "run.before-1").exists()


@pytest.mark.parametrize(
    ("amp", "device", "half"),
    [(None, "", True), (None, "0", True), (None, "cpu", False), (False, "0", False), ("fp32", "0", False)],
)
def test_the_figure_is_measured_in_the_precision_that_epochs_are_validated_in(
    tmp_path: Path,
    narrow: Path,
    digits: Path,
    settings: TrainSettings,
    monkeypatch: pytest.MonkeyPatch,
    amp: Any,
    device: str,
    half: bool,
) -> None:
    """On a GPU with mixed precision in float16, as ``BaseValidator`` has it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    asked: list[bool] = []
    monkeypatch.setattr(early_stop, "validation_accuracy", lambda *_, half, **__: asked.append(half) or 0.5)
    given = replace(settings, device=device, train={} if amp is None else {"amp": amp})
    baseline_accuracy(narrow, data=digits, settings=given, work=tmp_path)
    assert asked == [half]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: not half)
    baseline_accuracy(
        narrow, data=digits, settings=replace(given, device="cpu" if half else "0", train={}), work=tmp_path
    )
    assert asked == [half, not half], "before an epoch is finished it is measured again"


def test_that_precision_is_ultralytics_own(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(YOLO, "val", lambda _, **given: asked.append(given.get("quantize")) or _Figures)
    for half in (True, False):
        validation_accuracy(narrow, data=digits, settings=settings, work=tmp_path, half=half)
    assert asked == [16, None]


class _Figures:
    results_dict: ClassVar = {"metrics/mAP50-95(B)": 0.5}


@pytest.mark.parametrize(("task", "batch"), [("detect", 8), ("obb", 4), ("classify", 8)])
def test_it_is_measured_in_the_batches_that_the_trainer_validates_in(
    task: str, batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, weights, settings = of_task(task, tmp_path)
    loaders: list[int] = []
    run_training(
        tmp_path / "work",
        weights,
        data=data,
        settings=settings,
        watchers=[("on_train_start", lambda trainer: loaders.append(trainer.test_loader.batch_size))],
    )
    asked: list[int] = []
    monkeypatch.setattr(early_stop, "validation_accuracy", lambda *_, batch, **__: asked.append(batch) or 0.5)
    baseline_accuracy(weights, data=data, settings=settings, work=tmp_path / "other")
    assert asked == loaders == [batch]


@pytest.mark.parametrize(
    ("task", "device", "batch", "seen"),
    [
        ("detect", "", 16, 32),
        ("detect", "0", 16, 32),
        ("detect", "0,1", 16, 16),
        ("detect", "0,1,2,3", 16, 8),
        ("obb", "0,1", 16, 8),
        ("obb", "0,1,2", 2, 1),
    ],
)
def test_several_gpus_share_the_batch_that_it_is_measured_in(
    task: str, device: str, batch: int, seen: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ultralytics' ``_build_train_pipeline`` has it: ``batch // GPUs``, doubled but for oriented boxes."""
    data = datasets.dataset(tmp_path / "data", task, counts={"train": 8, "val": 8})
    weights = models.saved(models.model(task), tmp_path / "w.pt")
    asked: list[int] = []
    monkeypatch.setattr(early_stop, "validation_accuracy", lambda *_, batch, **__: asked.append(batch) or 0.5)
    settings = TrainSettings(batch=batch, device=device, imgsz=64, quiet=True)
    baseline_accuracy(weights, data=data, settings=settings, work=tmp_path / "work")
    assert asked == [seen]
    # a run that goes on with other GPUs goes on, with its goal
    baseline_accuracy(weights, data=data, settings=replace(settings, device="0"), work=tmp_path / "work")
    assert asked == [seen]


@pytest.mark.parametrize("values", [(-0.1, 0.1), (0.5, 2.0), (0.5, float("nan"))], ids=str)
def test_impossible_values_are_refused(values: tuple[float, float]) -> None:
    with pytest.raises(TargetError):
        AccuracyGoal(baseline=values[0], max_drop=values[1])
