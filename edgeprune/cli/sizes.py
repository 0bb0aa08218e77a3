"""What commands that run a model file say about the size that they run it at."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeprune.target import Target


def side_to_run(model: Path, imgsz: int | None, profile: Target | None = None, *, trust: bool = False) -> int | None:
    """The side that was asked for, by the command or by a profile, in pixels; None leaves it to the file.

    For a checkpoint that was trained at another, a line on stderr says so: results on stdout stay as they are.
    """
    stated = None if profile is None else profile.stated_imgsz
    if model.suffix == ".pt" and (imgsz or stated):
        from edgeprune.checkpoint import load

        size = load(model, trust=trust).size_for(command=imgsz, profile=stated)
        if size.differs:
            print(f"{model}: {size}", file=sys.stderr)
    return imgsz or stated
