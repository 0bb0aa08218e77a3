"""Whether a finished build is as it was built: every file of its bundle by digest, every gate from its own samples."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeprune.artifact import sha256_of
from edgeprune.errors import DataError, first_line
from edgeprune.reading import read_bytes, shown
from edgeprune.records.build import BuildRecord, is_as_written
from edgeprune.records.gates import edits
from edgeprune.records.show import RECORD, build_of, bundle_of
from edgeprune.samples.gates import RULES

SHOWN = 3  # faults that one line names
MISSING = "is missing"
CHANGED = "was changed"


@dataclass(frozen=True)
class Verification:
    """What is not as it was built.

    Attributes:
        record: of the build.
        content: the very bytes of ``build.json`` that were checked; read again, they may be another build's.
        bundle: folder of its files.
        changed: files that have other bytes than ``build.json`` says, itself among them, a line each.
        missing: files that it names and that are not there: a record may be kept without them.
        others: files in the folder that it does not name: they came later, and nothing is said of them.
        edited: gates and verdict that do not follow from the record's own samples, a line each.
    """

    record: BuildRecord
    content: bytes
    bundle: Path
    changed: tuple[str, ...]
    missing: tuple[str, ...]
    others: tuple[str, ...]
    edited: tuple[str, ...]

    def require_as_built(self, *, whole: bool = True) -> None:
        """Raise ``DataError`` with what differs; a missing file too where the ``whole`` bundle is asked for.

        Gates that were judged by other rules than today's are no reason.
        """
        faults = [*(self.missing if whole else ()), *self.changed]
        refuse_edited(self.bundle, faults + (list(self.edited) if _by_these_rules(self.record) else []))


def read_untouched(directory: Path) -> BuildRecord:
    """The record of a run directory or a bundle that nobody edited; the other files of the bundle are not looked at.

    Raises:
        DataError: there is no build, its record cannot be read, or it is not as edgeprune wrote it.
    """
    record, edited = read_with_edits(directory)
    refuse_edited(bundle_of(directory), edited)
    return record


def read_with_edits(directory: Path) -> tuple[BuildRecord, tuple[str, ...]]:
    """The record of a run directory or a bundle, and what in it is not as edgeprune wrote it, a line each: the file by
    its own digest, and gates that do not follow from its samples. Of a record that was judged by other rules the file
    alone is looked at.

    Raises:
        DataError: there is no build, or its record cannot be read.
    """
    record, content, _ = _read(directory)
    judged = edits(record) if _by_these_rules(record) else ()
    return record, (*_changed_record(content, record), *judged)


def _by_these_rules(record: BuildRecord) -> bool:
    """Whether its gates, made anew, have to be those that it holds; older records than the rules' number have none."""
    return record.rules == RULES


def refuse_edited(bundle: Path, faults: Sequence[str]) -> None:
    """Raise ``DataError`` where a build is not as it was built, with what differs."""
    if faults:
        more = f" (and {len(faults) - SHOWN} more)" if len(faults) > SHOWN else ""
        lines = "; ".join(map(shown, faults[:SHOWN]))
        raise DataError(f"{shown(bundle)}: edited, not as it was built: {lines}{more}; build again")


def _read(directory: Path) -> tuple[BuildRecord, bytes, Path]:
    """A record, the bytes that it was read from, and its bundle."""
    bundle = bundle_of(directory)
    content = read_bytes(bundle / RECORD)
    return build_of(content, bundle), content, bundle


def _changed_record(content: bytes, record: BuildRecord) -> list[str]:
    return [] if is_as_written(content, record) else [f"{RECORD} {CHANGED}"]


def verify_build(directory: Path) -> Verification:
    """Check a run directory or a bundle.

    Raises:
        DataError: there is no build, or its record cannot be read.
    """
    record, content, bundle = _read(directory)
    states = {name: _state(bundle, name, sha256) for name, sha256 in record.bundle.items()}
    missing = tuple(f"{shown(name)} {MISSING}" for name, state in states.items() if state == MISSING)
    changed = [f"{shown(name)} {state}" for name, state in states.items() if state and state != MISSING]
    changed += _changed_record(content, record)
    return Verification(record, content, bundle, tuple(changed), missing, _others(bundle, record), edits(record))


def _others(bundle: Path, record: BuildRecord) -> tuple[str, ...]:
    found: list[str] = []
    for folder, folders, names in os.walk(bundle):
        linked = [name for name in folders if Path(folder, name).is_symlink()]  # which are not walked into
        found += (Path(folder, name).relative_to(bundle).as_posix() for name in [*names, *linked])
    return tuple(sorted(set(found) - set(record.bundle) - {RECORD}))


def _state(bundle: Path, name: str, sha256: str) -> str:
    """What is wrong with a file of a bundle, in words; empty where its bytes are those of the digest."""
    path = bundle / name
    try:
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(bundle)):  # resolve() raises on a loop
            return "lies outside of the bundle"
        if not path.is_file():
            return MISSING
        return "" if sha256_of(path) == sha256 else CHANGED
    except (OSError, ValueError) as error:
        return f"cannot be read: {first_line(error)}"
