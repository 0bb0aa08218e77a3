"""Devices that are made up: layers with known costs, and a clock with known habits."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeprune.devices.local import LocalDevice
from edgeprune.progress import Reporter, Silent
from edgeprune.runtimes.base import Availability, BenchSettings, LayerTime, Runtime
from edgeprune.runtimes.onnxruntime_ import OnnxRuntime
from edgeprune.runtimes.site import Site
from edgeprune.samples.measurement import Measurement
from edgeprune.search.cost import LatencyModel, MeasuredCopy, Sizes
from edgeprune.search.layers import Layer
from edgeprune.target import Target
from tests.samples.made import latency


def chain(widths: list[int], side: int = 20, kernel: int = 9) -> list[Layer]:
    """Convolutions one behind the other; dimension ``i`` is the width between layer ``i - 1`` and layer ``i``."""
    layers = []
    for i in range(len(widths) - 1):
        rows, columns = np.zeros(len(widths)), np.zeros(len(widths))
        rows[i + 1], columns[i] = 1, 1
        kind = f"Conv2d {kernel} taps"
        layers.append(Layer(f"model.{i}.conv", kind, rows, columns, kernel, side * side, side * side))
    return layers


def true_ms(layers: list[Layer], widths: np.ndarray, step: int = 1) -> dict[str, float]:
    """What the made-up device takes for each layer: launches, arithmetic in steps, memory."""
    spent = {}
    for layer in layers:
        out, into = (np.ceil(float(axis @ widths) / step) * step for axis in (layer.rows, layer.columns))
        spent[layer.name] = 0.01 + 2e-8 * layer.taps * out * into * layer.outputs + 3e-7 * out * layer.outputs
    return spent


def samples(layers: list[Layer], copies: list[list[float]], step: int = 1, overhead: float = 1.0) -> list[MeasuredCopy]:
    """Measured copies of the device; the profiler's clock is ``overhead`` times the whole model's."""
    made = []
    for widths in copies:
        spent = true_ms(layers, np.array(widths, float), step)
        whole = sum(spent.values())
        made.append(MeasuredCopy(np.array(widths, float), {k: v * overhead for k, v in spent.items()}, whole))
    return made


def model_of(layers: list[Layer], coefficients: Any, step: int = 1, fixed_ms: float = 0.0) -> LatencyModel:
    """A latency model with given coefficients per term, the same for every layer when one row is given."""
    array = np.array(coefficients, float)
    array = np.repeat(array[:, None], len(layers), axis=1) if array.ndim == 1 else array
    return LatencyModel(tuple(layer.name for layer in layers), Sizes(layers, step), array, fixed_ms)


class StandIn(OnnxRuntime):
    """A device whose time is a fixed part and another in proportion to the multiplications of a graph's convolutions.

    Args:
        fixed_ms: of every inference: launches, copies, what the host does.
        ms_per_million: of the multiplications.
        half: factor on both in half precision; of INT8 the same again.
        noise: standard deviation of a time's logarithm.
    """

    def __init__(self, fixed_ms: float, ms_per_million: float, half: float = 1.0, noise: float = 0.003) -> None:
        super().__init__("cpu")
        self.name = "stand-in"
        self.fixed_ms, self.ms_per_million, self.half = fixed_ms, ms_per_million, half
        self.dice, self.noise = np.random.default_rng(0), noise
        self.timed: list[tuple[str, ...]] = []

    def identity(self) -> dict[str, str]:
        return {"device": "made up"}

    def engine_from_onnx(self, onnx: Path, engine: Path, **_: Any) -> None:
        shutil.copy(onnx, engine)

    def latency(self, models: Sequence[Path], settings: BenchSettings, *, progress: Any = None) -> list[Measurement]:
        self.timed.append(tuple(str(model) for model in models))
        level = [self.true_ms(model) for model in models]
        return [latency(ms * self.dice.lognormal(0, self.noise, 200), samples_per_block=5) for ms in level]

    def layer_times(self, model: Path, *, threads: int = 1, runs: int = 30, **_: Any) -> list[LayerTime]:
        return [LayerTime(name, "Conv", ms, ms, runs) for name, ms in self.convolutions(model)]

    def true_ms(self, model: Path) -> float:
        """What an inference takes."""
        return self.fixed_ms * self.factor(model) + sum(ms for _, ms in self.convolutions(model))

    def factor(self, model: Path) -> float:
        graph = onnx.load(str(model)).graph
        if any(node.op_type == "QuantizeLinear" for node in graph.node):
            return self.half**2
        return self.half if any(node.op_type == "Cast" for node in graph.node) else 1.0

    def convolutions(self, model: Path) -> list[tuple[str, float]]:
        """Name and ms of each; the time of a name is 0 where the graph has no shape for its output."""
        loaded = onnx.shape_inference.infer_shapes(onnx.load(str(model)))
        weights = {item.name: item.dims for item in loaded.graph.initializer}
        shapes = {
            value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
            for value in (*loaded.graph.value_info, *loaded.graph.output)
        }
        factor = self.factor(model)
        found = []
        for node in loaded.graph.node:
            if node.op_type == "Conv":
                kernel = weights.get(node.input[1], [0])
                positions = np.prod(shapes[node.output[0]][2:]) * shapes[node.output[0]][0]
                found.append((node.name, factor * self.ms_per_million * float(np.prod(kernel) * positions) / 1e6))
        return found


def stand_in_site(target: Target, runtime: Runtime, reporter: Reporter | None = None) -> Site:
    """A site of this machine with a made-up runtime."""
    return Site(target, runtime, LocalDevice(), Availability(True, ""), reporter or Silent())
