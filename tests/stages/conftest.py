from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgeprune.artifact import Artifact, Role
from edgeprune.dataset import Dataset
from edgeprune.runtimes.site import open_site
from edgeprune.stages.base import Build, SilentBuild, Weights
from edgeprune.workspace import Key, Record, Workspace
from tests.export.helpers import linked_copy

CALIBRATION = 16


class Notes(SilentBuild):
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
def build_at(bccd: Dataset, tmp_path: Path) -> Callable[..., Build]:
    """A build half way: a profile, the dataset, and records of the stages before, as facts and files."""

    def made(profile: str, records: Mapping[str, tuple[dict[Role, Path], Any]] | None = None) -> Build:
        path = tmp_path / "profile.yaml"
        path.write_text(profile)
        finished = {
            stage: Record(
                Key(stage, {}),
                tmp_path,
                {role: Artifact(file, "") for role, file in files.items()},
                facts,
                0.0,
                "",
            )
            for stage, (files, facts) in (records or {}).items()
        }
        notes = Notes()
        with open_site(path, reporter=notes) as site:
            weights = Weights(tmp_path / "model.pt", "", "detect")
            return Build(site, weights, bccd, False, Workspace(tmp_path), notes, "next", finished)

    return made
