"""Widths of all dimensions from the scores of their channels and a limit on a cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from edgeprune.pruning.structure import Dimension, Part

CostFunction = Callable[[np.ndarray], float]

FILL_TOLERANCE = 0.01  # filling up stops when no more than this share of the limit is unused
ROUNDING = 1e-9  # share of a limit by which a sum of floats may be over it
EXCHANGE_TOLERANCE = 0.03  # and pairs of changes are searched while more than this is


def removal_curve(dimension: Dimension, scores: torch.Tensor) -> np.ndarray:
    """Score that is lost with each further channel that a dimension gives up, ascending; float64 (width,).

    Args:
        scores: float of shape (parts, width). Parts lose channels together, so their orders are averaged rank by rank;
            the rows of a part (attention heads) likewise.
    """
    curves = [
        np.repeat(np.sort(row.reshape(part.rows, -1), axis=1).mean(0), part.rows)
        for part, row in zip(dimension.parts, scores.double().numpy(), strict=True)
    ]
    return np.mean(curves, axis=0)


def best_channels(part: Part, scores: torch.Tensor, count: int) -> tuple[int, ...]:
    """Indices of the ``count`` best channels of a part, equally many in each row; the first wins among equals."""
    rows = scores.reshape(part.rows, -1)
    best = torch.sort(rows, dim=1, descending=True, stable=True).indices[:, : count // part.rows]
    offsets = torch.arange(part.rows)[:, None] * rows.shape[1]
    return tuple(sorted((best + offsets).ravel().tolist()))


def within(cost: float, limit: float) -> bool:
    """Whether a cost is at most a limit, but for rounding."""
    return cost <= limit * (1 + ROUNDING)


class Chooser:
    """Turns scores into widths.

    Args:
        dimensions: all of a model's.
        scores: per dimension name, float of shape (parts, width); fixed dimensions may be absent.
        local: rank channels within their dimension only (the same ratio everywhere) instead of across the model.
    """

    def __init__(self, dimensions: Sequence[Dimension], scores: Mapping[str, torch.Tensor], *, local: bool) -> None:
        self.dimensions = dimensions
        self.free = [i for i, dimension in enumerate(dimensions) if dimension.fixed is None]
        self.curves = {i: removal_curve(dimensions[i], scores[dimensions[i].name]) for i in self.free}
        if local:
            self.curves = {i: (np.arange(len(curve)) + 0.5) / len(curve) for i, curve in self.curves.items()}
        self.allowed = {i: np.array(dimensions[i].allowed) for i in self.free}
        self.thresholds = np.unique(np.concatenate([*self.curves.values(), [0.0]]))
        self.full = np.array([dimension.width for dimension in dimensions], dtype=np.float64)
        self.least = np.array([dimension.allowed[0] for dimension in dimensions], dtype=np.float64)

    def widths_at_threshold(self, threshold: float) -> np.ndarray:
        """Widths when every channel that scores at most the threshold goes, each to the nearest allowed one."""
        widths = self.full.copy()
        for i in self.free:
            above = len(self.curves[i]) - np.searchsorted(self.curves[i], threshold, side="right")
            widths[i] = self.allowed[i][np.abs(self.allowed[i] - above).argmin()]
        return widths

    def widest_within(self, cost: CostFunction, limit: float) -> np.ndarray:
        """Widths of the best channels whose cost is at most the limit, which the least widths meet, and close to it."""
        if within(cost(self.full), limit):
            return self.full.copy()
        low, high = 0, len(self.thresholds) - 1  # cost(low) > limit >= cost(high), if thresholds reach far enough
        widths = self.widths_at_threshold(self.thresholds[high])
        if cost(widths) > limit:
            widths = self.least.copy()
        while high - low > 1:
            middle = (low + high) // 2
            candidate = self.widths_at_threshold(self.thresholds[middle])
            if cost(candidate) <= limit:
                high, widths = middle, candidate
            else:
                low = middle
        return self._exchange(self._fill_up(widths, cost, limit), cost, limit)

    def _fill_up(self, widths: np.ndarray, cost: CostFunction, limit: float) -> np.ndarray:
        """Give back the best blocks of channels that still fit, best first."""
        while cost(widths) < limit * (1 - FILL_TOLERANCE):
            best, chosen = -1.0, None
            for i in self.free:
                wider = self._next_allowed(i, widths[i], +1)
                if wider is None:
                    continue
                width = len(self.curves[i])
                value = float(self.curves[i][width - wider : width - int(widths[i])].mean())
                if value > best and cost(_replaced(widths, i, wider)) <= limit:
                    best, chosen = value, (i, wider)
            if chosen is None:
                break
            widths = _replaced(widths, *chosen)
        return widths

    def _exchange(self, widths: np.ndarray, cost: CostFunction, limit: float) -> np.ndarray:
        """While too much of the limit is unused: widen one dimension and narrow another, whichever comes closest."""
        for _ in range(16):
            used = cost(widths)
            if used >= limit * (1 - EXCHANGE_TOLERANCE):
                break
            best, chosen = used, None
            wider = {i: self._next_allowed(i, widths[i], +1) for i in self.free}
            narrower = {i: self._next_allowed(i, widths[i], -1) for i in self.free}
            for i, more in wider.items():
                if more is None:
                    continue
                grown = _replaced(widths, i, more)
                for j, less in narrower.items():
                    if less is not None and i != j:
                        value = cost(_replaced(grown, j, less))
                        if best < value <= limit:
                            best, chosen = value, _replaced(grown, j, less)
            if chosen is None:
                break
            widths = chosen
        return widths

    def _next_allowed(self, i: int, width: float, direction: int) -> int | None:
        allowed = self.allowed[i]
        at = int(np.searchsorted(allowed, width)) + direction
        return int(allowed[at]) if 0 <= at < len(allowed) else None


def _replaced(widths: np.ndarray, i: int, value: float) -> np.ndarray:
    changed = widths.copy()
    changed[i] = value
    return changed
