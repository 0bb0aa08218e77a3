"""A file that a stage made, named by its content."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from edgeprune.errors import EdgepruneError, StageError, TargetError, first_line

Role = Literal["model", "onnx", "engine", "plan", "per_image", "unpruned_onnx", "unpruned_engine"]
"""What a file is to the stages: a checkpoint (.pt), an ONNX graph, what a runtime loads, a plan (.json), what was found
in every image of a split (.npz), or the unpruned model in the number format of what ships."""


@dataclass(frozen=True)
class Artifact:
    """One file between two stages.

    Attributes:
        path: where it lies.
        sha256: digest of its bytes, in hexadecimal.
    """

    path: Path
    sha256: str


def is_full(error: OSError) -> bool:
    """Whether a disk, or this user's part of it, has no room left: the same command goes on once there is some."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


DISK_FAILS = (errno.EIO, errno.ESTALE, errno.ENODEV)
"""A disk, or a share of another machine, that does not answer as it should."""
TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
FREE_SPACE = "free some space and give the same command again"


def remedy_of(error: OSError) -> str | None:
    """What to do where the machine is at fault; None where the place is, which whoever named it can change."""
    if is_full(error):
        return FREE_SPACE
    if error.errno in DISK_FAILS:
        return "the disk, or the connection to it, fails: look for it in dmesg, then give the same command again"
    if error.errno in TOO_MANY_FILES:
        return "raise the limit (ulimit -n 4096) and give the same command again"
    return None


def not_written(path: Path | str, error: OSError, advice: str) -> EdgepruneError:
    """What a file that cannot be written is told as: a StageError where the machine is at fault, a TargetError with
    this advice where the place is."""
    said = f"{path}: cannot be written: {error.strerror or first_line(error)}"
    if (remedy := remedy_of(error)) is not None:
        return StageError(f"{said}; {remedy}")
    return TargetError(f"{said}; {advice}")


@contextmanager
def naming(path: Path) -> Generator[None, None, None]:
    """Around the writing of a file: an ``OSError`` that names none, as ``write(2)`` gives it, names this one, and so do
    that of a full disk, which a copy tells of the file that it read, and that of the file that is to take its place,
    of which nobody knows."""
    try:
        yield
    except OSError as error:
        named = "" if error.filename is None else Path(os.fsdecode(error.filename)).name
        if error.filename is None or is_full(error) or named.startswith(f".{path.name}."):
            error.filename, error.filename2 = str(path), None
        raise


def sha256_of(path: Path | str) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in pieces so that a large model does not fill the memory."""
    with Path(path).open("rb") as file:
        return sha256_of_open(file)


def sha256_of_open(file: BinaryIO) -> str:
    """The same of an open file, from where it stands to its end."""
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def temporary_of(path: Path) -> Path:
    """A name beside a file for what is to take its place, once it is whole; see :func:`remove_unfinished`."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process left of files that were to be written here; for whoever alone writes here."""
    for file in folder.glob(f".?*.{'[0-9a-f]' * 8}.tmp"):
        file.unlink(missing_ok=True)


def write_atomically(path: Path | str, content: bytes | str) -> None:
    """Write a whole file or nothing: a reader sees the old bytes or the new ones, never a half (``os.replace``).

    Raises:
        OSError: the place cannot be written, or is a device or a pipe, which a file would take the place of.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise OSError(errno.EPERM, "is no regular file", str(path))
    temporary = temporary_of(path)
    # a name of a file may hold bytes that are no UTF-8: a page shows them as \udce9
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    try:
        with naming(path):
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_files(folder: Path, files: Mapping[str, bytes | Path]) -> None:
    """Write files below a folder, which are made where they are missing.

    A file that is there is replaced once all of them are written, so that a full disk leaves each as it was, and a kill
    none of them half.

    Args:
        folder: where to.
        files: name below it to content, or to the file that it is a copy of. A second copy of a file, and one of a
            file that lies in the folder, is a hard link where the file system has them: it takes no place. Files that
            are links of each other count as one.
    """
    first: dict[tuple[int, int], Path] = {}
    written: dict[Path, Path] = {}
    try:
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content == path:
                continue
            partial = temporary_of(path)
            written[partial] = path
            if isinstance(content, bytes):
                with naming(path):
                    write_atomically(partial, content)
                continue
            status = content.stat()
            inside = content.is_relative_to(folder)
            twin = content if inside else first.setdefault((status.st_dev, status.st_ino), partial)
            if twin == partial or not _linked(twin, partial):
                with naming(path):
                    shutil.copy(content, partial)
        for partial, path in written.items():
            with naming(path):
                partial.replace(path)
            partial.unlink(missing_ok=True)  # a link of the same file is no other name for rename(2), which leaves both
    finally:
        for partial in written:
            partial.unlink(missing_ok=True)


def _linked(source: Path, path: Path) -> bool:
    try:
        os.link(source, path)
    except OSError:  # FAT, and some shares, have no links
        return False
    return True
