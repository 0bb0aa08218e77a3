"""What points share on the disk of the machine that made it, until they are there: searches, trainings, and who uses
them.

A search is a record beside its checkpoint, with proof that the two are of one search. A training is a checkpoint
(``KEY.pt``), while it runs a folder (``KEY.work``), and an empty file for every job that asked for it
(``.KEY.JOB.user``): it goes once the points of all of these are there.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from edgeprune.artifact import write_atomically
from edgeprune.errors import DataError
from edgeprune.scratch import locked
from edgeprune.serial import read_json, write_json
from edgeprune.sweep.point import Pruned

USER = ".user"


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


def remove_search(file: Path) -> None:
    """Remove a search; the record goes first: without it a checkpoint is nobody's."""
    file.unlink(missing_ok=True)
    _checkpoint(file).unlink(missing_ok=True)


def note_user(training: Path, job: str) -> None:
    """Note that a job uses a training, before it asks for it.

    Args:
        training: its checkpoint (.pt).
        job: key of the job.
    """
    training.parent.mkdir(parents=True, exist_ok=True)
    training.with_name(f".{training.stem}.{job}{USER}").touch()


def work_of(training: Path) -> Path:
    """Folder of a training while it runs."""
    return training.with_suffix(".work")


def lock_of(training: Path) -> Path:
    """File whose lock whoever makes or removes a training holds."""
    return training.with_name(f".{training.stem}.lock")


def remove_trainings(folder: Path, made: Collection[str], needed: Collection[str]) -> None:
    """Remove the trainings of a folder that no job uses any more; one that somebody holds stays.

    Args:
        folder: of trainings; it need not exist.
        made: keys of jobs whose point is there.
        needed: keys of trainings that stay, whoever used them.
    """
    users: dict[str, dict[str, Path]] = defaultdict(dict)
    for noted in folder.glob(f".*{USER}"):
        key, _, job = noted.name.removeprefix(".").removesuffix(USER).partition(".")
        users[key][job] = noted
    for key, noted_by in users.items():
        training = folder / f"{key}.pt"
        if key in needed or not set(noted_by) <= set(made):
            continue
        with contextlib.suppress(OSError), locked(lock_of(training), wait=False):
            training.unlink(missing_ok=True)
            shutil.rmtree(work_of(training), ignore_errors=True)
            for noted in noted_by.values():  # last: what is stopped on the way is found again by them
                noted.unlink(missing_ok=True)


def _checkpoint(file: Path) -> Path:
    return file.with_suffix(".pt")
