"""Behind the engine: what was asked for must be in it. A builder that ignores a precision exits 0 and is only slow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeprune.measure.result import LayerMs
from edgeprune.runtimes.base import LayerTime, Runtime
from edgeprune.runtimes.precision_truth import PrecisionShare, precision_share


def engine_precision(
    runtime: Runtime, engine: Path, layers: Sequence[LayerMs], onnx: Path, dla_core: int | None = None
) -> PrecisionShare | None:
    """Shares of an engine's work by number format; None where the runtime does not tell.

    Args:
        runtime: that built it.
        engine: the file.
        layers: times of its layers.
        onnx: the graph that it was built from: what that has in float was asked for in float.
        dla_core: the DLA core that it was asked for, or None.
    """
    infos = runtime.layer_info(engine)
    if infos is None:
        return None
    from edgeprune.export.precision import float_nodes

    times = [LayerTime(layer.name, layer.op, layer.ms) for layer in layers]
    return precision_share(infos, times, float_nodes(onnx), dla_core)
