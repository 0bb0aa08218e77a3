"""The page of a comparison: the table, figures, classes, and the same images side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeprune.report.drawing import COLOURS, Plot, plot
from edgeprune.report.page import figures, page, section, table
from edgeprune.report.scenes import scenes_html
from edgeprune.samples.statistics import bounds, value_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from edgeprune.measure.compare import Comparison

MARKS = (("before", "s"), ("after", "o"), ("limit", "D"), ("muted", "^"))  # by model, in the order given
MOST_CLASSES = 12


def comparison_page(found: Comparison) -> str:
    """The whole file."""
    title = " against ".join(model.name for model in found.models)
    chosen = (
        f"The {len(found.scenes)} of {found.looked_at} images of {found.split}, drawn by chance, on which the models "
        "differ most from the first one. A detection and an object are the same where class and half of the box agree."
    )
    again = " ".join(
        ["edgeprune compare", *(model.name for model in found.models), "--data", found.data.split("/")[-1]]
    )
    return page(
        title,
        [
            f'<header><h1 id="title">{_escaped(title)}</h1><p>{_escaped(_said(found))}</p></header>',
            section("Figures", table(found.columns, found.rows())),
            figures(plots(found)),
            section(f"{found.metric} by class", table(("class", *found.columns[1:]), found.classes())),
            section("Side by side", f"<p>{_escaped(chosen)}</p>{scenes_html(found.scenes)}" if found.scenes else ""),
            section("How it was measured", table(("", ""), conditions(found)) + f"<pre>{_escaped(again)}</pre>"),
        ],
    )


def plots(found: Comparison) -> list[Plot]:
    """Every figure that there is data for."""
    return [one for one in (trade_off(found), latency(found), by_class(found)) if one is not None]


def conditions(found: Comparison) -> list[tuple[str, str]]:
    """What the figures were measured under."""
    rows = [("runtime", found.runtime), ("data", f"{found.data.split('/')[-1]}, split {found.split}")]
    rows.append(("images judged", str(found.models[0].accuracy.images)))
    if found.pending:
        rows.append(("latency", f"not measured: {found.pending}"))
    first = found.models[0].latency
    if first is not None:
        told = first.latency.conditions
        rows += [(key, str(value)) for key, value in told.get("identity", {}).items()]
        rows += [("simulated", "yes: no device was measured")] if first.latency.simulated else []
        rows += [("threads", str(told.get("threads"))), ("samples of each model", str(len(first.latency.values)))]
        if "host" in told:
            rows.append(("load average", str(told["host"]["load_average"])))
    return rows


def trade_off(found: Comparison) -> Plot | None:
    """Accuracy against latency, a point a model with the bound of its latency."""
    timed = [model for model in found.models if model.latency is not None]
    if len(timed) != len(found.models):
        return None
    points = [(bounds(model.latency.latency.values, found.statistic), model) for model in timed if model.latency]

    def draw(axes: Axes) -> None:
        for number, (bound, model) in enumerate(points):
            colour, mark = MARKS[number % len(MARKS)]
            ends = [[bound.value - (bound.low or bound.value)], [(bound.high or bound.value) - bound.value]]
            axes.errorbar(
                [bound.value],
                [model.accuracy.map50_95],
                xerr=ends,
                fmt=mark,
                color=COLOURS[colour],
                markersize=9,
                capsize=4,
                label=model.name,
            )
        axes.margins(0.2)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"latency {found.statistic}, ms, bounds at 99 %")
        axes.set_ylabel(found.metric)
        axes.legend(loc="best", fontsize=10)

    rows = [
        (model.name, f"{bound.value:.3f}", _or(bound.low), _or(bound.high), f"{model.accuracy.map50_95:.4f}")
        for bound, model in points
    ]
    alt = "; ".join(f"{name}: {ms} ms at {found.metric} {value}" for name, ms, _, _, value in rows)
    columns = ("model", f"{found.statistic}, ms", "at least", "at most", found.metric)
    return plot("trade-off", "Accuracy against latency", f"{alt}.", draw, columns, rows)


def latency(found: Comparison) -> Plot | None:
    """Distribution of all samples."""
    timed = [(model.name, model.latency.latency.values) for model in found.models if model.latency is not None]
    if len(timed) != len(found.models):
        return None

    def draw(axes: Axes) -> None:
        for number, (name, values) in enumerate(timed):
            shares = np.arange(1, len(values) + 1) / len(values)
            axes.step(np.sort(values), shares, where="post", color=COLOURS[MARKS[number % len(MARKS)][0]], label=name)
        axes.set_xlim(0.9 * min(min(v) for _, v in timed), 1.1 * max(float(np.quantile(v, 0.95)) for _, v in timed))
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("latency, ms")
        axes.set_ylabel("share of samples at or below")
        axes.legend(loc="best", fontsize=10)

    names = ("p50", "p90", "p95", "p99")
    rows = [(name, str(len(v)), *(f"{value_of(v, one):.3f}" for one in names)) for name, v in timed]
    alt = "; ".join(f"{row[0]}: p50 {row[2]} ms, p95 {row[4]} ms" for row in rows)
    return plot("latency", "Latency, every sample", f"{alt}.", draw, ("model", "samples", *names), rows)


def by_class(found: Comparison) -> Plot | None:
    """Accuracy of the classes that changed most, a bar a model."""
    first = found.models[0].accuracy.per_class
    if not first:
        return None

    def moved(name: str) -> float:
        return max(abs(model.accuracy.per_class.get(name, 0.0) - first[name]) for model in found.models)

    shown = sorted(first, key=moved, reverse=True)[:MOST_CLASSES]

    def draw(axes: Axes) -> None:
        height = 0.8 / len(found.models)
        for number, model in enumerate(found.models):
            place = np.arange(len(shown)) + (number - (len(found.models) - 1) / 2) * height
            values = [model.accuracy.per_class.get(name, 0.0) for name in shown]
            axes.barh(place, values, height * 0.92, color=COLOURS[MARKS[number % len(MARKS)][0]], label=model.name)
        axes.set_yticks(np.arange(len(shown)), [name[:24] for name in shown])
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_xlabel(found.metric)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), fontsize=10)  # over the bars there is no room

    worst = min(
        (
            (model.accuracy.per_class.get(name, 0.0) - first[name], model.name, name)
            for model in found.models[1:]
            for name in first
        ),
    )
    alt = f"Classes: {len(first)}, drawn are those that changed most. "
    alt += f"The most was lost in {worst[2]} by {worst[1]}: {worst[0]:+.4f}."
    return plot(
        "classes",
        "Accuracy by class",
        alt,
        draw,
        ("class", *found.columns[1:]),
        found.classes(),
        height=max(2.4, 0.25 * len(shown) * len(found.models) + 1),
    )


def _said(found: Comparison) -> str:
    first, *others = found.models
    said = []
    for model in others:
        change = model.accuracy.map50_95 - first.accuracy.map50_95
        fast = model.latency.speed_up if model.latency else None
        speed = f"×{fast.ratio:.2f} the speed ({fast.low:.2f} to {fast.high:.2f}), " if fast else ""
        said.append(f"{model.name}: {speed}{found.metric} {change:+.4f}")
    return f"Against {first.name}. {'; '.join(said)}."


def _or(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _escaped(text: str) -> str:
    from html import escape

    return escape(text)
