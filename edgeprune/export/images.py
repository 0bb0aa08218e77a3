"""Images as a model sees them: letterboxed (or centre-cropped for a classifier), RGB, in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.dataset import Dataset
from edgeprune.dataset.images import read_image
from edgeprune.errors import DataError


def batch_from_images(
    images: Sequence[Path], *, imgsz: tuple[int, int], task: str = "detect", channels: int = 3
) -> np.ndarray:
    """Read images the way Ultralytics' validators do for a model of fixed size.

    Args:
        images: image files.
        imgsz: height and width in pixels.
        task: ``classify`` resizes the short side and crops the centre; every other task letterboxes with grey 114.
        channels: of the model's input.

    Returns:
        float32 of shape (images, channels, height, width), RGB where there are three, in [0, 1].

    Raises:
        DataError: no images, or one that cannot be read.
    """
    if not images:
        raise DataError("no images were given; a split with at least one image is needed")
    if task == "classify":
        if channels != 3:  # Ultralytics has no loader for them
            raise DataError(f"images of a classifier are read in 3 channels, and the model takes {channels}")
        return np.stack([_cropped(read_image(Path(image), task=task), imgsz) for image in images])
    from ultralytics.data.augment import LetterBox

    letterbox: Any = LetterBox(new_shape=imgsz, auto=False)
    return np.stack([_letterboxed(read_image(Path(image), channels), letterbox) for image in images])


def _letterboxed(pixels: np.ndarray, letterbox: Callable[..., np.ndarray]) -> np.ndarray:
    planes = np.atleast_3d(letterbox(image=pixels)).transpose(2, 0, 1)  # HWC to CHW
    if len(planes) == 3:
        planes = planes[::-1]  # BGR to RGB
    return np.ascontiguousarray(planes, dtype=np.float32) / np.float32(255)


def _cropped(pixels: np.ndarray, imgsz: tuple[int, int]) -> np.ndarray:
    from PIL import Image
    from ultralytics.data.augment import classify_transforms

    image = Image.fromarray(np.ascontiguousarray(pixels[..., ::-1]))  # BGR to RGB
    transformed = classify_transforms(size=imgsz if imgsz[0] != imgsz[1] else imgsz[0])(image)
    return np.asarray(transformed, dtype=np.float32)


def inputs_from_dataset(dataset: Dataset, split: str, seed: int) -> Callable[[tuple[int, ...]], np.ndarray]:
    """What gives an input of a shape (batch, channels, height, width), float32 in [0, 1], from images of a split: for
    the time of a graph that depends on what is on them.

    Args:
        dataset: of the model's task.
        split: train, val or test.
        seed: of the choice of images; where there are too few they come again.
    """

    def filled(shape: tuple[int, ...]) -> np.ndarray:
        batch, channels, height, width = shape
        drawn = dataset.sample_images(split, batch, seed)
        files = [drawn[number % len(drawn)] for number in range(batch)] if drawn else []
        return batch_from_images(files, imgsz=(height, width), task=dataset.task or "detect", channels=channels)

    return filled
