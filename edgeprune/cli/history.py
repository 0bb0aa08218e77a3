"""``edgeprune history``: builds of one target over time. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeprune.cli.streams import say
from edgeprune.options import OUT, output_file_or_stdout


def history(
    folders: Annotated[
        list[Path], typer.Argument(help="Run directories, bundles, or folders that hold several.", metavar="DIR...")
    ],
    target: Annotated[str | None, typer.Option(help="Name of the target, where there are several.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(*OUT, callback=output_file_or_stdout, help="Write the page, an HTML file, here."),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(callback=output_file_or_stdout, help="Write everything to this file; - prints only that."),
    ] = None,
) -> None:
    """Show builds of one target over time, with what got worse by more than chance.

    Exits 1 when the latest build got worse, 5 when nothing of it can be compared with an earlier one.

    Figures of different devices, or under other conditions, are never compared.

    Example:
      edgeprune history runs/cpu -o history.html   # exits 0, 1 or 5: alone there is nothing to compare
    """
    from edgeprune.cli.bench import write
    from edgeprune.cli.console import print_history
    from edgeprune.records.history import history as read_history
    from edgeprune.report.history import history_page
    from edgeprune.samples.gates import Verdict
    from edgeprune.serial import json_text

    builds = read_history(folders, target)
    if str(json) != "-":
        print_history(builds)
    write(json, json_text(builds) + "\n")
    if output is not None:
        write(output, history_page(builds))
        if "-" not in (str(json), str(output)):
            say(f"page: {output}")
    verdict = Verdict.FAIL if builds.regressed else Verdict.PASS if builds.compared else Verdict.INCONCLUSIVE
    raise typer.Exit(verdict.exit_code)
