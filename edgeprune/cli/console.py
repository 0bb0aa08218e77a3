"""What the command line draws: stages, bars, gates and tables, with rich."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from rich.markup import escape
from rich.measure import Measurement
from rich.padding import Padding
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from edgeprune.cli.streams import has_bars, has_width, results_console
from edgeprune.input_size import pixels
from edgeprune.records.show import unfinished_since
from edgeprune.report.history import change_text, created_text, device_names, figures_text
from edgeprune.report.text import budget_text
from edgeprune.report.verdict import (
    COLUMNS,
    accuracy_warning,
    gate_cells,
    gate_text,
    next_step,
    short_reasons,
)
from edgeprune.samples.gates import Gate

if TYPE_CHECKING:
    from rich.console import Console

    from edgeprune.measure.doctor import Finding
    from edgeprune.records.build import BuildRecord
    from edgeprune.records.history import History
    from edgeprune.report.table import Table as ReportTable
    from edgeprune.target import Target

FIRST_LINE_S, LONGEST_PAUSE_S = 20.0, 300.0  # of what is said where no terminal shows a bar
MOST_COLUMNS = 10_000  # of a table where no terminal ends a line
INDENT = 4  # of what stands below a row
MIN_WIDTH_FOR_REASONS = 120  # columns from which the reasons stand beside their gates
COLOURS = {"PASS": "green", "FAIL": "red", "INCONCLUSIVE": "yellow", "PENDING": "cyan", "info": "dim"}


class ProgressLines:
    """Says now and then what the work is at, where no terminal shows a bar: a log wants lines, not frames.

    Args:
        stream: where lines go.
        first_s: seconds before the first line; pauses double from there on, so that short work says nothing and long
            work fills no log.
    """

    def __init__(self, stream: TextIO, first_s: float = FIRST_LINE_S) -> None:
        self._stream, self._pause_s = stream, first_s
        self._text, self._began, self._ended = "", time.monotonic(), threading.Event()
        self._thread: threading.Thread | None = None

    def update(self, text: str, *, done: int = 0, total: int = 0) -> None:
        """What the work is at from now on."""
        self._text = f"{text} ({done} of {total})" if total else text
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Say no more."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._pause_s):
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            try:
                print(f"{time.monotonic() - self._began:.0f} s: {self._text}", file=self._stream, flush=True)
            except (OSError, ValueError):  # nobody reads it any more, which ends no work
                return


class ConsoleReporter:
    """Draws a build as it goes; use it as a context manager so that the last bar is taken away on every exit."""

    def __init__(self) -> None:
        # Made once, because stages redirect both streams into their logs while a bar is on the screen.
        self._console = results_console()
        self._lines = None if has_bars(self._console) else ProgressLines(sys.stderr)
        self._live: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> ConsoleReporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()
        if self._lines is not None:
            self._lines.stop()

    def stage(self, name: str, number: int, total: int, reused: bool) -> None:
        self._clear()
        if self._lines is not None:
            self._lines.update(f"stage {name}")
        state = " [dim]reused[/dim]" if reused else ""
        self._console.print(f"[bold]\\[{number}/{total}] {name}[/bold]{state}")

    def progress(self, text: str, *, done: int = 0, total: int = 0, latest_ms: Sequence[float] = ()) -> None:
        if self._lines is not None:
            self._lines.update(text, done=done, total=total)
            return
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
            )
            self._task = self._live.add_task("", total=None)
            self._live.start()
        self._live.update(self._task, description=escape(text), completed=done, total=total or None)

    def note(self, text: str) -> None:
        print_sentence(self._console, f"  {escape(text)}")

    def gates(self, gates: Sequence[Gate]) -> None:
        self._clear()
        for gate in gates:
            verdict = gate_cells(gate)[-2]
            print_sentence(self._console, f"  [{COLOURS[verdict]}]{verdict:<12}[/] {escape(gate_text(gate))}")

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
    console = results_console()

    def drawn(whole: bool) -> Table:
        table = Table(show_edge=False, title=None if title is None else escape(title), title_justify="left")
        for place, (column, numeric) in enumerate(zip(content.columns, content.numeric, strict=True)):
            right = place > 0 if models_across else numeric
            longest = max((len(row[place]) for row in content.rows), default=0)
            # heads wrap rather than figures and names
            least = longest if whole and (right or place == 0) and longest <= console.width // 3 else None
            table.add_column(escape(column), justify="right" if right else "left", overflow="fold", min_width=least)
        for row in content.rows:
            table.add_row(*(escape(cell) for cell in row))
        return table

    table = drawn(whole=True)
    wanted = Measurement.get(console, console.options.update(max_width=MOST_COLUMNS), table)
    if not has_width(console):
        console.width = max(console.width, wanted.maximum)
    elif wanted.minimum > console.width:
        table = drawn(whole=False)  # what is wider than the terminal would be cut
    console.print(table)


def print_sentence(console: Console, text: str | Text, style: str | None = None) -> None:
    """One line where no terminal ends it, so that what reads a pipe finds its words beside each other."""
    console.print(text, soft_wrap=not has_width(console), style=style)


def print_lines(lines: Sequence[str]) -> None:
    """Sentences that wrap between words, on a terminal."""
    console = results_console()
    for line in lines:
        print_sentence(console, Text(line))


def print_verdict(record: BuildRecord) -> None:
    """The verdict table of a build; on a narrow terminal a reason stands below its row."""
    console = results_console()
    gates = short_reasons(record.gates, record.next_command, "the command below")
    title = f"{record.target.name}: {budget_text(record.target.budget)}"
    if console.width >= MIN_WIDTH_FOR_REASONS:
        table = Table(title=title, title_justify="left", title_style="bold", show_edge=False)
        for column in COLUMNS:
            numeric = column in ("value", "limit")
            table.add_column(column, justify="right" if numeric else "left", no_wrap=column not in ("metric", "reason"))
        for gate in gates:
            *cells, verdict, reason = (escape(cell) for cell in gate_cells(gate))
            table.add_row(*cells, f"[{COLOURS[verdict]}]{verdict}[/]", reason)
        console.print(table)
    else:
        console.print(f"[bold]{escape(title)}[/]")
        rows = []
        for gate in gates:
            stage, *_, verdict, reason = gate_cells(gate)
            rows.append(_Row((verdict, stage, gate_text(gate)), reason, colour=COLOURS[verdict]))
        _print_rows(rows)
    console.print(f"verdict: [bold {COLOURS[record.verdict.value]}]{record.verdict_words}[/]")


def print_next_step(record: BuildRecord) -> None:
    """What comes after a build that did not pass, and a warning before it; a command stands on a line of its own."""
    if warning := accuracy_warning(record):
        print_sentence(results_console(), Text(warning), style="yellow")
    step = next_step(record)
    for words, command in () if step is None else step.said:
        print_lines([words[:1].lower() + words[1:]])
        if command:
            _print_command(command)


def tell_unfinished(*directories: Path) -> None:
    """A line on stderr for each whose latest build did not finish: what was read of it is of an earlier one."""
    for directory in directories:
        if line := unfinished_since(directory):
            print(f"edgeprune: {line}", file=sys.stderr)


def print_targets(targets: Sequence[Target]) -> None:
    """The shipped profiles, each with its description below."""
    rows = [
        _Row(
            (target.name, pixels(target.stated_imgsz) if target.stated_imgsz else "as trained", str(target.budget)),
            f"{target.description}; {target.runtime}, {target.precision}",
        )
        for target in targets
    ]
    _print_rows(rows)


def print_history(history: History) -> None:
    """Builds of one target, oldest first, each with its figures and what moved below."""
    results_console().print(f"[bold]{escape(history.target)}[/], oldest first")
    devices, names = device_names(history), history.names
    rows = []
    for built in history.builds:
        cells = (names[built.path], created_text(built), built.verdict.value)
        cells += (f"device {devices[built.device]}",) if len(devices) > 1 else ()
        colour = "bold red" if built.regressions else "bold" if built.compared_with else "dim"
        rows.append(_Row(cells, f"{figures_text(built)}\n{change_text(built, names)}", colour=colour))
    _print_rows(rows)
    if len(devices) > 1:
        _print_rows([_Row((f"device {letter}", name)) for name, letter in devices.items()])


def print_doctor(findings: Sequence[Finding]) -> None:
    """What works here; a missing thing is followed by the command that gets it, on a line of its own."""
    rows = []
    for finding in findings:
        mark = "ok" if finding.usable else "missing" if finding.required else "absent"
        colour = {"ok": "green", "missing": "red", "absent": "dim"}[mark]
        rows.append(_Row((mark, finding.subject, finding.state), command=finding.remedy, colour=colour))
    _print_rows(rows)


@dataclass(frozen=True)
class _Row:
    """One thing in a list of things.

    Attributes:
        cells: aligned with those of the other rows; the first one has the colour.
        note: words below, wrapped.
        command: what to type, below and never broken, so that it can be copied whole.
        colour: of the first cell.
    """

    cells: Sequence[str]
    note: str = ""
    command: str = ""
    colour: str = "bold"


def _print_rows(rows: Sequence[_Row]) -> None:
    """Rows below each other in columns of one width; what is too wide for the terminal wraps within its column."""
    console = results_console()
    widths = [max(map(len, cells)) for cells in zip(*(row.cells for row in rows), strict=True)]
    for row in rows:
        line = Table.grid(padding=(0, 2, 0, 0))
        for width in widths[:-1]:
            line.add_column(min_width=min(width, console.width // 2), overflow="fold")
        line.add_column(overflow="fold")
        first, *others = row.cells
        line.add_row(f"[{row.colour}]{escape(first)}[/]", *map(escape, others))
        console.print(line)
        if row.note:
            console.print(Padding(Text(row.note, style="dim"), (0, 0, 0, INDENT), expand=False))
        if row.command:
            _print_command(row.command)


def _print_command(command: str) -> None:
    """A command as it is typed: the terminal may wrap it, and copies it whole."""
    results_console().print(f"{' ' * INDENT}{command}", markup=False, soft_wrap=True)
