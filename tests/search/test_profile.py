"""A runtime that fuses layers under names of its own still gives a profile, and says what it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgeprune import version
from edgeprune.checkpoint import architecture_digest, shape_signature
from edgeprune.errors import TargetError
from edgeprune.measure.compiling import CompiledFiles
from edgeprune.measure.latency import timing_inputs
from edgeprune.pruning.pruner import Pruner
from edgeprune.report.layer_profile import layer_costs_plot, layer_costs_text
from edgeprune.runtimes.base import LayerTime
from edgeprune.samples.measurement import Measurement
from edgeprune.search.layers import FIXED
from edgeprune.search.profile import LayerProfile, cache_file, profile_layers, timed_model
from edgeprune.target import load_target

from ..pruning.conftest import _built
from ..samples.made import latency


class Fusing:
    """A target whose whole time follows the multiplications, told as one region without names."""

    conditions: Mapping[str, Any] = {"device": "made up"}

    def __init__(self, disturbed: float = 1.0) -> None:
        self.ms: dict[Path, float] = {}
        self.disturbed = disturbed
        self.told_trained: list[bool] = []

    def compile(self, model: nn.Module, folder: Path, metadata: Mapping[str, Any]) -> CompiledFiles:
        folder.mkdir(parents=True)
        self.ms[folder] = 1.0 + Pruner(model, 64).macs() * 1e-8
        return CompiledFiles(folder, folder, folder, folder)

    def latency(self, engines: Sequence[Path], effort: float, *, trained: bool = True) -> list[Measurement]:
        self.told_trained.append(trained)
        slower = [self.ms[one] * self.disturbed ** (number % 2) for number, one in enumerate(engines)]
        return [latency((ms,) * 20) for ms in slower]

    def layer_times(self, engine: Path) -> list[LayerTime]:
        return [LayerTime("{ForeignNode[everything]}", "Myelin", self.ms[engine])]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> LayerProfile:
    folder = tmp_path_factory.mktemp("fusing")
    return profile_layers(
        _built("yolov8n.yaml"), Fusing(), imgsz=64, align=8, folder=folder / "work", cache=folder / "cache"
    )


def test_a_runtime_without_layer_names_is_shared_out_by_multiplications(found: LayerProfile) -> None:
    assert found.nodes == 0
    assert abs(found.fit.median_error) < 0.05
    assert "shared out by multiplications" in layer_costs_text(found.costs())


def test_a_runtime_that_times_no_layers_is_shared_out_as_well(tmp_path: Path, found: LayerProfile) -> None:
    """ONNX Runtime on a GPU that its profiler does not see."""

    class Silent(Fusing):
        def layer_times(self, engine: Path) -> list[LayerTime]:
            return []

    silent = profile_layers(_built("yolov8n.yaml"), Silent(), imgsz=64, align=8, folder=tmp_path / "work")
    assert (silent.nodes, silent.fit.errors) == (0, found.fit.errors)


def test_the_whole_is_still_what_was_measured(found: LayerProfile) -> None:
    for sample in found.copies:
        assert found.fit.model.total_ms(sample.widths) == pytest.approx(sample.total_ms, rel=0.1)


def test_the_softmax_and_the_decoding_behind_the_layers_have_a_row(found: LayerProfile) -> None:
    unpruned, *copies = found.copies
    timed = replace(unpruned, layer_ms={**unpruned.layer_ms, FIXED: 0.2 * unpruned.total_ms})
    costs = replace(found, copies=(timed, *copies)).costs()
    assert sum(layer.ms for layer in costs.layers) == pytest.approx(costs.total_ms)
    plot = layer_costs_plot(costs)
    assert any("softmax" in row[0] for row in plot.table.rows) and "softmax" in plot.svg


def test_a_profile_that_other_work_disturbed_is_used_once_and_not_kept(tmp_path: Path) -> None:
    kept = []
    for disturbed in (4.0, 1.0):
        bench = Fusing(disturbed)
        cache = tmp_path / "cache"
        profile_layers(
            _built("yolov8n.yaml"), bench, imgsz=64, align=8, folder=tmp_path / f"work-{disturbed}", cache=cache
        )
        kept.append(len(list(cache.glob("*.json"))) if cache.exists() else 0)
    assert kept == [0, 1]


def test_a_folder_of_profiles_that_cannot_be_made_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    bench = Fusing()
    given: dict[str, Any] = {"imgsz": 64, "align": 8, "folder": tmp_path / "work", "cache": tmp_path / "file"}
    with pytest.raises(TargetError, match="is a file; give the path of a folder"):
        profile_layers(_built("yolov8n.yaml"), bench, **given)
    assert bench.ms == {}


def test_a_kept_profile_says_since_when_and_is_of_these_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> str:
        made = profile_layers(
            _built("yolov8n.yaml"), Fusing(), imgsz=64, align=8, folder=tmp_path / "work", cache=tmp_path / "cache"
        )
        return layer_costs_text(made.costs())

    before = datetime.now(timezone.utc).date()
    assert "kept since" not in found()
    days = {before, datetime.now(timezone.utc).date()}  # two at midnight
    told = [f"kept since {day}: another --cache measures anew" for day in days]
    again = found()
    assert any(one in again for one in told)
    monkeypatch.setattr(version, "installed", lambda package: "0.0.1")
    assert "kept since" not in found()


def test_copies_that_nobody_trained_are_timed_as_such(tmp_path: Path) -> None:
    bench = Fusing()
    profile_layers(_built("yolov8n.yaml"), bench, imgsz=64, align=8, folder=tmp_path / "work")
    assert bench.told_trained == [False]


def test_widths_in_other_multiples_are_another_profile(tmp_path: Path) -> None:
    for align in (8, 1):
        profile_layers(
            _built("yolov8n.yaml"), Fusing(), imgsz=64, align=align, folder=tmp_path / "work", cache=tmp_path / "cache"
        )
    assert len(list((tmp_path / "cache").glob("*.json"))) == 2


def with_other_weights(model: nn.Module) -> nn.Module:
    other = deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter *= 2
    return other


def of_other(change: Callable[[dict[str, Any]], object]) -> nn.Module:
    """YOLOv8n by a changed description, in the same shapes."""
    from ultralytics.nn.tasks import DetectionModel

    described = deepcopy(_built("yolov8n.yaml").yaml)
    change(described)
    return DetectionModel(described, verbose=False).float().eval()


@pytest.mark.parametrize(
    "change",
    [
        lambda described: described.update(activation="torch.nn.ReLU()"),
        lambda described: described["backbone"][9].__setitem__(3, [1024, 13]),
        lambda described: described["head"][0].__setitem__(3, [None, 2, "bilinear"]),
    ],
    ids=["activation", "pooling", "resizing"],
)
def test_models_of_the_same_shapes_have_a_profile_each(change: Callable[[dict[str, Any]], object]) -> None:
    known, other = of_other(lambda described: None), of_other(change)
    assert shape_signature(known) == shape_signature(other)
    files = {
        cache_file(Path("cache"), {}, timed_model(Pruner(one, 64)), 8).name for one in (known, deepcopy(known), other)
    }
    assert len(files) == 2


def test_attention_of_other_heads_is_another_architecture() -> None:
    known, other = (deepcopy(_built("yolo11n.yaml")) for _ in range(2))
    attention = other.model[10].m[0].attn
    attention.num_heads, attention.key_dim, attention.head_dim = 1, attention.key_dim * 2, attention.head_dim * 2
    assert architecture_digest(known) != architecture_digest(other)


@pytest.mark.parametrize("name", ["yolo11n", "yolo26n", "yolov10n", "yolo11n-seg"])
def test_the_digest_of_an_architecture_is_of_no_weights_and_of_nothing_that_a_run_leaves(name: str) -> None:
    model, other = deepcopy(_built(f"{name}.yaml")), with_other_weights(_built(f"{name}.yaml"))
    digest = architecture_digest(model)
    assert digest == architecture_digest(other)
    model.train()
    model(torch.zeros(2, 3, 64, 64))
    model.eval()
    model(torch.zeros(1, 3, 64, 96))
    model.set_head_attr(max_det=450, agnostic_nms=True)  # as a validation does
    assert digest == architecture_digest(model) == architecture_digest(deepcopy(model).half())


def test_only_times_with_nms_inside_are_of_the_weights() -> None:
    models = [_built("yolov8n.yaml"), with_other_weights(_built("yolov8n.yaml"))]
    assert len({str(timed_model(Pruner(model, 64))) for model in models}) == 1
    assert len({str(timed_model(Pruner(model, 64, head="nms"))) for model in models}) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"measure.threads": 2},
        {"measure.copies": False},
        {"measure.cuda_graph": True},
        {"budget.scope": "end_to_end"},
    ],
    ids=str,
)
def test_what_of_a_frame_is_timed_is_part_of_the_conditions(changes: dict[str, Any]) -> None:
    target = load_target("desktop-cuda")
    assert timing_inputs(target.changed(changes), None) != timing_inputs(target, None)
