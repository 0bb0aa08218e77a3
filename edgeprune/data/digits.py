"""Demo data that needs no network: scenes of scikit-learn's handwritten digits over its two photographs.

The digits (1797 samples of 8×8 pixels, ten classes; `sklearn.datasets.load_digits`) and the photographs
(`load_sample_images`) are inside the scikit-learn package. A scene is a random crop of a photograph with a few digits
on it, varied in size, rotation, colour, contrast and overlap, so that a detector has something to learn. The hard kind
has many small digits that cover each other, and tells light ink from dark: twenty classes.

Takes a folder and the sizes of the splits, gives an Ultralytics data set (`data.yaml`, `images/`, `labels/`), refuses a
folder that holds anything else. The three splits use disjoint digit samples: no validation digit was trained on.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgeprune.artifact import not_written
from edgeprune.errors import DataError
from edgeprune.options import named
from edgeprune.progress import Progress, Reporter, reporter_of
from edgeprune.scratch import LOCK, locked, sweep
from edgeprune.serial import read_json_data
from edgeprune.settings import check_seed

RECIPE = 1
"""Raise it when the same parameters would give other pixels."""
RECORD = "digits.json"
CLASSES = tuple(str(digit) for digit in range(10))
HARD_CLASSES = tuple(f"{digit} {ink}" for ink in ("light", "dark") for digit in range(10))
SPLITS = ("train", "val", "test")
SHARES = (0.70, 0.15, 0.15)  # of the digit samples of every class

Array = np.ndarray[Any, np.dtype[Any]]
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


@dataclass(frozen=True)
class _Scenes:
    """What the scenes of one kind are drawn from.

    Attributes:
        classes: their names; the second ten are digits darker than their ground.
        count: digits in an image, from and below.
        height: of a digit over the image's side, least and largest before rotation.
        overlap: that a box may have at most with another, over the smaller of the two.
    """

    classes: tuple[str, ...]
    count: tuple[int, int]
    height: tuple[float, float]
    overlap: float


EASY = _Scenes(CLASSES, (1, 6), (0.18, 0.45), 0.35)
HARD = _Scenes(HARD_CLASSES, (6, 25), (0.03, 0.14), 0.6)


@dataclass(frozen=True)
class DigitsRecipe:
    """What decides every pixel of the data set.

    Attributes:
        train, val, test: images in each split.
        imgsz: side of the square images in pixels.
        seed: two runs with one seed write the same pixels; images of a smaller split are the first of a larger one.
        recipe: version of the composition.
        hard: many small digits that cover each other, in twenty classes.
    """

    train: int
    val: int
    test: int
    imgsz: int
    seed: int
    recipe: int = RECIPE
    hard: bool = False

    @property
    def scenes(self) -> _Scenes:
        """The kind of scenes."""
        return HARD if self.hard else EASY

    @property
    def recorded(self) -> dict[str, Any]:
        """What is written beside the images; folders from before there was a hard kind do not name it."""
        return {key: value for key, value in asdict(self).items() if key != "hard" or value}

    @property
    def files(self) -> Iterator[str]:
        """What lies in the folder, as relative paths."""
        yield "data.yaml"
        for split in SPLITS:
            for index in range(getattr(self, split)):
                yield f"images/{split}/{index:05d}.jpg"
                yield f"labels/{split}/{index:05d}.txt"

    def __post_init__(self) -> None:
        for split in SPLITS:
            if getattr(self, split) < 1:
                raise DataError(f"{named(split, str(getattr(self, split)))}: every split needs at least 1 image")
        least = 320 if self.hard else 64  # the least digits then have 8 pixels, as their samples
        if not least <= self.imgsz <= 1280:
            raise DataError(f"{named('imgsz', str(self.imgsz))}: such digits can be drawn from {least} to 1280 pixels")
        check_seed(self.seed)


def write_digits(
    out: Path | str,
    *,
    train: int = 800,
    val: int = 160,
    test: int = 160,
    imgsz: int = 128,
    seed: int = 0,
    hard: bool = False,
    progress: Progress | Reporter | None = None,
) -> Path:
    """Write the digits data set and give the path of its ``data.yaml``.

    The folder appears whole or not at all; a second call with the same parameters returns at once. ``data.yaml`` has no
    ``path`` key, so that the folder can be moved.

    Args:
        out: the folder to make; may exist if it is empty or holds the same data set.
        train: images in the training split.
        val: images in the validation split.
        test: images in the test split.
        imgsz: side of the square images in pixels.
        seed: seed of everything random.
        hard: 6 to 24 small digits in an image, which cover each other, in twenty classes: light and dark ink apart.
        progress: called after every hundred images of a split, and at its end, or a
            :class:`~edgeprune.progress.Reporter`; nobody by default.

    Raises:
        DataError: ``out`` holds something else, or a parameter is impossible.
        TargetError: the seed is out of range, or ``out`` cannot be written.
        StageError: the disk is full, or fails.
    """
    tell = reporter_of(progress).progress
    out = Path(out)
    recipe = DigitsRecipe(train=train, val=val, test=test, imgsz=imgsz, seed=seed, hard=hard)
    if _holds(out, recipe):
        return out / "data.yaml"
    partial = out.parent / f".{out.name}.partial-{uuid.uuid4().hex[:8]}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # of runs that were killed; without a lock nobody knows
        sweep(out.parent.glob(f".{out.name}.partial-*"))
        partial.mkdir()
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # a file system without locks
                stack.enter_context(locked(partial / LOCK, wait=True))
            _write_splits(partial, recipe, tell)
            (partial / LOCK).unlink(missing_ok=True)
            partial.replace(out)  # onto nothing or onto an empty folder: one step either way
    except OSError as error:
        raise not_written(out, error, "name another folder with --out") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out / "data.yaml"


def _holds(out: Path, recipe: DigitsRecipe) -> bool:
    if not out.exists():
        return False
    if not out.is_dir():
        raise DataError(f"{out} is a file; name a new folder with --out")
    if not any(out.iterdir()):
        return False
    try:
        record = read_json_data(out / RECORD)
    except DataError:
        record = None
    if not isinstance(record, dict):
        raise DataError(f"{out} holds other files; name a new or empty folder with --out")
    if record != recipe.recorded:
        record = {"hard": False, **record}
        differs = ", ".join(f"{k}={record.get(k)}" for k, v in asdict(recipe).items() if record.get(k) != v)
        raise DataError(f"{out} holds digits made with {differs}; name another folder with --out or delete it")
    if missing := [name for name in recipe.files if not (out / name).is_file()]:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"{out} lacks {missing[0]}{others}, deleted since; name another folder with --out or delete it")
    return True


def _write_splits(folder: Path, recipe: DigitsRecipe, progress: Progress) -> None:
    digits, classes = _digit_samples()
    photographs = _photographs()
    pools = _disjoint_pools(classes, recipe.seed)
    for part, split in enumerate(SPLITS):
        images, labels = folder / "images" / split, folder / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        total = getattr(recipe, split)
        for index in range(total):
            rng = np.random.default_rng([recipe.seed, part, index])
            pixels, rows = _draw_scene(rng, recipe, photographs, digits, classes, pools[part])
            Image.fromarray(pixels).save(images / f"{index:05d}.jpg", quality=92)
            (labels / f"{index:05d}.txt").write_text("".join(rows), encoding="utf-8")
            if (done := index + 1) % 100 == 0 or done == total:
                progress(f"{split} images", done=done, total=total)
    names = "".join(f"  {index}: '{name}'\n" for index, name in enumerate(recipe.scenes.classes))
    paths = "".join(f"{split}: images/{split}\n" for split in SPLITS)
    (folder / "data.yaml").write_text(f"{paths}names:\n{names}", encoding="utf-8")
    (folder / RECORD).write_text(json.dumps(recipe.recorded, indent=2) + "\n", encoding="utf-8")


def _digit_samples() -> tuple[Array, Array]:
    """Opacity masks (n, 8, 8) in 0..1 and their classes (n,)."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    return (bunch.images / 16.0).astype(np.float32), bunch.target.astype(int)


