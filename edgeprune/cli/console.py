"""What the command line draws: stages, bars, gates and tables, with rich."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from edgeprune.cli.streams import results_console
from edgeprune.report.text import budget_text
from edgeprune.report.verdict import COLUMNS, gate_cells, short_reasons
from edgeprune.samples.gates import Gate

if TYPE_CHECKING:
    from edgeprune.measure.doctor import Finding
    from edgeprune.records.build import BuildRecord
    from edgeprune.report.table import Table as ReportTable
    from edgeprune.target import Target

MIN_WIDTH_FOR_REASONS = 120  # columns from which the reasons stand beside their gates
COLOURS = {"PASS": "green", "FAIL": "red", "INCONCLUSIVE": "yellow", "PENDING": "cyan", "info": "dim"}


class ConsoleReporter:
    """Draws a build as it goes; use it as a context manager so that the last bar is taken away on every exit."""

    def __init__(self) -> None:
        # Made once, because stages redirect sys.stdout into their logs while a bar is on the screen.
        self._console = results_console()
        self._live: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> ConsoleReporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()

    def stage(self, name: str, number: int, total: int, reused: bool) -> None:
        self._clear()
        state = " [dim]reused[/dim]" if reused else ""
        self._console.print(f"[bold]\\[{number}/{total}] {name}[/bold]{state}")

    def progress(self, text: str, *, done: int = 0, total: int = 0, latest_ms: Sequence[float] = ()) -> None:
        if self._live is None:
            self._live = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
                disable=not self._console.is_terminal,  # a log file wants lines, not frames
            )
            self._task = self._live.add_task("", total=None)
            self._live.start()
        self._live.update(self._task, description=escape(text), completed=done, total=total or None)

    def note(self, text: str) -> None:
        self._console.print(f"  {escape(text)}")

    def gates(self, gates: Sequence[Gate]) -> None:
        self._clear()
        for gate in gates:
            _, metric, value, limit, verdict, _ = gate_cells(gate)
            against = f" (limit {limit})" if gate.limit is not None else ""
            self._console.print(f"  [{COLOURS[verdict]}]{verdict:<12}[/] {escape(metric)} {value}{against}")

    def _clear(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def print_table(content: ReportTable, title: str | None = None, *, models_across: bool = False) -> None:
    """A table of the report in the terminal, figures aligned to the right.

    Args:
        content: the table.
        title: a line above it.
        models_across: a column a model: all but the first, which says what the figures are, are aligned to the right.
    """
    table = Table(show_edge=False, title=None if title is None else escape(title), title_justify="left")
    for place, (column, numeric) in enumerate(zip(content.columns, content.numeric, strict=True)):
        right = place > 0 if models_across else numeric
        table.add_column(escape(column), justify="right" if right else "left", overflow="fold")
    for row in content.rows:
        table.add_row(*(escape(cell) for cell in row))
    results_console().print(table)


def print_verdict(record: BuildRecord) -> None:
    """The verdict table of a build."""
    console = results_console()
    title = f"{record.target.name}: {budget_text(record.target.budget)}"
    wide = console.width >= MIN_WIDTH_FOR_REASONS
    table = Table(title=title, title_justify="left", title_style="bold", show_edge=False)
    for column in COLUMNS if wide else COLUMNS[:-1]:
        numeric = column in ("value", "limit")
        table.add_column(column, justify="right" if numeric else "left", no_wrap=column not in ("metric", "reason"))
    gates = short_reasons(record.gates, record.next_command, "the command below")
    for gate in gates:
        *cells, verdict, reason = gate_cells(gate)
        row = [*(escape(cell) for cell in cells), f"[{COLOURS[verdict]}]{verdict}[/]"]
        table.add_row(*row, escape(reason)) if wide else table.add_row(*row)
    console.print(table)
    if not wide:  # a column of reasons would be a word wide
        for gate in gates:
            console.print(f"  [dim]{gate.stage}, {escape(gate.metric)}:[/] {escape(gate.reason)}")
    verdict = record.verdict.value
    console.print(f"verdict: [bold {COLOURS[verdict]}]{verdict}[/]")
    if record.next_command:
        console.print("next, where the target's runtime is:")
        console.print(f"  {record.next_command}", markup=False, soft_wrap=True)


def print_targets(targets: Sequence[Target]) -> None:
    """The shipped profiles, one a row."""
    table = Table(show_edge=False)
    for column in ("name", "runtime", "precision", "imgsz", "budget", "description"):
        table.add_column(column, no_wrap=column == "name")
    for target in targets:
        table.add_row(
            target.name, target.runtime, target.precision, str(target.imgsz), str(target.budget), target.description
        )
    results_console().print(table)


def print_doctor(findings: Sequence[Finding]) -> None:
    """What works here; a missing thing is followed by the command that gets it."""
    console = results_console()
    table = Table(show_edge=False)
    for column in ("", "what", "seen", "to get it"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        mark = "[green]ok[/]" if finding.usable else ("[red]missing[/]" if finding.required else "[dim]absent[/]")
        table.add_row(mark, finding.subject, escape(finding.state), escape(finding.remedy))
    console.print(table)
