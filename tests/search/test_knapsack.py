"""The knapsack against brute force, and on devices where a narrower layer is slower."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.search.knapsack import Knapsack
from edgeprune.search.layers import Layer

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


@pytest.mark.parametrize(("align", "step"), [(1, 8), (1, 16), (4, 32), (8, 64), (8, 16)])
def test_the_floor_is_that_of_the_least_widths_whatever_the_step_of_the_device(align: int, step: int) -> None:
    knapsack = sack(10, [3, 128, 192, 64, 16], align=align, step=step)
    least = knapsack.full.copy()
    for i, allowed in knapsack.allowed.items():
        least[i] = allowed[0]
    assert knapsack.floor_ms == pytest.approx(knapsack.model.total_ms(least))
    choice = knapsack.solve(knapsack.start_ms / 1.5)
    assert not choice.exhausted and choice.ms <= knapsack.start_ms / 1.5


def side_by_side(widths: list[int], least: list[int], **settings: Any) -> Knapsack:
    """A layer that reads all dimensions but the last, which is its output, one beside the other."""
    rows = (np.arange(len(widths)) == len(widths) - 1).astype(float)
    layer = Layer("model.0.conv", "Conv2d 9 taps", rows, 1 - rows, 9, 400, 400)
    allowed = {i: list(range(least[i], widths[i] + 1)) for i in range(len(widths) - 1)}
    curves = {i: np.arange(widths[i] + 1.0) for i in allowed}
    return Knapsack(model_of([layer], MACS_ONLY, **settings), np.array(widths, float), allowed, curves)


def test_dimensions_that_save_only_together_go_together() -> None:
    """Eight channels less of one dimension are half a step of the device; of two they are one."""
    knapsack = side_by_side([40, 40, 16], [32, 32, 16], step=16)
    assert knapsack.floor_ms < knapsack.start_ms
    choice = knapsack.solve(knapsack.floor_ms)
    assert not choice.exhausted and choice.widths[:2].sum() <= 64


def test_a_dimension_that_saved_nothing_is_looked_at_again_once_its_neighbours_moved() -> None:
    """Of 62 + 34 channels the first dimension's two save no step; once the second is at 17, they do."""
    knapsack = side_by_side([62, 34, 16], [60, 17, 16], step=16)
    assert knapsack.floor_ms == pytest.approx(knapsack.model.total_ms(np.array([60.0, 17.0, 16.0])))


def test_what_is_given_back_may_lie_a_step_away() -> None:
    """Off the step everything is read again: from 48 the next width that the limit allows is 64."""
    off_step = [0, 1e-6, 0, 0, 0, 1e-2, 1e-2]
    knapsack = sack(11, [3, 64, 16], align=1, coefficients=off_step, step=16)
    limit = knapsack.start_ms
    narrowed = knapsack.full.copy()
    narrowed[1] = 48
    assert knapsack._give_back(narrowed, limit)[1] == 64
