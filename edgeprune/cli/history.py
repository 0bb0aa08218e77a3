"""``edgeprune history``: builds of one target over time. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeprune.cli.streams import results_console


def history(
    folders: Annotated[
        list[Path], typer.Argument(help="Run directories, bundles, or folders that hold several.", metavar="DIR...")
    ],
    target: Annotated[str | None, typer.Option(help="Name of the target, where there are several.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the page, an HTML file, here.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write everything to this file; - prints only that.")] = None,
) -> None:
    """Show builds of one target over time, with what got worse by more than chance. Exits 1 when the latest did.

    Figures of different devices, or under other conditions, are never compared.

    Example:
      edgeprune history runs/cpu -o history.html
    """
    from rich.markup import escape

    from edgeprune.cli.bench import write
    from edgeprune.cli.console import print_table
    from edgeprune.records.history import history as read_history
    from edgeprune.report.history import change_text, history_page, history_table
    from edgeprune.serial import json_text

    builds = read_history(folders, target)
    write(json, json_text(builds) + "\n")
    write(output, history_page(builds) if output is not None else "")
    if str(json) != "-":
        print_table(history_table(builds).without("against before"), f"{builds.target}, oldest first")
        console = results_console()
        for build in builds.builds:
            colour = "red" if build.regressions else "dim"
            console.print(f"[{colour}]{escape(build.path.name)}: {escape(change_text(build))}[/]")
        if output is not None:
            console.print(f"page: {escape(str(output))}")
    raise typer.Exit(1 if builds.regressed else 0)
