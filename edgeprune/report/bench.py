"""A benchmark for people: its table, and the parts of an end-to-end time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.report.table import Table
from edgeprune.report.text import INTERVAL, interval_text, ms_end, ms_text
from edgeprune.samples.statistics import confidence_text, spread_of, value_of
from edgeprune.samples.text import ends_text

if TYPE_CHECKING:
    from edgeprune.measure.bench import BenchResult, ModelBench
    from edgeprune.runtimes.jobs import EndToEndTimes
    from edgeprune.samples.measurement import Measurement
    from edgeprune.samples.statistics import RatioInterval

COLUMNS = (
    "model",
    "p50",
    "p90",
    "p95",
    "p99",
    "mean",
    "images/s",
    "size",
    "format",
    "memory",
    "energy",
    "speed-up",
    "by CPU time",
    "state",
)
MIB = 2**20


def bench_title(result: BenchResult) -> str:
    """What the figures of :func:`bench_table` are, and how sure its bounds."""
    simulated = "SIMULATED " if any(model.latency.simulated for model in result.models) else ""
    sure = confidence_text(result.models[0].summary.confidence)
    ratios = f", ratios with their {INTERVAL}" if result.models[1:] else ""
    return f"{simulated}latency in ms by {result.runtime}, one-sided bounds at {sure}{ratios}"


def bench_table(result: BenchResult) -> Table:
    """A row a model; bounds stand behind their percentile as ``≤``, and where there is a limit they are its gate's."""
    return Table.of(COLUMNS, (_row(name, model) for name, model in zip(result.names, result.models, strict=True)))


def slowest_layers_table(model: ModelBench) -> Table:
    """The layers that took longest, the slowest first."""
    rows = ((layer.name, layer.op, f"{layer.mean_ms:.3f}") for layer in model.layers)
    return Table.of(("layer", "operation", "ms"), rows)


def end_to_end_text(times: EndToEndTimes) -> str:
    """The median of the whole, and those of its parts, which need not add up to it."""
    samples_ms = {"pre": times.pre_ms, "model": times.model_ms, "post": times.post_ms}
    parts = {name: value_of(values, "p50") for name, values in samples_ms.items()}
    total = value_of([sum(run) for run in zip(*samples_ms.values(), strict=True)], "p50")
    height, width = times.frame
    listed = ", ".join(f"{name} {ms_text(value)}" for name, value in parts.items())
    medians = f"p50 {ms_text(total)} ms; medians of its parts: {listed}"
    return f"end to end {medians} (frame {width} x {height}, {times.boxes} boxes)"


def _row(name: str, model: ModelBench) -> tuple[str, ...]:
    summary, limit = model.summary, None if model.gate is None else model.gate.limit

    def with_bound(value: float, bound: float | None) -> str:
        return ms_text(value) + (f" (≤ {ms_end(bound, limit, up=True)})" if bound is not None else "")

    return (
        name,
        with_bound(summary.p50, summary.p50_bound),
        with_bound(summary.p90, summary.p90_bound),
        with_bound(summary.p95, summary.p95_bound),
        with_bound(summary.p99, summary.p99_bound),
        ms_text(summary.mean),
        f"{summary.throughput:.1f}",
        f"{model.size_bytes / MIB:.1f} MiB",
        model.precision or "–",
        f"{model.memory.model_rss_bytes / MIB:.0f} MiB" if model.memory else "–",
        _energy(model.energy),
        _interval(model.speed_up),
        _interval(model.cpu_speed_up),
        model.state,
    )


def _energy(energy: Measurement | None) -> str:
    if energy is None:
        return "–"
    spread = spread_of(energy.values)
    return f"{spread.median:.3g} ({ends_text(spread.low, spread.high, 'g', 3)}) mJ"


def _interval(ratio: RatioInterval | None) -> str:
    return interval_text(ratio) if ratio else "–"
