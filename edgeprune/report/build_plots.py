"""The drawings of a build's report. One whose data the record does not have is None."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.records.build import BuildRecord
from edgeprune.records.facts import ProbeFacts
from edgeprune.report.drawing import COLOURS, Plot, draw_plot, legend_above, shortened
from edgeprune.report.sparsity import scale_plots
from edgeprune.report.table import Table
from edgeprune.report.text import INTERVAL, as_title, ms_end, ms_text, scope_text
from edgeprune.samples.gates import pass_confidence, scope_words
from edgeprune.samples.measurement import latency_bounds
from edgeprune.samples.statistics import confidence_text, value_of
from edgeprune.samples.text import ends_text
from edgeprune.target.schema import BUDGET_WINDOW

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LAYERS = 12
# The slowest samples of a busy machine would flatten the rest: the axis ends a little past this percentile.
AXIS_QUANTILE, AXIS_MARGIN = 0.95, 1.1


def build_plots(record: BuildRecord) -> list[Plot]:
    """Every figure that the record has data for, in reading order."""
    plots = (
        trade_off(record),
        latency(record),
        search(record),
        widths(record),
        curves(record),
        layers(record),
        *scales(record),
    )
    return [plot for plot in plots if plot is not None]


def trade_off(record: BuildRecord) -> Plot | None:
    """Accuracy against latency: the unpruned model, what ships, the limits, and where each probe was."""
    pair = record.judged_latency
    if pair is None:
        return None
    baseline = record.stages.baseline.facts
    before, after = baseline.reference_accuracy, record.stages.engine.facts.accuracy.value
    statistic, scope = record.judged_statistic, scope_words(pair[1])
    slow, fast = (value_of(measurement.values, statistic) for measurement in pair)
    limit, floor = limit_ms(record), before - record.target.accuracy.max_map_drop
    metric, unpruned = baseline.accuracy.metric, "unpruned"
    if baseline.reference is not baseline.accuracy:
        unpruned = "unpruned, accuracy in FP32"
    # the machine drifts between a probe and the last measurement: what holds is a probe's share of its own budget
    shares = [] if limit is None else [probe.budget_share for probe in record.stages.prune.facts.probes]

    def draw(axes: Axes) -> None:
        axes.scatter([slow], [before], s=70, color=COLOURS["before"], marker="s", label=unpruned, zorder=3)
        axes.scatter([fast], [after], s=90, color=COLOURS["after"], marker="o", label="what ships", zorder=3)
        if limit is not None:
            axes.axvline(limit, color=COLOURS["limit"], linestyle="--", label="budget")
            rug = axes.get_xaxis_transform()
            probes, height = [limit * share for share in shares], [0.05] * len(shares)
            style = {"marker": "|", "s": 160, "color": COLOURS["muted"]}  # a rug: a probe has no accuracy yet
            axes.scatter(probes, height, transform=rug, **style)
            axes.scatter([], [], label="probe, by its share of the budget", **style)
        axes.axhline(floor, color=COLOURS["limit"], linestyle=":", label="accuracy floor")
        axes.margins(0.18)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"{scope}latency {statistic}, ms")
        axes.set_ylabel(metric)
        legend_above(axes, 2)

    alt = f"{as_title(unpruned)}: {ms_text(slow)} ms at {metric} {before:.4f}. "
    alt += f"What ships: {ms_text(fast)} ms at {after:.4f}. "
    alt += ("" if limit is None else f"Budget {ms_text(limit)} ms. ") + f"Accuracy floor {floor:.4f}."
    rows = [(unpruned, ms_text(slow), f"{before:.4f}"), ("what ships", ms_text(fast), f"{after:.4f}")]
    rows += [(f"probe {number}", f"{share:.1%} of the budget", "not trained") for number, share in enumerate(shares, 1)]
    rows += [("budget", ms_text(limit), ""), ("floor", "", f"{floor:.4f}")]
    table = Table.of(("", f"{scope}latency {statistic}, ms", metric), rows)
    return draw_plot("trade-off", f"Accuracy against {scope}latency", alt, draw, table)


def latency(record: BuildRecord) -> Plot | None:
    """Distribution of the samples that were judged, with the budget; the words say the bound that the gate used."""
    pair = record.judged_latency
    if pair is None:
        return None
    statistic, limit, scope = record.judged_statistic, limit_ms(record), scope_words(pair[1])
    confidence = pass_confidence(record.target.measure.retries)
    before, after = (measurement.values for measurement in pair)
    high = latency_bounds(pair[1], statistic, confidence).high
    quantile = float(statistic[1:]) / 100
    edge = AXIS_MARGIN * max(*(float(np.quantile(values, AXIS_QUANTILE)) for values in (before, after)), limit or 0.0)
    beyond = sum(value > edge for value in (*before, *after))

    def draw(axes: Axes) -> None:
        for values, colour, name in ((before, "before", "unpruned"), (after, "after", "what ships")):
            ordered = np.sort(values)
            shares = np.arange(1, len(ordered) + 1) / len(ordered)
            axes.step(ordered, shares, where="post", color=COLOURS[colour], label=name)
        axes.axhline(quantile, color=COLOURS["muted"], linewidth=0.8, label=statistic)
        if limit is not None:
            axes.axvline(limit, color=COLOURS["limit"], linestyle="--", label="budget")
        axes.set_xlim(0.9 * min(*before, *after), edge)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel(f"{scope}latency, ms")
        axes.set_ylabel("share at or below")
        legend_above(axes, 2)

    interval = record.speed_up
    names = ("p50", "p90", "p95", "p99")
    held = limit if record.target.budget.kind == "latency_ms" else None  # what the gate holds the bound against
    alt = f"{len(after)} samples each. {scope}{statistic} {ms_text(value_of(before, statistic))} ms unpruned, "
    alt += f"{ms_text(value_of(after, statistic))} ms shipped"
    sure = confidence_text(confidence, 1)
    alt += f", at most {ms_end(high, held, up=True)} ms with {sure} confidence." if high is not None else "."
    if beyond:
        alt += f" Slower than the plot shows: {beyond} of both."
    if interval is not None:
        alt += f" Speed-up ×{interval.ratio:.3f}, {INTERVAL} {ends_text(interval.low, interval.high)}."
    rows = []
    for label, measured in zip(("unpruned", "what ships"), pair, strict=True):
        figures = [(name, latency_bounds(measured, name, confidence)) for name in names]
        cells = [
            ms_text(figure.value)
            + (f" (≤ {ms_end(figure.high, held if name == statistic else None, up=True)})" if figure.high else "")
            for name, figure in figures
        ]
        rows.append((label, str(len(measured.values)), *cells))
    columns = (f"{scope}ms, one-sided bound at {sure}", "samples", *names)
    title = f"{scope}latency, every sample"
    return draw_plot("latency", as_title(title), alt, draw, Table.of(columns, rows))


def search(record: BuildRecord) -> Plot | None:
    """How the budget was found: what each probe took of it, and what was expected."""
    probes = record.stages.prune.facts.probes
    if not probes:
        return None
    took = [100 * probe.budget_share for probe in probes]
    expected = [100 * probe.predicted_share for probe in probes]
    numbers = list(range(1, len(probes) + 1))
    bounded = [_share_bounds(probe) for probe in probes]
    lows, highs = zip(*((100 * low, 100 * high) for low, high in bounded), strict=True)

    def draw(axes: Axes) -> None:
        low, high = 100 * record.target.prune.least_used, 100 * BUDGET_WINDOW[1]
        axes.axhspan(low, high, color=COLOURS["limit"], alpha=0.18, linewidth=0, label=f"wanted: {low:g} to {high:g} %")
        axes.scatter(numbers, expected, color=COLOURS["before"], marker="_", s=160, label="expected")
        ends = np.maximum([np.subtract(took, lows), np.subtract(highs, took)], 0)
        axes.errorbar(
            numbers, took, yerr=ends, color=COLOURS["after"], fmt="-o", linewidth=1, capsize=4, label="measured"
        )
        for number, value, probe in zip(numbers, took, probes, strict=True):
            axes.annotate(
                f"MACs ×{probe.macs_ratio:.2f}", (number, value), (8, -3), textcoords="offset points", fontsize=10
            )
        axes.set_xticks(numbers)
        axes.set_xlim(0.5, len(numbers) + 0.9)
        axes.set_ylim(min(85, *lows) - 4, max(105, *highs) + 4)
        axes.set_xlabel("probe")
        axes.set_ylabel("% of the budget")
        legend_above(axes, 2)

    rows = [
        (
            str(number),
            f"×{probe.macs_ratio:.3f}",
            ms_text(probe.latency.baseline_ms),
            ms_text(probe.latency.candidate_ms),
            f"{value:.1f} %" + (f" ({low:.1f} to {high:.1f})" if low < high else ""),
            f"{prediction:.1f} %",
        )
        for number, probe, value, low, high, prediction in zip(
            numbers, probes, took, lows, highs, expected, strict=True
        )
    ]
    alt = f"Probes: {len(probes)}; the last took {took[-1]:.1f} % of the budget at MACs ×{probes[-1].macs_ratio:.2f}."
    scope = scope_text(record.target.budget.scope)
    columns = ("probe", "MACs", f"{scope}unpruned, ms", f"{scope}pruned, ms", "of the budget", "expected")
    return draw_plot("search", "How the budget was found", alt, draw, Table.of(columns, rows))


def _share_bounds(probe: ProbeFacts) -> tuple[float, float]:
    """The interval of a probe's share of the budget; the bare figure twice where the record has none."""
    if probe.budget_share_low is None or probe.budget_share_high is None:
        return probe.budget_share, probe.budget_share
    return probe.budget_share_low, probe.budget_share_high


