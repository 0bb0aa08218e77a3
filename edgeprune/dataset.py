"""Datasets, read and checked in one place: splits, class names, labels and a digest of the content.

:meth:`Dataset.load` takes a YAML in Ultralytics' format, a folder of class folders (classification), or a name that
Ultralytics knows (``coco8.yaml``). It refuses, in one line and before anything is written, what is missing, empty,
unlabelled, or contradicts itself or the model. Images are never opened; only their sizes on disk are read.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from edgeprune.errors import DataError
from edgeprune.limited_yaml import read_yaml

# the same formats as ultralytics.data.utils.IMG_FORMATS, kept here so that reading a dataset imports no torch
IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".dng", ".heic", ".heif", ".jp2", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"}
)
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Dataset:
    """A dataset whose needed splits exist, are not empty, and carry labels that fit its class names.

    Attributes:
        source: the YAML file, or the folder of a classification dataset; what Ultralytics takes as ``data=``.
        root: the folder that relative paths start from.
        task: the task that :meth:`load` was given; without one ``classify`` for a folder, ``pose`` for a YAML with
            ``kpt_shape``, else None, since a YAML does not tell detect, segment and obb apart.
        names: class names by index, 0 to nc - 1.
        splits: image files by split, sorted; a split whose folder is missing is absent.
        looked_at: where each split was looked for, for error messages.
        kpt_shape: keypoints and numbers a keypoint, for pose.
    """

    source: Path
    root: Path
    task: str | None
    names: Mapping[int, str]
    splits: Mapping[str, tuple[Path, ...]]
    looked_at: Mapping[str, str] = field(default_factory=dict)
    kpt_shape: tuple[int, ...] | None = None

    @property
    def nc(self) -> int:
        """Number of classes."""
        return len(self.names)

    @classmethod
    def load(cls, data: Path | str, *, task: str | None = None, need: Sequence[str] = ("train", "val")) -> Dataset:
        """Read a dataset and check it.

        Args:
            data: a YAML, a folder of class folders, or a name that Ultralytics can fetch.
            task: the model's task, when it is known; ``classify`` asks for a folder.
            need: the splits that must be there, with images and labels; others are checked when they are asked for.

        Raises:
            DataError: one line that names the file, the key or the path, and what to do.
        """
        path = Path(data)
        if path.is_dir():
            yamls = sorted(path.glob("*.yaml")) + sorted(path.glob("*.yml"))
            if len(yamls) == 1 and task != "classify":
                path = yamls[0]
            else:
                return _checked(_dataset_from_folder(path, task), need)
        elif not path.is_file():
            path = _fetch(data, task)
            if path.is_dir():
                return _checked(_dataset_from_folder(path, task), need)
        if task == "classify":
            raise DataError(f"{path} is a file; a classification dataset is a folder with train/CLASS/*.jpg in it")
        return _checked(_dataset_from_yaml(path, task), need)

    def images(self, split: str) -> tuple[Path, ...]:
        """The image files of a split, sorted; ``DataError`` when the dataset has no such split."""
        images = self.splits.get(split)
        if images is None:
            where = self.looked_at.get(split)
            reason = f"looked at {where}" if where else f"there is no key '{split}'"
            raise DataError(
                f"{self.source} has no split '{split}' ({reason}); it has {', '.join(self.splits) or 'none'}"
            )
        if not images:
            raise DataError(f"{self.source}: split '{split}' is empty (no images under {self.looked_at.get(split)})")
        return images

    def sample_images(self, split: str, count: int, seed: int = 0) -> list[Path]:
        """``count`` images of a split drawn by chance without replacement, sorted; all of them when there are fewer."""
        images = self.images(split)
        return sorted(random.Random(seed).sample(images, min(count, len(images))))

    def check_matches(self, names_of_model: Mapping[int, str] | Sequence[str], *, model: str = "the model") -> None:
        """Raise ``DataError`` unless a model's classes are this dataset's classes, in number, order and name."""
        theirs = _class_names(names_of_model, model)
        if len(theirs) != self.nc:
            raise DataError(
                f"{self.source} has {self.nc} classes ({_few(self.names)}) and {model} has {len(theirs)} "
                f"({_few(theirs)}); give the dataset that the model was trained on"
            )
        for index, name in self.names.items():
            if theirs[index] != name:
                raise DataError(
                    f"class {index} is '{name}' in {self.source} and '{theirs[index]}' in {model}; give the dataset "
                    f"that the model was trained on, or the same names in the same order"
                )

    @cached_property
    def digest(self) -> str:
        """SHA-256 over class names and, for every split, each image's relative name and size and its label's bytes.

        It does not depend on where the dataset lies, and it reads no pixels.
        """
        digest = hashlib.sha256(repr(sorted(self.names.items())).encode())
        for split in sorted(self.splits):
            digest.update(f"\0{split}\0".encode())
            for image in self.splits[split]:
                digest.update(f"{_relative(image, self.root)}\0{image.stat().st_size}\0".encode())
                if self.task != "classify":
                    file = label_file(image)
                    digest.update(file.read_bytes() if file.is_file() else b"\1")
        return digest.hexdigest()


def list_images(path: Path) -> Iterator[Path]:
    """The images that one entry of a split means, as Ultralytics lists them.

    Args:
        path: a folder, searched with its subfolders; a text file with one image a line, where ``./`` starts from its
            own folder; or one image.
    """
    if path.is_dir():
        for folder, _, files in os.walk(path, followlinks=True):
            yield from (Path(folder) / name for name in files if Path(name).suffix.lower() in IMAGE_SUFFIXES)
    elif path.suffix == ".txt":
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():
                image = Path(line.strip())
                yield (path.parent / image) if line.startswith("./") else image
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        yield path


@dataclass(frozen=True)
class LabelRow:
    """One object in a label file.

    Attributes:
        file: the label file.
        line: number of the line, from 1.
        values: the line's columns as text: a class index, then coordinates from 0 to 1 whose number depends on the
            task (``x y w h``, a polygon, corners, or a box and key points).
    """

    file: Path
    line: int
    values: tuple[str, ...]


def read_labels(image: Path) -> list[LabelRow]:
    """The objects in an image's label file; none where there is no such file."""
    file = label_file(image)
    if not file.is_file():
        return []
    lines = enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
    return [LabelRow(file, number, tuple(line.split())) for number, line in lines if line.strip()]


