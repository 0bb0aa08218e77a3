"""The report of a build: ``report.html``, one file without a network, and ``report.md``.

The verdict comes first, then what it rests on. What the record has no data for is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from edgeprune.reading import is_file, read_bytes
from edgeprune.records.build import BuildRecord
from edgeprune.report.build_plots import build_plots
from edgeprune.report.diagnosis import diagnosis_table
from edgeprune.report.page import render
from edgeprune.report.scenes import legend_of, scene_figures
from edgeprune.report.table import Table
from edgeprune.report.text import (
    INTERVAL,
    as_title,
    budget_text,
    device_text,
    interval_text,
    ms_text,
    ms_with_ends,
    number_text,
    scope_text,
    shell_line,
)
from edgeprune.report.verdict import (
    COLUMNS,
    accuracy_text,
    accuracy_warning,
    change_interval_text,
    change_text,
    deciding_gates,
    gate_cells,
    next_step,
    short_reasons,
    trained_on_text,
    verdict_table,
    without_commands,
)
from edgeprune.samples.gates import RULES, Gate, Verdict, scope_words
from edgeprune.samples.measurement import latency_bounds
from edgeprune.samples.statistics import INTERVAL_END_CONFIDENCE, Bounds, value_of
from edgeprune.samples.text import ends_text, signed_text
from edgeprune.workspace import BUNDLE, run_directory_of

if TYPE_CHECKING:
    from edgeprune.measure.scenes import Scene

MEANINGS = {
    Verdict.PASS: "Every gate passed: it may ship.",
    Verdict.FAIL: "At least one gate failed: it must not ship as it is.",
    Verdict.INCONCLUSIVE: "The measurements do not settle it: nothing failed, nothing is proven.",
    Verdict.PENDING: "It was not all measured on the target yet.",
}
REPORT, PAGE = "report.md", "report.html"
SCENES_BEGIN, SCENES_END = Markup("<!-- scenes: begin -->"), Markup("<!-- scenes: end -->")
UNPRUNED = " The budget was met without pruning: what ships is the model as it was given."


def build_page(record: BuildRecord, scenes: Sequence[Scene] = (), before: str = "") -> str:
    """The page as text of one file.

    Args:
        record: of the build.
        scenes: the same images through the unpruned model and what ships.
        before: an earlier page of the same models, whose drawn scenes are taken where none are given.
    """
    target, verdict, gates = record.target, record.verdict, record.gates
    shown_once = record.next_command, "the command above"
    return render(
        "build",
        title=f"{target.name}: {record.verdict_words}",
        name=target.name,
        verdict=verdict.value,
        meaning=_meaning(record),
        request=f"{target.description}. Budget: {budget_text(target.budget)}; accuracy may fall by "
        f"{target.accuracy.max_map_drop:g}.{_levers(record)}",
        deciding=[_gate_row(gate) for gate in deciding_gates(without_commands(gates), verdict)],
        tiles=_tiles(record),
        warning=accuracy_warning(record),
        next_step=next_step(record),
        gate_columns=COLUMNS,
        gates=[_gate_row(gate) for gate in short_reasons(gates, *shown_once)],
        sizes=sizes_table(record),
        costs=diagnosis_table(record.stages.prune.facts.diagnosis),
        plots=build_plots(record),
        classes=classes_table(record),
        legend=legend_of(scenes),
        scenes=scene_figures(scenes),
        scenes_begin=SCENES_BEGIN,
        scenes_end=SCENES_END,
        drawn_before=_drawn_scenes(before),
        scenes_split=record.stages.engine.facts.accuracy.accuracy.split,
        conditions=conditions_table(record),
        command=shell_line(record.command),
        provenance=f"edgeprune {record.edgeprune}, seed {record.seed}, {record.created}; weights sha256 "
        f"{record.weights.sha256[:16]}…",
    )


def page_beside(record: BuildRecord, bundle: Path) -> bytes:
    """The page that the build left beside its bundle; empty where none is there, or another build's.

    A page is written before the report beside it, so that it is of the record whose report that is. By other rules the
    report was put otherwise: of such pages, that of a run directory is taken.
    """
    page = bundle.parent / PAGE
    if bundle.name != BUNDLE or not is_file(page):
        return b""
    if record.rules == RULES:
        report = page.with_name(REPORT)
        ours = is_file(report) and read_bytes(report) == build_markdown(record).encode()
    else:
        ours = run_directory_of(bundle) is not None
    return read_bytes(page) if ours else b""


def _drawn_scenes(page: str) -> Markup:
    """The section of scenes in a page that :func:`build_page` made; empty where it has none."""
    _, begin, rest = page.partition(SCENES_BEGIN)
    section, end, _ = rest.partition(SCENES_END)
    return Markup(f"{begin}{section}{end}") if end else Markup()


def _meaning(record: BuildRecord) -> str:
    """What the verdict comes to, and what it does not say where the images that judge were trained on."""
    text = MEANINGS[record.verdict] + (UNPRUNED if record.verdict_words != record.verdict.value else "")
    trained_on = trained_on_text(record)
    return f"{text} {trained_on}." if trained_on else text


def _levers(record: BuildRecord) -> str:
    """Why the number format is what it is, as a sentence; nothing where the profile names it."""
    return "" if record.levers is None else f" {as_title(record.levers)}."


def sizes_table(record: BuildRecord) -> Table:
    """What the build did to MACs, parameters, file, latency and accuracy; intervals stand behind their figures."""
    stages = record.stages
    prune, baseline, engine = stages.prune.facts, stages.baseline.facts, stages.engine.facts
    both = "" if engine.unpruned is None else f", both in {engine.unpruned.text}"
    rows = [
        _compared("MACs", prune.macs.before / 1e9, prune.macs.after / 1e9, "G"),
        _compared("parameters", prune.parameters.before / 1e6, prune.parameters.after / 1e6, "M"),
        _compared(f"file{both}", engine.unpruned_bytes(baseline) / 2**20, engine.size_bytes / 2**20, "MiB"),
    ]
    if (pair := record.judged_latency) is not None:
        statistic, interval = record.judged_statistic, record.speed_up
        figures = (latency_bounds(measurement, statistic, INTERVAL_END_CONFIDENCE) for measurement in pair)
        ratio = interval_text(interval) if interval is not None else "–"
        name = f"{scope_words(pair[1])}latency {statistic}{both}, {INTERVAL}"
        rows.append((name, *(_with_interval(figure) for figure in figures), ratio))
    after = engine.accuracy
    images = (
        f"{after.metric}, {after.accuracy.images} images of {after.accuracy.split} of {Path(record.dataset.path).name}"
    )
    change = change_text(baseline.reference_accuracy - after.value)
    if (drop := engine.accuracy_drop) is not None and drop.standard_error is not None:
        images, change = f"{images}, {INTERVAL}", f"{change} ({change_interval_text(drop)})"
    rows.append((images, f"{baseline.reference_accuracy:.4f}", f"{after.value:.4f}", change))
    return Table.of(("", "unpruned", "shipped", "change"), rows)


@dataclass(frozen=True)
class _Tile:
    """One figure at the head of the page: what it is, what it is now, and what it was or how sure it is."""

    name: str
    value: str
    detail: str


def _tiles(record: BuildRecord) -> list[_Tile]:
    """What a build is about, in the figures of :func:`sizes_table`."""
    baseline, engine = record.stages.baseline.facts, record.stages.engine.facts
    tiles: list[_Tile] = []
    pair, scope = record.judged_latency, ""
    if pair is not None:
        statistic, scope = record.judged_statistic, scope_words(pair[1])
        slow, fast = (ms_text(value_of(measurement.values, statistic)) for measurement in pair)
        tiles.append(_Tile(f"{scope}latency {statistic}", f"{fast} ms", f"from {slow} ms"))
    if (ratio := record.speed_up) is not None:
        ends = f"{ends_text(ratio.low, ratio.high)}, two-sided 95 %"
        tiles.append(_Tile(f"{scope}speed-up", f"×{ratio.ratio:.3f}", ends))
    change = change_text(baseline.reference_accuracy - engine.accuracy.value)
    tiles.append(_Tile(engine.accuracy.metric, f"{engine.accuracy.value:.4f}", f"{change} against the unpruned"))
    before = engine.unpruned_bytes(baseline) / 2**20
    tiles.append(_Tile("file", number_text(engine.size_bytes / 2**20, "MiB"), f"from {number_text(before, 'MiB')}"))
    return tiles


def classes_table(record: BuildRecord) -> Table:
    """Accuracy by class of the unpruned model and of what ships."""
    before = record.stages.baseline.facts.reference.accuracy.per_class
    after = record.stages.engine.facts.accuracy.accuracy.per_class
    rows = [
        (name, f"{value:.4f}", f"{after[name]:.4f}", signed_text(after[name] - value))
        for name, value in before.items()
        if name in after
    ]
    return Table.of(("class", "unpruned", "shipped", "change"), rows)


def conditions_table(record: BuildRecord) -> Table:
    """What the latency was measured under, from the last measurement, and the versions."""
    rows: list[tuple[str, str]] = []
    if record.latencies:
        conditions = record.latencies[-1].measurement.conditions
        rows += list(conditions.identity.items())
        rows += [("threads", str(conditions.threads)), ("batch", str(conditions.batch))]
        rows += [("input", ", ".join(f"{name} {list(shape)}" for name, shape in conditions.shapes.items()))]
        rows += [("models side by side", str(conditions.models_in_run))]
        if (host := conditions.host) is not None:
            loads = f"{list(host.load_average)}, {list(host.load_average_after)}"
            rows += [("load average before and after", loads), ("governor", host.governor)]
            rows += [("temperature", f"{host.temperature_c:g} °C")] if host.temperature_c is not None else []
        if conditions.core.of_one_core and (conditions.core.contended or conditions.core.cpu_ms):
            rows.append(("share of its core that the model had", f"{conditions.core.share:.0%}"))
        if conditions.core.contended:
            rows.append(("disturbed", conditions.core.disturbed_by))
        if any(row.measurement.simulated for row in record.measurements):
            rows.append(("simulated", "yes: no device was measured"))
    rows.append(("versions", ", ".join(f"{name} {version}" for name, version in record.versions.items())))
    return Table.of(("", ""), rows)


def build_markdown(record: BuildRecord) -> str:
    """``report.md``: the verdict first, then what was done and how to do it again."""
    target, metric = record.target, record.stages.engine.facts.accuracy.metric
    lines = [
        f"# {target.name}: {record.verdict_words}",
        "",
        f"{target.description}. Budget: {budget_text(target.budget)}; {metric} may fall by "
        f"{target.accuracy.max_map_drop:g}.{_levers(record)}",
        "",
        verdict_table(record.gates, record.next_command).markdown(),
        "",
    ]
    lines += [accuracy_text(record), ""]
    if warning := accuracy_warning(record):
        lines += [f"**{warning}**", ""]
    step = next_step(record)
    for words, command in () if step is None else step.said:
        lines += [words, "", f"```\n{command}\n```", ""] if command else [f"{words}.", ""]
    if record.device is not None:
        lines += [device_text(record.device), ""]
    lines += ["## Before and after", "", sizes_table(record).markdown(), ""]
    if (costs := diagnosis_table(record.stages.prune.facts.diagnosis)).rows:
        lines += ["## What the budget costs", "", costs.markdown(), ""]
    if record.stages.prune.facts.probes:
        lines += ["## Probes", "", _probes_table(record).markdown(), ""]
    ran = (
        (name, row.key[:12], f"{row.seconds:.1f}", "reused" if row.reused else "ran")
        for name, row in record.stages.items()
    )
    lines += ["## Stages", "", Table.of(("stage", "key", "seconds", ""), ran).markdown()]
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    lines += [
        "",
        "## Again",
        "",
        f"```\n{shell_line(record.command)}\n```",
        "",
        f"edgeprune {record.edgeprune}; {versions}; seed {record.seed}; {record.created}",
        "",
    ]
    return "\n".join(lines)


def _probes_table(record: BuildRecord) -> Table:
    """What each candidate of the search took, beside the unpruned model in the same run."""
    rows = (
        (
            str(number),
            f"×{probe.macs_ratio:.2f}",
            f"{ms_text(probe.latency.baseline_ms)} ms",
            f"{ms_text(probe.latency.candidate_ms)} ms",
            f"{100 * probe.budget_share:.1f} %",
        )
        for number, probe in enumerate(record.stages.prune.facts.probes, 1)
    )
    scope = scope_text(record.target.budget.scope)
    return Table.of(("probe", "MACs", f"{scope}unpruned", f"{scope}pruned", "share of the budget"), rows)


def _gate_row(gate: Gate) -> dict[str, str]:
    stage, metric, value, limit, state, reason = gate_cells(gate)
    limit = limit if gate.limit is not None else ""
    return {"stage": stage, "metric": metric, "value": value, "limit": limit, "state": state, "reason": reason}


def _compared(name: str, before: float, after: float, unit: str) -> tuple[str, ...]:
    return name, number_text(before, unit), number_text(after, unit), f"×{before / after:.2f}" if after else "–"


def _with_interval(figure: Bounds) -> str:
    return ms_with_ends(figure.value, figure.low, figure.high, " ms")
