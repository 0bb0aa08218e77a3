"""Reading a finished build back: its record, and why each stage ran."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from edgeprune.errors import DataError, TargetError
from edgeprune.records.build import BuildRecord, build_from_json
from edgeprune.workspace import STATE, read_state


def read_build(directory: Path) -> BuildRecord:
    """The ``build.json`` of a run directory or of a bundle.

    Raises:
        DataError: there is none, it is not one, or a newer edgeprune wrote it.
    """
    for path in (directory / "bundle" / "build.json", directory / "build.json"):
        if path.is_file():
            try:
                data = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise DataError(f"{path}: is not JSON: {error}") from error
            return build_from_json(data, path)
    if (directory / STATE).is_file():
        command = shlex.join(read_state(directory).command)
        raise DataError(f"{directory}: the build is not finished; go on with: {command}")
    raise DataError(f"{directory}: holds no build; expected bundle/build.json, as edgeprune build --out leaves it")


def stage_history(directory: Path, stage: str) -> str:
    """Why a stage ran, or was reused, in the latest build of a run directory.

    Raises:
        DataError: no build has run there.
        TargetError: that build had no such stage.
    """
    runs = {run.stage: run for run in read_state(directory).stages}
    if stage not in runs:
        raise TargetError(f"--why {stage}: the latest build has no such stage; it has: {', '.join(runs)}")
    run = runs[stage]
    if run.reused:
        return f"{stage}: reused {run.folder}; nothing that it depends on has changed"
    if run.compared_with is None:
        return f"{stage}: ran as {run.folder}; it had not run here before"
    if not run.differs:
        return f"{stage}: ran as {run.folder}; its files were missing or changed"
    changes = "\n".join(f"  {line}" for line in run.differs)
    return f"{stage}: ran as {run.folder}; compared with {run.compared_with} this changed:\n{changes}"
