"""What sparsity training did to the scales and biases of batch normalisation, in numbers and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from edgeprune.training.result import SCALE_OFF, ScaleHistogram, ScaleReport
from edgeprune.training.sparsity import ScaleGroup

SMALL_BIAS = 0.1
"""SiLU(0.1) is 0.05: a constant that small can be dropped with its channel."""
EDGES = (0.0, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0)
"""Lower limits of the histograms' bins; the last bin is open."""

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Scales:
    """Absolute scales and biases of prunable channels.

    Attributes:
        layers: name of a batch normalisation to its (scales, biases), float64 of shape (prunable channels,).
        channels: float64 of shape (channels,): the largest scale that belongs to each channel, over tied layers.
        biases: float64 of shape (channels,): the largest bias likewise.
    """

    layers: dict[str, tuple[Array, Array]]
    channels: Array
    biases: Array

    @property
    def share_off(self) -> float:
        """Share of prunable channels all of whose scales lie below :data:`SCALE_OFF`, 0 to 1."""
        return float((self.channels < SCALE_OFF).mean())

    def report(self) -> ScaleReport:
        """Histograms by layer and overall."""
        layers = {name: _histogram(scales, biases) for name, (scales, biases) in self.layers.items()}
        return ScaleReport(EDGES, _histogram(self.channels, self.biases), layers)


def scales_of(model: nn.Module, groups: Sequence[ScaleGroup]) -> Scales:
    """Read the scales and biases of ``groups`` from a model."""
    modules: dict[str, Any] = dict(model.named_modules())
    layers: dict[str, list[tuple[Array, Array]]] = {}
    largest: list[tuple[Array, Array]] = []
    for group in groups:
        rows = []
        for name, indices in group.norms:
            norm, positions = modules[name], list(indices)
            row = (_absolute(norm.weight)[positions], _absolute(norm.bias)[positions])
            layers.setdefault(name, []).append(row)
            rows.append(row)
        largest.append((np.max([row[0] for row in rows], axis=0), np.max([row[1] for row in rows], axis=0)))
    return Scales(
        {
            name: (np.concatenate([r[0] for r in rows]), np.concatenate([r[1] for r in rows]))
            for name, rows in layers.items()
        },
        np.concatenate([row[0] for row in largest]),
        np.concatenate([row[1] for row in largest]),
    )


def summary_of(before: Scales, after: Scales) -> str:
    """One line: how many channels are off now, and whether their biases are small enough to drop."""
    off = after.channels < SCALE_OFF
    head = f"scales below {SCALE_OFF:g}: {before.share_off:.1%} of channels before, {after.share_off:.1%} after"
    if not off.any():
        return f"{head}; nothing is ready to prune: train longer or raise lambda"
    small = float((after.biases[off] < SMALL_BIAS).mean())
    if small >= 0.95:
        return f"{head}; their biases are small enough to prune ({small:.0%} below {SMALL_BIAS:g})"
    return (
        f"{head}; their biases are not small enough ({small:.0%} below {SMALL_BIAS:g}): pruning will shift the outputs "
        "until fine-tuning repairs it, or penalise biases too (--bias-lambda)"
    )


def _absolute(parameter: nn.Parameter) -> Array:
    return parameter.detach().abs().double().cpu().numpy()


def _histogram(scales: Array, biases: Array) -> ScaleHistogram:
    in_bins = [tuple(np.histogram(values, (*EDGES, np.inf))[0].tolist()) for values in (scales, biases)]
    return ScaleHistogram(len(scales), float((scales < SCALE_OFF).mean()), *in_bins)
