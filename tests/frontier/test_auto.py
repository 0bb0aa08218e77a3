"""``levers: auto``: a number format that costs next to nothing goes before pruning, which takes what is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ultralytics import YOLO

from edgeprune import checkpoint, pipeline
from edgeprune.errors import StageError, TargetError
from edgeprune.frontier import auto
from edgeprune.frontier.auto import choice, choose_precision
from edgeprune.frontier.levers import forms
from edgeprune.frontier.screening import Screening
from edgeprune.progress import Silent
from edgeprune.records.frontier import Screened
from edgeprune.report.build import build_markdown, build_page
from edgeprune.runtimes.base import Availability
from edgeprune.stages.base import SilentBuild, Weights
from edgeprune.stages.buildable import require_buildable
from edgeprune.target import Target, load_target
from edgeprune.workspace import RECORD, open_workspace
from tests.records.sample import build_record
from tests.search.devices import StandIn, stand_in_site


def target(latency_ms: float) -> Target:
    return load_target("cpu").with_overrides(latency_ms=latency_ms, imgsz=96).changed({"levers": "auto"})


def screened(asked: Target, gain: float, loss: float) -> tuple[Screened, ...]:
    """FP32 takes 10 ms; INT8 is faster by ``gain`` and less accurate by ``loss``."""
    found = []
    for form in forms(asked, "model"):
        if "size" not in form.levers:
            low = "precision" in form.levers
            found.append(Screened(form, 10 / gain if low else 10, gain if low else 1, 0.5 - loss if low else 0.5, 1))
    return tuple(found)


@pytest.mark.parametrize(
    ("latency_ms", "gain", "loss", "precision", "said"),
    [
        (12.0, 2.0, 0.0, "fp32", "within the budget as it is"),
        (6.0, 2.0, 0.002, "int8", "meets the budget alone, 5.00 ms, and nothing is left to prune"),
        (2.5, 2.0, 0.002, "int8", "what is left to gain by pruning is ×2.00 in place of ×4.00"),
        (6.0, 2.0, 0.011, "fp32", "no other number format helps (int8 ×2.00 for 0.0110 of the accuracy)"),
        (6.0, 0.9, 0.0, "fp32", "no other number format helps"),
    ],
)
def test_the_number_format_is_that_which_leaves_least_to_prune(
    latency_ms: float, gain: float, loss: float, precision: str, said: str
) -> None:
    asked = target(latency_ms)
    best, why = choice(screened(asked, gain, loss), asked)
    assert best.form.keys.get("precision", "fp32") == precision
    assert said in why


def test_a_build_goes_on_with_the_format_that_was_chosen(tmp_path: Path) -> None:
    asked = target(6.0)
    site = stand_in_site(asked, StandIn(1.0, 0.0), Silent())

    def screener(site: Any, given: Any, *_: Any, **__: Any) -> Screening:
        assert all("size" not in form.levers for form in given)
        return Screening(screened(asked, 2.0, 0.0), {})

    source: Any = type("Source", (), {"task": "classify"})()
    dataset: Any = None
    chosen, why = choose_precision(site, source, dataset, tmp_path, screener)
    assert (chosen.precision, chosen.levers) == ("int8", "named") and chosen.budget == asked.budget
    assert why.startswith("levers auto: int8 is ×2.00 as fast as fp32")


def test_what_was_chosen_stays_once_a_stage_has_finished(tmp_path: Path) -> None:
    asked, told = target(6.0), []
    site, source = stand_in_site(asked, StandIn(1.0, 0.0), Silent()), type("Source", (), {"task": "classify"})()

    def screener(*_: Any, final: bool, settled: bool) -> Screening:
        told.append((final, settled))
        return Screening(screened(asked, 2.0, 0.0), {})

    inputs: Any = (source, None, tmp_path / pipeline.SCREENED, screener)
    choose_precision(site, *inputs)
    (tmp_path / "baseline-0").mkdir()
    (tmp_path / "baseline-0" / RECORD).write_text("{}")
    choose_precision(site, *inputs)
    assert told == [(True, False), (True, True)]


def test_a_format_that_the_profile_s_range_forbids_is_not_chosen(tmp_path: Path) -> None:
    """INT8 with NMS inside: the board's 10.16 builds it, and no profile that allows 10.3 states it."""
    keys = {"budget": {"latency_ms": 6.0}, "imgsz": 96, "export.nms": True}
    asked = load_target("jetson-orin-nano").changed(keys)
    site = stand_in_site(asked.at_tensorrt("10.16.0"), StandIn(1.0, 0.0), Silent())

    def screener(_: Any, given: Any, *__: Any, **___: Any) -> Screening:
        return Screening(tuple(one for one in screened(site.target, 2.0, 0.0) if one.form in given), {})

    source: Any = type("Source", (), {"task": "classify"})()
    given: Any = (site, source, None, tmp_path, screener)
    assert choose_precision(*given)[0].precision == "int8-fp16", "as the device could"
    chosen, why = choose_precision(*given, stated=asked)
    assert chosen.precision == "fp16" and "int8-fp16 does not run here: " in why
    assert "a device.tensorrt from 10.4 on" in why


