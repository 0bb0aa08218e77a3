"""A file that a stage made, named by its content."""

from __future__ import annotations

import errno
import hashlib
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Role = Literal["model", "onnx", "engine", "plan", "per_image"]
"""What a file is to the stages: a checkpoint (.pt), an ONNX graph, what a runtime loads, a plan (.json), or what was
found in every image of a split (.npz)."""


@dataclass(frozen=True)
class Artifact:
    """One file between two stages.

    Attributes:
        path: where it lies.
        sha256: digest of its bytes, in hexadecimal.
    """

    path: Path
    sha256: str


def sha256_of(path: Path | str) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in pieces so that a large model does not fill the memory."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def write_atomically(path: Path | str, content: bytes | str) -> None:
    """Write a whole file or nothing: a reader sees the old bytes or the new ones, never a half (``os.replace``).

    Raises:
        OSError: the place cannot be written, or is a device or a pipe, which a file would take the place of.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise OSError(errno.EPERM, "is no regular file", str(path))
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    data = content.encode() if isinstance(content, str) else content
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
