"""A runtime that fuses layers under names of its own still gives a profile, and says what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from edgeprune.pruning.pruner import Pruner
from edgeprune.runtimes.base import LayerTime
from edgeprune.samples.measurement import Measurement
from edgeprune.search.profile import Profile, profiled
from edgeprune.sweep.figures import profile_summary

from ..pruning.conftest import _built


class Fusing:
    """A target whose whole time follows the multiplications, told as one region without names."""

    conditions: Mapping[str, Any] = {"device": "made up"}

    def __init__(self, disturbed: float = 1.0) -> None:
        self.ms: dict[Path, float] = {}
        self.disturbed = disturbed

    def compiled(self, model: nn.Module, folder: Path, metadata: Mapping[str, Any]) -> dict[str, tuple[str, Path]]:
        folder.mkdir(parents=True)
        self.ms[folder] = 1.0 + Pruner(model, 64).macs() * 1e-8
        return {"engine": ("engine", folder)}

    def raced(self, engines: Sequence[Path], effort: float) -> list[Measurement]:
        slower = [self.ms[one] * self.disturbed ** (number % 2) for number, one in enumerate(engines)]
        return [Measurement(name="latency", unit="ms", values=(ms,) * 20) for ms in slower]

    def taken_apart(self, engine: Path) -> list[LayerTime]:
        return [LayerTime("{ForeignNode[everything]}", "Myelin", self.ms[engine])]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    folder = tmp_path_factory.mktemp("fusing")
    return profiled(_built("yolov8n.yaml"), Fusing(), imgsz=64, align=8, folder=folder / "work", cache=folder / "cache")


def test_a_runtime_without_layer_names_is_shared_out_by_multiplications(found: Profile) -> None:
    assert found.nodes == 0
    assert abs(found.fit.median_error) < 0.05
    assert "shared out by multiplications" in profile_summary(found)


def test_the_whole_is_still_what_was_measured(found: Profile) -> None:
    for sample in found.samples:
        assert found.fit.model.total_ms(sample.widths) == pytest.approx(sample.whole_ms, rel=0.1)


def test_a_profile_that_other_work_disturbed_is_used_once_and_not_kept(tmp_path: Path) -> None:
    kept = []
    for disturbed in (4.0, 1.0):
        bench = Fusing(disturbed)
        cache = tmp_path / "cache"
        profiled(_built("yolov8n.yaml"), bench, imgsz=64, align=8, folder=tmp_path / f"work-{disturbed}", cache=cache)
        kept.append(len(list(cache.glob("*.json"))) if cache.exists() else 0)
    assert kept == [0, 1]
