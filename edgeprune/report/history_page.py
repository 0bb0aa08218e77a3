"""The page of a history: trend plots with regressions marked, and the table."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

from edgeprune.report.drawing import COLOURS, Plot, plot
from edgeprune.report.page import figures, page, section, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from edgeprune.records.history import Built, Figure, History

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


def rows(found: History) -> list[tuple[str, ...]]:
    """A row a build, oldest first; the interval stands behind its figure."""
    devices = device_names(found)
    return [
        (
            built.path.name,
            built.created,
            built.verdict,
            f"{built.statistic} {_figure(built.latency)}" if built.latency else "–",
            f"×{_figure(built.speed_up)}" if built.speed_up else "–",
            "–" if built.accuracy is None else f"{built.accuracy:.4f}",
            "–" if built.size_mib is None else f"{built.size_mib:.2f}",
            devices[built.device],
            against(built),
        )
        for built in found.builds
    ]


def against(built: Built) -> str:
    """What moved, in words."""
    said = [f"regression: {one}" for one in built.regressions] + [f"better: {one}" for one in built.improvements]
    if said:
        return "; ".join(said)
    return "nothing moved by more than chance" if built.compared_with else "no earlier build under the same conditions"


def device_names(found: History) -> dict[str, str]:
    """Identity to a letter, in order of appearance."""
    return {name: f"device {chr(65 + i)}" for i, name in enumerate(dict.fromkeys(b.device for b in found.builds))}


def history_page(found: History) -> str:
    """The whole file."""
    latest = found.builds[-1]
    state = "FAIL" if latest.regressions else "PASS"
    word = "regression" if latest.regressions else "no regression"
    drawn = (
        _trend(found, "latency", "Latency of what ships", "ms", lambda built: built.latency),
        _trend(found, "speed-up", "Speed-up against the unpruned model", "×", lambda built: built.speed_up),
        _accuracy(found),
    )
    devices = [(letter, name) for name, letter in device_names(found).items()]
    return page(
        f"{found.target}: {len(found.builds)} builds",
        [
            f'<header class="verdict {state}"><h1>{escape(found.target)}: {len(found.builds)} builds</h1>'
            f'<p><strong id="verdict">{word}</strong></p><p>Latest: {escape(latest.path.name)}, '
            f"{escape(latest.verdict)}; {escape(against(latest))}.</p></header>",
            figures(one for one in drawn if one is not None),
            section("Builds", table(COLUMNS, rows(found))),
            section(
                "Devices",
                "<p>Latencies are compared only within one device under the same conditions. A regression is marked "
                "where the 95 % intervals do not touch; for accuracy, where it fell by more than the target allows."
                f"</p>{table(('', ''), devices)}",
            ),
        ],
    )


def _trend(found: History, key: str, title: str, unit: str, of: Callable[[Built], Figure | None]) -> Plot | None:
    points = [(number, built, value) for number, built in enumerate(found.builds, 1) if (value := of(built))]
    if not points:
        return None
    devices = list(dict.fromkeys(built.device for _, built, _ in points))
    letters = device_names(found)

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
                fmt=f"-{MARKS[place % len(MARKS)]}",
                color=COLOURS["after" if place % 2 == 0 else "before"],
                linewidth=1,
                capsize=4,
                label=letters[device],
            )
        _marked(axes, [(number, value.value) for number, built, value in points if _lost(built, key)])
        _axis(axes, found, f"{key}, {unit}")

    table_rows = [
        (
            built.path.name,
            _figure(value),
            letters[built.device],
            "; ".join(one for one in built.regressions if one.startswith(key)) or "–",
        )
        for _, built, value in points
    ]
    alt = f"{points[0][2].value:.3f} {unit} in the first build, {points[-1][2].value:.3f} {unit} in the latest; "
    alt += f"regressions: {sum(_lost(built, key) for _, built, _ in points)}."
    return plot(key, title, alt, draw, ("build", f"{unit}, 95 % interval", "device", "regression"), table_rows)


def _accuracy(found: History) -> Plot | None:
    points = [(n, built, built.accuracy) for n, built in enumerate(found.builds, 1) if built.accuracy is not None]
    if not points:
        return None
    metric = points[-1][1].metric

    def draw(axes: Axes) -> None:
        axes.plot([n for n, _, _ in points], [value for _, _, value in points], "-o", color=COLOURS["after"])
        _marked(axes, [(number, value) for number, built, value in points if _lost(built, metric)])
        _axis(axes, found, metric)

    alt = f"{metric} {points[0][2]:.4f} in the first build, {points[-1][2]:.4f} in the latest; "
    alt += f"regressions: {sum(_lost(built, metric) for _, built, _ in points)}."
    table_rows = [
        (built.path.name, f"{value:.4f}", "; ".join(one for one in built.regressions if one.startswith(metric)) or "–")
        for _, built, value in points
    ]
    return plot("accuracy", "Accuracy of what ships", alt, draw, ("build", metric, "regression"), table_rows)


def _lost(built: Built, key: str) -> bool:
    return any(one.startswith(key) for one in built.regressions)


def _marked(axes: Axes, points: list[tuple[int, float]]) -> None:
    if points:
        xs, ys = zip(*points, strict=True)
        axes.scatter(
            xs, ys, s=190, facecolors="none", edgecolors=COLOURS["limit"], linewidths=2, zorder=4, label="regression"
        )


def _axis(axes: Axes, found: History, label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0.5, len(found.builds) + 0.5)
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
