"""The output form: which ones a model and a target have, and which one is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ultralytics import YOLO

from edgeprune import checkpoint
from edgeprune.checkpoint import Checkpoint
from edgeprune.dataset import Dataset
from edgeprune.frontier.output_form import choose_output, fastest, output_forms
from edgeprune.frontier.screening import Screening
from edgeprune.progress import Silent
from edgeprune.records.frontier import Form, Screened
from edgeprune.target import Target, load_target
from tests.search.devices import StandIn, stand_in_site
from tests.sweep.test_points import given as given  # the fixture: an untrained checkpoint and a few digits

NOBODY: Any = None


def from_frames(**keys: Any) -> Target:
    given = {"budget": {"speed_up": 2.0, "scope": "end_to_end"}, "imgsz": 96, **keys}
    return load_target("cpu").changed(given)


def source(config: str, folder: Path) -> Checkpoint:
    checkpoint.save(YOLO(config).model, folder / "given.pt")  # pyright: ignore[reportArgumentType]
    return checkpoint.load(folder / "given.pt")


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ("yolov8n.yaml", ["raw head", "NMS in the graph"]),
        ("yolo26n.yaml", ["end-to-end head", "raw head", "NMS in the graph"]),
    ],
)
def test_a_model_has_the_forms_of_its_head(config: str, names: list[str], tmp_path: Path) -> None:
    found = output_forms(from_frames(), source(config, tmp_path), "n")
    assert [form.name for form in found] == names and found[0].keys == {}
    for form in found[1:]:
        assert from_frames().changed(form.keys).exported_head == ("nms" if "export.nms" in form.keys else "raw")


def test_a_fused_model_has_no_form_but_the_head_that_is_left(tmp_path: Path) -> None:
    given = source("yolo26n.yaml", tmp_path)
    model: Any = given.model
    model.model[-1].end2end = True
    model.fuse(verbose=False)
    assert [form.name for form in output_forms(from_frames(), given, "n")] == ["end-to-end head"]


def screened(*figures: tuple[str, float, float]) -> tuple[Screened, ...]:
    return tuple(
        Screened(Form(name, "n", {"export.head": name} if number else {}, ()), 10 / ratio, ratio, accuracy, 1)
        for number, (name, ratio, accuracy) in enumerate(figures)
    )


@pytest.mark.parametrize(
    ("figures", "taken", "said"),
    [
        ([("end", 1.0, 0.5), ("raw", 1.1, 0.5), ("nms", 1.2, 0.495)], "nms", "the fastest from frame to boxes, ×1.20"),
        ([("end", 1.0, 0.5), ("raw", 1.1, 0.5), ("nms", 1.2, 0.4)], "raw", "the fastest from frame to boxes, ×1.10"),
        ([("end", 1.0, 0.5), ("nms", 1.2, 0.4)], "end", "what is faster costs more than 0.01 of the accuracy"),
        ([("end", 1.0, 0.5), ("raw", 1.01, 0.6)], "end", "no other one is ×1.02"),
        ([("end", 1.0, 0.5)], "end", "no other one is ×1.02"),
    ],
)
def test_the_fastest_form_that_costs_next_to_nothing_is_taken(figures: Any, taken: str, said: str) -> None:
    best, why = fastest(screened(*figures))
    assert best.form.name == taken and said in why
    assert all(
        f"{name}: {10 / ratio:.2f} ms, ×{ratio:.2f}, accuracy {accuracy:.4f}" in why
        for name, ratio, accuracy in figures
    )


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (
            load_target("cpu"),
            "Output form: raw head, not measured; another one is chosen with budget.scope: end_to_end",
        ),
        (from_frames(**{"export.head": "raw"}), "Output form: raw head, as the profile says."),
        (from_frames(**{"export.nms": True}), "Output form: NMS in the graph, as the profile says."),
    ],
)
def test_what_is_not_measured_is_said_with_the_reason(target: Target, said: str, tmp_path: Path) -> None:
    site = stand_in_site(target, StandIn(1.0, 0.0), Silent())
    found = choose_output(site, source("yolov8n.yaml", tmp_path), "n", NOBODY, tmp_path, None, NOBODY)
    assert found.keys == {} and found.measured == () and found.why.startswith(said)


def test_what_is_no_detector_has_nothing_to_choose(tmp_path: Path) -> None:
    site = stand_in_site(load_target("cpu"), StandIn(1.0, 0.0), Silent())
    found = choose_output(site, source("yolov8n-seg.yaml", tmp_path), "n", NOBODY, tmp_path, None, NOBODY)
    assert found.why == "" and found.keys == {}


def test_forms_are_timed_in_one_run_and_what_does_not_run_is_named(given: tuple[Path, Path], tmp_path: Path) -> None:
    """Real exports, and accuracy by ONNX Runtime; the clock is made up: suppression inside takes no time on it."""
    weights, data = given
    runtime = StandIn(1.0, 0.0)
    site = stand_in_site(from_frames(), runtime, Silent())
    loaded, dataset = checkpoint.load(weights), Dataset.load(data, task="detect")
    found = choose_output(site, loaded, "new", dataset, tmp_path / "work", tmp_path / "kept")
    assert [one.form.name for one in found.measured] == ["raw head", "NMS in the graph"]
    assert len(runtime.timed) == 1 and len(runtime.timed[0]) == 2
    assert found.keys == {} and "no other one is ×1.02" in found.why

    def refusing(site: Any, forms: Any, *_: Any, **__: Any) -> Screening:
        return Screening(screened(("raw head", 1.0, 0.5)), {forms[1].name: "no such operator"})

    told = choose_output(site, loaded, "new", dataset, tmp_path / "work", None, refusing)
    assert "NMS in the graph does not run here: no such operator" in told.why