def label_file(image: Path) -> Path:
    """Where Ultralytics looks for an image's labels: the last ``images`` folder becomes ``labels``, with ``.txt``."""
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _dataset_from_yaml(path: Path, task: str | None) -> Dataset:
    content: Any = read_yaml(path, unique_keys=False, undecodable="replace")
    if not isinstance(content, dict):
        raise DataError(f"{path} is no dataset: a YAML with the keys train, val and names was expected")
    names = content.get("names")
    if names is None:
        if not isinstance(content.get("nc"), int):
            raise DataError(f"{path} has neither 'names' nor 'nc'; list the class names under 'names'")
        names = [f"class_{index}" for index in range(content["nc"])]
    names = _class_names(names, str(path))
    if content.get("nc") is not None and content["nc"] != len(names):
        raise DataError(f"{path} says nc: {content['nc']} and names {len(names)} classes; make them agree")
    kpt_shape = content.get("kpt_shape")
    if task == "pose" and not kpt_shape:
        raise DataError(f"{path} has no 'kpt_shape'; a pose dataset needs it, for example kpt_shape: [17, 3]")
    if "val" not in content and "validation" in content:  # Ultralytics renames it the same way
        content["val"] = content["validation"]

    root = _root(content.get("path"), path)
    splits: dict[str, tuple[Path, ...]] = {}
    looked_at: dict[str, str] = {}
    for split in SPLITS:
        entries = content.get(split)
        if not entries:
            continue
        folders = [_entry(root, str(entry)) for entry in (entries if isinstance(entries, list) else [entries])]
        looked_at[split] = ", ".join(map(str, folders))
        if all(folder.exists() for folder in folders):
            splits[split] = tuple(sorted(image for folder in folders for image in list_images(folder)))
    return Dataset(
        source=path.resolve(),
        root=root,
        task=task or ("pose" if kpt_shape else None),
        names=names,
        splits=splits,
        looked_at=looked_at,
        kpt_shape=tuple(kpt_shape) if kpt_shape else None,
    )


