"""The same images through several models: what each finds and misses, and where it differs from the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from edgeprune.dataset import Dataset
from edgeprune.dataset.images import read_image
from edgeprune.input_size import Size
from edgeprune.measure.predictions import Detection, most_objects, predict, read_objects
from edgeprune.progress import Progress, silent
from edgeprune.runtimes.base import Runtime

MIN_OVERLAP = 0.5  # two boxes of a class are the same object when they overlap this much, as in mAP50
JPEG_SIDE = 480  # longest side of an embedded image in pixels
JPEG_QUALITY = 82  # of its JPEG
IMAGES_PER_SCENE = 4  # images that are run for each one that is shown


@dataclass(frozen=True)
class SceneResult:
    """What one model finds in one image.

    Attributes:
        name: of the model.
        detections: what it finds, best first; a classifier's likeliest classes.
        right: for each detection, whether it is an object of the labels (same class, overlap of a half or more).
        same: for each detection, whether the first model has it too; all True for the first model itself.
        missed: objects of the labels that it did not find.
        lost: right detections of the first model that it does not have.
        gone: likewise, its wrong ones: the labels have no such object, so that nothing was lost.
    """

    name: str
    detections: tuple[Detection, ...]
    right: tuple[bool, ...]
    same: tuple[bool, ...]
    missed: tuple[Detection, ...]
    lost: tuple[Detection, ...]
    gone: tuple[Detection, ...]

    @property
    def new(self) -> int:
        """How many of its detections the first model does not have."""
        return self.same.count(False)

    @property
    def difference(self) -> int:
        """How many detections it and the first model do not have in common."""
        return len(self.lost) + len(self.gone) + self.new


@dataclass(frozen=True)
class Scene:
    """One image with its labels and what each model finds in it.

    Attributes:
        image: name of its file.
        height, width: of the image in pixels; every coordinate is in these.
        jpeg: the image, no side longer than 480 pixels.
        task: detect, segment, pose, obb or classify.
        names: class names by index.
        truth: its labels.
        results: one a model, in the order given.
    """

    image: str
    height: int
    width: int
    jpeg: bytes
    task: str
    names: Mapping[int, str]
    truth: tuple[Detection, ...]
    results: tuple[SceneResult, ...]

    @cached_property
    def difference(self) -> int:
        """How many detections the models do not have in common with the first."""
        return sum(result.difference for result in self.results)

    def to_json(self) -> dict[str, object]:
        """Counts by model; plain data."""
        return {
            "image": self.image,
            "objects": len(self.truth),
            "models": [
                {
                    "model": result.name,
                    "found": len(result.detections),
                    "right": sum(result.right),
                    "missed": len(result.missed),
                    "same_as_first": sum(result.same),
                    "lost": len(result.lost),
                    "gone": len(result.gone),
                    "new": result.new,
                }
                for result in self.results
            ],
        }


@dataclass(frozen=True)
class SceneModel:
    """A model to run on images: its name for people, its file, and what runs it."""

    name: str
    path: Path
    runtime: Runtime | None = None
    imgsz: Size | None = None
    metadata: Mapping[str, str] | None = None


def choose_scenes(
    models: Sequence[SceneModel],
    dataset: Dataset,
    task: str,
    *,
    split: str = "val",
    count: int = 6,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[Scene, ...]:
    """The images of a seeded sample on which the models differ most from the first one, most first.

    Args:
        models: two or more of the same classes; the first is what the others are held against.
        dataset: images and labels.
        task: of the models.
        split: of the dataset.
        count: images to show; four times as many are run, as far as there are so many.
        seed: of the sample.
        progress: told after every model.

    Raises:
        DataError: an image or label that cannot be read.
    """
    if not count:
        return ()
    images = dataset.sample_images(split, count * IMAGES_PER_SCENE, seed)
    most = most_objects(dataset.images(split), task, dataset.kpt_shape)
    detected = []
    for number, model in enumerate(models):
        progress(f"running {len(images)} images through {model.name}", done=number, total=len(models))
        how = {"imgsz": model.imgsz, "runtime": model.runtime, "metadata": model.metadata, "most": most}
        detected.append(predict(model.path, images, **how))
    scenes = []
    for index, image in enumerate(images):
        pixels = _shown(read_image(image, dataset.channels, task=task))
        size = (pixels.shape[0], pixels.shape[1])
        truth = _truth(dataset, split, image, size, task)
        results = tuple(
            _result(model.name, detections[index], truth, detected[0][index], task)
            for model, detections in zip(models, detected, strict=True)
        )
        scenes.append((pixels, Scene(image.name, *size, b"", task, dataset.names, truth, results)))
    order = sorted(range(len(scenes)), key=lambda index: (-scenes[index][1].difference, index))[:count]
    return tuple(_with_jpeg(*scenes[index]) for index in order)


def _truth(dataset: Dataset, split: str, image: Path, size: tuple[int, int], task: str) -> tuple[Detection, ...]:
    """What the labels of an image say; of a classifier's image the class that the dataset counts it to."""
    if task != "classify":
        return read_objects(image, size, task, dataset.names, dataset.kpt_shape)
    name = dataset.class_of(split, image)
    return tuple(Detection(index, None, None) for index, known in dataset.names.items() if known == name)


