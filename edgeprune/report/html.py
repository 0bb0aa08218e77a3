"""``report.html``: one file for a person, without a network: the verdict first, then what it rests on.

Takes the content of ``build.json`` and gives a page. What the record has no data for is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from edgeprune.report.page import figures, page, section, table
from edgeprune.report.plots import facts, histograms, plots
from edgeprune.report.text import COLUMNS, budget_text, figure, gate_cells, shell_line

if TYPE_CHECKING:
    from edgeprune.measure.scenes import Scene

SAID = {
    "PASS": "Every gate passed: it may ship.",
    "FAIL": "At least one gate failed: it must not ship as it is.",
    "INCONCLUSIVE": "The measurements do not settle it: nothing failed, nothing is proven.",
    "PENDING": "It was not all measured on the target yet.",
}


def report_html(record: Mapping[str, Any], scenes: Sequence[Scene] = ()) -> str:
    """The page for a build.

    Args:
        record: the content of ``build.json`` (:class:`~edgeprune.records.build.BuildRecord` as plain data).
        scenes: the same images through the unpruned model and what ships.
    """
    target, verdict = record["target"], record["verdict"]
    title = f"{target['name']}: {verdict}"
    parts = [
        _head(record),
        section("Gates", _gates(record["gates"])),
        section("Before and after", table(("", "unpruned", "shipped", "ratio"), sizes(record))),
        figures(plots(record)),
        section("Accuracy by class", table(("class", "unpruned", "shipped", "change"), classes(record))),
        section("Detections side by side", _side_by_side(scenes)),
        section("How it was measured", table(("", ""), conditions(record))),
        section("Again", _again(record)),
    ]
    return page(title, parts)


def scales_html(found: Mapping[str, Any]) -> str:
    """The page for sparsity training: :meth:`edgeprune.training.sparsify.SparsifyResult.to_json` drawn."""
    return page(
        "Sparsity training",
        [f"<h1>Sparsity training</h1><p>{escape(found['verdict'])}</p>", figures(histograms(found))],
    )


def sizes(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of what the pruning did to MACs, parameters, file and measured latency, as far as the record has them."""
    prune, baseline, engine = (facts(record, stage) for stage in ("prune", "baseline", "engine"))
    rows = []
    for name, key, unit, scale in (("MACs", "macs", "G", 1e9), ("parameters", "parameters", "M", 1e6)):
        if pair := prune.get(key):
            rows.append(_compared(name, pair["before"] / scale, pair["after"] / scale, unit))
    kept = baseline.get("bytes", {})
    if engine.get("bytes") and (before := kept.get("engine", kept.get("onnx"))):
        rows.append(_compared("file", before / 2**20, engine["bytes"] / 2**20, "MiB"))
    for row in record["gates"]:
        if row["metric"].endswith("speed-up") and row["stage"] == "engine" and row["value"] is not None:
            rows.append(("latency ratio, measured side by side", "", "", f"×{row['value']:.3f}"))
    return rows


def classes(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Accuracy by class of the unpruned model and of what ships; empty when either was not measured."""
    before, after = (facts(record, stage).get("accuracy", {}).get("per_class") for stage in ("baseline", "engine"))
    if not before or not after:
        return []
    return [
        (name, f"{value:.4f}", f"{after[name]:.4f}", f"{after[name] - value:+.4f}")
        for name, value in before.items()
        if name in after
    ]


def conditions(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the latency was measured under, from the last measurement, and the versions."""
    rows: list[tuple[str, str]] = []
    if record["measurements"]:
        found = record["measurements"][-1]["conditions"]
        rows += [(key, str(value)) for key, value in (found.get("identity") or {}).items()]
        rows += [(name, str(found[key])) for key, name in CONDITIONS.items() if found.get(key) is not None]
        host = found.get("host", {})
        if "load_average" in host:
            rows.append(("load average before and after", f"{host['load_average']}, {found.get('load_average_after')}"))
        rows += [(key, str(host[key])) for key in ("governor", "temperature_c") if host.get(key) is not None]
        if found.get("cpu_share") is not None:
            rows.append(("share of its core that the model had", f"{found['cpu_share']:.0%}"))
        if any(row.get("simulated") for row in record["measurements"]):
            rows.append(("simulated", "yes: no device was measured"))
    rows.append(("versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())))
    return rows


CONDITIONS = {"threads": "threads", "batch": "batch", "shapes": "input", "models_in_run": "models side by side"}


def _head(record: Mapping[str, Any]) -> str:
    target, verdict = record["target"], record["verdict"]
    following = ""
    if record.get("next_command"):
        following = f"<p>Next, where the target's runtime is:</p><pre>{escape(record['next_command'])}</pre>"
    return (
        f'<header class="verdict {escape(verdict)}"><h1>{escape(target["name"])}</h1>'
        f'<p><strong id="verdict">{escape(verdict)}</strong></p><p>{SAID[verdict]}</p>'
        f"<p>{escape(target.get('description', ''))}. Budget: {escape(budget_text(target['budget']))}; accuracy may "
        f"drop by {target['accuracy']['max_map_drop']:g}.</p>{following}</header>"
    )


def _gates(gates: Iterable[Mapping[str, Any]]) -> str:
    lines = []
    for gate in gates:
        stage, metric, value, limit, verdict, reason = gate_cells(gate)
        against = limit if gate["limit"] is not None else ""
        lines.append(
            f"<tr><td>{escape(stage)}</td><td>{escape(metric)}</td><td>{escape(value)}</td>"
            f'<td data-name="limit">{escape(against)}</td>'
            f'<td><span class="state {escape(verdict)}">{escape(verdict)}</span></td><td>{escape(reason)}</td></tr>'
        )
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in COLUMNS)
    return (
        f'<div class="scroll"><table class="gates"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _side_by_side(scenes: Sequence[Scene]) -> str:
    if not scenes:
        return ""
    from edgeprune.report.scenes import scenes_html

    said = (
        "Validation images on which the two differ most, out of a sample drawn by chance. A detection and an object "
        "are the same where the class and at least half of the box agree."
    )
    return f"<p>{said}</p>{scenes_html(scenes)}"


def _again(record: Mapping[str, Any]) -> str:
    weights = record["weights"]
    return (
        f"<pre>{escape(shell_line(record['command']))}</pre><p>edgeprune {escape(record['edgeprune'])}, seed "
        f"{record['seed']}, {escape(record['created'])}; weights sha256 {escape(weights['sha256'][:16])}…</p>"
    )


def _compared(name: str, before: float, after: float, unit: str) -> tuple[str, ...]:
    return name, figure(before, unit), figure(after, unit), f"×{before / after:.2f}" if after else "–"
