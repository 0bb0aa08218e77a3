"""Files that somebody else may have written: whatever is wrong with the file itself is said in one line, be it a
folder, a pipe, a name of 5,000 characters, or a lack of permission.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgeprune.errors import DataError, EdgepruneError, first_line

MAX_RECORD_BYTES = 256 * 2**20  # a build.json with every sample of a long measurement has a few MiB
SHOWN_CHARACTERS = 200


def read_bytes(path: Path, *, most: int = MAX_RECORD_BYTES, error: type[EdgepruneError] = DataError) -> bytes:
    """The content of a regular file; a pipe or a device, which may never end, is not opened.

    Args:
        path: the file.
        most: size in bytes from which it is refused.
        error: class of what is raised.

    Raises:
        EdgepruneError: of that class; the path cannot be read, is no file, or is too large.
    """
    size = size_of(path, error=error)
    if size > most:
        raise error(f"{shown(path)}: has {size} bytes; at most {most} are read")
    try:
        return path.read_bytes()
    except OSError as failure:
        raise error(f"{shown(path)}: cannot be read: {_reason(failure)}") from failure


def size_of(path: Path, *, error: type[EdgepruneError] = DataError) -> int:
    """Bytes of a regular file; anything else, which a reader might wait for without end, raises ``error``."""
    try:
        status = path.stat()
    except (OSError, ValueError) as failure:  # ValueError: NUL in the name
        raise error(f"{shown(path)}: cannot be read: {_reason(failure)}") from failure
    if not stat.S_ISREG(status.st_mode):
        kind = "folder" if stat.S_ISDIR(status.st_mode) else "pipe or a device"
        raise error(f"{shown(path)}: is a {kind}; a file was expected")
    return status.st_size


def read_text(
    path: Path,
    *,
    most: int = MAX_RECORD_BYTES,
    error: type[EdgepruneError] = DataError,
    undecodable: str = "strict",
) -> str:
    """:func:`read_bytes` as UTF-8; ``undecodable`` is what is done with other bytes, as in :meth:`bytes.decode`."""
    content = read_bytes(path, most=most, error=error)
    try:
        return content.decode(errors=undecodable)
    except UnicodeDecodeError as failure:
        raise error(f"{shown(path)}: is not text in UTF-8 (byte {failure.start})") from failure


def is_file(path: Path) -> bool:
    """Whether there is a regular file, or a link to one; False too for a name that no file can have."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_address(given: Path | str) -> bool:
    """Whether an address was given where a path was expected; a ``Path`` of one has kept a slash of two."""
    return re.match(r"[a-z][a-z0-9+.-]+:/", str(given), re.IGNORECASE) is not None


def exists(path: Path) -> bool:
    """Whether there is anything of this name, be it a pipe or a link to nowhere."""
    return os.path.lexists(path) if "\0" not in str(path) else False


def paths_of(given: Path | str | Sequence[Path | str]) -> list[Path]:
    """One path, or several: a text is a path, and not a sequence of its letters."""
    return [Path(one) for one in ([given] if isinstance(given, (str, Path)) else given)]


TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters by which a terminal or a page shows what stands behind them from right to left, or no longer so."""


def is_one_line(text: str) -> bool:
    """Whether a text stays on its line, and leaves a terminal and the rest of the line as they were: no control
    character, no end of a line or a paragraph, nothing that turns the direction of what follows, nothing that UTF-8
    cannot say. Spaces and joiners of any script are letters of its words."""
    return not any(unicodedata.category(letter) in ("Cc", "Zl", "Zp", "Cs") or letter in TURNING for letter in text)


def shown(text: Path | str, most: int = SHOWN_CHARACTERS) -> str:
    """A path, a key or a value as an error repeats it: without control characters, and cut where it is endless."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in str(text)[: most + 1])
    return plain if len(plain) <= most else f"{plain[:most]}…"


@contextlib.contextmanager
def entries_of(what: str) -> Iterator[None]:
    """Turn what a missing or unexpected entry of decoded data leads to into one ``ValueError``; a decorator too."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(
            f"{what} lack an entry or have another one than expected: {shown(first_line(error))}"
        ) from error


def _reason(failure: Exception) -> str:
    return failure.strerror if isinstance(failure, OSError) and failure.strerror else first_line(failure)
