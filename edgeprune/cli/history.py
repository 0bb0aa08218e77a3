"""``edgeprune history``: builds of one target over time. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
    from edgeprune.cli.bench import write
    from edgeprune.records.history import history as read
    from edgeprune.report.history_page import COLUMNS, against, rows

    found = read(folders, target)
    write(json, found.json_text())
    write(output, found.html() if output is not None else "")
    if str(json) != "-":
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table(show_edge=False, title=f"{found.target}, oldest first", title_justify="left")
        for column in COLUMNS[:-1]:
            table.add_column(column, overflow="fold")
        for row in rows(found):
            table.add_row(*(escape(cell) for cell in row[:-1]))
        console = Console(highlight=False)
        console.print(table)
        for built in found.builds:
            colour = "red" if built.regressions else "dim"
            console.print(f"[{colour}]{escape(built.path.name)}: {escape(against(built))}[/]")
        if output is not None:
            console.print(f"page: {escape(str(output))}")
    raise typer.Exit(1 if found.regressed else 0)
