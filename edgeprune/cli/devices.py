"""``edgeprune device probe`` and ``edgeprune import-results``. Heavy imports stay inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeprune.cli.streams import say

app = typer.Typer(no_args_is_help=True, help="Look at the devices that models ship on.")


@app.callback()
def _root() -> None:
    """Look at the devices that models ship on."""


@app.command()
def probe(
    host: Annotated[str, typer.Argument(help="user@host[:port], fake:orin-nano, or nothing for this machine.")] = "",
) -> None:
    """Say what a device is, what of edgeprune works on it, and what to type next. Changes nothing there.

    Exits 4 where no runtime works there: on a Jetson one of its targets' (trtexec), elsewhere any.

    Examples:
      edgeprune device probe
      edgeprune device probe user@orin.invalid   # exits 4: no such name
    """
    from edgeprune.cli.console import print_doctor
    from edgeprune.devices import device_named
    from edgeprune.measure.doctor import examine_device, exit_code

    with device_named(host, note=say) as device:
        findings = examine_device(device)
    print_doctor(findings)
    raise typer.Exit(exit_code(findings))


def import_results(
    results: Annotated[Path, typer.Argument(help="results.tar that run-on-device.sh wrote, or its unpacked folder.")],
    run: Annotated[
        Path | None, typer.Option(help="Run directory or bundle of the build; found when not given.")
    ] = None,
) -> None:
    """Take back what run-on-device.sh measured on a board, judge its gates, and update the build's record and report.

    Exits by the verdict: 0 PASS, 1 FAIL, 5 INCONCLUSIVE or PENDING.

    Example:
      edgeprune import-results results.tar \\
        --run runs/jetson-orin   # exits 2: without the board's results.tar
    """
    from edgeprune.carry.back import import_results as judge_results
    from edgeprune.cli.console import print_next_step, print_verdict

    record, bundle = judge_results(results, run, note=say)
    print_verdict(record)
    print_next_step(record)
    say(f"bundle: {bundle}")
    raise typer.Exit(record.verdict.exit_code)
