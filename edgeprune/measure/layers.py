"""Where the milliseconds go: per-layer times of the unpruned model and the pruned one, as the report draws them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeprune.runtimes.base import LayerTime, Runtime


def layers_side_by_side(
    runtime: Runtime, baseline: Path, candidate: Path, *, threads: int = 1, runs: int = 30
) -> dict[str, list[dict[str, Any]]]:
    """Rows ``{name, op, ms}`` in order of execution, under ``baseline`` and ``candidate``; plain data for ``facts``.

    The median is taken where the runtime tells one: a mean on a shared machine is of its other users.
    """
    return {
        role: [_row(layer) for layer in runtime.layer_times(model, threads=threads, runs=runs)]
        for role, model in (("baseline", baseline), ("candidate", candidate))
    }


def _row(layer: LayerTime) -> dict[str, Any]:
    return {"name": layer.name, "op": layer.op, "ms": round(layer.detail.get("median_ms", layer.mean_ms), 6)}
