"""The simplify stage holds its graph against the source on real images."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeprune.dataset import Dataset
from edgeprune.export import simplify
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.export.result import SimplifyInfo
from edgeprune.measure.accuracy import compared_images
from edgeprune.progress import Silent
from edgeprune.stages.simplify import STAGE
from edgeprune.target import load_target
from tests.situations import datasets, models


def test_a_build_simplifies_by_images_of_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Dataset.load(datasets.dataset(tmp_path / "data", "detect"), task="detect")
    source = tmp_path / "source.onnx"
    onnx_from_checkpoint(models.saved(models.model(), tmp_path / "m.pt"), source, imgsz=64)
    asked: list[Any] = []

    def kept(*arguments: Any, images: Any = (), **options: Any) -> SimplifyInfo:
        asked.append(images)
        return original(*arguments, images=images, **options)

    original = simplify.simplify_onnx
    monkeypatch.setattr(simplify, "simplify_onnx", kept)
    target = load_target("cpu").with_overrides(imgsz=64)
    site: Any = SimpleNamespace(target=target, seed=0, reporter=Silent())
    made: Any = SimpleNamespace(
        target=target,
        dataset=data,
        site=site,
        reporter=Silent(),
        record=lambda facts: SimpleNamespace(path=lambda name: source),
    )
    (tmp_path / "out").mkdir()
    found = STAGE.run(made, tmp_path / "out", None)  # pyright: ignore[reportArgumentType]
    assert asked == [compared_images(data, target.accuracy.split, 0)] and len(asked[0]) > 0
    assert found.facts.nodes.after < found.facts.nodes.before
