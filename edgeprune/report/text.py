"""The verdict table as plain text and as Markdown; the terminal's coloured one is in the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = ("stage", "metric", "value", "limit", "verdict", "reason")


def gate_cells(gate: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of one gate as people read them, in the order of :data:`COLUMNS`."""
    unit = "" if gate["unit"] in gate["metric"] else gate["unit"]  # "mAP50-95 drop" says it already
    return (
        gate["stage"],
        gate["metric"],
        figure(gate["value"], unit),
        figure(gate["limit"], unit),
        gate["verdict"] if gate["limit"] is not None or gate["verdict"] != "PASS" else "info",
        gate["reason"],
    )


def figure(value: float | None, unit: str) -> str:
    """A number with its unit: four significant digits, no exponent where a person would not write one."""
    if value is None:
        return "–"
    if value == 0:
        text = "0"
    elif abs(value) < 1e-3:
        text = f"{value:.1e}"
    else:
        text = f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if unit == "×":
        return f"×{text}"
    return f"{text} {unit}".strip()


def verdict_markdown(gates: Sequence[Mapping[str, Any]]) -> str:
    """The verdict table as Markdown."""
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(gate_cells(gate) for gate in gates)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def report_markdown(record: Mapping[str, Any]) -> str:
    """``report.md``: the verdict first, then what was done and how to do it again."""
    target = record["target"]
    stages = {row["name"]: row for row in record["stages"]}
    lines = [
        f"# {target['name']}: {record['verdict']}",
        "",
        f"{target['description']}. Budget: {budget_text(target['budget'])}; mAP50-95 may drop by "
        f"{target['accuracy']['max_map_drop']:g}.",
        "",
        verdict_markdown(record["gates"]),
        "",
    ]
    if record["next_command"]:
        lines += ["PENDING rows wait for the target's runtime. Next:", "", f"```\n{record['next_command']}\n```", ""]
    if device := record.get("device"):
        lines += [device_text(device), ""]
    prune = stages["prune"]["facts"]
    lines += [
        "## What was pruned",
        "",
        "| | before | after | ratio |",
        "| --- | --- | --- | --- |",
        f"| MACs | {prune['macs']['before'] / 1e9:.3f} G | {prune['macs']['after'] / 1e9:.3f} G | "
        f"×{prune['macs']['before'] / prune['macs']['after']:.2f} |",
        f"| parameters | {prune['parameters']['before'] / 1e6:.3f} M | {prune['parameters']['after'] / 1e6:.3f} M | "
        f"×{prune['parameters']['before'] / prune['parameters']['after']:.2f} |",
        "",
    ]
    if prune["probes"]:
        lines += ["| probe | MACs | unpruned | pruned | share of the budget |", "| --- | --- | --- | --- | --- |"]
        lines += [
            f"| {number} | ×{probe['ratio']:.2f} | {probe['detail']['baseline_ms']:.3f} ms | "
            f"{probe['detail']['candidate_ms']:.3f} ms | {100 / probe['margin']:.1f} % |"
            for number, probe in enumerate(prune["probes"], 1)
        ]
        lines.append("")
    lines += ["## Stages", "", "| stage | key | seconds | |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {row['name']} | {row['key'][:12]} | {row['seconds']:.1f} | {'reused' if row['reused'] else 'ran'} |"
        for row in record["stages"]
    ]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    lines += [
        "",
        "## Again",
        "",
        f"```\n{shell_line(record['command'])}\n```",
        "",
        f"edgeprune {record['edgeprune']}; {versions}; seed {record['seed']}; {record['created']}",
        "",
    ]
    return "\n".join(lines)


def device_text(device: Mapping[str, Any]) -> str:
    """The device of a build in one line."""
    identity = ", ".join(f"{name} {value}" for name, value in device["identity"].items() if name != "isa")
    return f"{'SIMULATED device' if device['simulated'] else 'Device'} {device['name']}: {identity}"


def budget_text(budget: Mapping[str, Any]) -> str:
    """A budget in words."""
    whole = "end-to-end " if budget.get("scope") == "end_to_end" else ""
    if budget.get("latency_ms") is not None:
        return f"{budget['statistic']} {whole}latency of at most {budget['latency_ms']:g} ms"
    if budget.get("speed_up") is not None:
        return f"a measured {whole}speed-up of at least ×{budget['speed_up']:g}"
    return f"×{budget['macs_speed_up']:g} fewer MACs"


def shell_line(argv: Sequence[str]) -> str:
    """Arguments as a person would type them."""
    import shlex

    return shlex.join(argv)
