"""Models that were trained with ``single_cls``: every command sees the dataset as they do, by its own train_args."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner
from ultralytics.utils import ROOT as ULTRALYTICS

from edgeprune import checkpoint
from edgeprune.cli import app
from edgeprune.cli.training import _accuracy_goal
from edgeprune.data.digits import write_digits
from edgeprune.dataset import ONE_CLASS, Dataset
from edgeprune.dataset.labels import read_labels
from edgeprune.errors import DataError, TargetError
from edgeprune.measure.accuracy import accuracy
from edgeprune.pruning.api import labelled_batches
from edgeprune.settings import TrainSettings
from edgeprune.stages.inputs import read_inputs
from edgeprune.target import load_target
from edgeprune.training.early_stop import baseline_accuracy
from edgeprune.training.finetune import finetune
from edgeprune.training.pretrain import pretrain
from tests.situations import datasets, models, reference
from tests.training.narrow import narrow_checkpoint


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten classes in eight training images."""
    return write_digits(tmp_path_factory.mktemp("one-class") / "digits", train=8, val=4, test=4, imgsz=64)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A model of ten classes that was fine-tuned with single_cls, by the command."""
    folder = tmp_path_factory.mktemp("single")
    weights = narrow_checkpoint(folder / "ten.pt", names=[str(digit) for digit in range(10)])
    done = finetune(
        weights,
        data=data,
        out=folder / "out",
        settings=TrainSettings(epochs=1, batch=8, device="cpu", imgsz=64, quiet=True, train={"single_cls": True}),
        work=folder / "work",
    )
    return done.best


def test_the_trained_model_knows_ultralytics_one_class(trained: Path) -> None:
    loaded = checkpoint.load(trained)
    assert loaded.names == ONE_CLASS and loaded.train_args["single_cls"] is True
    assert loaded.model.model[-1].nc == 1


def test_it_is_trained_further_judged_and_ranked_without_being_told(trained: Path, data: Path, tmp_path: Path) -> None:
    settings = TrainSettings(epochs=1, batch=8, device="cpu", imgsz=64, quiet=True)
    again = finetune(trained, data=data, out=tmp_path / "out", settings=settings, work=tmp_path / "work")
    assert checkpoint.load(again.best).names == ONE_CLASS
    judged = accuracy(trained, data=data, imgsz=64, device="cpu")
    assert list(judged.per_class) == ["item"] and judged.images == 4
    batches = labelled_batches(checkpoint.load(trained), data, 64, images=4, batch=2)
    labels = torch.cat([batch.labels["cls"].flatten() for batch in batches])
    assert len(labels) > 4 and set(labels.tolist()) == {0.0}


def test_a_goal_counts_every_object_as_of_one_class_where_training_does(tmp_path: Path) -> None:
    """The baseline knows each object's place and calls it by another class."""
    made = datasets.dataset(tmp_path / "data")
    weights = models.saved(models.answering(models.model()), tmp_path / "w.pt")
    reference.self_labelled(weights, made)
    for label in (tmp_path / "data" / "labels" / "val").iterdir():
        rows = [line.split(maxsplit=1) for line in label.read_text().splitlines()]
        label.write_text("".join(f"{(int(kind) + 1) % 3} {box}\n" for kind, box in rows))
    figures = [
        baseline_accuracy(
            weights,
            data=made,
            settings=TrainSettings(batch=1, device="cpu", imgsz=64, quiet=True, train=train),
            work=tmp_path / "work",
        )
        for train in ({}, {"single_cls": True}, {"single_cls": False})
    ]
    stock = [reference.accuracy(weights, made, single_cls=one, rect=True, batch=2) for one in (False, True)]
    assert figures == pytest.approx([stock[0], stock[1], stock[0]], abs=1e-5)
    assert abs(stock[0] - stock[1]) > 1e-3, "else nothing was compared"


