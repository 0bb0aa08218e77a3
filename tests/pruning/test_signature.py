"""A silent reset is impossible: a model rebuilt from its YAML stops whatever takes it next."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from edgeprune.checkpoint import load, parameter_count, save, shape_signature
from edgeprune.errors import DataError, StageError
from edgeprune.pruning.api import prune
from edgeprune.settings import TrainSettings
from edgeprune.stages import export
from edgeprune.training import finetune as training
from tests.records.sample import build_record


@pytest.fixture(scope="module")
def pruned(stock):
    return prune(stock("yolov8n.yaml"), imgsz=64, macs_speed_up=2)


@pytest.fixture(scope="module")
def rebuilt(pruned):
    """What ``YOLO(pruned).train()`` makes of a pruned model: the YAML's widths, and whatever weights still fit."""
    from ultralytics.nn.tasks import DetectionModel

    model: Any = DetectionModel(pruned.model.yaml, verbose=False)
    model.load(pruned.model)
    return model


def _saved(model, path, metadata=None):
    save(model, path, metadata=metadata)
    return path


def test_every_reader_of_a_checkpoint_refuses_it(pruned, rebuilt, tmp_path):
    good = load(_saved(pruned.model, tmp_path / "good.pt", pruned.metadata()))
    assert good.edgeprune["shape_signature"] == shape_signature(good.model) == pruned.plan.result_shapes
    with pytest.raises(DataError, match=f"pruned to the shapes .* with {parameter_count(rebuilt)} parameters"):
        load(_saved(rebuilt, tmp_path / "reset.pt", pruned.metadata()))


def test_the_metadata_of_a_build_counts_too(pruned, rebuilt, tmp_path):
    with pytest.raises(DataError, match="was rebuilt or exchanged"):
        load(_saved(rebuilt, tmp_path / "reset.pt", {"signature": pruned.plan.result_shapes}))


def test_training_that_gives_it_back_fails(pruned, rebuilt, tmp_path, monkeypatch):
    start = _saved(pruned.model, tmp_path / "pruned.pt", pruned.metadata())
    best = _saved(rebuilt, tmp_path / "best.pt")
    monkeypatch.setattr(training, "run_training", lambda *args, **rest: SimpleNamespace(best=best, best_epoch=1))
    dataset = SimpleNamespace(names=load(start).names, check_channels=lambda *args, **rest: None, digest="d")
    dataset.check_keypoints = dataset.require_unchanged = dataset.check_channels
    dataset.known_to, dataset.one_class = (lambda *args, **rest: dataset), None
    monkeypatch.setattr(training, "Dataset", SimpleNamespace(load=lambda *args, **rest: dataset))
    with pytest.raises(StageError, match=f"to {parameter_count(rebuilt)} parameters"):
        training.finetune(
            start, data="data.yaml", out=tmp_path / "out", settings=TrainSettings(epochs=1), work=tmp_path / "work"
        )
    assert not (tmp_path / "out").exists()


def test_exporting_it_fails_before_anything_is_written(pruned, rebuilt, tmp_path):
    model = _saved(rebuilt, tmp_path / "reset.pt")
    facts = replace(build_record().stages.prune.facts, signature=pruned.plan.result_shapes, plan=pruned.plan.digest)
    tuned = SimpleNamespace(path=lambda role: model)
    build = SimpleNamespace(record=lambda kind: tuned, finished=lambda kind: tuned, facts=lambda kind: facts)
    folder = tmp_path / "export"
    folder.mkdir()
    with pytest.raises(StageError, match="after fine-tuning the model has other shapes"):
        export._run(build, folder, None)  # pyright: ignore[reportArgumentType]
    assert not list(folder.iterdir())


def test_a_plan_is_refused_by_it(pruned, rebuilt, stock):
    again = prune(pruned.model, imgsz=64, macs_speed_up=1.5)
    with pytest.raises(DataError, match=r"does not fit: .*; give the weights that it was made for, or make a new one"):
        prune(rebuilt, plan=again.plan)


def test_a_plan_of_another_model_says_what_to_give(stock, tmp_path):
    model = stock("yolov8n.yaml")
    plan = prune(model, imgsz=64, macs_speed_up=1.5).plan
    with pytest.raises(DataError, match=r"does not fit: it drops 'model.99', .*; give the weights .* --save-plan"):
        prune(model, plan=replace(plan, removed=("model.99",)))
    for content, seen in (("", "is empty"), (plan.text()[:-20], "is cut off"), ("[1]", "not a plan of schema 1")):
        (tmp_path / "plan.json").write_text(content)
        with pytest.raises(
            DataError, match=rf"plan.json: {seen}.*; make a new one with: edgeprune prune .*--save-plan"
        ):
            prune(model, plan=tmp_path / "plan.json")
