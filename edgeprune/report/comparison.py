"""A comparison for people: its tables, its drawings, and the page with the same images side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeprune.report.drawing import COLOURS, Plot, draw_plot, legend_above, shortened
from edgeprune.report.page import render
from edgeprune.report.scenes import draw_scene, legend_of, scene_figures
from edgeprune.report.table import Table
from edgeprune.report.text import INTERVAL, interval_text, ms_end, ms_text, number_text, shell_line
from edgeprune.samples.measurement import latency_bounds
from edgeprune.samples.statistics import confidence_text, value_of
from edgeprune.samples.text import ends_text, signed_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from edgeprune.measure.bench import ModelBench
    from edgeprune.measure.compare import Comparison

MARKS = (("before", "s"), ("after", "o"), ("limit", "^"), ("muted", "v"))  # by model, in the order given
MOST_CLASSES = 12
MOST_LETTERS = 32  # of a model's name in a legend
MIB = 2**20


def comparison_page(comparison: Comparison) -> str:
    """The page as text of one file."""
    names = [model.name for model in comparison.models]
    return render(
        "comparison",
        title=" against ".join(names),
        summary=_summary(comparison),
        models=models_table(comparison),
        plots=comparison_plots(comparison),
        metric=comparison.metric,
        classes=classes_table(comparison),
        choice_of_scenes=f"The {len(comparison.scenes)} of {comparison.looked_at} images of {comparison.split}, drawn "
        "by chance, on which the models differ most from the first one. A detection and an object are the same where "
        "class and half of the box agree.",
        legend=legend_of(comparison.scenes),
        scenes=scene_figures(comparison.scenes),
        conditions=conditions_table(comparison),
        command=shell_line(comparison.command),
    )


def comparison_plots(comparison: Comparison) -> list[Plot]:
    """Accuracy against latency, every sample, and accuracy by class, as far as there is data; a notebook shows each."""
    plots = (trade_off(comparison), latency(comparison), by_class(comparison))
    return [plot for plot in plots if plot is not None]


def draw_scenes(comparison: Comparison) -> list[Figure]:
    """The images side by side as matplotlib figures, one an image."""
    return [draw_scene(scene) for scene in comparison.scenes]


def _count_text(count: int | None, per: float, unit: str) -> str:
    return "not known" if count is None else number_text(count / per, unit)


def models_table(comparison: Comparison) -> Table:
    """A row a figure, a column a model."""
    models, first = comparison.models, comparison.models[0]
    rows = [
        ("file", *(number_text(model.size_bytes / MIB, "MiB") for model in models)),
        ("parameters", *(_count_text(model.counts.parameters, 1e6, "M") for model in models)),
        ("MACs", *(_count_text(model.counts.macs, 1e9, "G") for model in models)),
        ("input", *(f"{height} × {width}" for height, width in (model.imgsz for model in models))),
    ]
    if timed := _timed(comparison):
        simulated = "SIMULATED " if any(bench.latency.simulated for bench in timed) else ""
        medians = (value_of(bench.latency.values, comparison.statistic) for bench in timed)
        rows += [
            (f"{simulated}latency {comparison.statistic}", *(f"{ms_text(ms)} ms" for ms in medians)),
            (
                f"speed-up, {INTERVAL}",
                "1",
                *(interval_text(bench.speed_up) if bench.speed_up else "too few samples" for bench in timed[1:]),
            ),
            ("images a second", *(f"{bench.summary.throughput:.1f}" for bench in timed)),
            ("state of the run", *(bench.state for bench in timed)),
        ]
    else:
        rows.append((f"latency {comparison.statistic}", *("not measured" for _ in models)))
    changes = (model.accuracy.map50_95 - first.accuracy.map50_95 for model in models[1:])
    second = "top-5 accuracy" if comparison.task == "classify" else "mAP50"
    rows += [
        (comparison.metric, *(f"{model.accuracy.map50_95:.4f}" for model in models)),
        (f"{comparison.metric}, change", "", *(signed_text(change) for change in changes)),
        (second, *(f"{model.accuracy.map50:.4f}" for model in models)),
    ]
    return Table.of(("", *(model.name for model in models)), rows)


def classes_table(comparison: Comparison) -> Table:
    """Accuracy by class: a row a class that the split has, a column a model."""
    rows = [
        (name, *(f"{model.accuracy.per_class.get(name, float('nan')):.4f}" for model in comparison.models))
        for name in comparison.models[0].accuracy.per_class
    ]
    return Table.of(("class", *(model.name for model in comparison.models)), rows)


def conditions_table(comparison: Comparison) -> Table:
    """What the figures were measured under."""
    rows = [
        ("runtime", comparison.runtime),
        ("data", f"{comparison.data.split('/')[-1]}, split {comparison.split}"),
        ("images judged", str(comparison.models[0].accuracy.images)),
    ]
    if comparison.pending:
        rows.append(("latency", f"not measured: {comparison.pending}"))
    rows += [("note", line) for line in comparison.notes]
    first = comparison.models[0].latency
    if first is not None:
        conditions = first.latency.conditions
        rows += list(conditions.identity.items())
        rows += [("simulated", "yes: no device was measured")] if first.latency.simulated else []
        rows += [("threads", str(conditions.threads)), ("samples of each model", str(len(first.latency.values)))]
        if conditions.host is not None:
            rows.append(("load average", str(list(conditions.host.load_average))))
    return Table.of(("", ""), rows)


def trade_off(comparison: Comparison) -> Plot | None:
    """Accuracy against latency, a point a model with the bound of its latency."""
    timed = _timed(comparison)
    if not timed:
        return None
    sure = timed[0].summary.confidence
    latencies = (latency_bounds(bench.latency, comparison.statistic, sure) for bench in timed)
    points = list(zip(latencies, comparison.models, strict=True))

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
                label=shortened(model.name, MOST_LETTERS),
            )
        axes.margins(0.2)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"latency {comparison.statistic}, ms, one-sided bounds at {confidence_text(sure)}")
        axes.set_ylabel(comparison.metric)
        axes.legend(loc="best", fontsize=10)

    rows = [
        (
            model.name,
            ms_text(bound.value),
            ms_end(bound.low, up=False),
            ms_end(bound.high, up=True),
            f"{model.accuracy.map50_95:.4f}",
        )
        for bound, model in points
    ]
    alt = "; ".join(f"{name}: {ms} ms at {comparison.metric} {value}" for name, ms, _, _, value in rows)
    columns = ("model", f"{comparison.statistic}, ms", "at least", "at most", comparison.metric)
    return draw_plot("trade-off", "Accuracy against latency", f"{alt}.", draw, Table.of(columns, rows))


def latency(comparison: Comparison) -> Plot | None:
    """Distribution of all samples."""
    benches = _timed(comparison)
    if not benches:
        return None
    timed = [(model.name, bench.latency.values) for model, bench in zip(comparison.models, benches, strict=True)]

    def draw(axes: Axes) -> None:
        for number, (name, values) in enumerate(timed):
            shares = np.arange(1, len(values) + 1) / len(values)
            axes.step(
                np.sort(values),
                shares,
                where="post",
                color=COLOURS[MARKS[number % len(MARKS)][0]],
                label=shortened(name, MOST_LETTERS),
            )
        axes.set_xlim(0.9 * min(min(v) for _, v in timed), 1.1 * max(float(np.quantile(v, 0.95)) for _, v in timed))
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("latency, ms")
        axes.set_ylabel("share at or below")
        legend_above(axes)

    names = ("p50", "p90", "p95", "p99")
    rows = [(name, str(len(v)), *(ms_text(value_of(v, statistic)) for statistic in names)) for name, v in timed]
    alt = "; ".join(f"{row[0]}: p50 {row[2]} ms, p95 {row[4]} ms" for row in rows)
    table = Table.of(("model", "samples", *names), rows)
    return draw_plot("latency", "Latency, every sample", f"{alt}.", draw, table)


def by_class(comparison: Comparison) -> Plot | None:
    """Accuracy of the classes that changed most, a bar a model."""
    first = comparison.models[0].accuracy.per_class
    if not first:
        return None

    def moved(name: str) -> float:
        return max(abs(model.accuracy.per_class.get(name, 0.0) - first[name]) for model in comparison.models)

    shown = sorted(first, key=moved, reverse=True)[:MOST_CLASSES]

    def draw(axes: Axes) -> None:
        height = 0.8 / len(comparison.models)
        for number, model in enumerate(comparison.models):
            place = np.arange(len(shown)) + (number - (len(comparison.models) - 1) / 2) * height
            values = [model.accuracy.per_class.get(name, 0.0) for name in shown]
            axes.barh(
                place,
                values,
                height * 0.92,
                color=COLOURS[MARKS[number % len(MARKS)][0]],
                label=shortened(model.name, MOST_LETTERS),
            )
        axes.set_yticks(np.arange(len(shown)), [shortened(name) for name in shown])
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_xlabel(comparison.metric)
        legend_above(axes)

    worst = min(
        (
            (model.accuracy.per_class.get(name, 0.0) - first[name], model.name, name)
            for model in comparison.models[1:]
            for name in first
        ),
    )
    alt = f"Classes: {len(first)}, drawn are those that changed most. "
    alt += f"The most was lost in {worst[2]} by {worst[1]}: {signed_text(worst[0])}."
    height_in = max(2.4, 0.25 * len(shown) * len(comparison.models) + 1)
    return draw_plot("classes", "Accuracy by class", alt, draw, classes_table(comparison), height_in=height_in)


def _timed(comparison: Comparison) -> list[ModelBench]:
    """The latency of every model; empty where it was not measured."""
    return [model.latency for model in comparison.models if model.latency is not None]


def _summary(comparison: Comparison) -> str:
    first, *others = comparison.models
    changes = []
    for model in others:
        change = model.accuracy.map50_95 - first.accuracy.map50_95
        ratio = model.latency.speed_up if model.latency else None
        speed = f"×{ratio.ratio:.2f} the speed ({ends_text(ratio.low, ratio.high, digits=2)}), " if ratio else ""
        changes.append(f"{model.name}: {speed}{comparison.metric} {signed_text(change)}")
    disturbed = [model.name for model in comparison.models if model.latency and model.latency.disturbed]
    doubt = f" The times of {', '.join(disturbed)} are of a disturbed run." if disturbed else ""
    return f"Against {first.name}. {'; '.join(changes)}.{doubt}"
