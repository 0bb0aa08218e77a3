"""Behind the engine: what was asked for must be in it. A builder that ignores a precision exits 0 and is only slow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeprune.runtimes.base import LayerTime, Runtime
from edgeprune.runtimes.precision_truth import LEAST_SHARE, precision_share
from edgeprune.samples.gates import Gate, Verdict, at_least


def precision_facts(
    runtime: Runtime, engine: Path, precision: str, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Shares of an engine by number format, as plain facts; None where the runtime cannot tell.

    Args:
        runtime: that built it.
        engine: the file.
        precision: what the target asks.
        rows: ``{name, op, ms}`` of its layers, from :func:`edgeprune.measure.layers.layers_side_by_side`.
    """
    layers = runtime.layer_info(engine)
    if layers is None:
        return None
    times = [LayerTime(row["name"], row["op"], row["ms"]) for row in rows]
    share = precision_share(layers, times)
    return {**share.to_json(), "held": share.held(precision), "text": share.text()}


def precision_gate(stage: str, facts: Mapping[str, Any], precision: str) -> Gate:
    """FAIL, with the numbers, when less than half of the multiplying work is in the asked precision."""
    gate = at_least(stage, f"{precision} in the engine", facts["held"], LEAST_SHARE, "", facts["text"])
    if gate.verdict is not Verdict.FAIL:
        return gate
    reason = f"asked for {precision}, the engine is {facts['text']}; the builder ignored what the graph says"
    return replace(gate, reason=reason)