def test_a_goal_of_weights_that_see_one_class_is_measured_so_without_being_told(
    trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def measured(*_: Any, settings: TrainSettings, **__: Any) -> float:
        asked.append(settings.train)
        return 0.5

    monkeypatch.setattr("edgeprune.training.early_stop.baseline_accuracy", measured)
    ten = narrow_checkpoint(tmp_path / "ten.pt", names=[str(digit) for digit in range(10)])
    for weights, train in ((trained, {}), (trained, {"single_cls": False}), (ten, {})):
        settings = TrainSettings(device="cpu", quiet=True, train=train)
        goal = _accuracy_goal("map_drop <= 0.01", str(ten), weights, str(data), settings, tmp_path, False)
        assert goal.baseline == 0.5
    assert asked == [{"single_cls": True}, {"single_cls": False}, {}]


FORMS = {
    "plain": b"1 .5 .5 .2 .2\n0 .3 .3 .1 .1\n",
    "byte-order-mark": b"\xef\xbb\xbf1 .5 .5 .2 .2\r\n",
    "exponent": b"1e0 .5 .5 .2 .2\n",
    "point": b"1. .5 .5 .2 .2\n",
    "returns": b"0 .5 .5 .2 .2\r1 .2 .2 .1 .1\r",
    "spaces": b"\n \t+1   .5 .5 .2 .2",
    "nothing": b"",
}
"""Label files that Ultralytics reads."""


def test_every_label_that_ultralytics_reads_counts_as_of_one_class(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name, content in FORMS.items():
        Image.new("RGB", (32, 32)).save(tmp_path / "images" / f"{name}.png")
        (tmp_path / "labels" / f"{name}.txt").write_bytes(content)
    (tmp_path / "data.yaml").write_text("train: images\nval: images\nnames: [x, y]\n")
    dataset = Dataset.load(tmp_path / "data.yaml", task="detect")
    one = dataset.of_one_class()
    assert one.images("val") == dataset.images("val") and len(one.images("val")) == len(FORMS)
    counted = [split._link("val").checked for split in (dataset, one)]
    assert counted[0] == counted[1] and counted[1].objects == 8


@pytest.mark.parametrize("first", ["-1", "0.5", "nan", "inf", "x"])
def test_a_label_of_no_class_is_refused_of_one_class_too(tmp_path: Path, first: str) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "images" / "a.png")
    (tmp_path / "labels" / "a.txt").write_text(f"{first} .5 .5 .2 .2\n")
    (tmp_path / "data.yaml").write_text("train: images\nval: images\nnames: [x, y]\n")
    with pytest.raises(DataError, match=r"a\.txt:1: "):
        Dataset.load(tmp_path / "data.yaml", task="detect", need=()).of_one_class().images("val")


def test_the_dataset_keeps_its_files_and_counts_every_object(data: Path) -> None:
    dataset = Dataset.load(data, task="detect")
    one = dataset.of_one_class()
    assert one.digest != dataset.digest and one.names == ONE_CLASS and one.images("val") == dataset.images("val")
    place = one.for_ultralytics("val").parent
    assert place != dataset.for_ultralytics("val").parent
    labels = sorted((one._link("val").folder / "labels").iterdir())
    assert [len(label.read_text().splitlines()) for label in labels] == [len(read_labels(i)) for i in one.images("val")]
    assert {line.split()[0] for label in labels for line in label.read_text().splitlines()} == {"0"}
    assert any(row.values[0] != "0" for image in dataset.images("val") for row in read_labels(image))


def test_commands_take_it(trained: Path, data: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    for line in (
        f"prune {trained} --macs-speed-up 1.3 --data {data} --images 4 --imgsz 64 -o {tmp_path / 'pruned.pt'}",
        f"val {tmp_path / 'pruned.pt'} --data {data} --imgsz 64",
        f"export {tmp_path / 'pruned.pt'} --imgsz 64 -o {tmp_path / 'pruned.onnx'}",
        f"val {tmp_path / 'pruned.onnx'} --data {data}",
    ):
        done = runner.invoke(app, line.split())
        assert done.exit_code == 0, (line, done.output, done.exception)


def test_another_one_class_model_is_still_refused(data: Path) -> None:
    with pytest.raises(DataError, match="10 classes"):
        Dataset.load(data, task="detect").seen_by({0: "digit"})
    one = Dataset.load(data, task="detect").of_one_class({0: "cell"})
    with pytest.raises(DataError, match="class 0 is 'cell'"):
        one.seen_by({0: "digit"}, single_cls=True)


@pytest.fixture(scope="module")
def renamed(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, whose one class was given a name of its own."""
    source = checkpoint.load(trained)
    source.model.names = {0: "cell"}
    path = tmp_path_factory.mktemp("renamed") / "cell.pt"
    checkpoint.save(source.model, path, like=source)
    return path


def test_it_is_known_by_its_own_arguments_where_its_class_has_another_name(
    renamed: Path, data: Path, tmp_path: Path
) -> None:
    loaded = checkpoint.load(renamed)
    assert (loaded.names, loaded.single_cls) == ({0: "cell"}, True)
    assert list(accuracy(renamed, data=data, imgsz=64, device="cpu").per_class) == ["cell"]
    assert read_inputs(load_target("cpu"), renamed, data, False).dataset.names == {0: "cell"}
    labels = [batch.labels["cls"] for batch in labelled_batches(loaded, data, 64, images=4, batch=2)]
    assert set(torch.cat(labels).flatten().tolist()) == {0.0}
    settings = TrainSettings(epochs=1, batch=8, device="cpu", imgsz=64, quiet=True)
    again = finetune(renamed, data=data, out=tmp_path / "out", settings=settings, work=tmp_path / "work")
    assert checkpoint.load(again.best).names == {0: "cell"}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every object is a cell."""
    data = write_digits(tmp_path_factory.mktemp("cells") / "cells", train=8, val=4, test=4, imgsz=64)
    for label in data.parent.rglob("labels/**/*.txt"):
        label.write_text(re.sub(r"(?m)^\d+", "0", label.read_text()))
    content = yaml.safe_load(data.read_text())
    data.write_text(yaml.safe_dump({**content, "nc": 1, "names": {0: "cell"}}))
    return data


def _single(**changes: Any) -> TrainSettings:
    return TrainSettings(
        epochs=1, batch=8, device="cpu", imgsz=64, quiet=True, **{"train": {"single_cls": True}, **changes}
    )


@pytest.mark.parametrize("taught", [False, True])
def test_the_one_class_of_a_dataset_keeps_its_name(cells: Path, tmp_path: Path, taught: bool) -> None:
    weights = narrow_checkpoint(tmp_path / "cell.pt", names=("cell",))
    settings = _single(teacher=weights) if taught else _single()
    done = finetune(weights, data=cells, out=tmp_path / "out", settings=settings, work=tmp_path / "work")
    assert checkpoint.load(done.best).names == {0: "cell"}


def test_so_it_does_in_a_model_from_a_description(cells: Path, tmp_path: Path) -> None:
    done = pretrain("yolov8n.yaml", data=cells, out=tmp_path / "out", settings=_single(), work=tmp_path / "work")
    loaded = checkpoint.load(done.best)
    assert (loaded.names, loaded.single_cls) == ({0: "cell"}, True)
    again = finetune(done.best, data=cells, out=tmp_path / "o", settings=_single(train={}), work=tmp_path / "w")
    assert checkpoint.load(again.best).names == {0: "cell"}


def _item(path: Path) -> Path:
    """A model whose one class is called as Ultralytics calls that of single_cls, trained without it."""
    return narrow_checkpoint(path, names=("item",))


def test_a_class_that_is_called_item_is_no_reason_to_merge_others(data: Path, tmp_path: Path) -> None:
    weights = _item(tmp_path / "item.pt")
    done = finetune(weights, data=data, out=tmp_path / "out", settings=_single(train={}), work=tmp_path / "work")
    assert len(checkpoint.load(done.best).names) == 10
    for judged in (
        lambda: read_inputs(load_target("cpu"), weights, data, False),
        lambda: accuracy(weights, data=data, imgsz=64, device="cpu"),
        lambda: labelled_batches(checkpoint.load(weights), data, 64, images=4, batch=2),
    ):
        with pytest.raises(DataError, match="10 classes"):
            judged()
    with pytest.raises(DataError, match="knows 1 classes"):
        baseline_accuracy(weights, data=data, settings=_single(train={}), work=tmp_path / "baseline")


def test_what_is_asked_goes_before_what_the_model_says(trained: Path, data: Path, tmp_path: Path) -> None:
    settings = _single(train={"single_cls": False})
    done = finetune(trained, data=data, out=tmp_path / "out", settings=settings, work=tmp_path / "work")
    loaded = checkpoint.load(done.best)
    assert (len(loaded.names), loaded.single_cls) == (10, False)


def test_merged_labels_are_said_once(trained: Path, data: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded, dataset = checkpoint.load(trained), Dataset.load(data, task="detect")
    for _ in range(2):
        dataset.seen_by(loaded.names, single_cls=loaded.single_cls)
    assert [r.message for r in caplog.records if "objects of its 10 classes count as 'item'" in r.message]
    assert len(caplog.records) == 1


def test_a_classifier_is_not_asked_for_one_class(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="classes cannot count as one; remove single_cls"):
        Dataset(tmp_path, tmp_path, "classify", {0: "loud", 1: "quiet"}, {}).of_one_class()


@pytest.mark.parametrize("stage", ["sparsify", "finetune"])
def test_a_build_does_not_change_the_number_of_classes_on_the_way(
    stage: str, trained: Path, data: Path, tmp_path: Path
) -> None:
    weights = narrow_checkpoint(tmp_path / "ten.pt", names=[str(digit) for digit in range(10)])
    profile = tmp_path / "profile.yaml"
    profile.write_text(f"extends: cpu\ndescription: One class\n{stage}: {{train: {{single_cls: true}}}}\n")
    line = f"edgeprune finetune {weights} --data .*data.yaml --train single_cls=true$"
    with pytest.raises(TargetError, match=f"{stage}.train.single_cls: .* knows 10 classes, .* one class first: {line}"):
        read_inputs(load_target(profile), weights, data, False)
    description = tmp_path / "yolov8n.yaml"
    shutil.copyfile(ULTRALYTICS / "cfg/models/v8/yolov8.yaml", description)
    with pytest.raises(TargetError, match=r"before and after; say so .* pretrain\.train\.single_cls: true$"):
        read_inputs(load_target(profile), description, data, False)  # finetune takes no description
    profile.write_text(f"extends: cpu\ndescription: Several\n{stage}: {{train: {{single_cls: false}}}}\n")
    with pytest.raises(TargetError, match=f"{stage}.train.single_cls: .* every object as of one class"):
        read_inputs(load_target(profile), trained, data, False)
