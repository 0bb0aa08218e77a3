"""A layer profile for people: its table, its drawing, and the page of both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeprune.measure.layers import BEHIND_THE_LAYERS
from edgeprune.report.drawing import COLOURS, Plot, draw_plot, shortened
from edgeprune.report.page import render
from edgeprune.report.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from edgeprune.measure.layers import LayerCosts

COLUMNS = ("layer", "ms", "share", "fitted, ms", "at half width, ms", "in", "out")
MOST_LAYERS = 24


def layer_costs_table(costs: LayerCosts) -> Table:
    """A row a layer, the slowest first: measured and fitted ms, ms with every width halved, and widths."""
    rows = (
        (
            layer.name,
            f"{layer.ms:.3f}",
            f"{layer.ms / costs.total_ms:.1%}",
            f"{layer.fitted_ms:.3f}",
            f"{layer.half_width_ms:.3f}",
            f"{layer.input_width:.0f}" if layer.input_width else "–",
            f"{layer.output_width:.0f}" if layer.output_width else "–",
        )
        for layer in costs.layers
    )
    return Table.of(COLUMNS, rows)


def layer_costs_text(costs: LayerCosts) -> str:
    """One line: the whole model, the device's step, and what the cost model is worth."""
    errors = ", ".join(f"{error:+.1%}" for error in costs.held_out_errors)
    source = f"in {costs.nodes} nodes of" if costs.nodes else "not told by layer: shared out by multiplications over"
    layers = sum(layer.name != BEHIND_THE_LAYERS for layer in costs.layers)
    return (
        f"{costs.total_ms:.2f} ms {source} {layers} layers; widths count in steps of {costs.device_step}; "
        f"error against {len(costs.held_out_errors)} narrowed copies, each predicted unseen: {errors}"
        + (f"; kept since {costs.kept_since}: another --cache measures anew" if costs.kept_since else "")
    )


def layer_costs_plot(costs: LayerCosts) -> Plot:
    """Where the milliseconds are: the slowest layers as they are and with every width halved."""
    shown = costs.layers[:MOST_LAYERS][::-1]

    def draw(axes: Axes) -> None:
        place = np.arange(len(shown))
        axes.barh(place + 0.2, [layer.ms for layer in shown], 0.38, color=COLOURS["before"], label="measured")
        halved = [layer.half_width_ms for layer in shown]
        axes.barh(place - 0.2, halved, 0.38, color=COLOURS["after"], label="at half width")
        axes.set_yticks(
            place, [shortened(layer.name.removesuffix(".conv").partition(",")[0]) for layer in shown], fontsize=9
        )
        axes.set_xlabel("ms a run")
        axes.legend(loc="lower right", fontsize=10)

    alt, table = f"{layer_costs_text(costs)}.", layer_costs_table(costs)
    return draw_plot("profile", "Where the milliseconds are", alt, draw, table, height_in=6.0)


def layer_costs_page(costs: LayerCosts) -> str:
    """The page as text of one file."""
    return render("figures", title="Layer profile", summary="", plots=[layer_costs_plot(costs)])
