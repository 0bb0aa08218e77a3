"""``report.html``: one file for a person, without a network: the verdict first, then what it rests on.

Takes the content of ``build.json`` and gives a page. What the record has no data for is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from edgeprune.report.plots import Plot, facts, plots
from edgeprune.report.text import COLUMNS, budget_text, figure, gate_cells, shell_line

SAID = {
    "PASS": "Every gate passed: it may ship.",
    "FAIL": "At least one gate failed: it must not ship as it is.",
    "INCONCLUSIVE": "The measurements do not settle it: nothing failed, nothing is proven.",
    "PENDING": "It was not all measured on the target yet.",
}

STYLE = """
:root { color-scheme: light dark; --page: #fbfbfa; --card: #fff; --ink: #1c1e21; --muted: #6b7177; --line: #e1e3e6;
  --before: #7d8590; --after: #0a6cbd; --limit: #b35900; --pass: #17703a; --fail: #b3261e; --inconclusive: #8a5a00;
  --pending: #0b6a86; }
@media (prefers-color-scheme: dark) { :root { --page: #15171a; --card: #1d2024; --ink: #e8eaed; --muted: #9aa1a9;
  --line: #33383e; --before: #a2abb5; --after: #5ab0f5; --limit: #f0a04b; --pass: #5fd08a; --fail: #ff8a80;
  --inconclusive: #f2c057; --pending: #63c8e6; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 20px 16px 48px; }
h1 { font-size: 1.5rem; margin: 0 0 4px; } h2 { font-size: 1.1rem; margin: 0 0 8px; }
.verdict { border-left: 8px solid var(--colour); background: var(--card); padding: 16px; border-radius: 6px; }
.verdict strong { font-size: 1.7rem; color: var(--colour); letter-spacing: 0.02em; }
.verdict p { margin: 4px 0; }
.PASS { --colour: var(--pass); } .FAIL { --colour: var(--fail); } .INCONCLUSIVE { --colour: var(--inconclusive); }
.PENDING { --colour: var(--pending); } .info { --colour: var(--muted); }
.state { color: var(--colour); font-weight: 600; }
section, figure { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: 14px;
  margin: 16px 0 0; min-width: 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 0 16px; }
figure svg { width: 100%; height: auto; display: block; }
figure svg text { font-family: system-ui, sans-serif !important; }
figcaption { color: var(--muted); font-size: 0.9rem; margin-top: 6px; overflow-wrap: anywhere; }
details { margin-top: 6px; } summary { cursor: pointer; color: var(--muted); font-size: 0.9rem; }
.scroll { overflow-x: auto; } details .scroll { max-height: 420px; overflow-y: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--muted); font-weight: 600; }
pre { overflow-x: auto; background: var(--page); padding: 10px; border-radius: 4px; font-size: 0.85rem; margin: 6px 0; }
@media (max-width: 640px) {
  .gates thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); display: block; }
  .gates tr { display: block; padding: 8px 0; border-bottom: 1px solid var(--line); }
  .gates td { display: inline; border: 0; padding: 0 6px 0 0; }
  .gates td:nth-child(2) { padding: 0; } .gates td:nth-child(2)::after { content: ""; display: block; }
  .gates td:first-child { color: var(--muted); } .gates td:last-child { display: block; color: var(--muted); }
  .gates td[data-name]:not(:empty)::before { content: attr(data-name) " "; color: var(--muted); }
}
"""


def report_html(record: Mapping[str, Any]) -> str:
    """The page for a build.

    Args:
        record: the content of ``build.json`` (:class:`~edgeprune.report.record.BuildRecord` as plain data).
    """
    target, verdict = record["target"], record["verdict"]
    title = f"{target['name']}: {verdict}"
    parts = [
        _head(record),
        _section("Gates", _gates(record["gates"])),
        _section("Before and after", _table(("", "unpruned", "shipped", "ratio"), sizes(record))),
        f'<div class="figures">{"".join(_figure(plot) for plot in plots(record))}</div>',
        _section("Accuracy by class", _table(("class", "unpruned", "shipped", "change"), classes(record))),
        _section("How it was measured", _table(("", ""), conditions(record))),
        _section("Again", _again(record)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # nothing leaves the file: neither scripts nor requests are allowed, not even the browser's own for an icon
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{STYLE}</style></head>'
        f"<body><main>{''.join(parts)}</main></body></html>\n"
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
        if row["metric"] == "speed-up" and row["stage"] == "engine" and row["value"] is not None:
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


def _figure(plot: Plot) -> str:
    return (
        f'<figure id="{plot.key}"><h2>{escape(plot.title)}</h2>{plot.svg}<figcaption>{escape(plot.alt)}</figcaption>'
        f"<details><summary>the numbers</summary>{_table(plot.columns, plot.rows)}</details></figure>"
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def _table(columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    top = f"<thead><tr>{head}</tr></thead>" if any(columns) else ""
    return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>'


def _again(record: Mapping[str, Any]) -> str:
    weights = record["weights"]
    return (
        f"<pre>{escape(shell_line(record['command']))}</pre><p>edgeprune {escape(record['edgeprune'])}, seed "
        f"{record['seed']}, {escape(record['created'])}; weights sha256 {escape(weights['sha256'][:16])}…</p>"
    )


def _compared(name: str, before: float, after: float, unit: str) -> tuple[str, ...]:
    return name, figure(before, unit), figure(after, unit), f"×{before / after:.2f}" if after else "–"
