"""What files say about their models, entry by entry: one reader for the entries of checkpoints and of ONNX files.

Whoever wrote a file wrote these too, so none is taken for what it should be: each function gives the value in the type
that the rest of the project knows it by, or raises ``DataError`` with what was seen and what is allowed.
"""

from __future__ import annotations

import ast
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprune.errors import DataError
from edgeprune.families import TASKS
from edgeprune.input_size import LARGEST_SIDE
from edgeprune.reading import is_one_line, shown
from edgeprune.settings import LARGEST_COUNT

LONGEST_ENTRY = 4_000_000  # characters: the names of a hundred thousand classes
LONGEST_NAME = 200  # characters of a class name
LARGEST_STRIDE = 1_024  # pixels; 64 is the largest of any published model
DEEPEST = 32  # levels of plain data


def literal_of(text: str) -> Any:
    """The value that a text is a literal of, as Ultralytics writes numbers, lists and mappings; nothing is evaluated.

    Raises:
        ValueError: it is none, or has no end.
    """
    if len(text) > LONGEST_ENTRY:
        raise ValueError(f"{len(text)} characters")
    try:
        return ast.literal_eval(text)
    except (SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError("no literal") from error


def task_of(value: object, what: str) -> str:
    """A task's name."""
    if isinstance(value, str) and value in TASKS:
        return value
    raise refused(what, "task", value, ", ".join(TASKS))


def names_of(value: object, what: str, *, count: int | None = None) -> dict[int, str]:
    """Class names by index, from a mapping or a list.

    Args:
        value: as the file has it.
        what: the file, for the message.
        count: classes of the head; not compared when None.

    Raises:
        DataError: not one name on one line, which is not blank, for each of the indices from 0 on, or another number
            than ``count``.
    """
    allowed = "a name for every class, numbered from 0"
    pairs = list(value.items()) if isinstance(value, Mapping) else None
    if isinstance(value, (list, tuple)):
        pairs = list(enumerate(value))
    if pairs is None:
        raise refused(what, "names", value, allowed)
    names: dict[int, str] = {}
    for key, name in pairs:
        index = int(key) if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 7 else key
        if type(index) is not int or index in names:
            raise refused(what, "names", value, allowed)
        if type(name) not in (str, int):
            raise refused(what, f"name of class {index}", name, "a word")
        text = str(name)
        if not text.strip():  # an empty line of labels.txt is no line to DeepStream: all behind it would move
            raise refused(what, f"name of class {index}", name, "a word")
        if len(text) > LONGEST_NAME or not is_one_line(text):
            allowed = f"one line of at most {LONGEST_NAME} characters, no control characters"
            raise refused(what, f"name of class {index}", name, allowed)
        names[index] = text
    if sorted(names) != list(range(len(names))):
        raise refused(what, "names", value, allowed)
    if count is not None and len(names) != count:
        raise DataError(f"{what} names {len(names)} classes and its head has {count}; they have to be as many")
    return dict(sorted(names.items()))


def size_of(value: object, what: str, *, key: str = "imgsz") -> tuple[int, int]:
    """Height and width in pixels, from one side or two."""
    sides: tuple[Any, ...] = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    if len(sides) == 1:
        sides *= 2
    if len(sides) != 2 or not all(type(side) is int and 0 < side <= LARGEST_SIDE for side in sides):
        raise refused(what, key, value, f"one or two sides of 1 to {LARGEST_SIDE} pixels")
    return sides[0], sides[1]


def stride_of(value: object, what: str) -> int:
    """The largest stride in pixels, from a number, a list or a tensor of them."""
    values: Any = value.tolist() if hasattr(value, "tolist") else value  # type: ignore[attr-defined]
    strides: list[Any] = list(values) if isinstance(values, (list, tuple)) else [values]
    if not strides or not all(_is_whole(stride) and 0 < stride <= LARGEST_STRIDE for stride in strides):
        raise refused(what, "stride", value, f"whole numbers of pixels from 1 to {LARGEST_STRIDE}")
    return int(max(strides))


def count_of(value: object, what: str, key: str) -> int:
    """A count: 1 or more."""
    if type(value) is int and 0 < value <= LARGEST_COUNT:
        return value
    raise refused(what, key, value, f"1 to {LARGEST_COUNT}")


def mapping_of(value: object, what: str, key: str) -> dict[str, Any]:
    """Plain data by name: words, numbers, truth values, and lists and mappings of them; None is no entry."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(type(name) is str for name in value):
        raise refused(what, key, value, "entries by name")
    for name, item in value.items():
        if not is_plain(item):
            raise refused(what, f"{key}.{name[:80]}", item, "plain data: words, numbers, and lists of them")
    return dict(value)


def is_plain(value: object, depth: int = 0) -> bool:
    """Whether a value is plain data of sane depth: what JSON can hold, and paths."""
    if isinstance(value, Mapping):
        return depth < DEEPEST and all(type(k) in (str, int) and is_plain(v, depth + 1) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return depth < DEEPEST and all(is_plain(item, depth + 1) for item in value)
    return value is None or type(value) in (bool, int, float, str) or isinstance(value, Path)


def refused(what: str, key: str, value: object, allowed: str) -> DataError:
    """The error for an entry: what was seen, in few printable characters, and what is allowed."""
    plain = is_plain(value) and not isinstance(value, Path)
    seen = reprlib.repr(value).encode("ascii", "backslashreplace").decode() if plain else f"a {type(value).__name__}"
    return DataError(f"{what}: its {shown(key, 60)} is {seen[:120]}; allowed: {allowed}")


def _is_whole(value: object) -> bool:
    return (type(value) is int) or (type(value) is float and value.is_integer())