def _photographs() -> list[Image.Image]:
    from sklearn.datasets import load_sample_images

    bunch: Any = load_sample_images()
    return [Image.fromarray(image) for image in bunch.images]


def _disjoint_pools(classes: Array, seed: int) -> list[Array]:
    """Indices of the digit samples of each split, every class divided in the same shares."""
    rng = np.random.default_rng([seed, 99])
    pools: list[list[Array]] = [[] for _ in SPLITS]
    for digit in range(len(CLASSES)):
        members = rng.permutation(np.flatnonzero(classes == digit))
        cuts = np.cumsum([round(len(members) * share) for share in SHARES[:-1]])
        for pool, piece in zip(pools, np.split(members, cuts), strict=True):
            pool.append(piece)
    return [np.concatenate(pool) for pool in pools]


def _draw_scene(
    rng: np.random.Generator,
    recipe: DigitsRecipe,
    photographs: list[Image.Image],
    digits: Array,
    classes: Array,
    pool: Array,
) -> tuple[Array, list[str]]:
    """One image (side, side, 3) uint8 and its label rows ``class x y w h``, centre and size over the side."""
    side, scenes = recipe.imgsz, recipe.scenes
    canvas = _background(rng, side, photographs[rng.integers(len(photographs))])
    boxes: list[Box] = []
    rows: list[str] = []
    count = int(rng.integers(*scenes.count))
    for _ in range(4 * count):
        if len(rows) == count:
            break
        sample = int(rng.choice(pool))
        mask = _digit_mask(rng, digits[sample], side, scenes.height)
        height, width = mask.shape
        if height >= side or width >= side:
            continue
        left, top = int(rng.integers(side - width)), int(rng.integers(side - height))
        box = (left, top, left + width, top + height)
        if any(_overlap(box, placed) > scenes.overlap for placed in boxes):
            continue
        region = canvas[top : top + height, left : left + width]
        ground = float(region.mean())
        colour = _contrasting_colour(rng, ground)
        region[:] = region + (colour - region) * (mask * rng.uniform(0.75, 1.0))[..., None]
        boxes.append(box)
        dark = recipe.hard and float(colour.mean()) < ground
        label = int(classes[sample]) + len(CLASSES) * dark
        x, y = (left + width / 2) / side, (top + height / 2) / side
        rows.append(f"{label} {x:.6f} {y:.6f} {width / side:.6f} {height / side:.6f}\n")
    canvas += rng.normal(0.0, rng.uniform(0.0, 6.0), canvas.shape).astype(np.float32)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8), rows


