"""Entries of a dataset YAML, read as Ultralytics reads them, and refused in one line where they are wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeprune.errors import DataError, first_line
from edgeprune.model_metadata import LONGEST_NAME
from edgeprune.reading import is_one_line, shown

MAX_CLASSES, MAX_KEYPOINTS = 100_000, 10_000  # far beyond what anybody trains


def checked_names(names: object, source: str) -> dict[int, str]:
    if isinstance(names, Mapping):
        by_index: dict[int, str] = {}
        for key, name in names.items():
            index = int(key) if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 7 else key
            if type(index) is not int:
                raise DataError(
                    f"{source}: the keys of 'names' must be class indices, 0 to nc - 1; seen: {shown(repr(key), 40)}"
                )
            if index in by_index:
                raise DataError(f"{source}: 'names' has class {index} twice; one name for every index is allowed")
            by_index[index] = _text_of(name)
        names = by_index
    elif isinstance(names, Sequence) and not isinstance(names, str):
        names = {index: _text_of(name) for index, name in enumerate(names)}
    else:
        raise DataError(f"{source}: 'names' must be a list, or a mapping from class index to name")
    if not names or sorted(names) != list(range(len(names))):
        raise DataError(f"{source}: class indices must run from 0 to nc - 1 without a gap; seen {sorted(names)}")
    for index, name in names.items():
        if not name.strip():  # an empty line of labels.txt is no line to DeepStream: all behind it would move
            raise DataError(f"{source}: class {index} has no name; a word for every class is allowed")
        if not is_one_line(name):  # a name is a line of labels.txt: one of two lines would move all behind it
            raise DataError(
                f"{source}: name of class {index}: {shown(ascii(name), 80)}; one line without control characters is "
                "allowed"
            )
        if len(name) > LONGEST_NAME:
            raise DataError(f"{source}: name of class {index} has {len(name)} characters; at most {LONGEST_NAME}")
    return dict(sorted(names.items()))


def _text_of(name: object) -> str:
    return "" if name is None else str(name)


def class_count(content: Mapping[str, Any], path: Path) -> int | None:
    """``nc`` as Ultralytics reads it: a whole number, also in quotes."""
    given = content.get("nc")
    if given is None:
        return None
    try:
        count = float(given)
    except (TypeError, ValueError, OverflowError):
        count = 0.5
    if not 1 <= count <= MAX_CLASSES or count != int(count):
        raise DataError(f"{path}: nc: {shown(str(given), 40)}; a whole number from 1 to {MAX_CLASSES} is allowed")
    return int(count)


def keypoint_shape(content: Mapping[str, Any], path: Path, task: str | None) -> tuple[int, int] | None:
    given = content.get("kpt_shape")
    if given is None:
        if task == "pose":
            raise DataError(f"{path} has no 'kpt_shape'; a pose dataset needs it, for example kpt_shape: [17, 3]")
        return None
    whole = isinstance(given, list) and len(given) == 2 and all(type(number) is int for number in given)
    if not whole or not 1 <= given[0] <= MAX_KEYPOINTS or given[1] not in (2, 3):
        raise DataError(
            f"{path}: kpt_shape: {shown(str(given), 40)}; keypoints and 2 or 3, for example [17, 3], is allowed"
        )
    flip = content.get("flip_idx")
    indices = [*map(str, range(given[0]))]
    if flip is not None and not (isinstance(flip, list) and sorted(map(str, flip)) == sorted(indices)):
        raise DataError(
            f"{path}: flip_idx: {shown(str(flip), 40)}; the {given[0]} indices of the keypoints are expected"
        )
    return given[0], given[1]


def root_of(path: object, source: Path) -> Path:
    if not path:
        with looking_for_files(source):
            return source.resolve().parent
    if not isinstance(path, str):
        raise DataError(f"{source}: path: {shown(str(path), 40)}; a folder is expected")
    root = Path(path)
    with looking_for_files(source):
        is_here = root.exists()
    if not is_here and not root.is_absolute():
        from ultralytics.utils import DATASETS_DIR

        root = DATASETS_DIR / root
    with looking_for_files(source):
        return root.resolve()


def paths_of_split(root: Path, entries: object, where: str) -> list[Path]:
    """The folders and lists that a split names."""
    if isinstance(entries, str):
        path = (root / entries).resolve()
        if not path.exists() and entries.startswith("../"):  # Ultralytics forgives the exporters that write this
            path = (root / entries[3:]).resolve()
        return [path]
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise DataError(f"{where}: {shown(str(entries), 40)}; a path, or a list of paths, is expected")
    return [(root / entry).resolve() for entry in entries]


@contextlib.contextmanager
def looking_for_files(data: Path | str) -> Iterator[None]:
    """Around what looks for files and nothing else: paths that no file can have, loops of links, a disk that fails."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"dataset {shown(data)} cannot be read: {first_line(error)}") from error
