"""A picture costs a finished build nothing, whatever its models are run by."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeprune.errors import DataError, DeviceError, EdgepruneError, StageError, TargetError, ToolError
from edgeprune.stages import results
from tests.stages.conftest import Notes

ERRORS = [
    DataError("an image cannot be read"),
    DeviceError("orin: the connection was lost"),
    StageError("the graph cannot be run"),
    TargetError("another size"),
    ToolError(["trtexec"], 1, "the device ran out of memory"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_no_picture_costs_a_finished_build(error: EdgepruneError, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("edgeprune.measure.scenes.choose_scenes", fail)
    notes = Notes()
    build: Any = SimpleNamespace(
        record=lambda facts: SimpleNamespace(path=lambda role: Path(role), facts=SimpleNamespace(unpruned=None)),
        site=SimpleNamespace(usable=True, runtime=None, seed=0),
        target=SimpleNamespace(imgsz=64, accuracy=SimpleNamespace(split="val")),
        dataset=SimpleNamespace(judging_split=lambda split: split),
        weights=SimpleNamespace(task="detect"),
        reporter=notes,
    )
    assert results._scenes(build) == ()
    assert notes.lines == [f"no detections in the report: {error}"]