def widths(record: BuildRecord) -> Plot | None:
    """Channels of every dimension before and after, in order of execution."""
    dimensions = [dimension for dimension in record.plan.dimensions if not dimension.fixed]
    if not dimensions:
        return None
    before, after = [dimension.before for dimension in dimensions], [dimension.after for dimension in dimensions]
    place, step = np.arange(len(dimensions)), max(1, len(dimensions) // 6)

    def draw(axes: Axes) -> None:
        axes.bar(place, before, width=0.85, color=COLOURS["before"], alpha=0.35, label="before")
        axes.bar(place, after, width=0.85, color=COLOURS["after"], label="after")
        axes.set_xlim(-0.6, len(dimensions) - 0.4)
        axes.set_xticks(place[::step])
        axes.set_xticklabels([dimension.name for dimension in dimensions[::step]], rotation=25, ha="right")
        axes.set_ylabel("channels")
        legend_above(axes, 2)

    alt = f"{sum(before)} channels in {len(dimensions)} dimensions before, {sum(after)} after; "
    narrowest = min(dimensions, key=lambda dimension: dimension.after / dimension.before)
    alt += f"the most went from {narrowest.name}: {narrowest.before} to {narrowest.after}."
    rows = [
        (dimension.name, str(dimension.before), str(dimension.after), f"{dimension.after / dimension.before:.0%}")
        for dimension in dimensions
    ]
    table = Table.of(("dimension", "before", "after", "kept"), rows)
    return draw_plot("widths", "Widths before and after", alt, draw, table)


def curves(record: BuildRecord) -> Plot | None:
    """Accuracy by epoch of fine-tuning, which PyTorch measured on val; the unpruned model beside it where it was judged
    on the same images."""
    if record.stages.finetune is None:
        return None
    training = record.stages.finetune.facts.training
    names = [name for name in (training.epochs[0].figures if training.epochs else ()) if name.startswith("metrics/")]
    shown = [name for name in names if "mAP50" in name or "accuracy" in name]
    if not shown:
        return None
    finished = [*([training.given] if training.given else []), *training.epochs]
    epochs = [epoch.number for epoch in finished]
    from matplotlib.ticker import MaxNLocator

    unpruned, best = record.stages.baseline.facts.reference.accuracy, training.best_epoch

    def draw(axes: Axes) -> None:
        for name, colour, style in zip(shown, ("before", "after") * 2, ("-", "-", "--", "--"), strict=False):
            label = name.removeprefix("metrics/")
            values = [epoch.figures[name] for epoch in finished]
            axes.plot(epochs, values, style, color=COLOURS[colour], marker="o", markersize=3, label=label)
        if unpruned.split == "val":
            axes.axhline(unpruned.map50_95, color=COLOURS["limit"], linestyle=":", label="unpruned")
        if best in epochs and not training.found_nothing:
            axes.axvline(best, color=COLOURS["muted"], linewidth=0.8, label="best epoch")
        axes.set_xlabel("epoch")
        axes.set_ylim(0, 1)
        axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.legend(loc="lower right", fontsize=10)

    which = f"best {best}{' (the pruned model as it was)' if training.kept_given else ''}"
    alt = f"Epochs: {len(training.epochs)}, {'none found anything' if training.found_nothing else which}. "
    first, last = finished[0].figures, finished[-1].figures
    alt += "; ".join(f"{name.removeprefix('metrics/')} {first[name]:.3f} to {last[name]:.3f}" for name in shown)
    rows = [(str(epoch.number), *(f"{epoch.figures[name]:.4f}" for name in shown)) for epoch in finished]
    columns = ("epoch", *(name.removeprefix("metrics/") for name in shown))
    return draw_plot("curves", "Fine-tuning", f"{alt}.", draw, Table.of(columns, rows))


def layers(record: BuildRecord) -> Plot | None:
    """The slowest layers of the unpruned model, before and after."""
    timed = record.stages.engine.facts.layers
    if timed is None or not timed.baseline or not timed.candidate:
        return None
    before = {layer.name: layer for layer in timed.baseline}
    after = {layer.name: layer.ms for layer in timed.candidate}
    order = sorted(before, key=lambda name: -before[name].ms)
    shown = order[:MOST_LAYERS][::-1]

    def draw(axes: Axes) -> None:
        place = np.arange(len(shown))
        axes.barh(place + 0.2, [before[name].ms for name in shown], 0.38, color=COLOURS["before"], label="unpruned")
        axes.barh(
            place - 0.2, [after.get(name, 0.0) for name in shown], 0.38, color=COLOURS["after"], label="what ships"
        )
        axes.set_yticks(place, [_short(name) for name in shown], fontsize=9)
        axes.set_xlabel("ms a run")
        axes.legend(loc="lower right", fontsize=10)

    total = sum(layer.ms for layer in before.values()), sum(after.values())
    alt = f"All layers together {total[0]:.2f} ms unpruned, {total[1]:.2f} ms shipped; slowest {order[0]}. "
    alt += "A profiler timed each layer in a run of its own, so that their sum is not the latency above."
    rows = [
        (
            name,
            before[name].op,
            f"{before[name].ms:.4f}",
            f"{after[name]:.4f}" if name in after else "gone or fused",
        )
        for name in order
    ]
    columns = ("layer", "operation", "unpruned, ms", "shipped, ms")
    return draw_plot("layers", "Where the milliseconds went", alt, draw, Table.of(columns, rows), height_in=4.2)


def scales(record: BuildRecord) -> list[Plot]:
    """What sparsity training did to batch normalisation."""
    sparsify = record.stages.sparsify
    return [] if sparsify is None else scale_plots(sparsify.facts.scales.before, sparsify.facts.scales.after)


def limit_ms(record: BuildRecord) -> float | None:
    """The budget as milliseconds on the latency axis; None for a budget that does not speak of latency. A
    ratio is one of medians, and so is its line."""
    budget, pair = record.target.budget, record.judged_latency
    if budget.speed_up is not None and pair is not None:
        return value_of(pair[0].values, record.judged_statistic) / budget.speed_up
    return budget.latency_ms


def _short(name: str) -> str:
    """``model.22/cv2.0.1`` of ``/model.22/cv2.0/cv2.0.1/conv/Conv_output_0_nchwc``; the table has the full name."""
    parts = [part for part in name.split("/") if part]
    kept = [part for part in parts if not re.match(r"(conv|Conv|act|Mul|Sigmoid|output)(_|$)", part)] or parts
    return shortened("/".join(dict.fromkeys((kept[0], kept[-1]))))
