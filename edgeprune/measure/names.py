"""What several files are called on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def names_apart(paths: Sequence[Path]) -> list[str]:
    """File names, with folders before them as far as it takes to tell them apart; numbered where one file is there
    twice."""
    for depth in range(1, 1 + max((len(path.parts) for path in paths), default=0)):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{number}: {path.name}" for number, path in enumerate(paths, 1)]
