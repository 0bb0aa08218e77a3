"""What sparsity training did to batch normalisation: histograms of its scales and biases, and their page."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeprune.report.drawing import COLOURS, Plot, draw_plot, legend_above
from edgeprune.report.page import render
from edgeprune.report.table import Table
from edgeprune.training.result import SCALE_OFF

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from edgeprune.training.result import ScaleReport, SparsityReport


def sparsity_page(report: SparsityReport) -> str:
    """The page as text of one file."""
    return render(
        "figures", title="Sparsity training", summary=report.summary, plots=scale_plots(report.before, report.after)
    )


def scale_plots(before: ScaleReport | None, after: ScaleReport) -> list[Plot]:
    """Channels by size of their scales and of their biases, overall in the drawing, by layer in the table.

    Args:
        before: scales of the model that was given; None draws one model alone.
        after: scales of the trained model.
    """
    return [
        _histogram(before, after, "scales", "Scales of batch normalisation", "absolute scale γ"),
        _histogram(before, after, "biases", "Biases of batch normalisation", "absolute bias β"),
    ]


def _histogram(
    before: ScaleReport | None, after: ScaleReport, kind: Literal["scales", "biases"], title: str, axis: str
) -> Plot:
    edges = after.edges
    models = [("before", "before", before), ("after", "after", after)] if before else [(kind, "after", after)]
    bins = [f"{low:g} to {high:g}" for low, high in pairwise(edges)] + [f"over {edges[-1]:g}"]

    def draw(axes: Axes) -> None:
        place, width = np.arange(len(bins)), 0.84 / len(models)
        for number, (name, colour, scales) in enumerate(models):
            shift = (number - (len(models) - 1) / 2) * width
            axes.bar(place + shift, getattr(scales.overall, kind), width * 0.94, color=COLOURS[colour], label=name)
        if kind == "scales":
            off = sum(edge < SCALE_OFF for edge in edges) - 0.5  # bins to the left of it hold what counts as off
            axes.axvline(off, color=COLOURS["limit"], linestyle="--", label=f"off: below {SCALE_OFF:g}")
        axes.set_xticks(place, bins, rotation=35, ha="right", fontsize=8)
        axes.set_xlabel(axis)
        axes.set_ylabel("channels")
        legend_above(axes, 3)

    shares = ", ".join(f"{name} {scales.overall.share_off:.1%}" for name, _, scales in models)
    alt = f"{after.overall.channels} prunable channels; scales below {SCALE_OFF:g}: {shares}."
    histograms = [("all channels", name, scales.overall) for name, _, scales in models]
    histograms += [(layer, name, histogram) for name, _, scales in models for layer, histogram in scales.layers.items()]
    rows = (
        (layer, name, str(histogram.channels), f"{histogram.share_off:.1%}", *map(str, getattr(histogram, kind)))
        for layer, name, histogram in histograms
    )
    columns = ("layer", "", "channels", f"scale below {SCALE_OFF:g}", *bins)
    return draw_plot(kind, title, alt, draw, Table.of(columns, rows, naming=2))
