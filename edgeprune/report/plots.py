"""The report's figures: data of ``build.json`` in, accessible SVG with the table behind it out.

Colours are CSS variables of the page: one drawing serves light and dark. A figure whose data is missing is None.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeprune.report.drawing import COLOURS, Plot
from edgeprune.report.drawing import plot as _plot
from edgeprune.samples.statistics import bounds, ratio, value_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LAYERS = 12
OFF = 1e-2  # a scale below this counts as switched off, as in training/scales.py
CUT, ROOM = 0.95, 1.1  # the slowest samples of a busy machine would flatten the rest: the axis ends a little past p95


def plots(record: Mapping[str, Any]) -> list[Plot]:
    """Every figure that the record has data for, in reading order."""
    made = (
        trade_off(record),
        latency(record),
        search(record),
        widths(record),
        curves(record),
        layers(record),
        *norms(record),
    )
    return [plot for plot in made if plot is not None]


def trade_off(record: Mapping[str, Any]) -> Plot | None:
    """Accuracy against latency: the unpruned model, what ships, the limits, and where each probe was."""
    pair, before, after = judged_latency(record), accuracy(record, "baseline"), accuracy(record, "engine")
    if pair is None or before is None or after is None:
        return None
    statistic = record["target"]["budget"]["statistic"]
    slow, fast = (value_of(row["values"], statistic) for row in pair)
    limit, floor = limit_ms(record), before - record["target"]["accuracy"]["max_map_drop"]
    metric = facts(record, "baseline")["accuracy"]["metric"]
    probes = [probe["detail"]["candidate_ms"] for probe in probes_of(record)]

    def draw(axes: Axes) -> None:
        axes.scatter([slow], [before], s=70, color=COLOURS["before"], marker="s", label="unpruned", zorder=3)
        axes.scatter([fast], [after], s=90, color=COLOURS["after"], marker="o", label="what ships", zorder=3)
        if probes:
            rug = axes.get_xaxis_transform()
            axes.scatter(probes, [0.035] * len(probes), marker="^", s=36, color=COLOURS["muted"], transform=rug)
            axes.scatter([], [], marker="^", s=36, color=COLOURS["muted"], label="probe (time only)")
        if limit is not None:
            axes.axvline(limit, color=COLOURS["limit"], linestyle="--", label="budget")
        axes.axhline(floor, color=COLOURS["limit"], linestyle=":", label="accuracy floor")
        axes.margins(0.18)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"{_scope(record)}latency {statistic}, ms")
        axes.set_ylabel(metric)
        axes.legend(loc="best", fontsize=10)

    alt = f"Unpruned: {slow:.2f} ms at {metric} {before:.4f}. What ships: {fast:.2f} ms at {after:.4f}. "
    alt += ("" if limit is None else f"Budget {limit:.2f} ms. ") + f"Accuracy floor {floor:.4f}."
    rows = [("unpruned", f"{slow:.3f}", f"{before:.4f}"), ("what ships", f"{fast:.3f}", f"{after:.4f}")]
    rows += [(f"probe {number}", f"{value:.3f}", "not trained") for number, value in enumerate(probes, 1)]
    rows += [("budget", f"{limit:.3f}" if limit is not None else "–", ""), ("floor", "", f"{floor:.4f}")]
    return _plot("trade-off", "Accuracy against latency", alt, draw, ("", f"{statistic}, ms", metric), rows)


def latency(record: Mapping[str, Any]) -> Plot | None:
    """Distribution of the samples that were judged, with the budget and the bound that the gate used."""
    pair = judged_latency(record)
    if pair is None:
        return None
    statistic, limit = record["target"]["budget"]["statistic"], limit_ms(record)
    before, after = pair
    high = bounds(after["values"], statistic).high
    quantile = float(statistic[1:]) / 100
    edge = ROOM * max(*(float(np.quantile(row["values"], CUT)) for row in pair), limit or 0.0)
    beyond = sum(value > edge for row in pair for value in row["values"])

    def draw(axes: Axes) -> None:
        for row, colour, name in ((before, "before", "unpruned"), (after, "after", "what ships")):
            ordered = np.sort(row["values"])
            shares = np.arange(1, len(ordered) + 1) / len(ordered)
            axes.step(ordered, shares, where="post", color=COLOURS[colour], label=name)
        axes.axhline(quantile, color=COLOURS["muted"], linewidth=0.8)
        if high is not None:
            bound = f"{statistic} ≤ {high:.2f} ms"
            axes.plot([high], [quantile], "D", color=COLOURS["after"], markersize=6, zorder=4, label=bound)
        if limit is not None:
            axes.axvline(limit, color=COLOURS["limit"], linestyle="--", label="budget")
        axes.set_xlim(0.9 * min(*before["values"], *after["values"]), edge)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel(f"{_scope(record)}latency, ms")
        axes.set_ylabel("share of samples at or below")
        axes.legend(loc="best", fontsize=10)

    interval = ratio(before["values"], after["values"]) if _paired(before, after) else None
    names = ("p50", "p90", "p95", "p99")
    alt = f"{len(after['values'])} samples each. {statistic} {value_of(before['values'], statistic):.2f} ms unpruned, "
    alt += f"{value_of(after['values'], statistic):.2f} ms shipped"
    alt += f", at most {high:.2f} ms with 99 % confidence." if high is not None else "."
    if beyond:
        alt += f" Slower than the plot shows: {beyond} of both."
    if interval is not None:
        alt += f" Speed-up ×{interval.ratio:.3f}, 95 % interval {interval.low:.3f} to {interval.high:.3f}."
    rows = []
    for label, row in (("unpruned", before), ("what ships", after)):
        found = [bounds(row["values"], name) for name in names]
        cells = [f"{one.value:.3f}" + (f" (≤ {one.high:.3f})" if one.high is not None else "") for one in found]
        rows.append((label, str(len(row["values"])), *cells))
    columns = ("ms, bound at 99 %", "samples", *names)
    return _plot("latency", "Latency, every sample", alt, draw, columns, rows)


def search(record: Mapping[str, Any]) -> Plot | None:
    """How the budget was found: what each probe took of it, and what was expected."""
    found = probes_of(record)
    if not found:
        return None
    took = [100 / probe["margin"] for probe in found]
    expected = [None if probe["predicted"] is None else 100 / probe["predicted"] for probe in found]
    numbers = list(range(1, len(found) + 1))

    def draw(axes: Axes) -> None:
        axes.axhspan(92, 100, color=COLOURS["limit"], alpha=0.18, linewidth=0, label="wanted: 92 to 100 %")
        guessed = [(number, value) for number, value in zip(numbers, expected, strict=True) if value is not None]
        if guessed:
            axes.scatter(*zip(*guessed, strict=True), color=COLOURS["before"], marker="_", s=160, label="expected")
        axes.plot(numbers, took, color=COLOURS["after"], marker="o", linewidth=1, label="measured")
        for number, value, probe in zip(numbers, took, found, strict=True):
            axes.annotate(
                f"MACs ×{probe['ratio']:.2f}", (number, value), (8, -3), textcoords="offset points", fontsize=10
            )
        axes.set_xticks(numbers)
        axes.set_xlim(0.5, len(numbers) + 0.9)
        axes.set_ylim(min(85, *took) - 4, max(105, *took) + 4)
        axes.set_xlabel("probe")
        axes.set_ylabel("% of the budget")
        axes.legend(loc="best", fontsize=10)

    rows = [
        (
            str(number),
            f"×{probe['ratio']:.3f}",
            f"{probe['detail']['baseline_ms']:.3f}",
            f"{probe['detail']['candidate_ms']:.3f}",
            f"{value:.1f} %",
            "–" if guess is None else f"{guess:.1f} %",
        )
        for number, probe, value, guess in zip(numbers, found, took, expected, strict=True)
    ]
    alt = f"Probes: {len(found)}; the last took {took[-1]:.1f} % of the budget at MACs ×{found[-1]['ratio']:.2f}."
    columns = ("probe", "MACs", "unpruned, ms", "pruned, ms", "of the budget", "expected")
    return _plot("search", "How the budget was found", alt, draw, columns, rows)


def widths(record: Mapping[str, Any]) -> Plot | None:
    """Channels of every dimension before and after, in order of execution."""
    found = [row for row in record.get("plan", {}).get("dimensions", []) if not row.get("fixed")]
    if not found:
        return None
    before, after = [row["before"] for row in found], [row["after"] for row in found]
    place = np.arange(len(found))

    def draw(axes: Axes) -> None:
        axes.bar(place, before, width=0.85, color=COLOURS["before"], alpha=0.35, label="before")
        axes.bar(place, after, width=0.85, color=COLOURS["after"], label="after")
        axes.set_xlim(-0.6, len(found) - 0.4)
        axes.set_xticks(place[:: max(1, len(found) // 6)])
        axes.set_xticklabels([found[i]["name"] for i in place[:: max(1, len(found) // 6)]], rotation=25, ha="right")
        axes.set_ylabel("channels")
        axes.legend(loc="upper left", fontsize=10)

    alt = f"{sum(before)} channels in {len(found)} dimensions before, {sum(after)} after; "
    narrowest = min(found, key=lambda row: row["after"] / row["before"])
    alt += f"the most went from {narrowest['name']}: {narrowest['before']} to {narrowest['after']}."
    rows = [
        (row["name"], str(row["before"]), str(row["after"]), f"{row['after'] / row['before']:.0%}") for row in found
    ]
    return _plot("widths", "Widths before and after", alt, draw, ("dimension", "before", "after", "kept"), rows)


def curves(record: Mapping[str, Any]) -> Plot | None:
    """Accuracy by epoch of fine-tuning, against the unpruned model on the same split by its own runtime."""
    found = facts(record, "finetune").get("curves") or []
    names = [name for name in (found[0] if found else {}) if name.startswith("metrics/")]
    shown = [name for name in names if "mAP50" in name or "accuracy" in name]
    if not shown:
        return None
    epochs = [int(row["epoch"]) for row in found]
    from matplotlib.ticker import MaxNLocator

    before, best = accuracy(record, "baseline"), facts(record, "finetune").get("best_epoch")

    def draw(axes: Axes) -> None:
        for name, colour, style in zip(shown, ("before", "after") * 2, ("-", "-", "--", "--"), strict=False):
            label = name.removeprefix("metrics/")
            values = [row[name] for row in found]
            axes.plot(epochs, values, style, color=COLOURS[colour], marker="o", markersize=3, label=label)
        if before is not None:
            axes.axhline(before, color=COLOURS["limit"], linestyle=":", label="unpruned")
        if best in epochs:
            axes.axvline(best, color=COLOURS["muted"], linewidth=0.8)
        axes.set_xlabel("epoch")
        axes.set_ylim(0, 1)
        axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="lower right", fontsize=10)

    alt = f"Epochs: {len(epochs)}, best {best}. "
    alt += "; ".join(f"{name.removeprefix('metrics/')} {found[0][name]:.3f} to {found[-1][name]:.3f}" for name in shown)
    rows = [(str(epoch), *(f"{row[name]:.4f}" for name in shown)) for epoch, row in zip(epochs, found, strict=True)]
    columns = ("epoch", *(name.removeprefix("metrics/") for name in shown))
    return _plot("curves", "Fine-tuning", f"{alt}.", draw, columns, rows)


def layers(record: Mapping[str, Any]) -> Plot | None:
    """The slowest layers of the unpruned model, before and after: ``layers`` in the engine stage's facts, as
    :func:`edgeprune.measure.layers.layers_side_by_side` gives them."""
    timed = facts(record, "engine").get("layers") or {}
    before = {row["name"]: row for row in timed.get("baseline", [])}
    after = {row["name"]: row["ms"] for row in timed.get("candidate", [])}
    if not before or not after:
        return None
    order = sorted(before, key=lambda name: -before[name]["ms"])
    shown = order[:MOST_LAYERS][::-1]

    def draw(axes: Axes) -> None:
        place = np.arange(len(shown))
        axes.barh(place + 0.2, [before[n]["ms"] for n in shown], 0.38, color=COLOURS["before"], label="unpruned")
        axes.barh(place - 0.2, [after.get(n, 0.0) for n in shown], 0.38, color=COLOURS["after"], label="what ships")
        axes.set_yticks(place, [_short(name) for name in shown], fontsize=8)
        axes.set_xlabel("ms a run")
        axes.legend(loc="lower right", fontsize=10)

    total = sum(row["ms"] for row in before.values()), sum(after.values())
    alt = f"All layers together {total[0]:.2f} ms unpruned, {total[1]:.2f} ms shipped; slowest {order[0]}."
    rows = [
        (
            name,
            str(before[name].get("op", "")),
            f"{before[name]['ms']:.4f}",
            f"{after[name]:.4f}" if name in after else "gone or fused",
        )
        for name in order
    ]
    columns = ("layer", "operation", "unpruned, ms", "shipped, ms")
    return _plot("layers", "Where the milliseconds went", alt, draw, columns, rows, height=4.2)


def norms(record: Mapping[str, Any]) -> list[Plot]:
    """What sparsity training did to batch normalisation: ``scales`` in any stage's facts."""
    found = next((row["facts"]["scales"] for row in record.get("stages", []) if row["facts"].get("scales")), None)
    return histograms(found) if found else []


