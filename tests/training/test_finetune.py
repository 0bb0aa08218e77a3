"""Fine-tuning: the structure stays, the best epoch is float32 and stock, and its figure is the reported one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ultralytics.utils import IterableSimpleNamespace

from edgeprune import checkpoint
from edgeprune.artifact import sha256_of
from edgeprune.dataset import Dataset
from edgeprune.errors import DataError, StageError, TargetError
from edgeprune.settings import TrainSettings
from edgeprune.training.classes import fit_classes
from edgeprune.training.finetune import finetune
from edgeprune.training.pretrain import pretrain
from edgeprune.unpickle import ultralytics_reads
from tests.situations.models import OLD_PATHS, old_modules
from tests.training.narrow import narrow_checkpoint

STOCK = """
import json, sys
from ultralytics import YOLO
weights, data, folder = sys.argv[1:]
model = YOLO(weights)
metrics = model.val(data=data, imgsz=160, device="cpu", plots=False, verbose=False, project=folder, name="stock")
dtypes = sorted({str(p.dtype) for p in model.ckpt["model"].parameters()})
print(json.dumps({"map": metrics.box.map, "dtypes": dtypes, "edgeprune": "edgeprune" in sys.modules}))
"""


@pytest.mark.parametrize(
    ("config", "task"),
    [
        ("yolov8n.yaml", "detect"),
        pytest.param("yolo26n.yaml", "detect", marks=pytest.mark.slow),
        ("yolo26n-seg.yaml", "segment"),
        pytest.param("yolo11n-pose.yaml", "pose", marks=pytest.mark.slow),
        pytest.param("yolo11n-obb.yaml", "obb", marks=pytest.mark.slow),
        ("yolo11n-cls.yaml", "classify"),
    ],
)
def test_every_task_keeps_every_width(config: str, task: str, tmp_path: Path, task_data) -> None:
    data = task_data(task)
    weights = narrow_checkpoint(tmp_path / "narrow.pt", config)
    expected = checkpoint.load(weights).model
    fit_classes(expected, Dataset.load(data, task=task).names)
    settings = TrainSettings(epochs=1, batch=4, device="cpu", imgsz=64, quiet=True)
    result = finetune(weights, data=data, out=tmp_path / "out", settings=settings, work=tmp_path / "work")
    trained = checkpoint.load(result.best)
    assert checkpoint.shape_signature(trained.model) == checkpoint.shape_signature(expected)
    assert checkpoint.parameter_count(trained.model) == checkpoint.parameter_count(expected)
    assert trained.task == task
    raw = torch.load(result.best, map_location="cpu", weights_only=False)
    assert {p.dtype for p in raw["model"].parameters()} == {torch.float32}
    summary = result.summary
    assert (summary.epochs_run, len(summary.epochs)) == (1, 1)
    assert summary.best_epoch == 1 or summary.kept_given  # chance alone is right on half of two classes


@pytest.mark.slow
def test_stock_ultralytics_alone_measures_the_reported_figure(tmp_path: Path, shared: Path) -> None:
    data = _eight_cells(shared / "data" / "bccd", tmp_path / "cells")
    weights = shared / "weights" / "bccd-yolov8n-320.pt"
    settings = TrainSettings(epochs=1, batch=8, device="cpu", imgsz=160, lr0=1e-5, quiet=True)
    result = finetune(weights, data=data, out=tmp_path / "out", settings=settings, work=tmp_path / "work")
    alone = tmp_path / "alone"
    alone.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", STOCK, str(result.best), str(data), str(alone)],
        cwd=alone,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["edgeprune"] is False
    assert seen["dtypes"] == ["torch.float32"]
    assert result.summary.map50_95 > 0.1, "a figure of 0 would equal anything that went wrong"
    assert result.summary.given is not None
    assert result.summary.given.figures["metrics/mAP50-95(B)"] == pytest.approx(seen["map"], abs=0.02), "epoch 0"
    assert seen["map"] == pytest.approx(result.summary.map50_95, abs=1e-4)


def test_the_same_call_again_trains_nothing_and_other_settings_train_anew(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings
) -> None:
    told: list[str] = []

    def note(text: str, *, done: int = 0, total: int = 0) -> None:
        told.append(text)

    def train(settings: TrainSettings):
        told.clear()
        return finetune(
            narrow, data=digits, out=tmp_path / "out", settings=settings, work=tmp_path / "work", progress=note
        )

    first = train(settings)
    digest = sha256_of(first.best)
    assert len(told) == 3, "epoch 0 and two more"
    assert train(settings) == first
    assert told == []
    assert sha256_of(first.best) == digest
    assert train(replace(settings, epochs=1)).summary.epochs_run == 1
    assert len(told) == 2


def test_labels_that_changed_are_trained_anew(tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings):
    told: list[str] = []

    def note(text: str, *, done: int = 0, total: int = 0) -> None:
        told.append(text)

    shutil.copytree(digits.parent, tmp_path / "data")
    data, work = tmp_path / "data" / digits.name, tmp_path / "work"
    for _ in range(2):
        finetune(narrow, data=data, out=tmp_path / "out", settings=settings, work=work, progress=note)
    assert len(told) == 3, "once"
    label = next((tmp_path / "data" / "labels").rglob("*.txt"))
    label.write_text("".join(label.read_text().splitlines(keepends=True)[:-1]))
    finetune(narrow, data=data, out=tmp_path / "out", settings=settings, work=work, progress=note)
    assert len(told) == 6


def test_nothing_is_written_outside_work_and_out(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "cwd"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    finetune(narrow, data=digits, out=tmp_path / "out", settings=replace(settings, epochs=1), work=tmp_path / "work")
    assert list(elsewhere.iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cwd", "out", "work"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["best.pt", "results.csv"]


def test_what_only_edgeprune_reads_is_trained_too(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings
) -> None:
    model = checkpoint.load(narrow).model
    model.args = IterableSimpleNamespace(box=7.5, cls=0.5, dfl=1.5)  # lay below ultralytics.yolo in version 8.0
    torch.save({"model": model}, tmp_path / "today.pt")
    given = old_modules(tmp_path / "today.pt", tmp_path / "it's of 8.0.pt", OLD_PATHS["8.0"])
    once = replace(settings, epochs=1, teacher=given, response=1.0)
    done = finetune(given, data=digits, out=tmp_path / "out", settings=once, work=tmp_path / "work")
    assert checkpoint.shape_signature(checkpoint.load(done.best).model) == checkpoint.shape_signature(model)
    assert not ultralytics_reads(given) and ultralytics_reads(done.best)


def test_metadata_travels_in_the_checkpoint(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings
) -> None:
    given = {"plan": {"model.2": 16}, "seed": 0}
    once = replace(settings, epochs=1)
    first = finetune(narrow, data=digits, out=tmp_path / "a", settings=once, work=tmp_path / "wa", metadata=given)
    assert checkpoint.load(first.best).edgeprune == given
    second = finetune(first.best, data=digits, out=tmp_path / "b", settings=once, work=tmp_path / "wb")
    assert checkpoint.load(second.best).edgeprune == given


@pytest.mark.parametrize(("response", "feature"), [(1.0, 0.0), (0.5, 1.0)], ids=["answers", "answers and features"])
def test_distillation_leaves_only_the_student(
    tmp_path: Path, narrow: Path, full: Path, digits: Path, settings: TrainSettings, response: float, feature: float
) -> None:
    taught = replace(settings, epochs=1, teacher=full, response=response, feature=feature)
    result = finetune(narrow, data=digits, out=tmp_path / "out", settings=taught, work=tmp_path / "work")
    student = checkpoint.load(result.best).model
    assert checkpoint.shape_signature(student) == checkpoint.shape_signature(checkpoint.load(narrow).model)
    figures = result.summary.epochs[0].figures
    assert figures["train/kd_loss"] > 0
    assert (figures.get("train/dis_loss", 0.0) > 0) == bool(feature)
    assert not any(module._forward_hooks for module in student.modules())


def test_a_run_that_loses_the_structure_is_refused(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings, full: Path
) -> None:
    work = tmp_path / "work"
    once = replace(settings, epochs=1)
    finetune(narrow, data=digits, out=tmp_path / "out", settings=once, work=work)
    rebuilt = finetune(full, data=digits, out=tmp_path / "full", settings=once, work=tmp_path / "other").best
    (work / "run" / "weights" / "best.pt").write_bytes(rebuilt.read_bytes())  # what a stock trainer would have left
    with pytest.raises(StageError, match="changed the model"):
        finetune(narrow, data=digits, out=tmp_path / "out", settings=once, work=work)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"batch": 0}, "batch=0"),
        ({"lr0": 0.0}, "lr0=0.0"),
        ({"lr0": float("nan")}, "lr0=nan"),
        ({"time_h": -1.0}, "time_h=-1"),
        ({"optimizer": "auto"}, "ignore lr0"),
        ({"train": {"epochs": 3}}, "use epochs"),
        ({"train": {"time": 3}}, "use time_h"),
        ({"train": {"project": "x"}}, "set by edgeprune"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused_at_once(values: dict, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        TrainSettings(**values)


@pytest.mark.parametrize(
    ("train", "message"),
    [({"mozaic": 1.0}, "did you mean 'mosaic'"), ({"mosaic": "lots"}, "mosaic"), ({"dropout": 3.0}, "dropout")],
    ids=["unknown", "type", "range"],
)
def test_training_arguments_are_checked_before_training(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings, train: dict, message: str
) -> None:
    with pytest.raises(TargetError, match=message) as caught:
        finetune(narrow, data=digits, out=tmp_path / "o", settings=replace(settings, train=train), work=tmp_path / "w")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "o").exists()


def _eight_cells(bccd: Path, folder: Path) -> Path:
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for image in sorted((bccd / "images" / split).iterdir())[:8]:
            shutil.copy(image, folder / "images" / split)
            shutil.copy(bccd / "labels" / split / f"{image.stem}.txt", folder / "labels" / split)
    shutil.copy(bccd / "data.yaml", folder)
    return folder / "data.yaml"


def _without_labels(data: Path, folder: Path) -> Path:
    shutil.copytree(data.parent, folder)
    for label in folder.glob("labels/*/*.txt"):
        label.write_text("")
    for cache in folder.glob("labels/*.cache"):
        cache.unlink()
    return folder / "data.yaml"


def test_a_data_set_without_labels_is_refused_before_the_first_epoch(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings
) -> None:
    data = _without_labels(digits, tmp_path / "empty")
    with pytest.raises(DataError, match="label"):
        finetune(narrow, data=data, out=tmp_path / "o", settings=settings, work=tmp_path / "w")
    assert not (tmp_path / "w" / "run" / "weights" / "last.pt").exists()


def test_a_data_set_of_broken_images_is_refused(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings
) -> None:
    shutil.copytree(digits.parent, tmp_path / "broken", ignore=shutil.ignore_patterns("*.cache"))
    for image in (tmp_path / "broken").glob("images/train/*"):
        image.write_bytes(image.read_bytes()[:100])
    with pytest.raises(DataError, match=r"images of split .train. can be used") as caught:
        data = tmp_path / "broken" / "data.yaml"
        finetune(narrow, data=data, out=tmp_path / "o", settings=settings, work=tmp_path / "w")
    assert "\n" not in str(caught.value)


def test_a_device_that_is_not_here_is_refused(tmp_path: Path, narrow: Path, digits: Path) -> None:
    settings = TrainSettings(epochs=1, device="99", imgsz=64, quiet=True)
    with pytest.raises(TargetError, match="device '99' is not here"):
        finetune(narrow, data=digits, out=tmp_path / "o", settings=settings, work=tmp_path / "w")


@pytest.mark.parametrize("missing", ["weights", "data", "teacher", "model yaml"])
def test_missing_files_are_named(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings, missing: str
) -> None:
    gone = tmp_path / "gone.pt"
    where = {"out": tmp_path / "o", "work": tmp_path / "w"}
    with pytest.raises(DataError, match="gone") as caught:
        if missing == "weights":
            finetune(gone, data=digits, settings=settings, **where)
        elif missing == "data":
            finetune(narrow, data=tmp_path / "gone.yaml", settings=settings, **where)
        elif missing == "teacher":
            finetune(narrow, data=digits, settings=replace(settings, teacher=gone), **where)
        else:
            pretrain(tmp_path / "gone.yaml", data=digits, settings=settings, **where)
    assert "\n" not in str(caught.value)


def test_a_model_description_is_trained_at_the_size_that_is_asked_or_not_at_all(digits, tmp_path):
    settings, where = TrainSettings(epochs=1, device="cpu", imgsz=100, quiet=True), {"out": tmp_path, "work": tmp_path}
    for described in ("yolov8n.yaml", "yolov8n-cls.yaml"):
        with pytest.raises(TargetError, match="imgsz 100 is no multiple of 32, by which images are trained at; use 96"):
            pretrain(described, data=digits, settings=settings, **where)


def test_a_teacher_with_other_classes_is_refused(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings
) -> None:
    teacher = narrow_checkpoint(tmp_path / "teacher.pt", names=("cat", "dog"))
    with pytest.raises(DataError, match=r"2 classes \(cat, dog\)"):
        taught = replace(settings, teacher=teacher)
        finetune(narrow, data=digits, out=tmp_path / "o", settings=taught, work=tmp_path / "w")


@pytest.mark.parametrize("first_bad", [0, 1], ids=["first-epoch", "later"])
def test_weights_that_stay_nan_are_one_line(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings, first_bad: int
) -> None:
    def poison(trainer) -> None:
        if trainer.epoch >= first_bad:
            next(trainer.model.parameters()).data.fill_(float("nan"))

    with pytest.raises(StageError, match="lr0") as caught:
        watchers = [("on_train_batch_start", poison)]
        finetune(narrow, data=digits, out=tmp_path / "o", settings=settings, work=tmp_path / "w", watchers=watchers)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "w" / "run" / "weights" / "last.pt").exists() == bool(first_bad)


def test_out_of_memory_is_one_line_and_keeps_the_last_epoch(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings
) -> None:
    def exhaust(trainer) -> None:
        if trainer.epoch == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with pytest.raises(StageError, match=r"out of memory with batch 8.*kept") as caught:
        watchers = [("on_train_batch_start", exhaust)]
        finetune(narrow, data=digits, out=tmp_path / "o", settings=settings, work=tmp_path / "w", watchers=watchers)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "w" / "run" / "weights" / "last.pt").is_file()
