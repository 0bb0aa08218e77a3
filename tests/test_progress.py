"""One word for who watches: every public function that takes long takes ``progress``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import edgeprune
from edgeprune.data.digits import write_digits
from edgeprune.errors import TargetError
from edgeprune.progress import Silent, reporter_of
from edgeprune.pruning.batches import calibration_batches
from edgeprune.pruning.pruner import Pruner
from edgeprune.pruning.sensitivity import sensitivity
from edgeprune.stages.base import SilentBuild, build_reporter_of
from edgeprune.training.iterative import prune_in_rounds
from edgeprune.training.pretrain import pretrain
from tests.situations import datasets, models

LONG = {
    **{
        name: getattr(edgeprune, name)
        for name in (
            *("bench", "build", "compare", "finetune", "frontier", "profile"),
            *("prune", "search", "sparsify", "sweep", "val"),
        )
    },
    "Pruner.plan": Pruner.plan,
    "Pruner.scores": Pruner.scores,
    "pretrain": pretrain,
    "prune_in_rounds": prune_in_rounds,
    "sensitivity": sensitivity,
    "write_digits": write_digits,
}


@pytest.mark.parametrize("name", LONG)
def test_what_takes_long_says_that_it_moves_by_one_word(name: str) -> None:
    parameters = inspect.signature(LONG[name]).parameters
    assert "progress" in parameters and "reporter" not in parameters
    assert parameters["progress"].annotation == "Progress | Reporter | None" and parameters["progress"].default is None


class Hearing:
    """A plain reporter: it hears no stages and no gates."""

    def __init__(self) -> None:
        self.moved: list[str] = []
        self.noted: list[str] = []

    def progress(self, text: str, *, done: int = 0, total: int = 0, latest_ms: Sequence[float] = ()) -> None:
        self.moved.append(text)

    def note(self, text: str) -> None:
        self.noted.append(text)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small detector, its graph and labelled images."""
    folder = tmp_path_factory.mktemp("watched")
    models.saved(models.model(), folder / "m.pt", train_args={"imgsz": 64})
    edgeprune.export(folder / "m.pt", folder / "m.onnx", imgsz=64)
    datasets.dataset(folder / "data", counts={"train": 4, "val": 2, "test": 2})
    return folder


def trained(call: Callable[..., Any], place: Path, out: Path, **more: Any) -> None:
    settings = edgeprune.TrainSettings(epochs=1, batch=2, imgsz=64, device="cpu", quiet=True)
    call(place / "m.pt", data=data_of(place), out=out / "out", work=out / "work", settings=settings, **more)


def data_of(place: Path) -> Path:
    return next((place / "data").glob("*.yaml"))


def narrowed(place: Path, progress: Any) -> None:
    source = edgeprune.load_checkpoint(place / "m.pt")
    batches = calibration_batches(data_of(place), "detect", 64, images=2)
    sensitivity(source.model, batches, imgsz=64, ratios=(0.5,), progress=progress)


FEW = edgeprune.BenchSettings(warmup_s=0.0, rounds=2, per_round=2)
CALLS: dict[str, Callable[[Path, Path, Any], Any]] = {
    "bench": lambda place, out, heard: edgeprune.bench(
        "cpu", place / "m.onnx", settings=FEW, details=False, progress=heard
    ),
    "compare": lambda place, out, heard: edgeprune.compare(
        [place / "m.onnx", place / "m.pt"], data_of(place), settings=FEW, imgsz=64, images=1, progress=heard
    ),
    "val": lambda place, out, heard: edgeprune.val(place / "m.onnx", data=data_of(place), progress=heard),
    "finetune": lambda place, out, heard: trained(edgeprune.finetune, place, out, progress=heard),
    "sparsify": lambda place, out, heard: trained(edgeprune.sparsify, place, out, progress=heard),
    "prune_in_rounds": lambda place, out, heard: trained(
        prune_in_rounds, place, out, macs_speed_up=1.2, rounds=1, progress=heard
    ),
    "sensitivity": lambda place, out, heard: narrowed(place, heard),
    "write_digits": lambda place, out, heard: write_digits(
        out / "digits", train=100, val=1, test=1, imgsz=64, progress=heard
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_reporter_is_heard_by_every_function_and_none_is_nobody(name: str, place: Path, tmp_path: Path) -> None:
    reporter = Hearing()
    CALLS[name](place, tmp_path / "heard", reporter)
    assert reporter.moved
    CALLS[name](place, tmp_path / "nobody", None)
    with pytest.raises(TargetError, match=r"progress: a function, a Reporter .* seen: str"):
        CALLS[name](place, tmp_path / "wrong", "bar")


def test_a_plain_reporter_watches_a_build() -> None:
    heard = Hearing()
    reporter = build_reporter_of(heard)
    reporter.stage("prune", 1, 2, False), reporter.gates([])
    reporter.progress("probe 1", done=1, total=6), reporter.note("kept")
    assert (heard.moved, heard.noted) == (["probe 1"], ["kept"])


@pytest.mark.parametrize("made", [reporter_of, build_reporter_of])
def test_what_cannot_watch_is_refused_before_the_work(made: Any) -> None:
    with pytest.raises(TargetError, match="seen: int"):
        made(3)


@pytest.mark.parametrize("made", [reporter_of, build_reporter_of])
def test_a_function_is_as_good_as_a_reporter(made: Any) -> None:
    told: list[tuple[str, int, int]] = []
    reporter = made(lambda text, *, done=0, total=0, latest_ms=(): told.append((text, done, total)))
    reporter.progress("probe 1", done=1, total=6)
    reporter.note("said to nobody")
    assert told == [("probe 1", 1, 6)]
    assert isinstance(made(None), Silent)


def test_a_reporter_is_taken_as_it_is() -> None:
    watching = SilentBuild()
    assert build_reporter_of(watching) is watching and reporter_of(watching) is watching