def histograms(found: Mapping[str, Any]) -> list[Plot]:
    """Channels by size of their scales and of their biases, overall in the drawing, by layer in the table.

    Args:
        found: :meth:`edgeprune.training.scales.Scales.to_json`, under ``before`` and ``after`` or alone.
    """
    return [
        _histogram(found, "scales", "Scales of batch normalisation", "absolute scale γ"),
        _histogram(found, "biases", "Biases of batch normalisation", "absolute bias β"),
    ]


def _histogram(found: Mapping[str, Any], kind: str, title: str, axis: str) -> Plot:
    after = found.get("after") or found
    before = found.get("before") if "after" in found else None
    edges = after["edges"]
    bins = [f"{low:g} to {high:g}" for low, high in pairwise(edges)] + [f"over {edges[-1]:g}"]
    series = [("before", "before", before), ("after", "after", after)] if before else [(kind, "after", after)]

    def draw(axes: Axes) -> None:
        place, width = np.arange(len(bins)), 0.84 / len(series)
        for number, (name, colour, told) in enumerate(series):
            shift = (number - (len(series) - 1) / 2) * width
            axes.bar(place + shift, told["overall"][kind], width * 0.94, color=COLOURS[colour], label=name)
        if kind == "scales":
            off = sum(edge < OFF for edge in edges) - 0.5  # bins to the left of this edge hold what counts as off
            axes.axvline(off, color=COLOURS["limit"], linestyle="--", label=f"off: below {OFF:g}")
        axes.set_xticks(place, bins, rotation=35, ha="right", fontsize=8)
        axes.set_xlabel(axis)
        axes.set_ylabel("channels")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=10)

    said = [f"{name} {told['overall']['share_off']:.1%}" for name, _, told in series]
    alt = f"{after['overall']['channels']} prunable channels; scales below {OFF:g}: {', '.join(said)}."
    rows = [
        (layer, name, str(row["channels"]), f"{row['share_off']:.1%}", *map(str, row[kind]))
        for layer, name, row in (
            *(("all channels", name, told["overall"]) for name, _, told in series),
            *((layer, name, row) for name, _, told in series for layer, row in told.get("layers", {}).items()),
        )
    ]
    columns = ("layer", "", "channels", f"scale below {OFF:g}", *bins)
    return _plot(kind, title, alt, draw, columns, rows)


