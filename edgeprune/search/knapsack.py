"""Which channels go for a latency: always the block that costs the least importance per millisecond saved.

A priority queue over dimensions with lazy updates: an entry is priced again when it comes up, for what a width saves
depends on the widths around it. A narrower width that saves nothing is never taken; the next one below it may be.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.search.cost import LatencyModel

WIDTHS_AHEAD = (
    6  # how many allowed widths below the present one are looked at: enough to step over those that save nothing
)
LEAST_SAVING_MS = 1e-7  # ms; less is rounding


@dataclass(frozen=True)
class Choice:
    """Widths that were chosen.

    Attributes:
        widths: one per dimension.
        ms: predicted.
        loss: importance given up, in the unit of the curves.
        price: importance per ms of the last block that went.
        exhausted: True when nothing that saves time is left to remove.
    """

    widths: np.ndarray
    ms: float
    loss: float
    price: float
    exhausted: bool


class Knapsack:
    """Solves for one model and one set of importances, for any number of latencies.

    Args:
        model: predicted times.
        widths: of the unpruned model, one per dimension.
        allowed: widths that each free dimension may have, ascending, by index.
        curves: importance that is lost when ``k`` channels of a dimension are gone, ``k`` = 0..width, by index.
    """

    def __init__(
        self,
        model: LatencyModel,
        widths: np.ndarray,
        allowed: Mapping[int, Sequence[int]],
        curves: Mapping[int, np.ndarray],
    ) -> None:
        self.model, self.full, self.curves = model, np.asarray(widths, float), curves
        self.allowed = {i: np.array(sorted(values), float) for i, values in allowed.items()}
        sizes = model.sizes
        self.touched = {i: np.flatnonzero((sizes.rows[:, i] != 0) | (sizes.columns[:, i] != 0)) for i in self.allowed}
        self.path: list[tuple[float, int, float, float]] = []  # (ms after the step, dimension, width, price)
        self._floor_ms = self._descend()

    def solve(self, limit_ms: float) -> Choice:
        """The first state of the descent whose predicted time is at most the limit; else the last one."""
        widths, reached, price = self.full.copy(), self.start_ms, 0.0
        for ms, i, width, paid in self.path:
            if reached <= limit_ms:
                break
            widths[i], reached, price = width, ms, paid
        widths = self._give_back(widths, reached, limit_ms) if reached <= limit_ms else widths
        return Choice(widths, self.model.total_ms(widths), self.loss(widths), price, reached > limit_ms)

    @property
    def floor_ms(self) -> float:
        """Predicted time with everything removed that saves any."""
        return self._floor_ms

    def loss(self, widths: np.ndarray) -> float:
        """Sum of the importance that widths give up."""
        return float(sum(self.curves[i][int(self.full[i] - widths[i])] for i in self.allowed))

    def _descend(self) -> float:
        """Remove block after block until nothing is left; every step is kept, so that any limit can be read off."""
        sizes, coefficients = self.model.sizes, self.model.coefficients
        widths = self.full.copy()
        state = sizes.state(widths)
        layer_ms = (coefficients * sizes.terms(state)).sum(0)
        self.start_ms = total = float(layer_ms.sum()) + self.model.fixed_ms
        queue: list[tuple[float, int]] = []
        priced: dict[int, tuple[float, float]] = {}  # dimension to (price, width) as of now

        def price(i: int) -> None:
            step = self._cheapest_step(i, widths, state, layer_ms)
            if step is not None:
                priced[i] = step
                heapq.heappush(queue, (step[0], i))

        for i in self.allowed:
            price(i)
        while queue:
            queued_price, i = heapq.heappop(queue)
            if priced.get(i, (None,))[0] != queued_price:
                continue
            step = self._cheapest_step(i, widths, state, layer_ms)
            if step is None:
                priced.pop(i, None)
                continue
            if queue and step[0] > queue[0][0] * (1 + 1e-9):
                priced[i] = step
                heapq.heappush(queue, (step[0], i))
                continue
            paid, width = step
            at = self.touched[i]
            state[:, at] = self._moved(i, widths[i], np.array([width]), state)[:, 0]
            widths[i] = width
            layer_ms[at] = (coefficients[:, at] * sizes.terms(state[:, at], at)).sum(0)
            total = float(layer_ms.sum()) + self.model.fixed_ms
            self.path.append((total, i, width, paid))
            price(i)
        return total

    def _moved(self, i: int, before: float, after: np.ndarray, state: np.ndarray) -> np.ndarray:
        """States of the layers that a dimension touches, for other widths of it: shape (4, candidates, layers)."""
        sizes, at = self.model.sizes, self.touched[i]
        step = (after - before)[:, None]
        off = (after * sizes.off(after) - before * sizes.off(np.array(before)))[:, None]
        rows, columns = sizes.rows[at, i], sizes.columns[at, i]
        return state[:, None, at] + np.array([step * rows, step * columns, off * rows, off * columns])

    def _cheapest_step(
        self, i: int, widths: np.ndarray, state: np.ndarray, layer_ms: np.ndarray
    ) -> tuple[float, float] | None:
        """The narrower width with the least importance per ms saved, as (price, width); None when none saves time."""
        below = self.allowed[i][self.allowed[i] < widths[i]][::-1][:WIDTHS_AHEAD]
        if len(below) == 0:
            return None
        at = self.touched[i]
        terms = self.model.sizes.terms(self._moved(i, widths[i], below, state), at)
        saved = layer_ms[at].sum() - (self.model.coefficients[:, None, at] * terms).sum((0, 2))
        curve = self.curves[i]
        lost = curve[(self.full[i] - below).astype(int)] - curve[int(self.full[i] - widths[i])]
        helps = saved > LEAST_SAVING_MS
        if not helps.any():
            return None
        prices = np.where(helps, np.maximum(lost, 0.0) / np.maximum(saved, LEAST_SAVING_MS), np.inf)
        best = int(prices.argmin())
        return float(prices[best]), float(below[best])

    def _give_back(self, widths: np.ndarray, reached: float, limit_ms: float) -> np.ndarray:
        """Widen dimensions again while the limit allows it, the most important first: the last step went too far."""
        while True:
            best, chosen = 0.0, None
            for i, allowed in self.allowed.items():
                wider = allowed[allowed > widths[i]][:2]
                for width in wider:
                    gained = self.curves[i][int(self.full[i] - widths[i])] - self.curves[i][int(self.full[i] - width)]
                    if gained <= best:
                        continue
                    tried = widths.copy()
                    tried[i] = width
                    if self.model.total_ms(tried) <= limit_ms:
                        best, chosen = gained, tried
            if chosen is None:
                return widths
            widths = chosen
