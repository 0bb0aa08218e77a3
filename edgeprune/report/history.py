"""A history for people: the table of its builds, trends with regressions marked, and the page of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.records.history import NO_EARLIER
from edgeprune.report.drawing import COLOURS, Plot, draw_plot
from edgeprune.report.page import render
from edgeprune.report.table import Table
from edgeprune.report.text import INTERVAL, as_title, ms_with_ends
from edgeprune.samples.gates import Verdict
from edgeprune.samples.text import ends_text

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from edgeprune.records.history import BuildSummary, Figure, History

COLUMNS = ("build", "created, UTC", "verdict", "latency, ms", "speed-up", "accuracy", "MiB", "device", "against before")
_Pair = tuple[tuple[int, float], tuple[int, float]]
MARKS = ("o", "s", "^", "v", "P", "X")  # by device
NOTHING = "nothing to compare with: no earlier build under the same conditions"


def history_table(history: History) -> Table:
    """A row a build, oldest first; the interval stands behind its figure."""
    devices, names = device_names(history), history.names
    rows = [
        (
            names[built.path],
            created_text(built),
            built.verdict.value,
            f"{_latency(built)} {built.scope}{built.statistic}" if built.latency_ms else "–",
            _speed_up(built) or "–",
            f"{built.accuracy:.4f}",
            f"{built.size_mib:.2f}",
            devices[built.device],
            change_text(built, names),
        )
        for built in history.builds
    ]
    return Table.of(COLUMNS, rows)


def created_text(built: BuildSummary) -> str:
    """The minute in which a build ended."""
    return built.created[:16].replace("T", " ")


def figures_text(built: BuildSummary) -> str:
    """What a build measured, in one line."""
    latency = f"{built.scope}{built.statistic} {_latency(built)} ms" if built.latency_ms else ""
    figures = [latency, _speed_up(built)]
    return ", ".join([*filter(None, figures), f"{built.metric} {built.accuracy:.4f}", f"{built.size_mib:.2f} MiB"])


def _latency(built: BuildSummary) -> str:
    """Milliseconds with their interval; empty where none were measured."""
    if built.latency_ms is None:
        return ""
    figure = built.latency_ms
    return f"{_simulated(built)}{ms_with_ends(figure.value, figure.low, figure.high)}"


def _speed_up(built: BuildSummary) -> str:
    """A ratio with its interval, and of what it is where that is not the model alone; empty where none was measured."""
    if built.speed_up is None:
        return ""
    scope = f" {built.scope.rstrip()}" if built.scope else ""
    return f"{_simulated(built)}×{_figure(built.speed_up)}{scope}"


def _simulated(built: BuildSummary) -> str:
    return "SIMULATED " if built.simulated else ""


def change_text(built: BuildSummary, names: Mapping[Path, str]) -> str:
    """What was edited, what moved, in words, and against which build, and that a run was disturbed where nothing else
    says so; ``names`` are :attr:`History.names`."""
    words, why = _moved_text(built, names), built.disturbed
    told = not why or any(why in other for other in built.uncompared.values())
    return words if told else f"{words}; its milliseconds are of a disturbed run: {why}"


def _moved_text(built: BuildSummary, names: Mapping[Path, str]) -> str:
    changes = [f"edited: {line}" for line in built.edited]
    changes += [f"regression: {change}" for change in built.regressions]
    changes += [f"better: {change}" for change in built.improvements]
    if not built.compared_with and all(why == NO_EARLIER for why in built.uncompared.values()):
        return "; ".join(changes) or NOTHING
    against: dict[str, list[str]] = {}
    for figure, path in built.compared_with.items():
        against.setdefault(names[path], []).append(figure)
    left: dict[str, list[str]] = {}
    for figure, why in built.uncompared.items():
        left.setdefault(why, []).append(figure)
    words = ["; ".join(changes) or "nothing moved by more than chance"] if changes or against else []
    if against:
        words[0] += f" ({'; '.join(f'{_listed(figures)} against {name}' for name, figures in against.items())})"
    return "; ".join([*words, *(f"{_listed(figures)} not compared: {why}" for why, figures in left.items())])


def _listed(figures: Sequence[str]) -> str:
    return ", ".join(figures)


def device_names(history: History) -> dict[str, str]:
    """Identity to a letter, in order of appearance; they may be compared only within one."""
    return {name: chr(65 + i) for i, name in enumerate(dict.fromkeys(b.device for b in history.builds))}


def verdict_words(history: History) -> str:
    """What a history comes to, in a few words."""
    latest = history.builds[-1]
    if latest.regressions:
        return "regression"
    if latest.edited:
        return "edited"
    if not latest.compared_with:
        return "nothing to compare"
    return "no regression" if history.verdict is Verdict.PASS else f"{latest.budget_figure} not compared"


@dataclass(frozen=True)
class _Part:
    """What a page shows of one target; ``label`` tells its tables from those of the others."""

    title: str
    state: str
    verdict: str
    latest: str
    plots: Sequence[Plot]
    builds: Table
    changes: Table
    devices: Table
    label: str


def history_page(*histories: History) -> str:
    """The page of histories, one a target, as text of one file."""
    several = len(histories) > 1
    parts = [_part(history, place if several else 0) for place, history in enumerate(histories, 1)]
    worst = min(parts, key=lambda part: STATES.index(part.state))
    title = f"{len(parts)} targets" if several else parts[0].title
    return render("history", title=title, state=worst.state, verdict=worst.verdict, parts_of=parts)


STATES = (Verdict.FAIL.value, Verdict.INCONCLUSIVE.value, "info", Verdict.PASS.value)
"""How a verdict is coloured, worst first; ``info`` where there is nothing to compare."""


def _part(history: History, place: int) -> _Part:
    """The part of a page; ``place`` counts those of several targets from 1, and is 0 for the only one."""
    latest, words, count = history.builds[-1], verdict_words(history), len(history.builds)
    plots = (
        _trend(history, "latency", "of what ships", "ms", lambda built: built.latency_ms, place),
        _trend(history, "speed-up", "against the unpruned model", "×", lambda built: built.speed_up, place),
        _accuracy(history, place),
    )
    table = history_table(history)
    return _Part(
        title=f"{history.target}: {count} build{'s' if count != 1 else ''}",
        state="info" if words == "nothing to compare" else history.verdict.value,
        verdict=words,
        latest=f"Latest: {history.names[latest.path]}, {latest.verdict.value}; {change_text(latest, history.names)}.",
        plots=[plot for plot in plots if plot is not None],
        builds=table.without(COLUMNS[-1]),
        # words behind eight columns of figures would have no width to be read in
        changes=Table.of((COLUMNS[0], COLUMNS[-1]), ((row[0], row[-1]) for row in table.rows)),
        devices=Table.of(("", ""), ((letter, name) for name, letter in device_names(history).items())),
        label=f"{history.target}: " if place else "",
    )


def _trend(
    history: History, key: str, what: str, unit: str, of: Callable[[BuildSummary], Figure | None], place: int
) -> Plot | None:
    """A figure over the builds that have it; where they were not all timed alike, the table says how each was."""
    points = [(number, built, value) for number, built in enumerate(history.builds, 1) if (value := of(built))]
    if not points:
        return None
    devices = list(dict.fromkeys(built.device for _, built, _ in points))
    letters = device_names(history)
    scopes = {built.scope for _, built, _ in points}
    scope = scopes.pop() if len(scopes) == 1 else ""
    title = f"{scope}{key} {what}"

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
                label=f"device {letters[device]}",
            )
        _join(axes, _compared(key, [(number, built, value.value) for number, built, value in points]))
        worse = [(number, value.value) for number, built, value in points if _regressed(built, f"{built.scope}{key}")]
        _mark_regressions(axes, worse)
        _set_axes(axes, history, f"{scope}{key}, {unit}")

    rows = [
        (
            history.names[built.path],
            f"{_simulated(built)}{_figure(value)} {built.scope}".rstrip(),
            letters[built.device],
            _regressions(built, f"{built.scope}{key}"),
        )
        for _, built, value in points
    ]
    figures = {built.path: f"{_simulated(built)}{value.value:.3f} {unit}" for _, built, value in points}
    latest = f"{figures[points[-1][1].path]} in {history.names[points[-1][1].path]}"
    alt = f"{_against(points[-1][1], key, latest, figures, history.names)}; "
    alt += f"regressions: {sum(_regressed(built, f'{built.scope}{key}') for _, built, _ in points)}."
    table = Table.of(("build", f"{unit}, {INTERVAL}", "device", "regression"), rows)
    return draw_plot(*_named(key, as_title(title), history, place), alt, draw, table)


def _named(key: str, title: str, history: History, place: int) -> tuple[str, str]:
    """Key and title of a drawing, told from those of the other targets of the page."""
    return (f"{key}-{place}", f"{history.target}: {title}") if place else (key, title)


def _accuracy(history: History, place: int) -> Plot:
    points = [(number, built, built.accuracy) for number, built in enumerate(history.builds, 1)]
    metric = points[-1][1].metric

    def draw(axes: Axes) -> None:
        axes.plot([number for number, *_ in points], [value for *_, value in points], "o", color=COLOURS["after"])
        _join(axes, _compared("accuracy", points))
        _mark_regressions(axes, [(number, value) for number, built, value in points if _regressed(built, metric)])
        _set_axes(axes, history, metric)

    latest = f"{metric} {points[-1][2]:.4f} in {history.names[points[-1][1].path]}"
    figures = {built.path: f"{value:.4f}" for _, built, value in points}
    alt = f"{_against(points[-1][1], 'accuracy', latest, figures, history.names)}; "
    alt += f"regressions: {sum(_regressed(built, metric) for _, built, _ in points)}."
    rows = [(history.names[built.path], f"{value:.4f}", _regressions(built, metric)) for _, built, value in points]
    table = Table.of(("build", metric, "regression"), rows)
    return draw_plot(*_named("accuracy", "Accuracy of what ships", history, place), alt, draw, table)


def _regressed(built: BuildSummary, metric: str) -> bool:
    return any(regression.startswith(metric) for regression in built.regressions)


def _regressions(built: BuildSummary, metric: str) -> str:
    return "; ".join(regression for regression in built.regressions if regression.startswith(metric)) or "–"


def _against(
    latest: BuildSummary, figure: str, words: str, figures: Mapping[Path, str], names: Mapping[Path, str]
) -> str:
    """The latest build's figure, with the earlier one's only where the two may be compared."""
    before = latest.compared_with.get(figure)
    return f"{words}, nothing to compare with" if before is None else f"{words}, {figures[before]} in {names[before]}"


def _compared(figure: str, points: Sequence[tuple[int, BuildSummary, float]]) -> list[_Pair]:
    """The places of each two figures that are held against each other; others are not comparable and stay apart."""
    places = {built.path: (number, value) for number, built, value in points}
    befores = ((built.path, built.compared_with.get(figure)) for _, built, _ in points)
    return [(places[before], places[path]) for path, before in befores if before in places]


def _join(axes: Axes, pairs: Sequence[_Pair]) -> None:
    for pair in pairs:
        axes.plot(*zip(*pair, strict=True), color=COLOURS["muted"], linewidth=1, zorder=1)


def _mark_regressions(axes: Axes, points: list[tuple[int, float]]) -> None:
    if points:
        xs, ys = zip(*points, strict=True)
        axes.scatter(
            xs, ys, s=190, facecolors="none", edgecolors=COLOURS["limit"], linewidths=2, zorder=4, label="regression"
        )


def _set_axes(axes: Axes, history: History, label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlim(0.5, len(history.builds) + 0.5)
    axes.margins(y=0.25)
    axes.set_xlabel("build, oldest first")
    axes.set_ylabel(label)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", fontsize=10)


def _figure(figure: Figure) -> str:
    ends = "" if figure.low is None or figure.high is None else f" ({ends_text(figure.low, figure.high)})"
    return f"{figure.value:.3f}{ends}"
