"""A pose dataset of other keypoints than the model's: every command that takes both refuses it before it writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgeprune import checkpoint
from edgeprune.cli import app
from edgeprune.dataset import Dataset
from edgeprune.errors import DataError
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.settings import TrainSettings
from edgeprune.training.early_stop import baseline_accuracy
from edgeprune.training.finetune import finetune, load_teacher
from tests.situations import datasets, models


def of_three_keypoints(folder: Path) -> Path:
    """A pose dataset with one keypoint more than the models here have."""
    data = datasets.dataset(folder, "pose", kpt_shape=[3, 3])
    for split in datasets.COUNTS:
        for label in datasets.labels_of(data, split):
            label.write_text("".join(f"{line} 0.5 0.5 2\n" for line in label.read_text().splitlines()))
    return data


def model_of(keypoints: int, path: Path) -> Path:
    """A pose model of so many keypoints."""
    made = models.model("pose")
    if keypoints != 2:
        from ultralytics.nn.tasks import PoseModel

        made = PoseModel(models.description("pose"), ch=3, nc=3, data_kpt_shape=[keypoints, 3], verbose=False)
        made.names, made.task = dict(models.NAMES), "pose"
    return models.saved(models.answering(made), path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of two keypoints, its graph, one of three, and datasets of both."""
    folder = tmp_path_factory.mktemp("keypoints")
    datasets.dataset(folder / "own", "pose")
    of_three_keypoints(folder / "other")
    onnx_from_checkpoint(model_of(2, folder / "w.pt"), folder / "m.onnx", imgsz=64)
    model_of(3, folder / "three.pt")
    return folder


@pytest.mark.parametrize(
    "argv",
    [
        "build --target cpu --weights w.pt --data DATA --speed-up 1.5 --out out",
        "finetune w.pt --data DATA --epochs 1 --out out",
        "iterate w.pt --data DATA --macs-speed-up 1.5 --epochs 3 --out out",
        "sparsify w.pt --data DATA --epochs 1 --out out",
        "val w.pt --data DATA",
        "val m.onnx --data DATA",
        "compare w.pt m.onnx --data DATA -o out",
        "search w.pt --target cpu --speed-up 1.5 --data DATA -o out.pt",
        "prune w.pt --ratio 0.3 --data DATA -o out.pt",
        "sensitivity w.pt --data DATA",
        "sweep w.pt --target cpu --data DATA --speed-up 1.5 --out out",
        "frontier w.pt --target cpu --data DATA --speed-up 1.5 --out out",
        "quantize m.onnx --precision int8 --data DATA -o out.onnx",
    ],
    ids=lambda argv: " ".join(argv.split()[:2]),
)
def test_it_is_refused_before_anything_is_written(argv: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    ended = CliRunner().invoke(app, argv.replace("DATA", "other/data.yaml").split())
    assert isinstance(ended.exception, DataError), (ended.output, ended.exception)  # which ends with 2, in one line
    line = str(ended.exception)
    assert (
        "\n" not in line and "has kpt_shape [3, 3]" in line and "gives [2, 3]" in line and "give a dataset of" in line
    )
    assert sorted(place.rglob("*")) == before


def test_a_teacher_of_other_keypoints_is_refused(place: Path, tmp_path: Path) -> None:
    settings = TrainSettings(epochs=1, batch=4, imgsz=64, device="cpu", workers=0, quiet=True)
    told = {"task": "pose", "names": models.NAMES, "teaching": settings, "channels": 3}
    assert load_teacher(place / "three.pt", **told, kpt_shape=(3, 3)).kpt_shape == (3, 3)
    with pytest.raises(DataError, match=r"teacher .*three.pt gives keypoints of kpt_shape \[3, 3\].*\[2, 3\]"):
        load_teacher(place / "three.pt", **told, kpt_shape=(2, 3))
    taught = TrainSettings(epochs=1, batch=4, imgsz=64, device="cpu", workers=0, quiet=True, teacher=place / "three.pt")
    with pytest.raises(DataError, match="name one that gives the same"):
        finetune(
            place / "w.pt",
            data=place / "own" / "data.yaml",
            out=tmp_path / "out",
            settings=taught,
            work=tmp_path / "work",
        )


def test_a_baseline_of_other_keypoints_is_refused(place: Path, tmp_path: Path) -> None:
    settings = TrainSettings(epochs=1, batch=4, imgsz=64, device="cpu", workers=0, quiet=True)
    with pytest.raises(DataError, match=r"baseline .* gives"):
        baseline_accuracy(place / "three.pt", data=place / "own" / "data.yaml", settings=settings, work=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_and_a_dataset_of_the_same_keypoints_fit(place: Path) -> None:
    loaded = checkpoint.load(place / "w.pt")
    assert loaded.kpt_shape == (2, 3)
    own, other = (Dataset.load(place / name / "data.yaml", task="pose") for name in ("own", "other"))
    own.check_keypoints(loaded.kpt_shape)
    with pytest.raises(DataError, match="kpt_shape"):
        other.check_keypoints(loaded.kpt_shape)
    other.check_keypoints(())  # a graph that does not say, or a model of another task
    assert checkpoint.keypoint_shape(models.model("detect")) == ()
