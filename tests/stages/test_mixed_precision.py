"""What a number format costs in accuracy is asked of an engine only where the runtime can take a whole dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeprune.artifact import Artifact
from edgeprune.dataset import Dataset
from edgeprune.errors import StageError
from edgeprune.records.facts import FallbackFacts, QatFacts
from edgeprune.stages import mixed_precision, quantize
from edgeprune.stages.base import Build, SilentBuild, Weights
from edgeprune.stages.precision_choice import choose_precision
from edgeprune.target import load_target
from edgeprune.training.result import TrainSummary
from edgeprune.workspace import Key, Record, Workspace
from tests.search.devices import StandIn, stand_in_site
from tests.situations import datasets
from tests.stages.test_precision_choice import graph


class Builder(StandIn):
    """Keeps what it built; ``refuses`` is a builder that cannot."""

    def __init__(self, *, fit: bool, refuses: bool = False) -> None:
        super().__init__(2.0, 0.0)
        self.fit_for_dataset, self.refuses = fit, refuses
        self.built: list[str] = []

    def engine_from_onnx(self, onnx: Path, engine: Path, **options: Any) -> None:
        self.built.append(onnx.name)
        if self.refuses:
            raise StageError("cannot be built")
        super().engine_from_onnx(onnx, engine, **options)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each accuracy was measured of an engine that was there."""
    seen: list[bool] = []

    def measure(site: Any, onnx: Path, engine: Path | None, dataset: Any) -> Any:
        seen.append(engine is not None and engine.is_file())
        return SimpleNamespace(value=0.6, metric="mAP50-95")

    monkeypatch.setattr("edgeprune.measure.accuracy.measure_artifact", measure)
    monkeypatch.setattr(mixed_precision, "choosing_images", lambda build: build.dataset)
    return seen


@pytest.fixture
def build_by(tmp_path: Path) -> Callable[[Builder], Build]:
    """An INT8 build with this runtime."""

    def made(runtime: Builder) -> Build:
        site = stand_in_site(load_target("cpu").changed({"precision": "int8"}), runtime)
        data = Dataset(tmp_path / "data.yaml", tmp_path, "detect", {0: "a"}, {})
        return Build(site, Weights(tmp_path / "m.pt", "", "detect"), data, False, Workspace(tmp_path), SilentBuild())

    return made


def test_a_runtime_of_one_process_an_inference_builds_nothing_for_it(build_by, measured, tmp_path):
    runtime = Builder(fit=False, refuses=True)
    onnx = graph(tmp_path / "low.onnx", quantized=True)
    assert mixed_precision.graph_accuracy(build_by(runtime), onnx).value == 0.6
    assert runtime.built == [] and measured == [False]


def test_a_runtime_that_takes_a_dataset_is_asked_with_an_engine(build_by, measured, tmp_path):
    runtime = Builder(fit=True)
    mixed_precision.graph_accuracy(build_by(runtime), graph(tmp_path / "low.onnx", quantized=True))
    assert runtime.built == ["low.onnx"] and measured == [True]
    assert [path.name for path in tmp_path.iterdir()] == ["low.onnx"]


@pytest.mark.parametrize("fit", [True, False])
def test_the_engine_that_was_timed_is_the_one_whose_accuracy_is_asked(build_by, measured, tmp_path, fit):
    runtime = Builder(fit=fit)
    source, low = graph(tmp_path / "source.onnx", quantized=False), graph(tmp_path / "low.onnx", quantized=True)
    facts = FallbackFacts(0.55, "mAP50-95", 0.5, None, "it reaches the floor")
    choice = choose_precision(build_by(runtime), source, low, facts)
    assert choice is not None and choice.plainer_accuracy == 0.6
    assert runtime.built == ["source.onnx", "low.onnx"] and measured == [fit]


