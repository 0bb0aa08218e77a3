"""A history for people: the table of its builds, trends with regressions marked, and the page of both."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from edgeprune.report.drawing import COLOURS, Plot, draw_plot
from edgeprune.report.page import render
from edgeprune.report.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from edgeprune.records.history import BuildSummary, Figure, History

COLUMNS = (
    "build",
    "created",
    "verdict",
    "latency, ms",
    "speed-up",
    "accuracy",
    "size, MiB",
    "device",
    "against before",
)
MARKS = ("o", "s", "D", "^", "v", "P")  # by device


def history_table(history: History) -> Table:
    """A row a build, oldest first; the interval stands behind its figure."""
    devices = device_names(history)
    rows = [
        (
            built.path.name,
            built.created,
            built.verdict.value,
            f"{built.statistic} {_figure(built.latency_ms)}" if built.latency_ms else "–",
            f"×{_figure(built.speed_up)}" if built.speed_up else "–",
            f"{built.accuracy:.4f}",
            f"{built.size_mib:.2f}",
            devices[built.device],
            change_text(built),
        )
        for built in history.builds
    ]
    return Table.of(COLUMNS, rows)


def change_text(built: BuildSummary) -> str:
    """What moved, in words."""
    changes = [f"regression: {change}" for change in built.regressions]
    changes += [f"better: {change}" for change in built.improvements]
    if changes:
        return "; ".join(changes)
    return "nothing moved by more than chance" if built.compared_with else "no earlier build under the same conditions"


def device_names(history: History) -> dict[str, str]:
    """Identity to a letter, in order of appearance."""
    return {name: f"device {chr(65 + i)}" for i, name in enumerate(dict.fromkeys(b.device for b in history.builds))}


def history_page(history: History) -> str:
    """The page as text of one file."""
    latest = history.builds[-1]
    plots = (
        _trend(history, "latency", "Latency of what ships", "ms", lambda built: built.latency_ms),
        _trend(history, "speed-up", "Speed-up against the unpruned model", "×", lambda built: built.speed_up),
        _accuracy(history),
    )
    return render(
        "history",
        title=f"{history.target}: {len(history.builds)} builds",
        state="FAIL" if latest.regressions else "PASS",
        verdict="regression" if latest.regressions else "no regression",
        latest=f"Latest: {latest.path.name}, {latest.verdict.value}; {change_text(latest)}.",
        plots=[plot for plot in plots if plot is not None],
        builds=history_table(history),
        devices=Table.of(("", ""), ((letter, name) for name, letter in device_names(history).items())),
    )


def _trend(
    history: History, key: str, title: str, unit: str, of: Callable[[BuildSummary], Figure | None]
) -> Plot | None:
    points = [(number, built, value) for number, built in enumerate(history.builds, 1) if (value := of(built))]
    if not points:
        return None
    devices = list(dict.fromkeys(built.device for _, built, _ in points))
    letters = device_names(history)

    def draw(axes: Axes) -> None:
        for place, device in enumerate(devices):
            own = [(number, value) for number, built, value in points if built.device == device]
            ends = [
                [value.value - (value.low if value.low is not None else value.value) for _, value in own],
                [(value.high if value.high is not None else value.value) - value.value for _, value in own],
            ]
            axes.errorbar(
                [number for number, _ in own],
                [value.value for _, value in own],
                yerr=ends,
                fmt=MARKS[place % len(MARKS)],
                color=COLOURS["after" if place % 2 == 0 else "before"],
                linewidth=1,
                capsize=4,
                label=letters[device],
            )
        places = {built.path: (number, value.value) for number, built, value in points}
        _join(
            axes,
            [
                (places[built.compared_with], places[built.path])
                for _, built, _ in points
                if built.compared_with in places
            ],
        )
        _mark_regressions(axes, [(number, value.value) for number, built, value in points if _regressed(built, key)])
        _set_axes(axes, history, f"{key}, {unit}")

    rows = [
        (
            built.path.name,
            _figure(value),
            letters[built.device],
            _regressions(built, key),
        )
        for _, built, value in points
    ]
    alt = f"{points[0][2].value:.3f} {unit} in the first build, {points[-1][2].value:.3f} {unit} in the latest; "
    alt += f"regressions: {sum(_regressed(built, key) for _, built, _ in points)}."
    table = Table.of(("build", f"{unit}, 95 % interval", "device", "regression"), rows)
    return draw_plot(key, title, alt, draw, table)


def _accuracy(history: History) -> Plot:
    points = [(number, built, built.accuracy) for number, built in enumerate(history.builds, 1)]
    metric = points[-1][1].metric

    def draw(axes: Axes) -> None:
        axes.plot([number for number, *_ in points], [value for *_, value in points], "o", color=COLOURS["after"])
        latest: dict[str, tuple[int, float]] = {}
        for number, built, value in points:
            if built.dataset in latest:
                _join(axes, [(latest[built.dataset], (number, value))])
            latest[built.dataset] = number, value
        _mark_regressions(axes, [(number, value) for number, built, value in points if _regressed(built, metric)])
        _set_axes(axes, history, metric)

    alt = f"{metric} {points[0][2]:.4f} in the first build, {points[-1][2]:.4f} in the latest; "
    alt += f"regressions: {sum(_regressed(built, metric) for _, built, _ in points)}."
    rows = [(built.path.name, f"{value:.4f}", _regressions(built, metric)) for _, built, value in points]
    table = Table.of(("build", metric, "regression"), rows)
    return draw_plot("accuracy", "Accuracy of what ships", alt, draw, table)


def _regressed(built: BuildSummary, metric: str) -> bool:
    return any(regression.startswith(metric) for regression in built.regressions)


def _regressions(built: BuildSummary, metric: str) -> str:
    return "; ".join(regression for regression in built.regressions if regression.startswith(metric)) or "–"


def _join(axes: Axes, pairs: Iterable[tuple[tuple[int, float], tuple[int, float]]]) -> None:
    """Lines between the figures that are held against each other; others are not comparable and stay apart."""
    for pair in pairs:
        axes.plot(*zip(*pair, strict=True), "-", color=COLOURS["muted"], linewidth=1, zorder=1)


def _mark_regressions(axes: Axes, points: list[tuple[int, float]]) -> None:
    if points:
        xs, ys = zip(*points, strict=True)
        axes.scatter(
            xs, ys, s=190, facecolors="none", edgecolors=COLOURS["limit"], linewidths=2, zorder=4, label="regression"
        )


def _set_axes(axes: Axes, history: History, label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0.5, len(history.builds) + 0.5)
    axes.margins(y=0.25)
    axes.set_xlabel("build, oldest first")
    axes.set_ylabel(label)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", fontsize=10)


def _figure(figure: Figure | None) -> str:
    if figure is None:
        return "–"
    ends = "" if figure.low is None or figure.high is None else f" ({figure.low:.3f} to {figure.high:.3f})"
    return f"{figure.value:.3f}{ends}"
