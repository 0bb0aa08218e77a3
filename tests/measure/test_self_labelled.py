"""Accuracy of every task where it must be near 1: labels are the model's own PyTorch predictions.

A decoder that swaps columns, scales masks wrongly or turns angles round is far from 1, which the second half shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.measure.accuracy import accuracy
from edgeprune.runtimes.onnxruntime_ import OnnxRuntime
from tests.export.helpers import saved, stock_model
from tests.measure.self_labelled import answering, self_labelled, square_images

FAMILIES = ("yolov8", "yolo26")
TASKS = ("detect", "segment", "pose", "obb")
IMGSZ = {"detect": 320, "segment": 320, "pose": 320, "obb": 160}  # NMS of rotated boxes is slow
# Masks lose to rasterisation what boxes, keypoints and angles do not: there mAP50 tells right from wrong.
KEYS = {task: f"metrics/mAP50-95({letter})" for task, letter in zip(TASKS, "BMPB", strict=True)}
LEAST = {"detect": 0.9, "segment": 0.8, "pose": 0.9, "obb": 0.9}


class Case(NamedTuple):
    pt: Path
    onnx: Path
    data: Path


@pytest.fixture(scope="module")
def case(shared, tmp_path_factory) -> Callable[[str, str], Case]:
    """A random model of a family and task, its export, and a dataset of its own predictions."""
    sources = sorted((shared / "data" / "coco8" / "images").rglob("*.jpg"))[:8]
    done: dict[tuple[str, str], Case] = {}

    def get(family: str, task: str) -> Case:
        if (family, task) not in done:
            root = tmp_path_factory.mktemp(f"{family}-{task}")
            images = square_images(sources, root / "images" / "val", IMGSZ[task])
            model = answering(stock_model(family, task, random_norms=True), images)
            data = self_labelled(model, images, root, task, end_to_end=family == "yolo26")
            found = Case(saved(model, root / "m.pt"), root / "m.onnx", data)
            onnx_from_checkpoint(found.pt, found.onnx, imgsz=IMGSZ[task])
            done[family, task] = found
        return done[family, task]

    return get


def figure(found: Any) -> float:
    return found.map50 if found.task == "segment" else found.map50_95


@pytest.mark.parametrize(
    ("family", "task"),
    [
        *(("yolov8", task) for task in TASKS),
        ("yolo26", "obb"),
        *(pytest.param("yolo26", task, marks=pytest.mark.slow) for task in TASKS if task != "obb"),
    ],
)
def test_an_export_finds_what_its_model_found(family, task, case):
    pt, onnx, data = case(family, task)
    found = accuracy(onnx, data=data)
    assert figure(found) > LEAST[task]
    assert found.fitness_key == KEYS[task]
    assert len(found.per_class) > 1  # a swapped class would be seen
    assert figure(accuracy(pt, data=data, imgsz=IMGSZ[task], device="cpu")) == pytest.approx(figure(found), abs=0.01)


class Broken(OnnxRuntime):
    """A runtime whose outputs are decoded wrongly."""

    def __init__(self, mistake: Callable[[list[np.ndarray]], list[np.ndarray]]) -> None:
        super().__init__("cpu")
        self.mistake = mistake

    @contextmanager
    def session(self, model: Path, *, threads: int = 0):
        with super().session(model, threads=threads) as session:
            right = session.run

            def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
                outputs = right(inputs)
                return dict(zip(outputs, self.mistake([o.copy() for o in outputs.values()]), strict=True))

            session.run = run
            yield session


def _swapped_sides(outputs: list[np.ndarray]) -> list[np.ndarray]:
    outputs[0][:, [0, 1, 2, 3]] = outputs[0][:, [1, 0, 3, 2]]
    return outputs


def _swapped_classes(outputs: list[np.ndarray]) -> list[np.ndarray]:
    outputs[0][:, [4, 5, 6]] = outputs[0][:, [5, 6, 4]]
    return outputs


def _next_coefficients(outputs: list[np.ndarray]) -> list[np.ndarray]:
    outputs[0][:, 7:] = -outputs[0][:, 7:]
    return outputs


def _shifted_prototypes(outputs: list[np.ndarray]) -> list[np.ndarray]:
    outputs[1] = np.repeat(np.repeat(outputs[1][:, :, ::2, ::2], 2, axis=2), 2, axis=3)[:, :, ::-1]
    return outputs


def _halved_keypoints(outputs: list[np.ndarray]) -> list[np.ndarray]:
    outputs[0][:, 7::3] /= 2
    return outputs


def _turned_angle(outputs: list[np.ndarray]) -> list[np.ndarray]:
    outputs[0][:, -1] += np.pi / 4
    return outputs


@pytest.mark.parametrize(
    ("task", "mistake"),
    [
        ("detect", _swapped_sides),
        ("detect", _swapped_classes),
        ("segment", _next_coefficients),
        ("segment", _shifted_prototypes),
        ("pose", _halved_keypoints),
        ("obb", _turned_angle),
    ],
)
def test_a_broken_decoder_is_far_from_it(task, mistake, case):
    _, onnx, data = case("yolov8", task)
    right, wrong = (figure(accuracy(onnx, data=data, runtime=runtime)) for runtime in (OnnxRuntime(), Broken(mistake)))
    assert right > LEAST[task]
    assert wrong < right - 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_classifier_of_its_own_labels_is_always_right(family, shared, tmp_path):
    sources = sorted((shared / "data" / "coco8" / "images").rglob("*.jpg"))[:8]
    images = square_images(sources, tmp_path / "squares", 64)
    pixels = torch.stack([torch.from_numpy(np.asarray(Image.open(image), np.float32)) for image in images])
    pixels = pixels.permute(0, 3, 1, 2) / 255
    model = stock_model(family, "classify", random_norms=True)
    head = model.model[-1].linear
    with torch.inference_mode(), torch.no_grad():
        logits = model(pixels)[1]
        head.bias.sub_(logits.mean(dim=0))  # else one class would win everywhere
        labels = model(pixels)[0].argmax(dim=1).tolist()
    assert len(set(labels)) > 1
    for split in ("train", "val"):
        for number in range(3):
            (tmp_path / "d" / split / f"class{number}").mkdir(parents=True)
        for image, label in zip(images, labels, strict=True):
            (tmp_path / "d" / split / f"class{label}" / image.name).symlink_to(image)
    onnx_from_checkpoint(saved(model, tmp_path / "m.pt"), tmp_path / "m.onnx", imgsz=64)
    assert accuracy(tmp_path / "m.onnx", data=tmp_path / "d").map50_95 == 1.0
    rolled = Broken(lambda outputs: [np.roll(outputs[0], 1, axis=1)])
    assert accuracy(tmp_path / "m.onnx", data=tmp_path / "d", runtime=rolled).map50_95 == 0.0
