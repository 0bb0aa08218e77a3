"""Reading a finished build back: its record, and why each stage ran."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgeprune.errors import DataError, TargetError
from edgeprune.workspace import STATE


def read_build(directory: Path) -> dict[str, Any]:
    """The content of ``build.json`` of a run directory or of a bundle.

    Raises:
        DataError: there is none, or it is not one.
    """
    for path in (directory / "bundle" / "build.json", directory / "build.json"):
        if path.is_file():
            try:
                record = json.loads(path.read_text())
            except ValueError as error:
                raise DataError(f"{path}: is not JSON: {error}") from error
            if not isinstance(record, dict) or "gates" not in record or "target" not in record:
                raise DataError(f"{path}: is not a build.json of edgeprune")
            return record
    state = directory / STATE
    if state.is_file():
        command = json.loads(state.read_text())["command"]
        raise DataError(f"{directory}: the build is not finished; go on with: {' '.join(command)}")
    raise DataError(f"{directory}: holds no build; expected bundle/build.json, as edgeprune build --out leaves it")


def stage_history(directory: Path, stage: str) -> str:
    """Why a stage ran, or was reused, in the latest build of a run directory.

    Raises:
        DataError: no build has run there.
        TargetError: that build had no such stage.
    """
    try:
        stages = {row["stage"]: row for row in json.loads((directory / STATE).read_text())["stages"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{directory}: no build has run here; expected {STATE}, as edgeprune build leaves it"
        ) from error
    if stage not in stages:
        raise TargetError(f"--why {stage}: the latest build has no such stage; it has: {', '.join(stages)}")
    row = stages[stage]
    if row["reused"]:
        return f"{stage}: reused {row['folder']}; nothing that it depends on has changed"
    if not row["compared_with"]:
        return f"{stage}: ran as {row['folder']}; it had not run here before"
    if not row["differs"]:
        return f"{stage}: ran as {row['folder']}; its files were missing or changed"
    changes = "\n".join(f"  {line}" for line in row["differs"])
    return f"{stage}: ran as {row['folder']}; compared with {row['compared_with']} this changed:\n{changes}"
