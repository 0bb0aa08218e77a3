"""Figures and tables of a profile and of a sweep: the same drawings, colours and page style as the report's."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.report import page as pages
from edgeprune.report.drawing import COLOURS, Plot, plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from edgeprune.search.profile import Profile
    from edgeprune.sweep.points import Sweep

PROFILE_COLUMNS = ("layer", "ms", "share", "fitted, ms", "at half width, ms", "in", "out")
MOST = 24


def profile_rows(profile: Profile) -> list[tuple[str, ...]]:
    """Every timed layer, the slowest first: measured and fitted ms, and ms with every width halved."""
    model, sample = profile.fit.model, profile.samples[0]
    factor = sample.whole_ms / sum(sample.layer_ms.values())
    fitted, half = model.layer_ms(sample.widths), model.layer_ms(sample.widths / 2)
    sizes = model.sizes.state(sample.widths)
    order = sorted(range(len(model.layers)), key=lambda i: -sample.layer_ms.get(model.layers[i], 0.0))
    rows = []
    for i in order:
        ms = factor * sample.layer_ms.get(model.layers[i], 0.0)
        widths = (f"{sizes[1][i]:.0f}" if sizes[1][i] else "–", f"{sizes[0][i]:.0f}")
        rows.append(
            (model.layers[i], f"{ms:.3f}", f"{ms / sample.whole_ms:.1%}", f"{fitted[i]:.3f}", f"{half[i]:.3f}", *widths)
        )
    return rows


def profile_summary(profile: Profile) -> str:
    """One line: the whole model, the device's step, and what the cost model is worth."""
    fit = profile.fit
    errors = ", ".join(f"{error:+.1%}" for error in fit.errors)
    taken = f"in {profile.nodes} nodes of" if profile.nodes else "not told by layer: shared out by multiplications over"
    return (
        f"{profile.samples[0].whole_ms:.2f} ms {taken} {len(fit.timed)} layers; widths count in "
        f"steps of {fit.model.sizes.step}; error against {len(fit.errors)} narrowed copies, each predicted unseen: "
        f"{errors}"
    )


def milliseconds(profile: Profile) -> Plot:
    """Where the milliseconds are: the slowest layers as they are and with every width halved."""
    rows = profile_rows(profile)
    shown = rows[:MOST][::-1]

    def draw(axes: Axes) -> None:
        place = np.arange(len(shown))
        axes.barh(place + 0.2, [float(row[1]) for row in shown], 0.38, color=COLOURS["before"], label="measured")
        axes.barh(place - 0.2, [float(row[4]) for row in shown], 0.38, color=COLOURS["after"], label="at half width")
        axes.set_yticks(place, [row[0].removesuffix(".conv") for row in shown], fontsize=8)
        axes.set_xlabel("ms a run")
        axes.legend(loc="lower right", fontsize=10)

    return plot(
        "profile", "Where the milliseconds are", f"{profile_summary(profile)}.", draw, PROFILE_COLUMNS, rows, height=6.0
    )


def trade_off(sweep: Sweep) -> Plot:
    """Accuracy against latency of every point, with the unpruned models on the same axes."""
    from edgeprune.sweep.points import COLUMNS

    def draw(axes: Axes) -> None:
        whole = [(point.ms, point.accuracy, point.name) for point in sweep.unpruned]
        pruned = sorted((point.ms, point.accuracy) for point in sweep.points if point.failed is None)
        axes.scatter(
            [p[0] for p in whole],
            [p[1] for p in whole],
            s=60,
            marker="s",
            color=COLOURS["before"],
            label="unpruned",
            zorder=3,
        )
        for ms, value, name in whole:
            axes.annotate(name, (ms, value), (6, 4), textcoords="offset points", fontsize=9)
        if pruned:
            axes.plot(*zip(*pruned, strict=True), marker="o", color=COLOURS["after"], label="pruned", zorder=3)
        axes.margins(0.15)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"latency {sweep.statistic}, ms")
        axes.set_ylabel(sweep.metric)
        axes.legend(loc="lower right", fontsize=10)

    rows = sweep.rows()
    alt = "; ".join(f"{row[0]}: {row[2]} ms, {sweep.metric} {row[4]}" for row in rows)
    return plot("sweep", "Accuracy against latency", f"{alt}.", draw, COLUMNS, rows)


def page(figures: Sequence[Plot]) -> str:
    """Figures with their tables as one file for a browser, without a network."""
    return pages.page(figures[0].title, [f"<h1>{escape(figures[0].title)}</h1>", pages.figures(figures)])
