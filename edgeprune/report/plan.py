"""A plan for people: the widths that change, and every dimension with what it saves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgeprune.input_size import pixels
from edgeprune.report.table import Table

if TYPE_CHECKING:
    from edgeprune.pruning.plan import Plan


def widths_table(plan: Plan) -> Table:
    """MACs, parameters and every width that changes, before and after."""
    counts = [("MACs", *plan.macs), ("parameters", *plan.params)]
    counts += [(line.name, line.before, line.after) for line in plan.dimensions if line.after != line.before]
    rows = ((name, f"{before:,}", f"{after:,}", f"{after / before:.0%}") for name, before, after in counts)
    return Table.of(("", "before", "after", "kept"), rows)


def dimensions_table(plan: Plan, savings: Mapping[str, tuple[int, int]]) -> Table:
    """Every dimension: width before and after, the share that goes, and what that alone saves.

    Args:
        plan: the plan.
        savings: multiply-accumulates and parameters by dimension.
    """
    rows: list[tuple[str, ...]] = [(name, "block", "-", "100%", "", "") for name in plan.removed]
    for line in plan.dimensions:
        share = 1 - line.after / line.before
        saved = [f"-{count / 1e6:.3f} M" for count in savings.get(line.name, ())] or ["", ""]
        removed = f"{share:.0%}" if share else ""
        rows.append((line.name, str(line.before), str(line.after), removed, *saved))
    return Table.of(("dimension", "width", "after", "removed", "MACs alone", "parameters alone"), rows)


def left_alone_lines(plan: Plan) -> list[str]:
    """Why dimensions cannot change, a line a reason: in a column of a narrow terminal it would be a letter wide."""
    names: dict[str, list[str]] = {}
    for line in plan.dimensions:
        if line.fixed and line.after == line.before:
            names.setdefault(line.fixed, []).append(line.name)
    return [f"left alone ({reason}): {', '.join(held)}" for reason, held in names.items()]


def plan_text(plan: Plan) -> str:
    """What a plan comes to, in one line."""
    macs, parameters = plan.macs, plan.params
    return (
        f"MACs {macs[0] / 1e9:.3f} G -> {macs[1] / 1e9:.3f} G (x{plan.macs_speed_up:.2f}) at "
        f"{pixels(plan.settings.imgsz)}, parameters {parameters[0] / 1e6:.3f} M -> {parameters[1] / 1e6:.3f} M"
    )
