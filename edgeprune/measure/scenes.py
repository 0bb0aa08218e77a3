"""The same images through several models: what each found, what it missed, and where it differs from the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from edgeprune.dataset import Dataset
from edgeprune.errors import DataError
from edgeprune.measure.predictions import Found, labels_of, predictions
from edgeprune.progress import Progress, silent
from edgeprune.runtimes.base import Runtime

OVERLAP = 0.5  # two boxes of a class are the same object when they overlap this much, as in mAP50
SIDE = 480  # longest side of an embedded image in pixels
QUALITY = 82  # of its JPEG
LOOKED_AT = 4  # images that are run for each one that is shown


@dataclass(frozen=True)
class Seen:
    """What one model found in one image.

    Attributes:
        name: of the model.
        found: its detections, best first; a classifier's likeliest classes.
        right: for each detection, whether it is an object of the labels (same class, overlap of a half or more).
        same: for each detection, whether the first model has it too; all True for the first model itself.
        missed: objects of the labels that it did not find.
        lost: detections of the first model that it does not have.
    """

    name: str
    found: tuple[Found, ...]
    right: tuple[bool, ...]
    same: tuple[bool, ...]
    missed: tuple[Found, ...]
    lost: tuple[Found, ...]

    @property
    def difference(self) -> int:
        """How many detections it and the first model do not have in common."""
        return len(self.lost) + self.same.count(False)


@dataclass(frozen=True)
class Scene:
    """One image with its labels and what each model found.

    Attributes:
        image: name of its file.
        height, width: of the image in pixels; every coordinate is in these.
        jpeg: the image, no side longer than 480 pixels.
        task: detect, segment, pose, obb or classify.
        names: class names by index.
        truth: its labels.
        seen: by model, in the order given.
    """

    image: str
    height: int
    width: int
    jpeg: bytes
    task: str
    names: Mapping[int, str]
    truth: tuple[Found, ...]
    seen: tuple[Seen, ...]

    @cached_property
    def difference(self) -> int:
        """How many detections the models do not have in common with the first."""
        return sum(one.difference for one in self.seen)

    def to_json(self) -> dict[str, object]:
        """Counts by model; plain data."""
        return {
            "image": self.image,
            "objects": len(self.truth),
            "models": [
                {
                    "model": one.name,
                    "found": len(one.found),
                    "right": sum(one.right),
                    "missed": len(one.missed),
                    "same_as_first": sum(one.same),
                    "lost": len(one.lost),
                    "new": one.same.count(False),
                }
                for one in self.seen
            ],
        }


@dataclass(frozen=True)
class Looker:
    """A model as scenes take it: its name for people, its file, and what runs it."""

    name: str
    path: Path
    runtime: Runtime | None = None
    imgsz: int | None = None
    metadata: Mapping[str, str] | None = None


def scenes(
    models: Sequence[Looker],
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
        count: images to show; four times as many are looked at, as far as there are so many.
        seed: of the sample.
        progress: told after every model.

    Raises:
        DataError: an image or label that cannot be read.
    """
    images = dataset.sample_images(split, count * LOOKED_AT, seed)
    found = []
    for number, model in enumerate(models):
        progress(f"looking at {len(images)} images with {model.name}", done=number, total=len(models))
        found.append(predictions(model.path, images, imgsz=model.imgsz, runtime=model.runtime, metadata=model.metadata))
    made = []
    for index, image in enumerate(images):
        pixels, size = _read(image)
        truth = labels_of(image, size, task, dataset.names, dataset.kpt_shape)
        seen = tuple(
            _seen(model.name, one[index], truth, found[0][index], task)
            for model, one in zip(models, found, strict=True)
        )
        made.append((pixels, Scene(image.name, *size, b"", task, dataset.names, truth, seen)))
    order = sorted(range(len(made)), key=lambda index: (-made[index][1].difference, index))[:count]
    return tuple(_with_jpeg(*made[index]) for index in order)


def _seen(name: str, found: tuple[Found, ...], truth: tuple[Found, ...], first: tuple[Found, ...], task: str) -> Seen:
    if task == "classify":
        best, wanted = found[:1], {one.label for one in truth}
        right = tuple(index == 0 and one.label in wanted for index, one in enumerate(found))
        same = tuple(index > 0 or one.label == first[0].label for index, one in enumerate(found))
        missed = () if any(right) else truth
        return Seen(name, found, right, same, missed, () if not best or same[0] else first[:1])
    rotated = task == "obb"
    with_truth, with_first = credited(found, truth, rotated=rotated), pairs(found, first, rotated=rotated)
    return Seen(
        name,
        found,
        tuple(index in with_truth for index in range(len(found))),
        tuple(index in with_first for index in range(len(found))),
        tuple(one for index, one in enumerate(truth) if index not in with_truth.values()),
        tuple(one for index, one in enumerate(first) if index not in with_first.values()),
    )


def credited(found: Sequence[Found], truth: Sequence[Found], *, rotated: bool = False) -> dict[int, int]:
    """Index in ``found`` to the index of the labels' object that it gets the credit for, as mAP gives it: in the order
    of the scores, each takes the object that it overlaps most of those still free; a second one for it is wrong."""
    free, got = set(range(len(truth))), {}
    for index, one in enumerate(found):
        shared = {j: _overlap(one, truth[j], rotated) for j in free if truth[j].label == one.label}
        best = max(shared, key=lambda j: (shared[j], -j), default=None)
        if best is not None and shared[best] >= OVERLAP:
            got[index] = best
            free.remove(best)
    return got


def pairs(found: Sequence[Found], others: Sequence[Found], *, rotated: bool = False) -> dict[int, int]:
    """Index in ``found`` to the index in ``others`` of the same object: one to one, the greatest overlap in all.

    Boxes are compared, also where a mask or keypoints belong to them; ``rotated`` ones as they lie.
    """
    if not found or not others:
        return {}
    shared = np.array([[_overlap(a, b, rotated) if a.label == b.label else 0.0 for b in others] for a in found])
    shared[shared < OVERLAP] = 0.0
    rows, columns = linear_sum_assignment(-shared)
    return {int(i): int(j) for i, j in zip(rows, columns, strict=True) if shared[i, j] > 0}


def _overlap(a: Found, b: Found, rotated: bool) -> float:
    """Intersection over union of two boxes; of rotated ones by their corners."""
    if a.box is None or b.box is None:
        return 0.0
    if rotated and a.outlines and b.outlines:
        import cv2

        first, other = (np.array(one.outlines[0], np.float32) for one in (a, b))
        both = float(cv2.intersectConvexConvex(first, other)[0])
        union = float(cv2.contourArea(first)) + float(cv2.contourArea(other)) - both
        return both / union if union > 0 else 0.0
    width = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
    height = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
    both = max(width, 0.0) * max(height, 0.0)
    union = sum((one[2] - one[0]) * (one[3] - one[1]) for one in (a.box, b.box)) - both
    return both / union if union > 0 else 0.0


def _read(image: Path) -> tuple[np.ndarray, tuple[int, int]]:
    from ultralytics.utils.patches import imread  # paths of any alphabet, as the predictors read them

    pixels = imread(str(image))
    if pixels is None:
        raise DataError(f"image {image} cannot be read")
    return pixels, (pixels.shape[0], pixels.shape[1])


def _with_jpeg(pixels: np.ndarray, scene: Scene) -> Scene:
    import cv2

    scale = min(1.0, SIDE / max(scene.height, scene.width))
    if scale < 1:
        size = max(1, round(scene.width * scale)), max(1, round(scene.height * scale))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return replace(scene, jpeg=encoded.tobytes())
