"""Finished searches on disk: a record beside its checkpoint, and proof that the two are of one search."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from edgeprune.artifact import write_atomically
from edgeprune.errors import DataError
from edgeprune.serial import read_json, write_json
from edgeprune.sweep.point import Pruned


@dataclass(frozen=True)
class KeptSearch:
    """What is kept of a search beside its checkpoint.

    Attributes:
        pruned: what it hands on, without the checkpoint.
        sha256: of the checkpoint. Two searches of one job that end at a time may each leave one of the two files.
    """

    pruned: Pruned
    sha256: str


def read_search(file: Path) -> Pruned | None:
    """What a finished search handed on; None where there is none, or not whole, or of an older edgeprune, whose record
    does not say which checkpoint is its own.

    Args:
        file: its record (.json); the checkpoint (.pt) lies beside it.
    """
    try:
        kept, content = read_json(KeptSearch, file), _checkpoint(file).read_bytes()
    except (DataError, FileNotFoundError):
        return None
    return replace(kept.pruned, checkpoint=content) if hashlib.sha256(content).hexdigest() == kept.sha256 else None


def write_search(file: Path, pruned: Pruned) -> None:
    """Keep a search for :func:`read_search`; the record is written last."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(_checkpoint(file), pruned.checkpoint)
    write_json(file, KeptSearch(replace(pruned, checkpoint=b""), hashlib.sha256(pruned.checkpoint).hexdigest()))


def _checkpoint(file: Path) -> Path:
    return file.with_suffix(".pt")
