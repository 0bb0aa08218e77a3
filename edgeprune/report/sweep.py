"""A sweep for people: the table of its points, their drawing, and the page of both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.report.drawing import COLOURS, Plot, draw_plot, draw_unsure, shortened
from edgeprune.report.page import render
from edgeprune.report.table import Table
from edgeprune.report.text import scope_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from edgeprune.records.sweep import Point, Sweep

ON_ONE_BASE = (
    "A machine drifts between points, and each was timed beside the swept model: drawn is its ratio to that model, in "
    "ms of the swept model's own row. The table has the milliseconds as they were measured."
)
COLUMNS = ("model", "budget", "ms", "speed-up", "accuracy", "MACs", "parameters", "note")


def sweep_table(sweep: Sweep, *, reasons: bool = True) -> Table:
    """A row a point, the unpruned models first; ``reasons`` says why a point is no sure answer to its budget,
    instead of only that it is none."""
    rows = [point_cells(point) for point in (*sweep.unpruned, *sweep.points)]
    if not reasons:
        points = (*sweep.unpruned, *sweep.points)
        rows = [(*row[:-1], _in_short(point) or row[-1]) for row, point in zip(rows, points, strict=True)]
    return Table.of((f"{scope_text(sweep.scope)}{name}" if name == "ms" else name for name in COLUMNS), rows)


def _in_short(point: Point) -> str:
    """What keeps a point from being a sure answer, in a word or two; empty where nothing does."""
    if point.failed is not None:
        return "failed"
    return point.verdict or ("not steady" if point.moved else "")


def point_cells(point: Point) -> tuple[str, ...]:
    """A point as text under :data:`COLUMNS`."""
    if point.failed is not None:
        return point.name, point.budget, "–", "–", "–", "–", "–", point.failed
    figures = (f"{point.ms:.2f}", f"×{point.speed_up:.3f}", f"{point.accuracy:.4f}", f"×{point.macs:.2f}")
    note = ", ".join(filter(None, (point.note, point.shortcoming, point.moved)))
    return point.name, point.budget, *figures, f"{point.parameters / 1e6:.3f} M", note


def sweep_page(sweep: Sweep) -> str:
    """The page as text of one file."""
    plot = sweep_plot(sweep)
    return render("figures", title=plot.title, summary=ON_ONE_BASE, plots=[plot])


def sweep_plot(sweep: Sweep) -> Plot:
    """Accuracy against latency of every point, with the unpruned models on the same axes; see :data:`ON_ONE_BASE`.

    Points that are no sure answer to their budget are crossed out.
    """
    points, scope = (*sweep.unpruned, *sweep.points), scope_text(sweep.scope)
    base_ms = next((point.ms * point.speed_up for point in points if point.failed is None), 1.0)  # the swept one's own

    def place(point: Point) -> tuple[float, float]:
        return base_ms / point.speed_up, point.accuracy

    def draw(axes: Axes) -> None:
        unpruned = [(*place(point), point.name) for point in sweep.unpruned if point.failed is None]
        pruned = sorted(place(point) for point in sweep.points if point.failed is None)
        unsure = [place(point) for point in sweep.points if point.failed is None and point.shortcoming]
        axes.scatter(
            [p[0] for p in unpruned],
            [p[1] for p in unpruned],
            s=60,
            marker="s",
            color=COLOURS["before"],
            label="unpruned",
            zorder=3,
        )
        slowest = max([ms for ms, *_ in unpruned] + [ms for ms, _ in pruned], default=0.0)
        for ms, value, name in unpruned:
            side, offset = ("right", (-7, 4)) if ms > slowest / 2 else ("left", (7, 4))  # inside the axes
            axes.annotate(shortened(name), (ms, value), offset, textcoords="offset points", ha=side, fontsize=9)
        if pruned:
            axes.plot(*zip(*pruned, strict=True), marker="o", color=COLOURS["after"], label="pruned", zorder=3)
        draw_unsure(axes, unsure)
        axes.margins(0.15)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"{scope}latency {sweep.statistic}, ms")
        axes.set_ylabel(sweep.metric)
        axes.legend(loc="lower right", fontsize=10)

    def words(point: Point) -> str:
        if point.failed is not None:
            return f"{point.name}: failed"
        ms, accuracy = place(point)
        return f"{point.name}: {ms:.2f} ms, {sweep.metric} {accuracy:.4f}{point.verdict and ', '}{point.verdict}"

    alt = "; ".join(map(words, points))
    return draw_plot("sweep", f"Accuracy against {scope}latency", f"{alt}.", draw, sweep_table(sweep))
