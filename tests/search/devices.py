"""Devices that are made up: layers with known costs, and a clock with known habits."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeprune.search.cost import LatencyModel, MeasuredCopy, Sizes
from edgeprune.search.layers import Layer


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
