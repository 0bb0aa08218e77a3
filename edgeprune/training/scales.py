"""What sparsity training did to the scales and biases of batch normalisation, in numbers and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from edgeprune.training.sparsity import ScaleGroup

THRESHOLD = 1e-2
"""A scale below this counts as switched off."""
SMALL_BIAS = 0.1
"""SiLU(0.1) is 0.05: a constant that small can be dropped with its channel."""
EDGES = (0.0, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, float("inf"))
"""Bins of the histograms of absolute values."""

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
        """Share of prunable channels all of whose scales lie below :data:`THRESHOLD`, 0 to 1."""
        return float((self.channels < THRESHOLD).mean())

    def to_json(self) -> dict[str, Any]:
        """Histograms per layer and overall, as plain data; ``edges`` are the bins' limits (the last one is open)."""
        layers = {
            name: {"channels": len(scales), "share_off": float((scales < THRESHOLD).mean())}
            | _histograms(scales, biases)
            for name, (scales, biases) in self.layers.items()
        }
        overall = {"channels": len(self.channels), "share_off": self.share_off}
        return {
            "edges": [edge for edge in EDGES if np.isfinite(edge)],
            "overall": overall | _histograms(self.channels, self.biases),
            "layers": layers,
        }


def scales_of(model: nn.Module, groups: Sequence[ScaleGroup]) -> Scales:
    """Read the scales and biases of ``groups`` from a model."""
    modules: dict[str, Any] = dict(model.named_modules())
    layers: dict[str, list[tuple[Array, Array]]] = {}
    largest: list[tuple[Array, Array]] = []
    for group in groups:
        rows = []
        for name, indices in group.norms:
            norm, at = modules[name], list(indices)
            row = (_absolute(norm.weight)[at], _absolute(norm.bias)[at])
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


def verdict(before: Scales, after: Scales) -> str:
    """One line: how many channels are off now, and whether their biases are small enough to drop."""
    off = after.channels < THRESHOLD
    head = f"scales below {THRESHOLD:g}: {before.share_off:.1%} of channels before, {after.share_off:.1%} after"
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


def _histograms(scales: Array, biases: Array) -> dict[str, list[int]]:
    return {
        "scales": np.histogram(scales, EDGES)[0].tolist(),
        "biases": np.histogram(biases, EDGES)[0].tolist(),
    }
