"""Models that were trained with ``single_cls``: every command sees the dataset as they do, by its own train_args."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from edgeprune import checkpoint
from edgeprune.cli import app
from edgeprune.data.digits import write_digits
from edgeprune.dataset import ONE_CLASS, Dataset, read_labels
from edgeprune.errors import DataError, TargetError
from edgeprune.measure.accuracy import accuracy
from edgeprune.pruning.api import labelled_batches
from edgeprune.settings import TrainSettings
from edgeprune.stages.inputs import read_inputs
from edgeprune.target import load_target
from edgeprune.training.finetune import finetune
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


def test_a_build_does_not_change_the_number_of_classes_on_the_way(data: Path, tmp_path: Path) -> None:
    weights = narrow_checkpoint(tmp_path / "ten.pt", names=[str(digit) for digit in range(10)])
    profile = tmp_path / "profile.yaml"
    profile.write_text("extends: cpu\ndescription: One class\nfinetune: {train: {single_cls: true}}\n")
    with pytest.raises(TargetError, match="knows 10 classes"):
        read_inputs(load_target(profile), weights, data, False)
