"""Models that another validator or trainer is for are refused by their class, in every command, nothing written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgeprune import checkpoint
from edgeprune.cli import app
from edgeprune.data.digits import write_digits
from edgeprune.errors import DataError
from edgeprune.export.metadata import read_metadata
from edgeprune.families import TASKS, families, family_for
from edgeprune.training.model_yaml import read_model_yaml
from edgeprune.training.trainers import TRAINERS
from tests.situations import models

FOREIGN = {"RTDETRDetectionModel": models.rt_detr, "WorldModel": models.world, "YOLOEModel": models.yoloe}
COMMANDS = {
    "prune": ["prune", "WEIGHTS", "--ratio", "0.3", "-o", "pruned.pt"],
    "sensitivity": ["sensitivity", "WEIGHTS", "--data", "DATA"],
    "finetune": ["finetune", "WEIGHTS", "--data", "DATA", "--out", "tuned"],
    "sparsify": ["sparsify", "WEIGHTS", "--data", "DATA", "--out", "sparse"],
    "iterate": ["iterate", "WEIGHTS", "--data", "DATA", "--macs-speed-up", "1.5", "--out", "iterated"],
    "export": ["export", "WEIGHTS", "-o", "model.onnx"],
    "val": ["val", "WEIGHTS", "--data", "DATA"],
    "bench": ["bench", "WEIGHTS", "--rounds", "4"],
    "compare": ["compare", "WEIGHTS", "WEIGHTS", "--data", "DATA", "-o", "page"],
    "profile": ["profile", "WEIGHTS", "--target", "cpu", "--cache", "cache"],
    "search": ["search", "WEIGHTS", "--target", "cpu", "--speed-up", "1.2", "-o", "found.pt"],
    "sweep": ["sweep", "WEIGHTS", "--target", "cpu", "--speed-up", "1.2", "--data", "DATA", "--out", "swept"],
    "build": ["build", "--target", "cpu", "--weights", "WEIGHTS", "--data", "DATA", "--out", "run"],
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("data") / "digits", train=4, val=2, test=2, imgsz=64)


@pytest.fixture(scope="module")
def detr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.saved(models.rt_detr(), tmp_path_factory.mktemp("weights") / "detr.pt")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_refuses_by_the_class_and_writes_nothing(
    name: str, detr: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"WEIGHTS": str(detr), "DATA": str(digits)}
    result = CliRunner().invoke(app, [given.get(word, word) for word in COMMANDS[name]])
    assert isinstance(result.exception, DataError), result.output
    assert "RTDETRDetectionModel" in str(result.exception)
    assert "\n" not in str(result.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FOREIGN)
def test_a_checkpoint_of_another_family_is_refused(name: str, tmp_path: Path) -> None:
    path = models.saved(FOREIGN[name](), tmp_path / "model.pt")
    with pytest.raises(DataError, match=f"{name} .*allowed are DetectionModel"):
        checkpoint.load(path)
    with pytest.raises(DataError, match=name):
        checkpoint.load(path, trust=True)


def test_a_decoder_in_a_plain_class_counts_as_its_family(tmp_path: Path) -> None:
    """``YOLO("rtdetr-l.yaml")`` of older versions made such files, and Ultralytics goes by the head."""
    made = models.model()
    made.model[-1] = models.rt_detr().model[-1]
    with pytest.raises(DataError, match="RTDETR, detect"):
        checkpoint.load(models.saved(made, tmp_path / "model.pt"))


@pytest.mark.parametrize(
    ("description", "name"),
    [("rtdetr-l.yaml", "RTDETRDecoder"), ("yolov8s-world.yaml", "WorldModel"), ("yolov8-rtdetr.yaml", "RTDETRDecoder")],
)
def test_a_description_of_another_family_is_refused(description: str, name: str) -> None:
    with pytest.raises(DataError, match=name):
        read_model_yaml(description)


def test_a_description_that_is_a_pipe_or_grows_without_end_is_refused_before_ultralytics_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ultralytics.nn.tasks.yaml_model_load", lambda path: pytest.fail("Ultralytics read it"))
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(DataError, match="is a pipe or a device"):
        read_model_yaml(tmp_path / "pipe.yaml")
    levels = [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 9)]
    (tmp_path / "bomb1.yaml").write_text("\n".join(["a0: &a0 [x]", *levels, ""]))
    for name in ("bomb1.yaml", "bomb1n.yaml"):  # the same file, at a scale
        with pytest.raises(DataError, match=r"bomb1\.yaml: line"):
            read_model_yaml(tmp_path / name)


def test_an_exported_model_of_another_family_is_refused() -> None:
    with pytest.raises(DataError, match="RTDETRDecoder"):
        read_metadata({"task": "detect", "head": "RTDETRDecoder"})
    assert read_metadata({"task": "detect", "head": "Detect"}).task == "detect"


def test_the_class_says_the_task_whatever_the_file_says(tmp_path: Path) -> None:
    path = models.saved(models.with_attribute(models.model("segment"), task="detect"), tmp_path / "model.pt")
    assert checkpoint.load(path).task == "segment"


def test_the_registry_is_ultralytics_own() -> None:
    assert {family.interface for family in families()} == {"YOLO", "RTDETR", "YOLOWorld", "YOLOE"}
    assert set(TRAINERS) == set(TASKS)
    for task in TASKS:
        assert issubclass(TRAINERS[task], family_for(task).trainer)
