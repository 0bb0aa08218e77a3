"""The knapsack against brute force, and on devices where a narrower layer is slower."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.search.knapsack import Knapsack

from .devices import chain, model_of

MACS_ONLY = [0, 1e-6, 0, 0, 0, 0, 0]


def sack(
    seed: int, widths: list[int], align: int = 8, coefficients: list[float] = MACS_ONLY, step: int = 1
) -> Knapsack:
    """Random ascending scores for every dimension but the first and the last, which stay."""
    dice = np.random.default_rng(seed)
    free = range(1, len(widths) - 1)
    curves = {i: np.concatenate([[0], np.cumsum(np.sort(dice.gamma(0.5, size=widths[i])))]) for i in free}
    allowed = {i: list(range(align, widths[i] + 1, align)) for i in free}
    return Knapsack(model_of(chain(widths), coefficients, step), np.array(widths, float), allowed, curves)


def best_by_force(knapsack: Knapsack, limit: float) -> float:
    places = list(knapsack.allowed)
    best = float("inf")
    for chosen in itertools.product(*(knapsack.allowed[i] for i in places)):
        widths = knapsack.full.copy()
        widths[places] = chosen
        if knapsack.model.total_ms(widths) <= limit:
            best = min(best, knapsack.loss(widths))
    return best


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.floats(1.2, 4.0))
def test_close_to_brute_force_on_small_models(seed: int, speed_up: float) -> None:
    knapsack = sack(seed, [3, 32, 48, 32, 16])
    limit = knapsack.start_ms / speed_up
    choice = knapsack.solve(limit)
    assert choice.ms <= limit
    best = best_by_force(knapsack, limit)
    whole = sum(curve[-1] for curve in knapsack.curves.values())
    assert best <= choice.loss + 1e-9
    # The last block of a greedy choice can be a whole one too many; that is what it may give away.
    largest = max(
        curve[8] - curve[0] for curve in (np.array(c)[::-1][0] - np.array(c)[::-1] for c in knapsack.curves.values())
    )
    assert choice.loss <= best + largest, (choice.loss, best, whole)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.floats(1.05, 30.0))
def test_within_the_limit_or_exhausted_and_every_width_is_allowed(seed: int, speed_up: float) -> None:
    knapsack = sack(seed, [3, 64, 96, 64, 16])
    limit = knapsack.start_ms / speed_up
    choice = knapsack.solve(limit)
    assert choice.exhausted == (choice.ms > limit)
    if choice.exhausted:
        assert choice.ms == pytest.approx(knapsack.floor_ms)
    for i, allowed in knapsack.allowed.items():
        assert choice.widths[i] in allowed
    assert choice.widths[0] == 3 and choice.widths[-1] == 16
    assert choice.ms == pytest.approx(knapsack.model.total_ms(choice.widths))


def test_a_milder_limit_never_costs_more() -> None:
    knapsack = sack(5, [3, 64, 96, 64, 16])
    losses = [knapsack.solve(knapsack.start_ms / speed_up).loss for speed_up in (1.0, 1.2, 1.5, 2.0, 3.0, 5.0)]
    assert losses[0] == 0
    assert losses == sorted(losses)


def test_widths_that_save_nothing_are_not_chosen() -> None:
    """In steps of 16, eight channels less save nothing: only multiples of 16 are left."""
    knapsack = sack(7, [3, 64, 96, 64, 16], step=16)
    for speed_up in (1.3, 1.7, 2.2, 3.0):
        assert not (knapsack.solve(knapsack.start_ms / speed_up).widths[1:-1] % 16).any()


def test_a_width_that_is_slower_is_stepped_over() -> None:
    """Off the step everything is read and written again: 56 is slower than 64, and 48 faster than both."""
    off_step = [0, 1e-6, 0, 0, 0, 1e-2, 1e-2]
    knapsack = sack(8, [3, 64, 96, 64, 16], coefficients=off_step, step=16)
    full, narrower = knapsack.full.copy(), knapsack.full.copy()
    narrower[1] = 56
    assert knapsack.model.total_ms(narrower) > knapsack.model.total_ms(full)
    choice = knapsack.solve(knapsack.start_ms / 2)
    assert choice.ms <= knapsack.start_ms / 2
    assert not (choice.widths[1:-1] % 16).any()


def test_nothing_is_removed_where_nothing_saves_time() -> None:
    """A device on which only launches count: no width makes it faster."""
    knapsack = sack(9, [3, 64, 96, 64, 16], coefficients=[1.0, 0, 0, 0, 0, 0, 0])
    choice = knapsack.solve(knapsack.start_ms * 0.9)
    assert choice.exhausted
    assert (choice.widths == knapsack.full).all()
