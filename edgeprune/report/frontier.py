"""A frontier for people: the table of its rows, accuracy against latency as a drawing, and the page of both."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from edgeprune.report.drawing import COLOURS, Plot, draw_marks, draw_plot, draw_unsure, legend_above
from edgeprune.report.page import render
from edgeprune.report.table import Table
from edgeprune.report.text import INTERVAL, scope_text
from edgeprune.samples.gates import TOO_NEAR, Verdict, may_settle_quietly
from edgeprune.samples.statistics import interval_half_width
from edgeprune.samples.text import DIGITS, ends_text, signed_text
from edgeprune.target import extending_yaml

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from edgeprune.records.frontier import Choice, Floor, Frontier, Recommendation, Row
    from edgeprune.samples.average_precision import DropInterval

COLUMNS = ("", "ms", "speed-up", "accuracy", "untrained, val", "parameters", "")


def frontier_table(found: Frontier) -> Table:
    """A row a lever: the trained ones by latency, then what was not trained, with the reason."""
    return Table.of(_columns(found), [*map(_cells, _trained(found)), *map(_cells, _rest(found))])


def measured_table(found: Frontier) -> Table:
    """The trained rows alone."""
    return Table.of(_columns(found), map(_cells, _trained(found)))


def _columns(found: Frontier) -> Iterator[str]:
    return (f"{scope_text(found.scope)}{name}" if name == "ms" else name for name in COLUMNS)


def left_out_lines(found: Frontier) -> list[str]:
    """What was not trained, or failed, a line each: in a terminal a column for the reason would be a word wide."""
    lines = []
    for row in _rest(found):
        name, speed_up, _, why = _left_out(row)
        lines.append(f"{name}{'' if speed_up == '–' else f', {speed_up}'}: {why}")
    return lines


def _trained(found: Frontier) -> list[Row]:
    rows = [(row.measured.speed_up, row) for row in found.rows if row.measured is not None]
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


def _rest(found: Frontier) -> list[Row]:
    return [row for row in found.rows if row.measured is None]


def _cells(row: Row) -> tuple[str, ...]:
    untrained = "–" if row.screened_accuracy is None else f"{row.screened_accuracy:.4f}"
    if row.budget:
        untrained = "–"
    if (point := row.measured) is None:
        screened = "–" if row.screened_speed_up is None or row.budget else f"×{row.screened_speed_up:.2f}"
        failed = "" if row.point is None else row.point.failed
        return row.name, "–", screened, "–", untrained, "–", row.dropped or failed or ""
    spread = "" if point.accuracy_error is None else f" ± {interval_half_width(point.accuracy_error):.3f}"
    marks = ["on the frontier"] if row.undominated else []
    marks += [f"meets {' and '.join(row.met)} without pruning"] if row.met else []
    marks += [words for words in (point.shortcoming, point.moved) if words]
    figures = (f"{point.ms:.2f}", f"×{point.speed_up:.3f}", f"{point.accuracy:.4f}{spread}", untrained)
    return row.name, *figures, f"{point.parameters / 1e6:.3f} M", "; ".join(marks)


def choice_sentence(
    choice: Choice,
    metric: str,
    ahead: Callable[[Row, Row], DropInterval | None],
    floor: Floor | None = None,
    *,
    trained: bool = False,
    kept: Path | None = None,
) -> str:
    """What is taken for a budget, and how far it is from what stands beside it.

    Args:
        choice: the rows.
        metric: name of the accuracy.
        ahead: how much more accurate a row is than another, from the same images; None where they were not kept.
        floor: what it lost, held against what the profile allows.
        trained: whether every row was.
        kept: the file by which the next run takes the row to take as it is.
    """
    best, budget = choice.best, choice.budget
    if best is None or best.measured is None:
        return f"{budget}: {choice.why}"
    point = best.measured
    text = f"{budget}: take {best.name}, ×{point.speed_up:.2f} at {metric} {point.accuracy:.4f}"
    if point.accuracy_error is not None:
        text += f" ± {interval_half_width(point.accuracy_error):.4f}"
    if choice.reference is not None and choice.reference.measured is not None:
        lost = point.accuracy - choice.reference.measured.accuracy
        text += f", {_with_ends(lost, ahead(best, choice.reference))} against the model as it is"
        text += ", trained for as long" if trained else ""
    if choice.second is not None and choice.second.measured is not None:
        interval = ahead(best, choice.second)
        level = interval is not None and interval.ends[0] <= 0 <= interval.ends[1]
        behind = f"{choice.second.name} at {choice.second.measured.accuracy:.4f}"
        text += f"; {'level with' if level else 'next comes'} {behind}"
        if interval is not None:
            text += f", ahead by {_with_ends(interval.drop, interval)}"
    if choice.unsure is not None and choice.unsure.measured is not None:
        text += f"; {choice.unsure.name} at {choice.unsure.measured.accuracy:.4f} is within noise of the budget"
    if choice.why:
        again = f"run it again {_when(choice.why)}"
        if choice.near and kept is not None:
            again = f"the next run takes this row as it is, unless you remove {kept}: it is then made and measured anew"
        text += f"; INCONCLUSIVE: {choice.why}; {again}"
    return text + (_floor_words(floor) if floor is not None else "")


def _when(why: str) -> str:
    if TOO_NEAR in why:
        return "with another budget"
    return "on a quiet machine" if may_settle_quietly(why) else "once that is mended"


def _floor_words(floor: Floor) -> str:
    """That a row loses more accuracy than the profile allows, or may; empty where it does not."""
    own = floor.own
    more = f"lose{'s' * (own.verdict is Verdict.FAIL)} more than the profile's max_map_drop of {own.limit:g}"
    reference = "a build's own gate holds it against the weights as given"
    if own.verdict is Verdict.FAIL:
        other = f"; INCONCLUSIVE: {floor.instead} may hold both" if floor.instead else ""
        return f"; it {more} ({reference}){other}"
    if own.verdict is Verdict.INCONCLUSIVE:
        return f"; INCONCLUSIVE: it may {more} ({own.reason}; {reference})"
    return ""


def _with_ends(difference: float, interval: DropInterval | None) -> str:
    """A difference of accuracy, and its 95 % interval over images where one is known."""
    text = signed_text(difference)
    if interval is None:
        return text
    if interval.standard_error is None:
        return f"{text} ({interval.images} images {interval.why_unknown})"
    return f"{text} ({ends_text(*interval.ends, digits=DIGITS, signed=True)})"


def how_to_build(found: Frontier, one: Recommendation) -> str:
    """The profile of what is recommended, and the command that builds it."""
    return f"{extending_yaml(found.target, one.keys)}\n{shlex.join(one.command)}"


def frontier_page(found: Frontier) -> str:
    """The page as text of one file."""
    trained = "measured without training"
    if found.hours is not None:
        trained = f"trained for {found.hours:g} h"
    elif found.epochs:
        trained = f"trained for {found.epochs} epoch{'' if found.epochs == 1 else 's'}"
    seconds = found.screening_seconds
    screening = "" if seconds is None else f" The screening before any training took {seconds:.0f} s."
    split = f"split {found.split}" if found.split else "split that judges"
    chosen = f"The {split} gives the {found.metric} and chose what is recommended by it: on other images the best of "
    chosen += "several rows is likely to do a little worse."
    return render(
        "frontier",
        title="What meets the budget",
        summary=f"Every row was {trained} and timed in one interleaved run with the model as it is, on the target "
        f"{found.target}.{screening}{found.output and ' '}{found.output} {chosen} Behind an accuracy stands half of "
        f"its {INTERVAL} over images, in brackets behind a difference the whole.",
        recommendations=[
            (one.sentence, how_to_build(found, one) if one.row is not None else "") for one in found.recommendations
        ],
        plots=[frontier_plot(found)] if _trained(found) else [],
        trained=measured_table(found),
        rest=Table.of(("", "speed-up", "untrained, val", "why not"), [_left_out(row) for row in _rest(found)]),
    )


def _left_out(row: Row) -> tuple[str, ...]:
    name, _, speed_up, _, untrained, _, why = _cells(row)
    return name, speed_up, untrained, why


def _unsure(row: Row) -> str:
    return f", {row.measured.verdict}" if row.measured is not None and row.measured.verdict else ""


def frontier_plot(found: Frontier) -> Plot:
    """Accuracy against latency of every trained row, with the frontier drawn and the budgets marked.

    What lies on it, or is recommended, is numbered from the fastest on. A machine drifts between rows; each was timed
    beside the baseline, so that what is drawn is its ratio, in ms of the baseline's own row.
    """
    rows, scope = _trained(found), scope_text(found.scope)
    base_ms = next((row.measured.ms * row.measured.speed_up for row in (found.rows[0], *rows) if row.measured), 1.0)
    places = [(base_ms / row.measured.speed_up, row.measured.accuracy, row) for row in rows if row.measured is not None]
    limits = [base_ms / value if found.kind == "speed_up" else value for value in found.budgets]
    recommended = {one.row for one in found.recommendations}
    marked = sorted(
        (place for place in places if place[2].undominated or place[2].name in recommended), key=lambda place: place[0]
    )

    def draw(axes: Axes) -> None:
        for ms, accuracy, row in places:
            if row.measured is not None and row.measured.accuracy_error is not None:
                axes.errorbar(
                    [ms],
                    [accuracy],
                    yerr=interval_half_width(row.measured.accuracy_error),
                    color=COLOURS["muted"],
                    linewidth=0.8,
                )
        for pruned, marker, name in ((False, "s", "not pruned"), (True, "o", "pruned")):
            chosen = [(ms, accuracy) for ms, accuracy, row in places if bool(row.budget) is pruned]
            if chosen:
                axes.scatter(*zip(*chosen, strict=True), s=45, marker=marker, color=COLOURS["before"], zorder=3)
                axes.scatter([], [], s=45, marker=marker, color=COLOURS["before"], label=name)
        draw_unsure(axes, [(ms, accuracy) for ms, accuracy, row in places if row.measured and row.measured.shortcoming])
        edge = sorted((ms, accuracy) for ms, accuracy, row in places if row.undominated)
        axes.plot(*zip(*edge, strict=True), color=COLOURS["after"], label="the frontier", zorder=2)
        taken = [(ms, accuracy) for ms, accuracy, row in places if row.name in recommended]
        draw_marks(axes, taken, s=150, facecolors="none", edgecolors=COLOURS["after"], label="recommended", zorder=4)
        for number, limit in enumerate(limits):
            axes.axvline(limit, color=COLOURS["limit"], linestyle="--", linewidth=1, label=None if number else "budget")
        for number, (ms, accuracy, _) in enumerate(marked, 1):
            axes.annotate(str(number), (ms, accuracy), (0, 11), textcoords="offset points", ha="center", fontsize=9)
        axes.margins(0.15)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"{scope}latency {found.statistic}, ms")
        axes.set_ylabel(found.metric)
        legend_above(axes, 3)

    named = "; ".join(
        f"{number}: {row.name}, {ms:.2f} ms, {found.metric} {accuracy:.4f}{_unsure(row)}"
        for number, (ms, accuracy, row) in enumerate(marked, 1)
    )
    behind = len(places) - len(marked)
    alt = f"{named}." + (f" {behind} more lie behind them." if behind else "")
    numbers = {row.name: str(number) for number, (*_, row) in enumerate(marked, 1)}
    table = Table.of(
        ("", "number", f"{scope}ms", found.metric),
        ((row.name, numbers.get(row.name, ""), f"{ms:.2f}", f"{accuracy:.4f}") for ms, accuracy, row in places),
    )
    return draw_plot("frontier", f"Accuracy against {scope}latency", alt, draw, table, height_in=4.2)
