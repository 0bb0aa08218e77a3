"""The figures behind a page, run by run, in one JSON beside it.

A later run goes on after them, on any machine, and who doubts the page can read every seed.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.suite import PACKAGES, versions
from edgeprune.agent.host import cpu_identity
from edgeprune.artifact import sha256_of, write_atomically
from edgeprune.scratch import locked
from edgeprune.serial import digest_of


class KeptRuns:
    """Figures of finished runs.

    Args:
        page: the Markdown file; the JSON has its name.
        asked: what all of its runs have in common, as plain data. A file that says something else is left unread, and
            replaced by the first run that is kept.
    """

    def __init__(self, page: Path, asked: Mapping[str, Any]) -> None:
        self.path = page.with_suffix(".json")
        self.asked = json.loads(json.dumps(asked))

    def all(self) -> dict[str, Any]:
        """Figures by name of the run."""
        if not self.path.is_file():
            return {}
        kept = json.loads(self.path.read_text())
        return kept["runs"] if kept["asked"] == self.asked else {}

    def keep(self, name: str, figures: Any) -> None:
        """Add a run, or replace it."""
        lock = Path(tempfile.gettempdir()) / f"edgeprune-{digest_of(str(self.path.resolve()))[:16]}.lock"
        with locked(lock, wait=True):  # seeds may run beside each other
            runs = {**self.all(), name: figures}
            content = {"asked": self.asked, "runs": {one: runs[one] for one in sorted(runs)}}
            write_atomically(self.path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def known_by(files: Iterable[Path | None]) -> dict[str, str]:
    """Names of files and the first twelve digits of their SHA-256, for what runs have in common."""
    return {file.name: sha256_of(file)[:12] for file in files if file is not None}


def made_here() -> str:
    """Where and when figures that are taken now come from: machine, packages, day."""
    packages = ", ".join(f"{name} {one}" for name, one in versions().items() if name in PACKAGES)
    return f"{cpu_identity()['cpu']}, {os.cpu_count()} cores; {packages}; {date.today():%Y-%m-%d}"


def origins(said: Iterable[str]) -> str:
    """What :func:`made_here` said of several runs, each once."""
    return "; and ".join(dict.fromkeys(said)) or made_here()
