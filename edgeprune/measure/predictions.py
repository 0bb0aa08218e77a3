"""What a model finds in images, and what their labels say, in one form for all tasks.

Inference, non-maximum suppression and the way back to the image's own pixels are Ultralytics' predictors; only the
forward pass is the runtime's, as for :mod:`edgeprune.measure.accuracy`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.dataset.images import read_image
from edgeprune.dataset.labels import LabelRow, read_labels
from edgeprune.errors import DataError, EdgepruneError, StageError, first_line
from edgeprune.export.detections import CONFIDENCE, MAX_ROWS, NMS_IOU
from edgeprune.export.module import head_arguments
from edgeprune.families import family_for
from edgeprune.input_size import Size
from edgeprune.measure.accuracy import subject_of
from edgeprune.quiet import process_state_kept, quiet
from edgeprune.rectangle import at_exact_size
from edgeprune.runtimes.base import Runtime

Point = tuple[float, float]
TOP_CLASSES = 5  # classes that a classifier's answer keeps


@dataclass(frozen=True)
class Detection:
    """One object in an image; coordinates in the image's own pixels.

    Attributes:
        label: index of its class.
        score: 0 to 1; None in a label.
        box: left, top, right, bottom; of a rotated box the upright one around it. None from a classifier.
        outlines: polygons of a mask, or the four corners of a rotated box.
        keypoints: x, y and visibility (or score).
    """

    label: int
    score: float | None
    box: tuple[float, float, float, float] | None
    outlines: tuple[tuple[Point, ...], ...] = ()
    keypoints: tuple[tuple[float, float, float], ...] = ()


@process_state_kept()
def predict(
    model: Path,
    images: Sequence[Path],
    *,
    imgsz: Size | None = None,
    runtime: Runtime | None = None,
    metadata: Mapping[str, str] | None = None,
    confidence: float = CONFIDENCE,
    most: int = MAX_ROWS,
) -> list[tuple[Detection, ...]]:
    """What a model finds in each image, best score first; a classifier's five likeliest classes.

    Args:
        model: a checkpoint, an ONNX file, or an engine that ``runtime`` loads.
        images: image files.
        imgsz: side, or height and width, in pixels; the artifact's own when None.
        runtime: runs ONNX files and engines; ONNX Runtime on the CPU when None.
        metadata: of an engine whose file does not hold it, as in :func:`~edgeprune.measure.accuracy.accuracy`.
        confidence: least score of a detection.
        most: detections of an image; an export whose own NMS or head has room for fewer gives no more than that.

    Raises:
        DataError: a file that cannot be read.
        StageError: the model could not be run.
    """
    with subject_of(model, imgsz, 1, runtime, "auto", metadata) as subject, quiet():
        predictor = at_exact_size(family_for(subject.task).predictor)(
            overrides={
                "task": subject.task,
                "mode": "predict",
                "imgsz": list(subject.imgsz),
                "batch": 1,
                "rect": False,  # the square that ships
                "conf": confidence,
                "iou": NMS_IOU,
                "max_det": most,
                "device": "cpu",
                "save": False,
                "verbose": False,
                **head_arguments(end_to_end=subject.end_to_end),
            }
        )
        if subject.task == "classify" and subject.channels != 3:  # Ultralytics' predictor knows no others
            raise DataError(f"images of a classifier are read in 3 channels, and {model} takes {subject.channels}")
        try:
            results = [
                predictor(source=read_image(image, subject.channels, task=subject.task), model=subject.module)[0]
                for image in images
            ]
        except (EdgepruneError, KeyboardInterrupt):
            raise
        except (RuntimeError, ValueError, TypeError, OSError, KeyError, IndexError, AssertionError) as error:
            raise StageError(f"running {model} on {len(images)} images failed: {first_line(error)}") from error
    return [_detections(result) for result in results]


def read_objects(
    image: Path, size: tuple[int, int], task: str, names: Mapping[int, str], kpt_shape: Sequence[int] | None
) -> tuple[Detection, ...]:
    """The objects in an image's label file, in pixels of an image of ``size`` (height, width).

    An image without a label file has no objects, and a line that stands twice is one, as for Ultralytics. Keypoints,
    numbered as ``kpt_shape`` of the dataset says, are for a model of task pose; another one sees the boxes, as
    Ultralytics trains it.

    Raises:
        DataError: a line that is not a label of this task.
    """
    objects: dict[tuple[float, ...], Detection] = {}
    for row in read_labels(image):
        try:
            numbers = _numbers(row, task, kpt_shape)
            label = _label(numbers, size, task, kpt_shape)
        except (ValueError, IndexError) as error:
            text = " ".join(row.values)[:40]
            raise DataError(f"{row.file}: line {row.line} is not a label of a {task} dataset: {text!r}") from error
        objects.setdefault(_as_told_apart(numbers), label if len(names) > 1 else replace(label, label=0))
    return tuple(objects.values())


def most_objects(images: Iterable[Path], task: str, kpt_shape: Sequence[int] | None) -> int:
    """Detections of an image that mAP looks at: 300, or as many as one of these images has objects (as
    :func:`read_objects` counts them), where that is more. An image whose label file is none counts nothing: mAP leaves
    it out."""
    most = MAX_ROWS
    for image in images if task != "classify" else ():
        with suppress(DataError, ValueError):
            if len(rows := read_labels(image)) > most:
                most = max(most, len({_as_told_apart(_numbers(row, task, kpt_shape)) for row in rows}))
    return most


def _numbers(row: LabelRow, task: str, kpt_shape: Sequence[int] | None) -> list[float]:
    """A label's class and coordinates, without the keypoints that a model of another task than pose does not see."""
    cut = task != "pose" and kpt_shape and len(row.values) == 5 + kpt_shape[0] * kpt_shape[1]
    return [float(value) for value in (row.values[:5] if cut else row.values)]


