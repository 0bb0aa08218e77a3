"""How wide each dimension becomes: from channel scores and a limit on a cost to aligned widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from edgeprune.pruning.structure import Dimension, Part

Cost = Callable[[np.ndarray], float]

CLOSE_ENOUGH = 0.01  # stop filling up when this share of the limit is unused
TOLERANCE = 0.03  # and search pairs of changes while more than this is


def ranked(dimension: Dimension, scores: torch.Tensor) -> np.ndarray:
    """Score that is lost with each further channel of a dimension, ascending; float64 of shape (width,).

    Args:
        scores: float of shape (parts, width). Parts lose channels together, so their orders are averaged rank by rank;
            the rows of a part (attention heads) likewise.
    """
    curves = [
        np.repeat(np.sort(row.reshape(part.rows, -1), axis=1).mean(0), part.rows)
        for part, row in zip(dimension.parts, scores.double().numpy(), strict=True)
    ]
    return np.mean(curves, axis=0)


def kept_indices(part: Part, scores: torch.Tensor, count: int) -> tuple[int, ...]:
    """Indices of the ``count`` best channels of a part, equally many in each row; the first wins among equals."""
    rows = scores.reshape(part.rows, -1)
    best = torch.sort(rows, dim=1, descending=True, stable=True).indices[:, : count // part.rows]
    offsets = torch.arange(part.rows)[:, None] * rows.shape[1]
    return tuple(sorted((best + offsets).ravel().tolist()))


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
        self.curves = {i: ranked(dimensions[i], scores[dimensions[i].name]) for i in self.free}
        if local:
            self.curves = {i: (np.arange(len(curve)) + 0.5) / len(curve) for i, curve in self.curves.items()}
        self.allowed = {i: np.array(dimensions[i].allowed) for i in self.free}
        self.thresholds = np.unique(np.concatenate([*self.curves.values(), [0.0]]))
        self.full = np.array([dimension.allowed[-1] for dimension in dimensions], dtype=np.float64)
        self.least = np.array([dimension.allowed[0] for dimension in dimensions], dtype=np.float64)

    def at_threshold(self, threshold: float) -> np.ndarray:
        """Widths when every channel that scores at most the threshold goes, each to the nearest allowed one."""
        widths = self.full.copy()
        for i in self.free:
            left = len(self.curves[i]) - np.searchsorted(self.curves[i], threshold, side="right")
            widths[i] = self.allowed[i][np.abs(self.allowed[i] - left).argmin()]
        return widths

    def within(self, cost: Cost, limit: float) -> np.ndarray | None:
        """Widths of the best channels whose cost is at most the limit, and close to it; None when there are none."""
        if cost(self.least) > limit * (1 + 1e-9):
            return None
        if cost(self.full) <= limit * (1 + 1e-9):
            return self.full.copy()
        low, high = 0, len(self.thresholds) - 1  # cost(low) > limit >= cost(high), if thresholds reach far enough
        widths = self.at_threshold(self.thresholds[high])
        if cost(widths) > limit:
            widths = self.least.copy()
        while high - low > 1:
            middle = (low + high) // 2
            tried = self.at_threshold(self.thresholds[middle])
            if cost(tried) <= limit:
                high, widths = middle, tried
            else:
                low = middle
        return self._exchanged(self._filled(widths, cost, limit), cost, limit)

    def _filled(self, widths: np.ndarray, cost: Cost, limit: float) -> np.ndarray:
        """Give back the best blocks of channels that still fit, best first."""
        while cost(widths) < limit * (1 - CLOSE_ENOUGH):
            best, chosen = -1.0, None
            for i in self.free:
                wider = self._next(i, widths[i], +1)
                if wider is None:
                    continue
                width = len(self.curves[i])
                value = float(self.curves[i][width - wider : width - int(widths[i])].mean())
                if value > best and cost(_with(widths, i, wider)) <= limit:
                    best, chosen = value, (i, wider)
            if chosen is None:
                break
            widths = _with(widths, *chosen)
        return widths

    def _exchanged(self, widths: np.ndarray, cost: Cost, limit: float) -> np.ndarray:
        """While too much of the limit is unused: widen one dimension and narrow another, whichever comes closest."""
        for _ in range(16):
            used = cost(widths)
            if used >= limit * (1 - TOLERANCE):
                break
            best, chosen = used, None
            wider = {i: self._next(i, widths[i], +1) for i in self.free}
            narrower = {i: self._next(i, widths[i], -1) for i in self.free}
            for i, more in wider.items():
                if more is None:
                    continue
                grown = _with(widths, i, more)
                for j, less in narrower.items():
                    if less is not None and i != j:
                        value = cost(_with(grown, j, less))
                        if best < value <= limit:
                            best, chosen = value, _with(grown, j, less)
            if chosen is None:
                break
            widths = chosen
        return widths

    def _next(self, i: int, width: float, direction: int) -> int | None:
        allowed = self.allowed[i]
        at = int(np.searchsorted(allowed, width)) + direction
        return int(allowed[at]) if 0 <= at < len(allowed) else None


def _with(widths: np.ndarray, i: int, value: float) -> np.ndarray:
    changed = widths.copy()
    changed[i] = value
    return changed
