"""What a validator found in every image, kept so that a loss of accuracy can be given an interval over images."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.errors import DataError, first_line
from edgeprune.samples.average_precision import Detections, ImageScores

MATCHES = {"detect": "tp", "obb": "tp", "segment": "tp_m", "pose": "tp_p"}
"""Task to the validator's table of matches that its mAP is formed from: of boxes, masks or keypoints."""
UNREADABLE = (
    *(OSError, ValueError, TypeError, KeyError, EOFError),
    *(zipfile.BadZipFile, zlib.error, RuntimeError),  # RuntimeError: a flipped bit says encrypted, or another method
)
"""What NumPy and zipfile raise for an .npz with a byte changed or its end missing."""
SUREST = 5  # probabilities that are kept of an image: the first alone may be 1 to the last digit for any good model


def order_of_images(task: str) -> dict[str, str]:
    """Key entry of what keeps results of images. Empty where older versions too had them in the order of the dataset,
    so that what they measured is reused: a classifier's they had in one that was drawn."""
    return {"order_of_images": "the dataset's"} if task == "classify" else {}


def keep_per_image(validator_class: type[Any], task: str) -> type[Any]:
    """A subclass of one of Ultralytics' validators whose objects have ``per_image`` after a run.

    ``per_image`` is :class:`~edgeprune.samples.average_precision.Detections`, for a classifier
    :class:`~edgeprune.samples.average_precision.ImageScores`; images are in the order in which the validator is given
    them, which has to be that of the dataset.

    Args:
        validator_class: the validator of ``task``, a classifier's
            :func:`~edgeprune.dataset.class_folders.on_class_folders`.
        task: detect, segment, pose, obb or classify.
    """

    class PerImage(validator_class):
        per_image: Detections | ImageScores

        def init_metrics(self, model: Any) -> None:
            super().init_metrics(model)
            self.surest: list[np.ndarray] = []

        def update_metrics(self, preds: Any, batch: dict[str, Any]) -> None:
            if task == "classify":
                self.surest.append(preds.float().sort(1, descending=True).values[:, :SUREST].cpu().numpy())
            super().update_metrics(preds, batch)

        def get_stats(self) -> dict[str, Any]:
            # Ultralytics empties its per-image lists when it forms the figures, so they are copied before
            self.per_image = _scores(self) if task == "classify" else _detections(self.metrics.stats, MATCHES[task])
            return super().get_stats()

    return PerImage


def _scores(validator: Any) -> ImageScores:
    """1 for an image whose first guess is right, 0 for another."""
    guesses = np.concatenate([batch[:, 0].cpu().numpy() for batch in validator.pred])
    truth = np.concatenate([batch.cpu().numpy() for batch in validator.targets])
    return ImageScores((guesses == truth).astype(np.float64), np.concatenate(validator.surest))


def _detections(stats: dict[str, list[np.ndarray]], matches: str) -> Detections:
    """One table out of Ultralytics' lists, which have an entry for every image."""
    found, labels = [len(part) for part in stats["conf"]], [len(part) for part in stats["target_cls"]]
    images = len(found)

    def joined(name: str, kind: type) -> np.ndarray:
        parts = [np.asarray(part) for part in stats[name]]
        return np.concatenate(parts).astype(kind) if parts else np.zeros(0, kind)

    correct = joined(matches, bool)
    return Detections(
        images=images,
        image=np.repeat(np.arange(images, dtype=np.int32), found),
        confidence=joined("conf", np.float32),
        category=joined("pred_cls", np.int32),
        correct=correct if correct.ndim == 2 else correct.reshape(0, 1),  # a model may find nothing anywhere
        label_image=np.repeat(np.arange(images, dtype=np.int32), labels),
        label_category=joined("target_cls", np.int32),
    )


def save_per_image(results: Detections | ImageScores, path: Path) -> None:
    """Write what was found in every image to an .npz file."""
    np.savez_compressed(path, **{field.name: getattr(results, field.name) for field in fields(results)})


def load_per_image(path: Path) -> Detections | ImageScores:
    """Read what :func:`save_per_image` wrote. Raises ``DataError`` for another file."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if "scores" in arrays:
                return ImageScores(**arrays)
            return Detections(**{**arrays, "images": int(arrays["images"])})
    except UNREADABLE as error:
        raise DataError(f"{path}: holds no results of images ({first_line(error)}); build again") from error
