"""Where the milliseconds go: per-layer times of the unpruned engine and the pruned one, as the report draws them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeprune.measure.result import LayerComparison, LayerMs
from edgeprune.runtimes.base import AS_EXPORTED, FreeAxes, Runtime

BEHIND_THE_LAYERS = "behind the layers: softmax, decoding, sorting"
"""Name of the row for what works on outputs whose widths are fixed."""


@dataclass(frozen=True)
class LayerCost:
    """What one layer of the unpruned model costs on a target.

    Attributes:
        name: of its module, or :data:`BEHIND_THE_LAYERS`.
        ms: measured, of one run.
        fitted_ms: the same by the cost model.
        half_width_ms: by the cost model, with every width of the model halved.
        input_width, output_width: channels; 0 where a layer has none of its own.
    """

    name: str
    ms: float
    fitted_ms: float
    half_width_ms: float
    input_width: float
    output_width: float


@dataclass(frozen=True)
class LayerCosts:
    """Where the milliseconds of a model are.

    Attributes:
        layers: the slowest first; where the runtime names them, their times add up to the whole.
        total_ms: the whole model, measured.
        nodes: how many nodes the runtime timed; 0 where it names too few layers and the whole is shared out by
            multiplications.
        device_step: the device rounds widths up to multiples of this.
        held_out_errors: predicted over measured minus 1, of each narrowed copy, predicted without having seen it.
        kept_since: the day it was measured, where it is from a cache of profiles; empty where it was measured now.
    """

    layers: tuple[LayerCost, ...]
    total_ms: float
    nodes: int
    device_step: int
    held_out_errors: tuple[float, ...]
    kept_since: str = ""


def compare_layers(
    runtime: Runtime,
    baseline: Path,
    candidate: Path,
    *,
    threads: int = 1,
    runs: int = 30,
    free: FreeAxes = AS_EXPORTED,
) -> LayerComparison:
    """Time the layers of two engines; ``free`` fills axes that they leave free.

    The median is taken where the runtime tells one: a mean on a shared machine is of its other users.
    """

    def layers(engine: Path) -> tuple[LayerMs, ...]:
        times = runtime.layer_times(engine, threads=threads, runs=runs, free=free)
        return tuple(LayerMs(time.name, time.op, round(time.ms, 6)) for time in times)

    return LayerComparison(layers(baseline), layers(candidate))