def _dataset_from_folder(path: Path, task: str | None) -> Dataset:
    train = path / "train"
    if task not in {None, "classify"}:
        raise DataError(f"{path} is a folder; a YAML file was expected for task {task}")
    classes = sorted(folder.name for folder in train.iterdir() if folder.is_dir()) if train.is_dir() else []
    if not classes:
        raise DataError(f"{path} has no class folders; put the images of a class under {train}/CLASS")
    val = next((path / name for name in ("val", "validation", "valid") if (path / name).is_dir()), path / "val")
    folders = {"train": train, "val": val, "test": path / "test"}
    return Dataset(
        source=path.resolve(),
        root=path.resolve(),
        task="classify",
        names=dict(enumerate(classes)),
        splits={split: tuple(sorted(list_images(folder))) for split, folder in folders.items() if folder.is_dir()},
        looked_at={split: str(folder) for split, folder in folders.items()},
    )


def _fetch(name: Path | str, task: str | None) -> Path:
    """Where Ultralytics' own resolver finds, or its downloader puts, a dataset that is not given by path."""
    path = Path(name)
    if path.is_absolute() or len(path.parts) > 1:  # a path, not a name
        raise DataError(f"dataset {name} does not exist; give a YAML, or a folder of class folders")
    from ultralytics.data.utils import check_cls_dataset, check_det_dataset  # heavy, and only here

    from edgeprune.quiet import quiet

    try:
        with quiet():
            if task == "classify":
                return Path(check_cls_dataset(str(name))["train"]).parent
            return Path(check_det_dataset(str(name))["yaml_file"])
    except Exception as error:  # its downloader raises whatever the network gave it
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"dataset {name} is not here and Ultralytics could not fetch it ({line}); give the path of a YAML"
        ) from error


def _root(path: object, source: Path) -> Path:
    if not path:
        return source.resolve().parent
    root = Path(str(path))
    if not root.exists() and not root.is_absolute():
        from ultralytics.utils import SETTINGS

        root = Path(SETTINGS["datasets_dir"]) / root
    return root.resolve()


def _entry(root: Path, entry: str) -> Path:
    path = (root / entry).resolve()
    if not path.exists() and entry.startswith("../"):  # Ultralytics forgives the exporters that write this
        path = (root / entry[3:]).resolve()
    return path


def _checked(dataset: Dataset, need: Sequence[str]) -> Dataset:
    for split in need:
        images = dataset.images(split)
        if dataset.task == "classify":
            _check_class_folders(dataset, split, images)
        else:
            _check_labels(dataset, split, images)
    return dataset


def _check_class_folders(dataset: Dataset, split: str, images: Sequence[Path]) -> None:
    known = set(dataset.names.values())
    for image in images:
        if image.parent.name not in known:
            raise DataError(f"{image.parent} is no class of {dataset.source / 'train'}; it has {_few(dataset.names)}")


def _check_labels(dataset: Dataset, split: str, images: Sequence[Path]) -> None:
    rows = 0
    for row in (row for image in images for row in read_labels(image)):
        rows += 1
        first = row.values[0]
        try:
            index = float(first)
        except ValueError:
            raise DataError(f"{row.file}:{row.line}: '{first}' is no class index; a line is CLASS X Y W H") from None
        if not 0 <= index < dataset.nc or index != int(index):
            raise DataError(
                f"{row.file}:{row.line}: class {first} is out of range; {dataset.source} names 0 to {dataset.nc - 1}"
            )
    if not rows:
        raise DataError(
            f"{dataset.source}: none of the {len(images)} images of split '{split}' has a label; "
            f"looked at {label_file(images[0]).parent}"
        )


def _class_names(names: object, source: str) -> dict[int, str]:
    if isinstance(names, Mapping):
        try:
            names = {int(index): str(name) for index, name in names.items()}
        except (TypeError, ValueError):
            raise DataError(f"{source}: the keys of 'names' must be class indices, 0 to nc - 1") from None
    elif isinstance(names, Sequence) and not isinstance(names, str):
        names = {index: str(name) for index, name in enumerate(names)}
    else:
        raise DataError(f"{source}: 'names' must be a list, or a mapping from class index to name")
    if not names or sorted(names) != list(range(len(names))):
        raise DataError(f"{source}: class indices must run from 0 to nc - 1 without a gap; seen {sorted(names)}")
    return dict(sorted(names.items()))


def _few(names: Mapping[int, str], count: int = 3) -> str:
    shown = [names[index] for index in sorted(names)[:count]]
    return ", ".join(shown) + (", …" if len(names) > count else "")


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
