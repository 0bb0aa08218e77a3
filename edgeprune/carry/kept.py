"""What a board answered to the build before in a run directory: it stays where the next one asks the same of it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from edgeprune.artifact import sha256_of
from edgeprune.carry.device import NAME
from edgeprune.carry.out import FOLDER
from edgeprune.carry.request import Command, Request
from edgeprune.errors import DataError
from edgeprune.records.build import BuildRecord
from edgeprune.records.show import read_build
from edgeprune.records.verify import verify_build
from edgeprune.samples.gates import RULES
from edgeprune.serial import read_json
from edgeprune.stages.base import Build
from edgeprune.workspace import BUNDLE

REQUEST = f"{FOLDER}/request.json"
PROGRAM = ("agent.zip", "run-on-device.sh")  # how the board is asked; another version of it asks the same


def is_of_a_board(record: BuildRecord) -> bool:
    """Whether ``import-results`` judged the build, by what a board measured."""
    return record.device is not None and record.device.name == NAME


def kept_answers(build: Build, carried: Mapping[str, Path]) -> tuple[BuildRecord | None, str]:
    """The record of the build before, where what its board measured is of this build too, and a line about it.

    Args:
        build: with the records of all its stages.
        carried: what this build asks the board with; name in the bundle to file.

    Returns:
        None where it is replaced, and why; an empty line where no board measured anything.
    """
    root = build.workspace.root
    try:
        before = read_build(root)
    except DataError:
        return None, ""
    if not carried or not is_of_a_board(before):
        return None, ""
    why = _why_replaced(build, before, carried)
    told = f"what a board measured (verdict {before.verdict.value}, brought by import-results)"
    if not why:
        return before, f"{told} stays, for this build asks the same of it"
    then = "carry the new folder to it"
    if before.bundle.get(REQUEST) == sha256_of(carried[REQUEST]):
        then = (
            "its results.tar, if you kept it, answers this build too: edgeprune import-results results.tar --run "
            f"{shlex.quote(str(root))}; else carry the folder to it again"
        )
    return None, f"{told} is replaced: {why}; {then}"


def _why_replaced(build: Build, before: BuildRecord, carried: Mapping[str, Path]) -> str:
    """Why the answers are not of this build; empty where they are."""
    bundle = build.workspace.root / BUNDLE
    stages = {name: record.key.digest for name, record in build.records.items()}
    earlier = {name: row.key for name, row in before.stages.items()}
    differing = [name for name in {**earlier, **stages} if earlier.get(name) != stages.get(name)]
    try:
        if _asked(bundle / REQUEST) != _asked(carried[REQUEST]):
            return "the board is asked something else"
        verify_build(bundle).require_as_built()
    except DataError as error:
        return str(error)
    if differing:
        return f"another {' and '.join(differing)} stands behind it"
    if before.target != build.target:
        return "the target is another, as of its budget"
    if before.rules != RULES:
        return "its gates were judged by older rules"
    return ""


def _asked(path: Path) -> Request:
    """What a request asks of the board, whichever version of the program does."""
    request = read_json(Request, path)
    return replace(
        request,
        files={name: sha for name, sha in request.files.items() if name not in PROGRAM},
        scripts=tuple(replace(one, commands=tuple(map(Command.untitled, one.commands))) for one in request.scripts),
    )
