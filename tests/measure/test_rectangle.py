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
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.export.parity import parity
from edgeprune.measure.accuracy import accuracy
from edgeprune.measure.predictions import predict
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


@pytest.mark.parametrize(
    ("task", "size"),
    [
        ("detect", (64, 96)),
        ("detect", (96, 64)),
        ("end-to-end", (64, 96)),
        ("segment", (96, 64)),
        ("pose", (64, 96)),
        ("obb", (64, 96)),
        ("classify", (64, 96)),
    ],
)
def test_an_export_at_a_rectangle_is_its_model_and_what_ultralytics_measures(task, size, tmp_path):
    made, name = models.model(task), {"end-to-end": "detect"}.get(task, task)
    if task != "classify":
        made = models.answering(made)
    weights, path = models.saved(made, tmp_path / "w.pt"), tmp_path / "m.onnx"
    onnx_from_checkpoint(weights, path, imgsz=size)
    data = datasets.dataset(tmp_path / "data", name)
    if task == "classify":
        images = sorted((data / "val").rglob("*.png"))
    else:  # of a shape that fits, as one chooses a rectangle: else Ultralytics' validator resizes an image twice
        images = datasets.images_of(resized(data, 2 * size[1], 2 * size[0]), "val")
        reference.self_labelled(path, data, imgsz=size, task=name)
    assert parity(weights, path, images).max_abs <= 1e-3
    found = accuracy(path, data=data)
    expected = reference.accuracy(path, data, imgsz=list(size), task=name)
    assert found.map50_95 == pytest.approx(expected, abs=1e-3)
    assert task in ("classify", "segment", "obb", "pose") or found.map50_95 > 0.1, "else nothing was compared"
    assert accuracy(weights, data=data, imgsz=size, device="cpu").map50_95 == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("task", "size", "shape"),
    [
        ("classify", 100, (100, 100)),
        ("classify", (100, 70), (100, 70)),
        ("detect", 80, (80, 80)),
        ("detect", (48, 80), (48, 80)),
    ],
)
def test_a_size_that_ultralytics_would_round_up_is_measured_and_predicted_at_as_it_was_exported(
    task, size, shape, tmp_path
):
    """A classifier takes any, and a detector without a stride of 32 takes multiples of its own."""
    short = [*models.BACKBONE[:-1], [-1, 1, "Conv", [32, 3, 1]]]
    made = models.model(task) if task == "classify" else models.answering(models.model(task, backbone=short))
    weights, path = models.saved(made, tmp_path / "w.pt"), tmp_path / "m.onnx"
    onnx_from_checkpoint(weights, path, imgsz=size)
    data = datasets.dataset(tmp_path / "data", task)
    if task == "detect":
        resized(data, 2 * shape[1], 2 * shape[0])
    images = sorted((data / "val").rglob("*.png")) if task == "classify" else datasets.images_of(data, "val")
    runtime = Recording()
    answers = [predict(model, images, imgsz=size, confidence=0.1) for model in (path, weights)]
    for ours, theirs in zip(*answers, strict=True):
        assert [one.label for one in ours] == [one.label for one in theirs]
        assert [one.score for one in ours] == pytest.approx([one.score for one in theirs], abs=1e-3)
    assert any(answers[0])
    if task == "detect":
        reference.self_labelled(path, data, imgsz=list(shape))
    found, expected = accuracy(path, data=data, runtime=runtime), accuracy(weights, data=data, imgsz=size, device="cpu")
    assert {seen.shape[2:] for seen in runtime.seen} == {shape}
    assert found.imgsz == expected.imgsz == shape
    assert found.metrics == pytest.approx(expected.metrics, abs=1e-3)
    assert task == "classify" or found.map50_95 > 0.1, "else nothing was compared"


@pytest.mark.shared
def test_real_blood_cells_at_a_rectangle_that_fits_them(shared, tmp_path):
    weights, path = shared / "weights" / "bccd-yolov8n-320.pt", tmp_path / "m.onnx"
    onnx_from_checkpoint(weights, path, imgsz=(256, 320))
    found = accuracy(path, data=shared / "data" / "bccd" / "data.yaml")
    assert found.map50_95 == pytest.approx(
        reference.accuracy(path, shared / "data" / "bccd" / "data.yaml", imgsz=[256, 320]), abs=1e-3
    )
    assert found.map50_95 > 0.5
