"""Milliseconds as a function of the widths: fitted to a few measured copies, monotone, with the device's steps.

Each layer's time is a sum, with coefficients that are never negative, of a constant, its multiply-accumulates, the
values it writes and reads, its weights, and the values that lie in widths off the device's step (those are reordered or
padded). Everything but the last grows with the widths, so a narrower layer is predicted slower only where the device
was measured to be slower there. Coefficients come from all layers of a kind first, then from the layer's own times,
held near the first estimate (few widths are measured, and the noise of a node is larger than that of its kind).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from edgeprune.search.layers import FIXED, Layer

STEPS = (1, 4, 8, 16, 32, 64)
HELD_TO_KIND = 0.3  # how strongly a layer's own coefficients are held to those of its kind, as a share of its time
COARSER_STEP_GAIN = 0.98  # the misfit of a coarser step has to be below this share of a finer step's
NNLS_ITERATIONS = 1000  # SciPy gives up after three times the number of terms, which nearly parallel terms can need
TERMS = ("constant", "multiply-accumulates", "written", "read", "weights", "off step, written", "off step, read")


@dataclass(frozen=True)
class MeasuredCopy:
    """A measured model: its widths of shape (dimensions,), its milliseconds by layer, and those of the whole."""

    widths: np.ndarray
    layer_ms: Mapping[str, float]
    total_ms: float


class Sizes:
    """Sizes of all layers of a model as arrays, so that a cost is a few vector operations.

    Args:
        layers: of one traced model.
        step: the device rounds widths up to multiples of this.
    """

    def __init__(self, layers: Sequence[Layer], step: int) -> None:
        self.step = step
        self.rows = np.array([layer.rows for layer in layers])
        self.columns = np.array([layer.columns for layer in layers])
        self.single = np.asarray(~self.columns.any(axis=1))
        self.taps = np.array([layer.taps for layer in layers])
        self.outputs = np.array([layer.outputs for layer in layers])
        self.inputs = np.array([layer.inputs for layer in layers])

    def state(self, widths: np.ndarray) -> np.ndarray:
        """Output width, input width, and how much of each lies off the step: shape (4, layers)."""
        off = widths * self.off(widths)
        return np.array([self.rows @ widths, self.columns @ widths, self.rows @ off, self.columns @ off])

    def off(self, widths: np.ndarray) -> np.ndarray:
        """Whether widths lie off the step."""
        return np.asarray(np.mod(widths, self.step) != 0)

    def terms(self, state: np.ndarray, at: np.ndarray | slice = slice(None)) -> np.ndarray:
        """The terms of the layers ``at``, for states of shape (4, ..., layers): shape (7, ..., layers)."""
        out, into = np.ceil(np.asarray(state[:2]) / self.step - 1e-9) * self.step
        single, taps = self.single[at], self.taps[at]
        columns = np.where(single, 1.0, into)
        weights = taps * out * columns
        read = np.where(single, out, into) * self.inputs[at]
        written = out * self.outputs[at]
        off_out, off_in = state[2] * self.outputs[at], np.where(single, state[2], state[3]) * self.inputs[at]
        return np.array([np.ones_like(out), weights * self.outputs[at], written, read, weights, off_out, off_in])


@dataclass(frozen=True)
class LatencyModel:
    """Predicts the milliseconds of a model for any widths.

    Attributes:
        layers: names, in order of execution.
        sizes: of the same layers.
        coefficients: ms per term, float64 of shape (7, layers).
        fixed_ms: what no width changes.
    """

    layers: tuple[str, ...]
    sizes: Sizes
    coefficients: np.ndarray
    fixed_ms: float

    def layer_ms(self, widths: np.ndarray) -> np.ndarray:
        """Milliseconds of every layer for widths, one per dimension."""
        return (self.coefficients * self.sizes.terms(self.sizes.state(widths))).sum(0)

    def total_ms(self, widths: np.ndarray) -> float:
        """Milliseconds of the whole model."""
        return float(self.layer_ms(widths).sum()) + self.fixed_ms

    def for_layers(self, layers: Sequence[Layer], original: Mapping[str, str]) -> LatencyModel:
        """The same costs for a model with fewer blocks; ``original`` maps its layers' names to the measured ones."""
        place = {name: i for i, name in enumerate(self.layers)}
        kept = [
            (layer, place[original.get(layer.name, layer.name)])
            for layer in layers
            if original.get(layer.name, layer.name) in place
        ]
        return LatencyModel(
            tuple(layer.name for layer, _ in kept),
            Sizes([layer for layer, _ in kept], self.sizes.step),
            self.coefficients[:, [i for _, i in kept]],
            self.fixed_ms,
        )


