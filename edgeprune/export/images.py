"""Images as a model sees them: letterboxed (or centre-cropped for a classifier), RGB, in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.errors import DataError


def batch_from_images(images: Sequence[Path], *, imgsz: tuple[int, int], task: str = "detect") -> np.ndarray:
    """Read images the way Ultralytics' validators do for a model of fixed size.

    Args:
        images: image files.
        imgsz: height and width in pixels.
        task: ``classify`` resizes the short side and crops the centre; every other task letterboxes with grey 114.

    Returns:
        float32 of shape (images, 3, height, width), RGB, in [0, 1].

    Raises:
        DataError: no images, or one that cannot be read.
    """
    if not images:
        raise DataError("no images were given; a split with at least one image is needed")
    if task == "classify":
        return np.stack([_read_cropped(Path(image), imgsz) for image in images])
    from ultralytics.data.augment import LetterBox

    letterbox: Any = LetterBox(new_shape=imgsz, auto=False)
    return np.stack([_read_letterboxed(Path(image), letterbox) for image in images])


def _read_letterboxed(image: Path, letterbox: Callable[..., np.ndarray]) -> np.ndarray:
    from ultralytics.utils.patches import imread

    pixels = imread(str(image)) if image.is_file() else None
    if pixels is None:
        raise DataError(f"image {image} cannot be read")
    pixels = letterbox(image=pixels)[..., ::-1].transpose(2, 0, 1)  # BGR to RGB, HWC to CHW
    return np.ascontiguousarray(pixels, dtype=np.float32) / np.float32(255)


def _read_cropped(image: Path, imgsz: tuple[int, int]) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError
    from ultralytics.data.augment import classify_transforms

    try:
        pixels = Image.open(image).convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"image {image} cannot be read") from error
    transformed = classify_transforms(size=imgsz if imgsz[0] != imgsz[1] else imgsz[0])(pixels)
    return np.asarray(transformed, dtype=np.float32)