def facts(record: Mapping[str, Any], stage: str) -> Mapping[str, Any]:
    """Facts of a stage; empty when it did not run."""
    return next((row["facts"] for row in record.get("stages", []) if row["name"] == stage), {})


def accuracy(record: Mapping[str, Any], stage: str) -> float | None:
    """The figure that the accuracy gate used, of the unpruned model (``baseline``) or of what ships (``engine``)."""
    return facts(record, stage).get("accuracy", {}).get("value")


def probes_of(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The probes of the budget search, in order."""
    return list(facts(record, "prune").get("probes") or [])


def judged_latency(record: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """Samples of the unpruned model and of what ships, taken together for the last latency gate."""
    for stage in ("engine", "prune"):
        roles = {
            row["role"]: row
            for row in record.get("measurements", [])
            if row["stage"] == stage and row["unit"] == "ms" and row["values"]
        }
        if {"baseline", "candidate"} <= set(roles):
            return roles["baseline"], roles["candidate"]
    return None


def limit_ms(record: Mapping[str, Any]) -> float | None:
    """The budget as milliseconds on the latency axis; None for a budget that does not speak of latency."""
    budget, pair = record["target"]["budget"], judged_latency(record)
    if budget.get("latency_ms") is not None:
        return float(budget["latency_ms"])
    if budget.get("speed_up") is not None and pair is not None:
        return value_of(pair[0]["values"], budget["statistic"]) / float(budget["speed_up"])
    return None


def _scope(record: Mapping[str, Any]) -> str:
    """Words before ``latency``: nothing for the model alone."""
    return "end-to-end " if record["target"]["budget"].get("scope") == "end_to_end" else ""


def _paired(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    return len(before["values"]) == len(after["values"]) >= 40


def _short(name: str, most: int = 24) -> str:
    """``model.22/cv2.0.1`` of ``/model.22/cv2.0/cv2.0.1/conv/Conv_output_0_nchwc``; the table has the full name."""
    parts = [part for part in name.split("/") if part]
    kept = [part for part in parts if not re.match(r"(conv|Conv|act|Mul|Sigmoid|output)(_|$)", part)] or parts
    short = "/".join(dict.fromkeys((kept[0], kept[-1])))
    return short if len(short) <= most else "…" + short[1 - most :]
