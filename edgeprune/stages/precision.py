"""Behind the engine: what was asked for must be in it. A builder that ignores a precision exits 0 and is only slow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgeprune.measure.result import LayerMs
from edgeprune.runtimes.base import LayerTime, Runtime
from edgeprune.runtimes.precision_truth import LEAST_SHARE, PrecisionShare, precision_share
from edgeprune.samples.gates import Gate, Verdict, at_least_gate


def engine_precision(runtime: Runtime, engine: Path, layers: Sequence[LayerMs]) -> PrecisionShare | None:
    """Shares of an engine's work by number format; None where the runtime does not tell.

    Args:
        runtime: that built it.
        engine: the file.
        layers: times of its layers.
    """
    infos = runtime.layer_info(engine)
    if infos is None:
        return None
    return precision_share(infos, [LayerTime(layer.name, layer.op, layer.ms) for layer in layers])


def precision_gate(stage: str, share: PrecisionShare, precision: str) -> Gate:
    """FAIL, with the numbers, when less than half of the multiplying work is in the asked precision."""
    gate = at_least_gate(stage, f"{precision} in the engine", share.held(precision), LEAST_SHARE, "", share.text())
    if gate.verdict is not Verdict.FAIL:
        return gate
    reason = f"asked for {precision}, the engine is {share.text()}; the builder ignored what the graph says"
    return replace(gate, reason=reason)