def _result(
    name: str, detections: tuple[Detection, ...], truth: tuple[Detection, ...], first: tuple[Detection, ...], task: str
) -> SceneResult:
    """A model's detections held against the labels and against those of the first model."""
    if task == "classify":
        labels = {label.label for label in truth}
        right = tuple(index == 0 and answer.label in labels for index, answer in enumerate(detections))
        same = tuple(index > 0 or answer.label == first[0].label for index, answer in enumerate(detections))
        missed = () if any(right) else truth
        other = () if not detections or same[0] else first[:1]
        lost = tuple(answer for answer in other if answer.label in labels)
        return SceneResult(name, detections, right, same, missed, lost, () if lost else other)
    rotated = task == "obb"
    with_truth = match_labels(detections, truth, rotated=rotated)
    with_first = pair_detections(detections, first, rotated=rotated)
    first_right = match_labels(first, truth, rotated=rotated)
    absent = [index for index in range(len(first)) if index not in with_first.values()]
    return SceneResult(
        name,
        detections,
        tuple(index in with_truth for index in range(len(detections))),
        tuple(index in with_first for index in range(len(detections))),
        tuple(label for index, label in enumerate(truth) if index not in with_truth.values()),
        tuple(first[index] for index in absent if index in first_right),
        tuple(first[index] for index in absent if index not in first_right),
    )


def match_labels(
    detections: Sequence[Detection], truth: Sequence[Detection], *, rotated: bool = False
) -> dict[int, int]:
    """Index of each right detection to the index of its object in ``truth``, matched as mAP does it.

    In the order of the scores, each detection takes the free object of its class that it overlaps most; a second
    detection of one object is wrong.
    """
    overlaps = _overlaps(detections, truth, rotated)
    matches: dict[int, int] = {}
    for index in range(len(detections) if truth else 0):
        best = int(overlaps[index].argmax())
        if overlaps[index, best] >= MIN_OVERLAP:
            matches[index] = best
            overlaps[:, best] = 0.0  # no longer free
    return matches


def pair_detections(
    first: Sequence[Detection], second: Sequence[Detection], *, rotated: bool = False
) -> dict[int, int]:
    """Index in ``first`` to the index in ``second`` of the same object: one to one, of the greatest overlap in all.

    Boxes are compared, also where a mask or keypoints belong to them; ``rotated`` ones as they lie.
    """
    if not first or not second:
        return {}
    overlaps = _overlaps(first, second, rotated)
    overlaps[overlaps < MIN_OVERLAP] = 0.0
    rows, columns = linear_sum_assignment(-overlaps)
    return {int(i): int(j) for i, j in zip(rows, columns, strict=True) if overlaps[i, j] > 0}


def _overlaps(first: Sequence[Detection], second: Sequence[Detection], rotated: bool) -> np.ndarray:
    """Intersection over union of each box of the one with each of the other, shape (first, second), 0 for another
    class; of rotated ones by their corners, where their upright boxes meet at all: a crowd has a million pairs."""
    (labels, boxes), (other_labels, others) = map(_as_arrays, (first, second))
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    both = (high - low).clip(0.0).prod(-1)
    areas, other_areas = ((one[:, 2:] - one[:, :2]).prod(-1) for one in (boxes, others))
    union = areas[:, None] + other_areas[None, :] - both
    alike = (labels[:, None] == other_labels[None, :]) & (union > 0)
    found = np.divide(both, union, out=np.zeros_like(both), where=alike)
    for i, j in zip(*np.nonzero(found), strict=True) if rotated else ():
        if first[i].outlines and second[j].outlines:
            found[i, j] = _overlap_of_corners(first[i], second[j])
    return found


def _as_arrays(detections: Sequence[Detection]) -> tuple[np.ndarray, np.ndarray]:
    """Classes, shape (n,), and boxes, shape (n, 4); a detection without a box has one of no size."""
    boxes = [one.box or (0.0, 0.0, 0.0, 0.0) for one in detections]
    return np.array([one.label for one in detections]), np.array(boxes, np.float64).reshape(-1, 4)


def _overlap_of_corners(a: Detection, b: Detection) -> float:
    """Intersection over union of two rotated boxes."""
    import cv2

    corners_a, corners_b = (np.array(box.outlines[0], np.float32) for box in (a, b))
    both = float(cv2.intersectConvexConvex(corners_a, corners_b)[0])
    union = float(cv2.contourArea(corners_a)) + float(cv2.contourArea(corners_b)) - both
    return both / union if union > 0 else 0.0


def _shown(pixels: np.ndarray) -> np.ndarray:
    """What a page shows of an image: its first three channels, or the one that it has as grey."""
    return pixels[..., :3] if pixels.shape[2] >= 3 else np.repeat(pixels[..., :1], 3, axis=2)


def _with_jpeg(pixels: np.ndarray, scene: Scene) -> Scene:
    import cv2

    scale = min(1.0, JPEG_SIDE / max(scene.height, scene.width))
    if scale < 1:
        size = max(1, round(scene.width * scale)), max(1, round(scene.height * scale))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", np.ascontiguousarray(pixels), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return replace(scene, jpeg=encoded.tobytes())
