"""Options of commands that run a model file, and what they say about the size that they run it at."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeprune.input_size import Size, size_from
from edgeprune.settings import MOST_SEED

if TYPE_CHECKING:
    from edgeprune.target import Target


Trust = Annotated[
    bool, typer.Option("--trust", help="Load foreign classes, run a dataset's download script; both run any code.")
]
Device = Annotated[str | None, typer.Option(help="Where to measure: user@host[:port]; the profile's, or this machine.")]
METAVAR = "PX|H,W"


def seed_option(help: str) -> Any:
    """``--seed``, of a whole number that every library takes."""
    return typer.Option("--seed", min=0, max=MOST_SEED, help=help)


def size_option(help: str, flag: str = "--imgsz") -> Any:
    """``--imgsz``, as :func:`~edgeprune.input_size.size_from` reads it; its parameter is annotated with ``Any``, since
    typer knows no unions."""
    return typer.Option(flag, parser=_parsed, metavar=METAVAR, help=help)


def _parsed(text: str) -> Size:
    try:
        return size_from(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def side_to_run(model: Path, imgsz: Size | None, profile: Target | None = None, *, trust: bool = False) -> Size | None:
    """The size that was asked for, by the command or by a profile, in pixels; None leaves it to the file.

    A profile speaks of what is made from a checkpoint; an exported file has the size that it was made for. For a
    checkpoint that was trained at another, a line on stderr says so: results on stdout stay as they are.
    """
    stated = None if profile is None or model.suffix != ".pt" else profile.stated_imgsz
    if model.suffix == ".pt" and (imgsz is not None or stated):
        from edgeprune.checkpoint import load

        size = load(model, trust=trust).size_for(command=imgsz, profile=stated)
        if size.differs:
            print(f"{model}: {size}", file=sys.stderr)
    return stated if imgsz is None else imgsz
