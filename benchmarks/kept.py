"""The figures behind a page, run by run, in one JSON beside it.

A later run goes on after them, on any machine, and who doubts the page can read every seed.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.suite import PACKAGES, versions
from edgeprune.agent.host import cpu_identity
from edgeprune.artifact import sha256_of, write_atomically
from edgeprune.dataset import Dataset
from edgeprune.errors import DataError
from edgeprune.scratch import locked
from edgeprune.serial import digest_of


class KeptRuns:
    """Figures of finished runs.

    Args:
        page: the Markdown file; the JSON has its name.
        asked: what all of its runs have in common, as plain data.
    """

    def __init__(self, page: Path, asked: Mapping[str, Any]) -> None:
        self.path = page.with_suffix(".json")
        self.asked = json.loads(json.dumps(asked))

    def begin_with(self, other: Path | None) -> None:
        """Take what another file keeps of the same, where there is none yet.

        Raises:
            DataError: the other one keeps runs of something else, which these would replace once they take its place.
        """
        if other is None or not other.is_file():
            return
        self._require_same(other, "move it away, or leave --from out")
        if not self.path.is_file():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, other.read_text())

    def all(self) -> dict[str, Any]:
        """Figures by name of the run.

        Raises:
            DataError: the file keeps runs of something else.
        """
        if not self.path.is_file():
            return {}
        return self._require_same(self.path, "give another page: --out PAGE.md")["runs"]

    def _require_same(self, path: Path, remedy: str) -> dict[str, Any]:
        kept = json.loads(path.read_text())
        asked = kept["asked"]
        if others := [name for name in {**asked, **self.asked} if asked.get(name) != self.asked.get(name)]:
            raise DataError(f"{path}: keeps runs of other {', '.join(others)} than these; {remedy}")
        return kept

    def keep(self, name: str, figures: Any) -> None:
        """Add a run, or replace it."""
        lock = Path(tempfile.gettempdir()) / f"edgeprune-{digest_of(str(self.path.resolve()))[:16]}.lock"
        with locked(lock, wait=True):  # seeds may run beside each other
            runs = {**self.all(), name: figures}
            content = {"asked": self.asked, "runs": {one: runs[one] for one in sorted(runs)}}
            write_atomically(self.path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class MadeOf:
    """What figures of a model depend on before anything else; digests are the first twelve digits of a SHA-256.

    Attributes:
        model: name of the weights' file.
        weights: digest of that file.
        data: name of the dataset's folder.
        dataset: digest of its content.
        imgsz: side of the input in pixels.
    """

    model: str
    weights: str
    data: str
    dataset: str
    imgsz: int

    def folder(self, **others: object) -> str:
        """Name of a folder for what is finished; ``others``: what else shapes every figure in it."""
        words = [self.model, self.weights, self.data, self.dataset, str(self.imgsz)]
        return "-".join([*words, *(f"{name}{value}" for name, value in others.items())])

    def fits(self, said: Mapping[str, Any]) -> bool:
        """Whether kept figures are of this; a digest that they do not name, as older ones, is not held against them."""
        here = vars(self)
        return all(said.get(name) == here[name] for name in ("model", "data", "imgsz")) and all(
            said.get(name) in (None, here[name]) for name in ("weights", "dataset")
        )


def nameless(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many rows do not say by digests which weights and data they are of; empty where all do."""
    count = sum(not is_named(row) for row in rows)
    if not count:
        return ""
    which = "No row names" if count == len(rows) else f"{count} of {len(rows)} rows, marked †, do not name"
    return f"{which} digests of its weights and data: taken before rows kept them, by the names of the files alone."


def mark_of(row: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> str:
    """What marks a row that names no digests among some that do; see :func:`nameless`."""
    return " †" if not is_named(row) and any(map(is_named, rows)) else ""


def is_named(row: Mapping[str, Any]) -> bool:
    """Whether a row says by digests which weights and data it is of."""
    return row.get("weights") is not None and row.get("dataset") is not None


def made_of(weights: Path, data: Path | str, imgsz: int) -> MadeOf:
    """Of files as they are now.

    Raises:
        DataError: the dataset cannot be read.
        OSError: the weights cannot be.
    """
    return MadeOf(weights.stem, sha256_of(weights)[:12], Path(data).parent.name, content_of(data), imgsz)


def content_of(data: Path | str) -> str:
    """The first twelve digits of a dataset's digest; ``DataError`` where it cannot be read."""
    return Dataset.load(data).digest[:12]


def known_by(file: Path) -> str:
    """Name of a file and the first twelve digits of its SHA-256."""
    return f"{file.stem} {sha256_of(file)[:12]}"


def made_here() -> str:
    """Where and when figures that are taken now come from: machine, packages, day."""
    packages = ", ".join(f"{name} {one}" for name, one in versions().items() if name in PACKAGES)
    return f"{cpu_identity()['cpu']}, {os.cpu_count()} cores; {packages}; {date.today():%Y-%m-%d}"


def origins(said: Iterable[str]) -> str:
    """What :func:`made_here` said of several runs, each once."""
    return "; and ".join(dict.fromkeys(said)) or "nothing was run yet"
