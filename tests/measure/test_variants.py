"""A model under other keys of its profile is held against itself only where both compute the same."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from edgeprune.errors import TargetError
from edgeprune.frontier import screening
from edgeprune.frontier.auto import choose_precision
from edgeprune.frontier.levers import forms
from edgeprune.frontier.screening import Screening, screen
from edgeprune.measure.variants import require_same_output, site_with
from edgeprune.records.frontier import Screened
from edgeprune.search.bench import SiteBench
from edgeprune.search.diagnosis import Diagnostician
from edgeprune.target import Target, load_target
from tests.export.helpers import stock_model
from tests.samples.made import latency
from tests.search.devices import StandIn, stand_in_site

SAID = r"TensorRT 10\.3.* cannot build INT8 with top-k inside: .* raw one, whose time leaves out .*; export\.head: raw"


@pytest.fixture(scope="module")
def two_heads() -> nn.Module:
    return stock_model("yolo26", "detect")


@pytest.fixture(scope="module")
def one_head() -> nn.Module:
    return stock_model("yolov8", "detect")


def board(release: str = "==10.3.*", **keys: Any) -> Target:
    given = {"precision": "fp16", "device.tensorrt": release, "imgsz": 64, "builder.optimization_level": None, **keys}
    return load_target("jetson-orin-nano").changed(given)


def site_of(target: Target) -> Any:
    return stand_in_site(target, StandIn(1.0, 0.0))


@pytest.mark.parametrize("release", ["==10.3.*", "==8.6.*"])
def test_a_number_format_that_changes_the_head_is_not_held_against_the_others(
    release: str, two_heads: nn.Module, one_head: nn.Module
) -> None:
    site = site_of(board(release))
    there = site_with(site, {"precision": "int8-fp16"})
    assert (site.target.exported_head, there.target.exported_head) == ("auto", "raw")
    with pytest.raises(TargetError, match=r"top-k inside: .* export\.head: raw in the profile"):
        require_same_output(site, there, two_heads)
    require_same_output(site, there, one_head)  # it has the raw one either way


@pytest.mark.parametrize(
    ("target", "keys"),
    [
        (board(**{"export.head": "raw"}), {"precision": "int8-fp16"}),
        (board("==10.16.*"), {"precision": "int8-fp16"}),
        (board(precision="int8"), {"precision": "int8-fp16"}),
        (board(), {"batch": 4}),
        (
            board(runtime="onnxruntime-tensorrt", **{"budget.scope": "end_to_end"}),
            {"precision": "int8-fp16"},
        ),  # from frame to boxes, each with what it leaves out
    ],
    ids=["raw stated", "built with top-k", "raw already", "no other format", "end to end"],
)
def test_forms_of_one_output_are_compared(target: Target, keys: dict[str, Any], two_heads: nn.Module) -> None:
    site = site_of(target)
    require_same_output(site, site_with(site, keys), two_heads)


def test_a_screening_refuses_it_and_its_key_says_so(
    two_heads: nn.Module, one_head: nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def compile_source(bench: SiteBench, folder: Path, kept: Path | None = None) -> Any:
        folder.mkdir(parents=True)
        return SimpleNamespace(onnx=folder, required_engine=folder / "engine.engine")

    monkeypatch.setattr(SiteBench, "compile_source", compile_source)
    monkeypatch.setattr(screening, "_require_dla", lambda engine: None)
    monkeypatch.setattr(screening, "accuracy", lambda *_, **__: SimpleNamespace(map50_95=0.5))
    monkeypatch.setattr(screening, "metadata_of", lambda onnx: {})
    monkeypatch.setattr(screening, "side_by_side", lambda _, engines, *__, **___: [latency([1.0] * 200)] * len(engines))
    dataset: Any = SimpleNamespace(
        digest="",
        images=lambda split: [Path("a.jpg")],
        with_other_images=lambda *_: None,
        require_unchanged=lambda: None,
    )
    keys = {}
    for name, model, target in (
        ("two", two_heads, board()),
        ("raw", two_heads, board(**{"export.head": "raw"})),
        ("one", one_head, board()),
    ):
        source: Any = SimpleNamespace(model=model, sha256="")
        asked = [form for form in forms(target, "m") if "size" not in form.levers]
        found = screen(site_of(target), asked, {"m": source}, dataset, tmp_path / "work", tmp_path / name)
        assert list(found.refused) == (["int8-fp16"] if name == "two" else []), name
        assert name != "two" or "export.head: raw" in found.refused["int8-fp16"]
        monkeypatch.setattr(screening, "digest_of", lambda content: keys.setdefault("content", content) and "0" * 64)
        keys.clear()
        screening._key(site_of(target), asked, {"m": source}, dataset, None)
        assert keys["content"].get("other_output") == (["int8-fp16"] if name == "two" else None), name


def test_a_diagnosis_tells_why_it_was_not_measured(two_heads: nn.Module, tmp_path: Path) -> None:
    source: Any = SimpleNamespace(model=two_heads)
    pruner: Any = None
    asked = Diagnostician(site_of(board()), source, pruner, None, tmp_path, tmp_path / "work")
    with pytest.raises(TargetError, match=SAID):
        asked._bench_with({"precision": "int8-fp16"})


def test_levers_auto_say_what_was_left_out(tmp_path: Path) -> None:
    target = board(levers="auto", budget={"latency_ms": 5.0})

    def screener(site: Any, given: Any, *_: Any, **__: Any) -> Screening:
        return Screening((Screened(given[0], 10, 1.0, 0.5, 1),), {"int8-fp16": "another head"})

    source: Any = SimpleNamespace(task="classify")
    dataset: Any = None
    chosen, why = choose_precision(site_of(target), source, dataset, tmp_path, screener)
    assert chosen.precision == "fp16"
    assert why.endswith("(none runs here); int8-fp16 does not run here: another head")