@dataclass(frozen=True)
class Fit:
    """A fitted model with its errors.

    Attributes:
        model: fitted to every sample.
        errors: predicted over measured milliseconds minus 1, of every sample but the first (the unpruned model), by a
            model whose costs were fitted without it; the step of the widths is that of all samples.
        timed: names of the layers that took any time.
    """

    model: LatencyModel
    errors: tuple[float, ...]
    timed: tuple[str, ...] = ()

    @property
    def median_error(self) -> float:
        """Median size of the held-out errors."""
        return float(np.median(np.abs(self.errors))) if self.errors else float("nan")


def fit_costs(layers: Sequence[Layer], samples: Sequence[MeasuredCopy]) -> Fit:
    """Fit costs to measured copies, the first of which is the unpruned model.

    Node times are scaled so that they sum up to the measured time of the whole model; a profiler adds its own.
    """
    timed = [layer for layer in layers if any(layer.name in sample.layer_ms for sample in samples)]
    step = min(STEPS, key=lambda step: _misfit(timed, samples, step) / COARSER_STEP_GAIN ** STEPS.index(step))
    errors = []
    for left_out in range(1, len(samples)):
        if len(samples) > 2:
            others = [sample for i, sample in enumerate(samples) if i != left_out]
            predicted = _model(timed, others, step).total_ms(samples[left_out].widths)
            errors.append(predicted / samples[left_out].total_ms - 1)
    return Fit(_model(timed, samples, step), tuple(errors), tuple(layer.name for layer in timed))


def _scaled(layers: Sequence[Layer], samples: Sequence[MeasuredCopy]) -> tuple[np.ndarray, float]:
    """Times of shape (samples, layers) in ms of the whole model's clock, and the fixed part."""
    times, fixed = [], []
    for sample in samples:
        factor = sample.total_ms / sum(sample.layer_ms.values())
        times.append([factor * sample.layer_ms.get(layer.name, 0.0) for layer in layers])
        fixed.append(factor * sample.layer_ms.get(FIXED, 0.0))
    return np.array(times), float(np.median(fixed))


def _by_kind(layers: Sequence[Layer], terms: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Coefficients of each layer's kind, shape (7, layers); errors count by how much of the layer's time they are."""
    result = np.zeros((len(TERMS), len(layers)))
    for kind in dict.fromkeys(layer.kind for layer in layers):
        at = np.array([i for i, layer in enumerate(layers) if layer.kind == kind])
        weight = 1 / np.maximum(times[:, at].max(0), 1e-6)
        rows = (terms[:, :, at] * weight).reshape(len(TERMS), -1).T
        scale = np.maximum(np.abs(rows).max(0), 1e-30)
        coefficients, _ = nnls(rows / scale, (times[:, at] * weight).ravel(), maxiter=NNLS_ITERATIONS)
        result[:, at] = (coefficients / scale)[:, None]
    return result


def _misfit(layers: Sequence[Layer], samples: Sequence[MeasuredCopy], step: int) -> float:
    """Sum of what the fit leaves of all layers' times when the device is taken to have this step, in ms."""
    model, (times, _) = _model(layers, samples, step), _scaled(layers, samples)
    return float(np.abs(np.array([model.layer_ms(sample.widths) for sample in samples]) - times).sum())


def _model(layers: Sequence[Layer], samples: Sequence[MeasuredCopy], step: int) -> LatencyModel:
    times, fixed = _scaled(layers, samples)
    sizes = Sizes(layers, step)
    terms = np.stack([sizes.terms(sizes.state(sample.widths)) for sample in samples], axis=1)
    first = _by_kind(layers, terms, times)
    coefficients = np.zeros_like(first)
    for i in range(len(layers)):
        most = np.maximum(np.abs(terms[:, :, i]).max(1), 1e-30)  # a term's largest value: coefficients become ms
        level = max(float(times[:, i].max()), 1e-6)
        rows = np.concatenate([terms[:, :, i].T / most / level, HELD_TO_KIND / level * np.eye(len(TERMS))])
        values = np.concatenate([times[:, i] / level, HELD_TO_KIND / level * first[:, i] * most])
        coefficients[:, i] = nnls(rows, values, maxiter=NNLS_ITERATIONS)[0] / most
    return LatencyModel(tuple(layer.name for layer in layers), sizes, coefficients, fixed)
