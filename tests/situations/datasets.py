"""Datasets of a few kilobytes for every task, and the ways in which real ones are broken.

Images hold one to three plain shapes on noise; labels are what was drawn. Sizes of the splits are 20, 6 and 4.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from tests.situations.models import NAMES, SIDE

COUNTS = {"train": 20, "val": 6, "test": 4}
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def dataset(
    folder: Path,
    task: str = "detect",
    *,
    channels: int = 3,
    suffix: str = "png",
    counts: dict[str, int] | None = None,
    names: Any = None,
    **entries: Any,
) -> Path:
    """Write a dataset; its YAML, or its folder for classification.

    Args:
        folder: where it goes.
        task: detect, segment, pose, obb or classify.
        channels: of the images; ``channels`` is in the YAML where they are not three.
        suffix: of the images' names.
        counts: images by split.
        names: instead of the three classes.
        entries: further keys of the YAML.
    """
    counts = COUNTS if counts is None else counts
    if task == "classify":
        for split, count in counts.items():
            for number in range(count):
                place = folder / split / NAMES[number % 3] / f"{number}.{suffix}"
                place.parent.mkdir(parents=True, exist_ok=True)
                picture(number, channels)[0].save(place)
        return folder
    for split, count in counts.items():
        for number in range(count):
            image = folder / "images" / split / f"{split}{number}.{suffix}"
            label = folder / "labels" / split / f"{split}{number}.txt"
            image.parent.mkdir(parents=True, exist_ok=True)
            label.parent.mkdir(parents=True, exist_ok=True)
            drawn, boxes = picture(number + 100 * len(split), channels)
            drawn.save(image)
            label.write_text("".join(f"{row(box, task)}\n" for box in boxes))
    content: dict[str, Any] = {"path": str(folder), **{split: f"images/{split}" for split in counts}}
    content["names"] = dict(NAMES) if names is None else names
    if channels != 3:
        content["channels"] = channels
    if task == "pose":
        content["kpt_shape"] = [2, 3]
    content |= entries
    (folder / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "data.yaml"


def picture(seed: int, channels: int = 3) -> tuple[Image.Image, list[tuple[int, float, float, float, float]]]:
    """An image of :data:`SIDE` pixels with shapes, and (class, centre x, centre y, width, height) of each in [0, 1]."""
    draw = np.random.default_rng(seed)
    pixels = draw.integers(60, 120, (SIDE, SIDE, channels), dtype=np.uint8)
    boxes = []
    for _ in range(int(draw.integers(1, 4))):
        kind, side = int(draw.integers(3)), int(draw.integers(12, 24))
        left, top = (int(draw.integers(0, SIDE - side)) for _ in range(2))
        rows, columns = np.mgrid[0:side, 0:side]
        inside = {
            0: (rows - side / 2) ** 2 + (columns - side / 2) ** 2 < (side / 2) ** 2,
            1: np.ones((side, side), bool),
            2: np.abs(rows - side / 2) < side / 6,
        }[kind]
        pixels[top : top + side, left : left + side][inside] = draw.integers(150, 255, channels)
        boxes.append((kind, (left + side / 2) / SIDE, (top + side / 2) / SIDE, side / SIDE, side / SIDE))
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels, MODES[channels]), boxes


def row(box: tuple[int, float, float, float, float], task: str) -> str:
    """One line of a label file."""
    kind, x, y, width, height = box
    low_x, high_x, low_y, high_y = x - width / 2, x + width / 2, y - height / 2, y + height / 2
    corners = (low_x, low_y, high_x, low_y, high_x, high_y, low_x, high_y)
    numbers = {
        "detect": (x, y, width, height),
        "segment": corners,
        "obb": corners,
        "pose": (x, y, width, height, low_x, low_y, 2, high_x, high_y, 2),
    }[task]
    return " ".join([str(kind), *(f"{number:.5f}" for number in numbers)])


def images_of(data: Path, split: str) -> list[Path]:
    """Images of a split, sorted."""
    root = data if data.is_dir() else data.parent / "images"
    return sorted(path for path in (root / split).rglob("*") if path.is_file())


def labels_of(data: Path, split: str) -> list[Path]:
    """Label files of a split, sorted."""
    return sorted((data.parent / "labels" / split).glob("*.txt"))


# What happens to datasets. Each takes the YAML (or the folder of a classification dataset) and changes what lies there.


def truncated(data: Path, split: str, number: int = 0, share: float = 0.5) -> Path:
    """An image whose copy was cut off: its header is whole."""
    image = images_of(data, split)[number]
    content = image.read_bytes()
    image.write_bytes(content[: int(len(content) * share)])
    return image


def emptied(data: Path, split: str, number: int = 0) -> Path:
    """An image of no bytes."""
    image = images_of(data, split)[number]
    image.write_bytes(b"")
    return image


def no_image(data: Path, split: str, number: int = 0) -> Path:
    """An image that is a web page: what a failed download leaves."""
    image = images_of(data, split)[number]
    image.write_text("<html>404 Not Found</html>\n")
    return image


def apple_doubles(data: Path, *splits: str, labels: bool = False) -> None:
    """macOS writes a ``._`` file beside every file on a disk that is not its own."""
    for split in splits:
        files = images_of(data, split) + (labels_of(data, split) if labels else [])
        for path in files:
            header = struct.pack(">II16sH", 0x00051607, 0x00020000, b"Mac OS X", 2)
            path.with_name(f"._{path.name}").write_bytes(header + bytes(range(256)) * 4)


def label_bytes(data: Path, split: str, content: bytes, number: int = 0) -> Path:
    """A label file of other bytes."""
    label = labels_of(data, split)[number]
    label.write_bytes(content)
    return label


def rewritten(data: Path, **entries: Any) -> Path:
    """The YAML with other entries; None removes one."""
    content = yaml.safe_load(data.read_text())
    content |= entries
    data.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}, sort_keys=False))
    return data


def replaced(place: Path, kind: str) -> Path:
    """A file's name that belongs to something else: a ``folder``, a ``fifo``, a ``loop`` of links, a dead ``link``."""
    place.unlink(missing_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    if kind == "folder":
        place.mkdir()
    elif kind == "fifo":
        os.mkfifo(place)
    elif kind == "loop":
        place.symlink_to(place.name)
    elif kind == "link":
        place.symlink_to("nowhere.png")
    elif kind == "device":
        place.symlink_to("/dev/zero")
    elif kind == "unreadable":
        place.write_bytes(b"x")
        place.chmod(0)
    return place


def copied(data: Path, folder: Path) -> Path:
    """The same dataset elsewhere, its YAML pointing there."""
    source = data if data.is_dir() else data.parent
    shutil.copytree(source, folder, symlinks=True)
    return folder if data.is_dir() else rewritten(folder / data.name, path=str(folder))


Breakage = Callable[[Path], Any]
