"""Image files: which ones a dataset means and what is in them, by Ultralytics' own rules.

Only regular files are opened (a link to one counts): a pipe or a device with an image's name would never end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgeprune.errors import DataError, first_line
from edgeprune.reading import is_file, read_text, shown

# the same formats as ultralytics.data.utils.IMG_FORMATS, kept here so that listing images imports no torch
IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".dng", ".heic", ".heif", ".jp2", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"}
)


def list_images(path: Path) -> list[Path]:
    """What one entry of a split names as its images, in the order of their paths, whatever lies at them.

    Ultralytics lists a folder by ``glob`` with its subfolders, which leaves out names that begin with a dot: the
    ``._*.jpg`` that macOS writes, ``.ipynb_checkpoints``. Any other file is a list with one image a line, in UTF-8,
    where ``./`` starts from its own folder and every other relative path from the working directory.

    Raises:
        DataError: neither a folder nor a text file, or a folder that holds itself by a link.
    """
    if path.is_dir():
        return sorted(_images_below(path, (os.path.realpath(path),)), key=str)
    lines = read_text(path).removeprefix("\ufeff").strip().splitlines()
    parent = f"{path.parent}{os.sep}"
    named = [line.replace("./", parent, 1) if line.startswith("./") else line for line in lines]
    return sorted((Path(name) for name in named if _is_image_name(name)), key=str)


def _images_below(folder: Path, above: tuple[str, ...]) -> Iterator[Path]:
    try:
        entries = list(os.scandir(folder))
    except OSError:  # as glob does
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if _is_image_name(entry.name):
            yield Path(entry.path)
        if _is_folder(entry):
            real = os.path.realpath(entry.path)
            if real in above:
                raise DataError(f"{shown(entry.path)}: is a link to a folder that holds it; remove the link")
            yield from _images_below(Path(entry.path), (*above, real))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def _is_image_name(name: str) -> bool:
    _, dot, suffix = name.rpartition(".")
    return bool(dot) and f".{suffix.lower()}" in IMAGE_SUFFIXES


def read_image(image: Path, channels: int = 3, *, task: str = "detect") -> np.ndarray:
    """The pixels of an image as Ultralytics' loader of the task reads them.

    Args:
        image: the file.
        channels: of the images that the model takes: 1 is read as grey, 3 as colour, others as the file has them.
        task: a classifier's images are read by another function, in colour.

    Returns:
        uint8 of shape (height, width, channels), BGR where there are three.

    Raises:
        DataError: it cannot be read, or has another number of channels.
    """
    import cv2
    from ultralytics.data.dataset import ClassificationDataset
    from ultralytics.utils.patches import imread

    if not is_file(image):
        raise DataError(f"image {shown(image)} cannot be read: there is no such file")
    flags = {1: cv2.IMREAD_GRAYSCALE, 3: cv2.IMREAD_COLOR}.get(channels, cv2.IMREAD_UNCHANGED)
    try:
        pixels = ClassificationDataset.imread(str(image)) if task == "classify" else imread(str(image), flags)
    except (cv2.error, ImportError, MemoryError, OSError, ValueError) as error:
        raise DataError(f"image {shown(image)} cannot be read: {first_line(error)}") from error
    if pixels is None:
        raise DataError(f"image {shown(image)} cannot be read: OpenCV does not decode it")
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if task != "classify" and pixels.shape[2] != channels:
        raise DataError(f"image {shown(image)} has {pixels.shape[2]} channels, and the model takes {channels}")
    return pixels
