"""The price of narrowing each dimension, on one scale over all of them.

A channel's score is an estimate of how much the loss changes when it goes (``taylor``, ``fisher``: derivatives of the
loss itself). Added up over a dimension it is convex, but it knows nothing of what fine-tuning needs: a deep layer whose
channels hardly move the loss now would be cut to a few, and stay a bottleneck. So every dimension also pays for how
much it is narrowed, ``width before / width after - 1`` weighted by the milliseconds that depend on it; that price alone
would take the same share everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgeprune.pruning.choose import removal_curve
from edgeprune.pruning.pruner import Pruner, Scores
from edgeprune.search.cost import LatencyModel

NARROWING_SHARE = 0.1
"""Share of the price of narrowing in the whole price. v8n on BCCD by taylor, one thread of ONNX Runtime's CPU, mAP50-95
before fine-tuning at predicted speed-ups of 1.5 / 2.2 / 3.0: .549 / .158 / .033 at 0, .526 / .154 / .006 at 0.1, .446 /
.011 / .004 at 0.5; after five epochs (one seed): .497 at 0, .507 at 0.1 for 2.2; .460 at 0, .449 at 0.5 for 3.0. At 0
the deepest layers keep 6 % of their channels, at 0.1 a quarter."""


@dataclass(frozen=True)
class Prices:
    """What narrowing costs.

    Attributes:
        losses: sum of the scores of the ``k`` least important channels, ``k`` = 0..width, by index of the dimension.
        per_loss: price of one unit of those scores.
        per_narrowing: price of ``width before / width after - 1``, by index of the dimension.
    """

    losses: Mapping[int, np.ndarray]
    per_loss: float
    per_narrowing: Mapping[int, float]

    @property
    def curves(self) -> dict[int, np.ndarray]:
        """Price of removing ``k`` channels, ``k`` = 0..width, by index of the dimension: what the knapsack adds up."""
        return {
            i: self.per_loss * loss + self.per_narrowing[i] * _narrowing(len(loss) - 1)
            for i, loss in self.losses.items()
        }

    def estimated_loss(self, widths: np.ndarray) -> float:
        """Sum of the scores that widths, one per dimension, give up."""
        return float(sum(loss[len(loss) - 1 - int(widths[i])] for i, loss in self.losses.items()))


def price_channels(
    pruner: Pruner, scores: Scores, model: LatencyModel, narrowing_share: float = NARROWING_SHARE
) -> Prices:
    """Loss and narrowing, each as a share of what all of it would cost.

    Args:
        pruner: of the model that is pruned.
        scores: of its channels.
        model: predicted times, for the milliseconds that depend on a dimension.
        narrowing_share: 0 trusts the scores alone, 1 takes the same share everywhere.
    """
    losses = {
        i: np.concatenate([[0.0], np.cumsum(removal_curve(dimension, scores[dimension.name]))]) * len(dimension.parts)
        for i, dimension in enumerate(pruner.dimensions)
        if dimension.fixed is None
    }
    whole = sum(float(curve[-1]) for curve in losses.values()) or 1.0
    full = pruner.structure.widths
    before = model.total_ms(full)
    depending_ms = {}
    for i in losses:
        half = full.copy()
        half[i] /= 2
        depending_ms[i] = max(2 * (before - model.total_ms(half)), 0.0)
    total = sum(depending_ms.values()) or 1.0
    per_narrowing = {i: narrowing_share * ms / total for i, ms in depending_ms.items()}
    return Prices(losses, (1 - narrowing_share) / whole, per_narrowing)


def _narrowing(width: int) -> np.ndarray:
    """``width before / width after - 1`` when ``k`` channels of a dimension are gone, ``k`` = 0..width."""
    left = np.maximum(width - np.arange(width + 1), 0.5)
    return width / left - 1
