"""``edgeprune data``: data sets that can be made without a network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgeprune.cli.sizes import seed_option
from edgeprune.cli.streams import say
from edgeprune.options import OUT, output_folder

app = typer.Typer(no_args_is_help=True, help="Make demo data without a network.")


@app.callback()
def _data() -> None:
    """Make demo data without a network."""


@app.command()
def digits(
    out: Annotated[
        Path,
        typer.Option(*OUT, callback=output_folder, help="Folder to make; new, empty, or the same dataset."),
    ],
    train: Annotated[int, typer.Option(help="Training images.")] = 800,
    val: Annotated[int, typer.Option(help="Validation images.")] = 160,
    test: Annotated[int, typer.Option(help="Test images.")] = 160,
    imgsz: Annotated[int, typer.Option(help="Side of the square images to make in pixels.")] = 128,
    seed: Annotated[int, seed_option("Seed; the same seed gives the same pixels.")] = 0,
    hard: Annotated[bool, typer.Option("--hard", help="Many small digits that overlap, in 20 classes.")] = False,
) -> None:
    """Compose scenes of handwritten digits over photographs, in Ultralytics' layout with train, val and test.

    Example:
      edgeprune data digits --out digits
    """
    from edgeprune.data.digits import write_digits

    def show(text: str, *, done: int = 0, total: int = 0, **_: object) -> None:
        print(f"{text}: {done}/{total}", file=sys.stderr)

    say(str(write_digits(out, train=train, val=val, test=test, imgsz=imgsz, seed=seed, hard=hard, progress=show)))