def _background(rng: np.random.Generator, side: int, photograph: Image.Image) -> Array:
    width, height = photograph.size
    crop = int(min(width, height) * rng.uniform(0.35, 1.0))
    left, top = int(rng.integers(width - crop + 1)), int(rng.integers(height - crop + 1))
    piece = photograph.crop((left, top, left + crop, top + crop)).resize((side, side), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(piece, dtype=np.float32) * np.float32(rng.uniform(0.6, 1.1))


def _digit_mask(rng: np.random.Generator, digit: Array, side: int, heights: tuple[float, float]) -> Array:
    """Opacity of one digit (h, w) in 0..1, scaled, stretched, rotated and cut to its ink."""
    height = side * float(np.exp(rng.uniform(*np.log(heights))))
    width = height * rng.uniform(0.75, 1.1)
    image = Image.fromarray(digit).resize((max(round(width), 8), max(round(height), 8)), Image.Resampling.BICUBIC)
    image = image.rotate(rng.uniform(-25.0, 25.0), Image.Resampling.BICUBIC, expand=True)
    mask = np.clip(np.asarray(image) * 1.25, 0.0, 1.0)
    inked = mask > 0.3
    rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _contrasting_colour(rng: np.random.Generator, ground: float) -> Array:
    """A colour (3,) in 0..255 that differs from a mean grey level by a contrast of 80 to 170."""
    contrast = rng.uniform(80.0, 170.0)
    up = ground + contrast <= 255.0
    down = ground - contrast >= 0.0
    brighter = up if up != down else bool(rng.random() < 0.5)
    grey = ground + contrast if brighter else ground - contrast
    return np.clip(grey + rng.uniform(-45.0, 45.0, 3), 0.0, 255.0).astype(np.float32)


def _overlap(first: Box, second: Box) -> float:
    """Intersection over the smaller of the two boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = ((right - left) * (bottom - top) for left, top, right, bottom in (first, second))
    return width * height / min(areas)