def test_from_frame_to_boxes_a_build_takes_the_output_form_that_was_measured(tmp_path: Path) -> None:
    asked = target(6.0).changed({"budget.scope": "end_to_end"})
    checkpoint.save(YOLO("yolov8n.yaml").model, tmp_path / "n.pt")  # pyright: ignore[reportArgumentType]

    def screener(site: Any, given: Any, *_: Any, **__: Any) -> Screening:
        if given[1].levers == ("output",):
            own, nms = given
            return Screening((Screened(own, 10, 1.0, 0.5, 1), Screened(nms, 8, 1.25, 0.495, 1)), {})
        assert site.target.export.nms
        return Screening(screened(asked, 2.0, 0.0), {})

    dataset: Any = None
    site = stand_in_site(asked, StandIn(1.0, 0.0), Silent())
    chosen, why = choose_precision(site, checkpoint.load(tmp_path / "n.pt"), dataset, tmp_path, screener)
    assert (chosen.precision, chosen.export.nms) == ("int8", True)
    assert "Output form: NMS in the graph, the fastest from frame to boxes, ×1.25" in why


def test_where_nothing_can_be_measured_the_named_format_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Elsewhere(StandIn):
        def availability(self) -> Availability:
            return Availability(False, "not here")

    from contextlib import contextmanager

    @contextmanager
    def opened(asked: Target, **_: Any) -> Any:
        site = stand_in_site(asked, Elsewhere(1.0, 0.0))
        yield type(site)(asked, site.runtime, site.device, Availability(False, "not here"), Silent())

    monkeypatch.setattr(pipeline, "open_site", opened)
    monkeypatch.setattr(auto, "screen", None)
    given: Any = type("Inputs", (), {"weights": Weights(tmp_path / "m.pt", "", "detect"), "dataset": None})()
    chosen, why = pipeline._levers(target(6.0), given, tmp_path, 0, False, SilentBuild())
    assert (chosen.precision, chosen.levers) == ("fp32", "named")
    assert why == "levers auto: nothing can be measured here; the number format stays as it is named"


def test_levers_are_measured_by_one_build_of_a_folder_at_a_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from contextlib import contextmanager

    asked, root = target(6.0), tmp_path / "run"
    measured: list[Path] = []

    @contextmanager
    def opened(asked: Target, **_: Any) -> Any:
        yield stand_in_site(asked, StandIn(1.0, 0.0))

    def choose(site: Any, source: Any, dataset: Any, keep: Path, **_: Any) -> tuple[Target, str]:
        measured.append(keep)
        return asked.changed({"levers": "named"}), "levers auto: fp32 stays"

    monkeypatch.setattr(pipeline, "open_site", opened)
    monkeypatch.setattr(auto, "choose_precision", choose)
    monkeypatch.setattr("edgeprune.checkpoint.load", lambda *_, **__: None)
    given: Any = type("Inputs", (), {"weights": Weights(tmp_path / "m.pt", "", "detect"), "dataset": None})()
    with open_workspace(root), pytest.raises(StageError, match="another build"):
        pipeline._levers(asked, given, root, 0, False, SilentBuild())
    assert measured == []
    assert pipeline._levers(asked, given, root, 0, False, SilentBuild())[1] == "levers auto: fp32 stays"
    assert measured == [root / pipeline.SCREENED]


def test_a_ratio_and_a_model_description_are_refused_with_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(
        TargetError,
        match=r"^profile cpu: levers: auto needs a budget in latency_ms; seen: speed_up 1.*; next: latency_ms",
    ):
        require_buildable(load_target("cpu").changed({"levers": "auto"}))
    given: Any = type("Inputs", (), {"weights": Weights(tmp_path / "m.yaml", "", "detect"), "dataset": None})()
    with pytest.raises(TargetError, match="needs a trained checkpoint"):
        pipeline._levers(target(6.0), given, tmp_path, 0, False, SilentBuild())


def test_the_report_says_why_the_format_is_what_it_is() -> None:
    from dataclasses import replace

    record = replace(build_record(), levers="levers auto: int8 is faster")
    assert "Levers auto: int8 is faster." in build_page(record)
    assert "Levers auto: int8 is faster." in build_markdown(record)
    assert "Levers" not in build_page(build_record())
