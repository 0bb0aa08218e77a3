"""Sensitivity for people: the loss of every dimension as a table, a drawing and a page."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from edgeprune.report.drawing import COLOURS, PLAIN_TEXT, Plot, draw_plot, shortened
from edgeprune.report.page import render
from edgeprune.report.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from edgeprune.pruning.sensitivity import Point, Sensitivity

MOST_NAMED = 8  # lines that the legend names, the most sensitive ones


def sensitivity_text(sensitivity: Sensitivity) -> str:
    """What the losses are held against, in one line."""
    return f"loss per image {sensitivity.whole_loss:.3f} with everything kept; channels by {sensitivity.importance}"


def sensitivity_table(sensitivity: Sensitivity) -> Table:
    """Loss per image for each dimension and share that was asked to go, the most sensitive first, with the width that
    was kept for it."""
    ratios = sorted({point.ratio for point in sensitivity.points})
    rows = (
        (name, *(_cell(points[ratio]) if ratio in points else "" for ratio in ratios))
        for name, points in _most_sensitive_first(sensitivity)
    )
    return Table.of(("dimension", *(f"-{ratio:.0%}" for ratio in ratios)), rows)


def sensitivity_plot(sensitivity: Sensitivity) -> Plot:
    """Rise of the loss over the share of the channels that is removed."""
    alt = f"{sensitivity_text(sensitivity)}; the most sensitive is {_most_sensitive_first(sensitivity)[0][0]}."
    title = "Rise of the loss"
    table = sensitivity_table(sensitivity)
    return draw_plot("sensitivity", title, alt, lambda axes: _draw(axes, sensitivity), table, height_in=4.2)


def sensitivity_file(sensitivity: Sensitivity, suffix: str) -> bytes:
    """The drawing as a file.

    Args:
        sensitivity: what to draw.
        suffix: ``.html`` for a page with the table; ``.png``, ``.svg`` or ``.pdf``.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    if suffix == ".html":
        return render("figures", title="Sensitivity", summary="", plots=[sensitivity_plot(sensitivity)]).encode()
    buffer = io.BytesIO()
    with rc_context(PLAIN_TEXT):
        figure = Figure(figsize=(9, 5), layout="constrained")
        _draw(figure.subplots(), sensitivity)
        figure.savefig(buffer, format=suffix.removeprefix("."))
    return buffer.getvalue()


def _cell(point: Point) -> str:
    """The loss, and the width that it was measured at: the allowed one nearest to the share that was asked for."""
    return f"{point.loss:.3f} ({point.kept} of {point.width})"


def _most_sensitive_first(sensitivity: Sensitivity):
    rows = sensitivity.by_dimension().items()
    return sorted(rows, key=lambda row: -max(point.loss for point in row[1].values()))


def _draw(axes: Axes, sensitivity: Sensitivity) -> None:
    for place, (name, points) in enumerate(_most_sensitive_first(sensitivity)):
        places = sorted((point.removed, point.loss - sensitivity.whole_loss) for point in points.values())
        removed, rise = zip((0.0, 0.0), *places, strict=True)
        if place < MOST_NAMED:
            axes.plot(removed, rise, marker=".", zorder=2, linewidth=2, label=shortened(name))
        else:
            axes.plot(removed, rise, marker=".", zorder=1, linewidth=1, color=COLOURS["muted"], alpha=0.35)
    axes.set_xlabel("share of the channels removed")
    axes.set_ylabel("rise of the loss per image")
    axes.legend(fontsize="small", title="most sensitive")
