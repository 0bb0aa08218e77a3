"""Reading a finished build back: its record, and why each stage ran."""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path

from edgeprune.errors import DamagedError, DataError, TargetError
from edgeprune.reading import exists, is_file, read_bytes, shown
from edgeprune.records.build import BuildRecord, build_from_json
from edgeprune.serial import parse_json
from edgeprune.workspace import (
    BUILD_RECORD,
    BUNDLE,
    REASON_LETTERS,
    STATE,
    BuildState,
    last_failure,
    read_state,
    run_directory_of,
)

RECORD = BUILD_RECORD
TO_TYPE = 4000  # letters of a command that is to be typed again: a part of one is none
MOST_NAMED = 5  # builds in a message


def bundle_of(directory: Path) -> Path:
    """The bundle of a run directory, or the folder itself where it is one.

    Raises:
        DataError: neither holds a ``build.json``.
    """
    for folder in (directory / BUNDLE, directory):
        if exists(folder / RECORD):
            return folder
    if is_file(directory / STATE):
        state = read_state(directory)
        why = _failure(directory) or "the build is not finished"
        raise DataError(f"{shown(directory)}: {why}; {_next(directory, state)}")
    if not exists(directory):
        raise DataError(f"{shown(directory)}: does not exist; give the run directory of a build, or its bundle")
    if builds := _builds_below(directory):
        more = f", and {len(builds) - MOST_NAMED} more" if len(builds) > MOST_NAMED else ""
        named = ", ".join(shown(build) for build in builds[:MOST_NAMED])
        raise DataError(
            f"{shown(directory)}: holds no build itself, but its folders do; give one of {named}{more}; "
            f"of all of them: {shlex.join(['edgeprune', 'history', str(directory)])}"
        )
    raise DataError(
        f"{shown(directory)}: holds no build; expected {BUNDLE}/{RECORD}, as a build leaves it in its --out"
    )


def unfinished_since(directory: Path) -> str:
    """In one line that a later build of a run directory began and did not finish, why, and how it goes on; empty where
    the finished one is the latest, or nothing tells.

    Args:
        directory: a run directory, or the bundle in it.

    Raises:
        DataError: there is no finished build, or its record cannot be read.
    """
    bundle = bundle_of(directory)
    root = run_directory_of(bundle)
    if root is None or not is_file(root / STATE):
        return ""
    try:
        state = read_state(root)
    except DataError:
        return ""
    record = read_build(bundle)
    finished = {name: (row.key, row.reused) for name, row in record.stages.items()}
    began = {run.stage: (run.key, run.reused) for run in state.stages}
    if began == finished and state.command == record.command:
        return ""
    why = f": {failure}" if (failure := _failure(root)) else ""
    return (
        f"{shown(directory)}: a later build here is not finished{why}; the one of {record.created} is told of; "
        f"{_next(root, state)}"
    )


def _failure(root: Path) -> str:
    return shown(last_failure(root), 2 * REASON_LETTERS)


def _next(root: Path, state: BuildState) -> str:
    """The command that goes on with a build that is not finished."""
    before = "once that is mended" if last_failure(root) else "go on with"
    return f"{before}: {shown(shlex.join(state.command), TO_TYPE)}"


def _builds_below(directory: Path) -> list[Path]:
    """Run directories and bundles that lie in a folder, the newest version first; none where it is no folder."""
    try:
        folders = [entry for entry in directory.iterdir() if entry.is_dir()]
    except OSError:
        return []
    builds = [one for one in folders if exists(one / BUNDLE / RECORD) or exists(one / RECORD)]
    return sorted(builds, key=lambda one: (-int(one.name) if one.name.isdecimal() else 0, one.name))


def read_build(directory: Path) -> BuildRecord:
    """The ``build.json`` of a run directory or of a bundle.

    Raises:
        DataError: there is none, it is not one, or a newer edgeprune wrote it.
    """
    bundle = bundle_of(directory)
    return build_of(read_bytes(bundle / RECORD), bundle)


def build_of(content: bytes, bundle: Path) -> BuildRecord:
    """The record that the bytes of a ``build.json`` are.

    Raises:
        DataError: they are none, with what to do about it, or a newer edgeprune wrote it.
    """
    path = bundle / RECORD
    try:
        return build_from_json(parse_json(content, shown(path)), path)
    except DamagedError as error:
        raise DamagedError(f"{error}; {_made_again(bundle)}") from error


def _made_again(bundle: Path) -> str:
    """How a record that cannot be read comes back: by its build, whose finished stages are there, or by a copy."""
    root = run_directory_of(bundle)
    if root is not None and is_file(root / STATE):
        with contextlib.suppress(DataError):  # the disk that lost the one may have lost the other
            return f"write it again with: {shown(shlex.join(read_state(root).command), TO_TYPE)}"
    return "copy the bundle again from where it was built, or build again"


def stage_history(directory: Path, stage: str) -> str:
    """Why a stage ran, or was reused, in the latest build of a run directory.

    Args:
        directory: the run directory, or the bundle in it.
        stage: name of the stage.

    Raises:
        DataError: no build has run there, or it is a bundle that was copied elsewhere.
        TargetError: that build had no such stage.
    """
    root = directory
    if not is_file(directory / STATE) and exists(directory / RECORD):
        if (left_by := run_directory_of(directory)) is None:
            raise DataError(
                f"{shown(directory)}: is a bundle away from its run directory, where alone it is kept why stages ran; "
                f"give that: edgeprune show RUN_DIRECTORY --why {shlex.quote(shown(stage))}"
            )
        root = left_by
    runs = {run.stage: run for run in read_state(root).stages}
    if stage == BUNDLE and runs:
        return f"{stage}: every build writes it anew, from what the stages left"
    if stage not in runs:
        raise TargetError(f"--why {shown(stage)}: the latest build has no such stage; it has: {', '.join(runs)}")
    run = runs[stage]
    if run.reused:
        return f"{stage}: reused {run.folder}; nothing that it depends on has changed"
    if run.again:
        return f"{stage}: made again as {run.folder}: {run.again}"
    if run.compared_with is None:
        return f"{stage}: ran as {run.folder}; it had not run here before"
    if not run.differs:
        return f"{stage}: ran as {run.folder}; its files were missing or changed"
    changes = "\n".join(f"  {line}" for line in run.differs)
    return f"{stage}: ran as {run.folder}; compared with {run.compared_with} this changed:\n{changes}"
