from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from edgeprune.artifact import Artifact
from edgeprune.dataset import Dataset
from edgeprune.runtimes import runtime
from edgeprune.stages.base import Context, Silent
from edgeprune.target import load_target
from edgeprune.workspace import Record
from tests.export.helpers import linked_copy

CALIBRATION = 16


class Notes(Silent):
    """Keeps the lines that would stay on the screen."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="session")
def bccd(shared, tmp_path_factory) -> Dataset:
    """BCCD with 16 images to calibrate on and 12 to validate on."""
    root = linked_copy(shared / "data" / "bccd", tmp_path_factory.mktemp("stages") / "bccd")
    for split, count in (("train", CALIBRATION), ("val", 12)):
        for image in sorted((root / "images" / split).iterdir())[count:]:
            image.unlink()
    return Dataset.load(root / "data.yaml", task="detect")


@pytest.fixture
def context(bccd: Dataset, tmp_path: Path) -> Callable[..., Context]:
    """A build's context half way: a profile, the dataset, and records of the stages before, as facts and files."""

    def made(profile: str, records: Mapping[str, tuple[dict[str, Path], dict[str, Any]]] | None = None) -> Context:
        path = tmp_path / "profile.yaml"
        path.write_text(profile)
        target, none = load_target(path), cast(Any, None)
        runs_on = runtime(target.runtime)
        usable = runs_on.availability().ok
        finished = {
            stage: Record(
                none,
                tmp_path,
                {role: Artifact("onnx", file, "") for role, file in files.items()},
                facts,
                0.0,
                "",
            )
            for stage, (files, facts) in (records or {}).items()
        }
        return Context(target, none, bccd, 0, False, none, runs_on, usable, "next", Notes(), records=finished)

    return made
