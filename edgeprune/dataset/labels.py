"""Label files in Ultralytics' format, read in one place and as Ultralytics reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeprune.errors import DataError
from edgeprune.reading import is_file, read_bytes, shown


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

    @property
    def class_index(self) -> int | None:
        """The first column where it is a whole number from 0, in whatever form Ultralytics reads (``1``, ``1.0``,
        ``1e0``); None where it is none."""
        try:
            index = float(self.values[0])
        except ValueError:
            return None
        return int(index) if index >= 0 and index.is_integer() else None


def read_labels(image: Path) -> list[LabelRow]:
    """The objects in an image's label file; none where there is no such file. ``DataError`` for one that is no text."""
    return read_label_file(label_file(image))


def read_label_file(file: Path) -> list[LabelRow]:
    """:func:`read_labels` by the label file's own path."""
    if not is_file(file):
        return []
    try:
        text = read_bytes(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{shown(file)}: is not text in UTF-8 (byte {error.start}); a label has one line CLASS X Y W H an object"
        ) from error
    lines = enumerate(text.splitlines(), start=1)
    return [LabelRow(file, number, tuple(line.split())) for number, line in lines if line.strip()]


def label_file(image: Path) -> Path:
    """Where Ultralytics looks for an image's labels."""
    from ultralytics.data.utils import img2label_paths

    return Path(img2label_paths([image])[0])
