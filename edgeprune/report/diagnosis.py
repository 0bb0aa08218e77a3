"""What a budget costs, in words and as a table: shares of the latency, the price, and what else would be faster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.report.table import Table

if TYPE_CHECKING:
    from edgeprune.records.facts import Alternative, Diagnosis
    from edgeprune.target import Budget


def diagnosis_lines(found: Diagnosis, budget: Budget) -> list[str]:
    """The diagnosis in a line, and a warning where the budget is dear."""
    decoding = "" if found.decoding_share is None else f", {found.decoding_share:.0%} of it behind the layers"
    line = (
        f"of the latency narrower layers can take {found.width_share:.0%}, fewer blocks another "
        f"{found.depth_share:.0%}; {found.fixed_share:.0%} is fixed (launches, copies, post-processing{decoding})"
    )
    return [line, warning_text(found, budget) if found.dear else price_text(found, budget)]


def price_text(found: Diagnosis, budget: Budget) -> str:
    """What the speed-up costs, and why it is more than was asked where it is."""
    asked = budget.value if budget.kind == "speed_up" else found.speed_up
    more = found.speed_up > asked and f"{found.speed_up:.2f}" != f"{asked:.2f}"
    aimed = f" (×{asked:g} was asked; a plan aims above it, for its whole interval has to hold it)" if more else ""
    return (
        f"×{found.speed_up:.2f} here{aimed} costs {found.parameters_share:.0%} of the parameters and "
        f"{found.macs_share:.0%} of the MACs"
    )


def warning_text(found: Diagnosis, budget: Budget) -> str:
    """The price, and what to try before training for it."""
    measured = [f"{one.name} gives {_gain(one)}" for one in found.alternatives if one.speed_up is not None]
    missing = [f"{one.name} ({one.reason})" for one in found.alternatives if one.speed_up is None]
    text = f"warning: {price_text(found, budget)}, before any training"
    text += f"; without pruning {', '.join(measured)}" if measured else ""
    return text + (f"; not measured: {', '.join(missing)}" if missing else "")


def diagnosis_table(found: Diagnosis | None) -> Table:
    """Shares, price and alternatives, one a row; nothing without a diagnosis."""
    columns = ("", "")
    if found is None:
        return Table(columns, ())
    rows = [
        ("of the latency, narrower layers can take", f"{found.width_share:.0%}"),
        ("fewer blocks, besides", f"{found.depth_share:.0%}"),
        ("fixed: launches, copies, post-processing, layers at their least width", f"{found.fixed_share:.0%}"),
    ]
    if found.decoding_share is not None:
        rows.append(("of that, behind the layers of the unpruned model", f"{found.decoding_share:.0%}"))
    rows += [
        (f"MACs given up for ×{found.speed_up:.2f}", f"{found.macs_share:.0%}"),
        (f"parameters given up for ×{found.speed_up:.2f}", f"{found.parameters_share:.0%}"),
    ]
    rows += [
        (f"instead, on the unpruned model: {one.name}", f"not measured: {one.reason}" if one.reason else _gain(one))
        for one in found.alternatives
    ]
    return Table.of(columns, rows)


def _gain(one: Alternative) -> str:
    return f"×{one.speed_up:.2f}{' a frame' if 'batch' in one.keys else ''}"
