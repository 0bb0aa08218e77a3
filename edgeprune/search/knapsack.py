"""Which channels go for a latency: always the block that costs the least importance per millisecond saved.

A priority queue over dimensions with lazy updates: an entry is priced again when it comes up, for what a width saves
depends on the widths around it. A narrower width that saves nothing is never taken; one further below it may be.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.search.cost import LatencyModel

WIDTHS_AHEAD = 6  # how many allowed widths below the present one are looked at, at least
STEPS_AHEAD = 2  # of the device, in which widths are looked at however many they are: time falls once a step at most
NEAR_WIDTHS = 2  # how many wider widths are tried before those further away
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
        touches = np.array([np.isin(np.arange(len(model.layers)), at) for at in self.touched.values()])
        self.neighbours = {
            i: [j for j, own in zip(self.touched, touches, strict=True) if j != i and own[self.touched[i]].any()]
            for i in self.touched
        }
        self.path: list[tuple[float, int, float, float]] = []  # (ms after the step, dimension, width, price)
        self._floor_ms = self._descend()

    def solve(self, limit_ms: float) -> Choice:
        """The first state of the descent whose predicted time is at most the limit; else the last one."""
        widths, reached, price = self.full.copy(), self.start_ms, 0.0
        for ms, i, width, paid in self.path:
            if reached <= limit_ms:
                break
            widths[i], reached, price = width, ms, paid
        widths = self._give_back(widths, limit_ms) if reached <= limit_ms else widths
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
        priced: dict[int, tuple[float, float]] = {}  # dimension to (price, width) as of now; none where none saves

        def price(i: int) -> None:
            step = self._cheapest_step(i, widths, state, layer_ms)
            if step is None:
                priced.pop(i, None)
            else:
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
            for j in (i, *(j for j in self.neighbours[i] if j not in priced)):  # what saved nothing before may save now
                price(j)
        return self._take_together(widths, total)

    def _take_together(self, widths: np.ndarray, total: float) -> float:
        """Where no dimension saves time alone any more, narrow all that are left to their least if that saves some.

        Several dimensions that one layer reads side by side can each have less left than one step of the device.
        """
        least = widths.copy()
        for i, allowed in self.allowed.items():
            least[i] = min(allowed[0], widths[i])
        saved = total - self.model.total_ms(least)
        if saved <= LEAST_SAVING_MS:
            return total
        least = self._give_back(least, self.model.total_ms(least) + LEAST_SAVING_MS)
        paid = max(self.loss(least) - self.loss(widths), 0.0) / saved
        narrowed = widths.copy()
        for i in np.flatnonzero(least != widths).tolist():
            narrowed[i] = least[i]
            total = self.model.total_ms(narrowed)
            self.path.append((total, i, float(least[i]), paid))
        return total

    def _moved(self, i: int, before: float, after: np.ndarray, state: np.ndarray) -> np.ndarray:
        """States of the layers that a dimension touches, for other widths of it: shape (4, candidates, layers)."""
        sizes, at = self.model.sizes, self.touched[i]
        step = (after - before)[:, None]
        off = (after * sizes.off(after) - before * sizes.off(np.array(before)))[:, None]
        rows, columns = sizes.rows[at, i], sizes.columns[at, i]
        return state[:, None, at] + np.array([step * rows, step * columns, off * rows, off * columns])

    def _saved_ms(
        self, i: int, widths: np.ndarray, after: np.ndarray, state: np.ndarray, layer_ms: np.ndarray
    ) -> np.ndarray:
        """Milliseconds that other widths of a dimension save, one per candidate."""
        at = self.touched[i]
        terms = self.model.sizes.terms(self._moved(i, widths[i], after, state), at)
        return np.asarray(layer_ms[at].sum() - (self.model.coefficients[:, None, at] * terms).sum((0, 2)))

    def _cheapest_step(
        self, i: int, widths: np.ndarray, state: np.ndarray, layer_ms: np.ndarray
    ) -> tuple[float, float] | None:
        """The narrower width with the least importance per ms saved, as (price, width); None when none saves time.

        Time falls in the device's steps, so widths are looked at over :data:`STEPS_AHEAD` of them; all where these
        save nothing.
        """
        every = self.allowed[i][self.allowed[i] < widths[i]][::-1]
        within = int((every >= widths[i] - STEPS_AHEAD * self.model.sizes.step).sum())
        for below in (every[: max(within, WIDTHS_AHEAD)], every):
            if len(below) == 0:
                return None
            saved = self._saved_ms(i, widths, below, state, layer_ms)
            helps = saved > LEAST_SAVING_MS
            if helps.any():
                curve = self.curves[i]
                lost = curve[(self.full[i] - below).astype(int)] - curve[int(self.full[i] - widths[i])]
                prices = np.where(helps, np.maximum(lost, 0.0) / np.maximum(saved, LEAST_SAVING_MS), np.inf)
                best = int(prices.argmin())
                return float(prices[best]), float(below[best])
        return None

    def _give_back(self, widths: np.ndarray, limit_ms: float) -> np.ndarray:
        """Widen dimensions again while the limit allows it, the most important first: the last step went too far.

        The next widths come first; those further away, which may lie on the device's step again, where none of these is
        within the limit.
        """
        widths = widths.copy()
        while True:
            state = self.model.sizes.state(widths)
            layer_ms = (self.model.coefficients * self.model.sizes.terms(state)).sum(0)
            left = limit_ms - self.model.fixed_ms - float(layer_ms.sum())
            for near in (True, False):
                best, chosen = 0.0, None
                for i, allowed in self.allowed.items():
                    wider = allowed[allowed > widths[i]]
                    wider = wider[:NEAR_WIDTHS] if near else wider[NEAR_WIDTHS:]
                    if len(wider) == 0:
                        continue
                    curve = self.curves[i]
                    gained = curve[int(self.full[i] - widths[i])] - curve[(self.full[i] - wider).astype(int)]
                    gained = np.where(-self._saved_ms(i, widths, wider, state, layer_ms) <= left, gained, 0.0)
                    place = int(gained.argmax())
                    if gained[place] > best:
                        best, chosen = float(gained[place]), (i, float(wider[place]))
                if chosen is not None:
                    break
            if chosen is None:
                return widths
            tried = widths.copy()
            tried[chosen[0]] = chosen[1]
            if self.model.total_ms(tried) > limit_ms:  # by rounding alone
                return widths
            widths = tried
