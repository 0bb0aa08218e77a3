"""``edgeprune sign`` and ``edgeprune push``: what happens to a bundle once it is built."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from edgeprune.cli.streams import say
from edgeprune.errors import TargetError

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
    from edgeprune.cli.console import tell_unfinished
    from edgeprune.records.signature import sign_build

    say(f"signed: {sign_build(directory, key, _password)}")
    tell_unfinished(directory)


def push_command(
    directory: Build,
    to: Annotated[str, typer.Option(help="Folder, or mlflow:ADDRESS of a tracking server.", metavar="DIR|mlflow:URI")],
    name: Annotated[str | None, typer.Option(help="Name of the model; the target's when not given.")] = None,
) -> None:
    """Copy a bundle, with its report, as the next version of a model: to a folder, or to MLflow's registry.

    A bundle that was changed since its build is refused; one that is there already is not copied again.

    Example:
      edgeprune push runs/cpu --to models --name cells
    """
    from edgeprune.cli.console import tell_unfinished
    from edgeprune.deploy.registry import push

    pushed = push(directory, to, name=name)
    tell_unfinished(directory)
    state = pushed.verdict if pushed.new else f"{pushed.verdict}, there already"
    say(f"{pushed.place}: version {pushed.version} of {pushed.name}, {state}")
    if pushed.signed:
        line = shlex.join(["edgeprune", "verify", str(directory), "--key"])
        say(f"its signature went along and was not checked, next: {line} PUBLIC_KEY")


def _password() -> str:
    try:
        return typer.prompt("Password of the key", hide_input=True, err=True)
    except typer.Abort:
        raise TargetError(
            "the key has a password, and there is no terminal to ask for it at, or it was not given; sign where there "
            "is one"
        ) from None
