"""``edgeprune sign``: what happens to a bundle once it is built."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeprune.cli.streams import say

Build = Annotated[Path, typer.Argument(help="Run directory of a build, or its bundle.")]


def sign_command(
    directory: Build,
    key: Annotated[Path, typer.Option(help="Secret key of minisign; `minisign -G` makes a pair.")],
) -> None:
    """Sign a bundle: build.json, which has the digest of every other file, in minisign's format.

    Asks for the key's password where it has one. Needs py-minisign (extra sign).

    Example:
      edgeprune sign runs/cpu/bundle --key minisign.key
    """
    from edgeprune.records.signature import sign_build

    say(f"signed: {sign_build(directory, key, _password)}")


def _password() -> str:
    return typer.prompt("Password of the key", hide_input=True, err=True)
