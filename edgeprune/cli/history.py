"""``edgeprune history``: builds of each target over time. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeprune.cli.streams import say
from edgeprune.options import OUT, output_file_or_stdout, output_page_or_stdout


def history(
    folders: Annotated[
        list[Path], typer.Argument(help="Run directories, bundles, or folders that hold several.", metavar="DIR...")
    ],
    target: Annotated[str | None, typer.Option(help="Show only builds of the target of this name.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(*OUT, callback=output_page_or_stdout, help="Write the page, an HTML file, here."),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(callback=output_file_or_stdout, help="Write everything to this file; - prints only that."),
    ] = None,
) -> None:
    """Show builds of each target over time, with what got worse by more than chance.

    Each figure is held against the latest earlier build that it may be held against: figures of different devices, or
    under other conditions, never are, nor those of a stand-in or of a disturbed run, nor milliseconds of a core that
    other work shared.

    Exits 1 when the latest build of a target got worse; 5 when nothing of it, or not the figure that its budget speaks
    of, can be compared with an earlier one; 2 when its record was edited (see edgeprune verify).

    --json holds one object for one target, and a list of them for several.

    Example:
      edgeprune history runs/cpu -o history.html   # exits 0, 1 or 5: alone there is nothing to compare
    """
    from edgeprune.cli.bench import write
    from edgeprune.cli.console import print_history, tell_unfinished
    from edgeprune.records.history import histories
    from edgeprune.report.history import history_page
    from edgeprune.samples.gates import Verdict
    from edgeprune.serial import json_text

    found = histories(folders, target)
    if str(json) != "-":
        for one in found:
            print_history(one)
    write(json, json_text(found[0] if len(found) == 1 else found) + "\n")
    if output is not None:
        write(output, history_page(*found))
        if "-" not in (str(json), str(output)):
            say(f"page: {output}")
    tell_unfinished(*(built.path for one in found for built in one.builds))
    for one in found:
        one.require_as_built()
    raise typer.Exit(min((one.verdict for one in found), key=list(Verdict).index).exit_code)
