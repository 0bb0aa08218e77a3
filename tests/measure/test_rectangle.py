"""Accuracy of an export that is not square: its own height and width, its images as every other reader gives them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeprune.errors import TargetError
from edgeprune.export.images import batch_from_images
from edgeprune.measure.accuracy import accuracy
from edgeprune.runtimes.onnxruntime_ import OnnxRuntime
from tests.situations import datasets, graphs, models, reference


class Recording(OnnxRuntime):
    """ONNX Runtime that keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[np.ndarray] = []

    @contextmanager
    def session(self, model: Path, *, threads: int = 0) -> Iterator[Any]:
        with super().session(model, threads=threads) as session:
            run = session.run

            def recorded(inputs: Any) -> Any:
                self.seen += inputs.values()
                return run(inputs)

            session.run = recorded  # type: ignore[method-assign]
            yield session


def resized(data: Path, width: int, height: int) -> Path:
    for image in datasets.images_of(data, "val"):
        Image.open(image).resize((width, height)).save(image)
    return data


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("size", [(64, 96), (96, 64)])
def test_a_rectangle_is_measured_at_its_own_size(size, dynamic, tmp_path):
    data = resized(datasets.dataset(tmp_path / "data", "detect"), 2 * size[1], 2 * size[0])
    path = graphs.stock(models.answering(models.model()), tmp_path / "model.onnx", imgsz=list(size), dynamic=dynamic)
    reference.self_labelled(path, data, imgsz=size)
    found = accuracy(path, data=data)
    assert found.map50_95 > 0.15  # on its own detections by Ultralytics' predictor
    assert accuracy(path, data=data, imgsz=size).map50_95 == found.map50_95
    resized(data, 80, 60)  # of another shape
    runtime = Recording()
    accuracy(path, data=data, runtime=runtime)
    expected = batch_from_images(datasets.images_of(data, "val"), imgsz=size)
    np.testing.assert_array_equal(np.concatenate(runtime.seen), expected)
    if not dynamic:
        with pytest.raises(TargetError, match=f"takes images of {size[0]} × {size[1]}, not of 64 × 64"):
            accuracy(path, data=data, imgsz=64)


def test_a_classifier_is_measured_at_its_own_size(tmp_path):
    data = datasets.dataset(tmp_path / "data", "classify")
    path = graphs.stock(models.answering(models.model("classify")), tmp_path / "model.onnx", imgsz=[64, 96])
    assert accuracy(path, data=data).images == sum(1 for _ in (data / "val").rglob("*.png"))