@pytest.mark.parametrize(
    ("entries", "split", "counts", "source", "judging"),
    [
        ({}, "auto", {"val": 16}, "val", False),
        ({"val": "images/train", "test": None}, "auto", {}, "train", True),  # coco128
        ({"test": "images/val"}, "auto", {}, "train", False),
        ({"test": "images/val"}, "test", {}, "train", False),
        ({"train": ["images/train", "images/val"], "test": None}, "auto", {}, "train", False),
        ({}, "auto", {"val": 15}, "train", False),
        ({"train": ["images/train", "images/val"], "test": None}, "auto", {"train": 1}, "val", True),
        ({}, "auto", {"train": 15, "val": 15}, "test", True),
    ],
    ids=[
        *("apart", "val is train", "test is val", "test is val and asked for", "train holds val"),
        *("few in val", "train holds val and one more", "few in both"),
    ],
)
def test_layers_are_chosen_on_images_that_do_not_judge_or_the_row_says_so(
    entries: dict[str, Any], split: str, counts: dict[str, int], source: str, judging: bool, tmp_path: Path
) -> None:
    data = datasets.dataset(tmp_path / "data", counts={**datasets.COUNTS, **counts})
    data = datasets.rewritten(data, **entries)
    dataset = Dataset.load(data, task="detect")
    target = load_target("cpu").changed({"precision": "int8", "accuracy": {"split": split}})
    site = stand_in_site(target, Builder(fit=True))
    build = Build(site, Weights(tmp_path / "m.pt", "", "detect"), dataset, False, Workspace(tmp_path), SilentBuild())
    chosen, judge_too = mixed_precision._choosing_images(build)
    judges = dataset.judging_split(split)
    files = {image.resolve() for image in chosen.images(judges)}
    assert judge_too == judging
    assert files.isdisjoint(image.resolve() for image in dataset.images(judges)) != judging
    assert files == {image.resolve() for image in datasets.images_of(data, source)}
    facts = FallbackFacts(0.4, "mAP50-95", 0.5, None, "missed", judge_too)
    [row] = mixed_precision.fallback_gates(facts, "int8")
    assert ("do not judge" in row.reason) != judging


def test_images_without_objects_are_not_counted_among_those_to_choose_by(tmp_path: Path) -> None:
    data = datasets.dataset(tmp_path / "data", counts={**datasets.COUNTS, "val": 16})
    for number in range(2):
        datasets.label_bytes(data, "val", b"", number)
    target = load_target("cpu").changed({"precision": "int8", "accuracy": {"split": "test"}})
    dataset = Dataset.load(data, task="detect")
    site = stand_in_site(target, Builder(fit=True))
    build = Build(site, Weights(tmp_path / "m.pt", "", "detect"), dataset, False, Workspace(tmp_path), SilentBuild())
    chosen, judge_too = mixed_precision._choosing_images(build)
    assert not judge_too
    assert {image.resolve() for image in chosen.images("test")} == set(datasets.images_of(data, "train"))


@pytest.mark.parametrize("judging", [True, False])
def test_the_row_of_trained_int8_tells_of_the_same_images(build_by, tmp_path, monkeypatch, judging):
    calibrated = FallbackFacts(0.4, "mAP50-95", 0.5, None, "missed", judging)
    build, low = build_by(Builder(fit=False)), graph(tmp_path / "low.onnx", quantized=True)
    artifact = Artifact(graph(tmp_path / "trained.onnx", quantized=True), "")
    facts = QatFacts(TrainSummary(1, 1, (), 0.5, 1.0), "", 1, 1)
    build.records["qat"] = Record(Key("qat", {}), tmp_path, {"onnx": artifact}, facts, 0.0, "")
    monkeypatch.setattr(quantize, "meet_floor", lambda *_: calibrated)
    monkeypatch.setattr(quantize, "graph_accuracy", lambda *_: SimpleNamespace(value=0.6))
    shipped, trained = quantize._choose_int8(build, low, low)
    assert trained is not None and trained.ships
    assert shipped == FallbackFacts(0.6, "mAP50-95", 0.5, None, "trained", judging)
    [row] = mixed_precision.fallback_gates(shipped, "int8")
    assert ("do not judge" in row.reason) != judging