def _as_told_apart(numbers: Sequence[float]) -> tuple[float, ...]:
    """A label's numbers in the precision in which Ultralytics finds the same line twice, of which it takes one."""
    return tuple(np.asarray(numbers, np.float32).tolist())


def _label(row: list[float], size: tuple[int, int], task: str, kpt_shape: Sequence[int] | None) -> Detection:
    height, width = size
    label, rest = int(row[0]), np.array(row[1:])
    if task != "pose" and len(rest) > 4:  # a polygon, or the corners of a rotated box
        points = rest.reshape(-1, 2) * (width, height)
        (left, top), (right, bottom) = points.min(0), points.max(0)
        box = (float(left), float(top), float(right), float(bottom))
        return Detection(label, None, box, (_points(points),) if task in ("segment", "obb") else ())
    x, y, w, h = rest[:4] * (width, height, width, height)
    box = (float(x - w / 2), float(y - h / 2), float(x + w / 2), float(y + h / 2))
    keypoints: tuple[tuple[float, float, float], ...] = ()
    if task == "pose" and kpt_shape:
        points = rest[4:].reshape(kpt_shape[0], kpt_shape[1])
        visibility = points[:, 2] if kpt_shape[1] == 3 else (points.sum(1) > 0).astype(float)
        keypoints = tuple(
            (float(p[0] * width), float(p[1] * height), float(v)) for p, v in zip(points, visibility, strict=True)
        )
    return Detection(label, None, box, (), keypoints)


def _detections(result: Any) -> tuple[Detection, ...]:
    if result.probs is not None:
        best = zip(result.probs.top5[:TOP_CLASSES], result.probs.top5conf[:TOP_CLASSES].tolist(), strict=True)
        return tuple(Detection(int(label), float(score), None) for label, score in best)
    rows = result.obb if result.obb is not None else result.boxes
    order = np.argsort(-rows.conf.numpy(), kind="stable")
    outlines: list[tuple[tuple[Point, ...], ...]] = [()] * len(rows)
    if result.obb is not None:
        outlines = [(_points(corners),) for corners in rows.xyxyxyxy.numpy()]
    elif result.masks is not None:
        outlines = [(_points(_simplified(points)),) if len(points) else () for points in result.masks.xy]
    keypoints = [()] * len(rows)
    if result.keypoints is not None and result.keypoints.data.shape[1]:
        data = result.keypoints.data.numpy()
        keypoints = [
            tuple((float(p[0]), float(p[1]), float(p[2]) if len(p) > 2 else 1.0) for p in points) for points in data
        ]
    boxes, scores, labels = rows.xyxy.tolist(), rows.conf.tolist(), rows.cls.tolist()
    return tuple(Detection(int(labels[i]), scores[i], tuple(boxes[i]), outlines[i], keypoints[i]) for i in order)


def _simplified(points: np.ndarray) -> np.ndarray:
    """A mask's outline without the corners that move it by less than a pixel."""
    import cv2

    return cv2.approxPolyDP(points.astype(np.float32)[:, None], 1.0, True)[:, 0]


def _points(points: np.ndarray) -> tuple[Point, ...]:
    return tuple((float(x), float(y)) for x, y in points)
