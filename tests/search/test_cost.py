"""The fitted cost of layers against devices whose cost is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.search.cost import fit_costs

from .devices import chain, samples, true_ms

FULL = [3, 32, 64, 64, 128, 128, 64]


def copies(seed: int, count: int = 5, align: int = 8) -> list[list[float]]:
    dice = np.random.default_rng(seed)
    drawn = [
        [3, *(max(align, align * round(dice.uniform(0.2, 1) * width / align)) for width in FULL[1:])]
        for _ in range(count)
    ]
    return [FULL, *drawn]


@pytest.mark.parametrize("step", [1, 16])
@pytest.mark.parametrize("overhead", [1.0, 1.3])
def test_an_unseen_model_is_predicted(step: int, overhead: float) -> None:
    layers = chain(FULL)
    fit = fit_costs(layers, samples(layers, copies(0), step, overhead))
    unseen = np.array([3, 24, 40, 56, 72, 64, 48], float)
    wanted = sum(true_ms(layers, unseen, step).values())
    assert fit.model.total_ms(unseen) == pytest.approx(wanted, rel=0.04)
    assert fit.median_error < 0.06


@pytest.mark.parametrize("step", [16, 32])
def test_the_steps_of_the_device_are_found(step: int) -> None:
    layers = chain(FULL)
    assert fit_costs(layers, samples(layers, copies(1, 6), step)).model.sizes.step == step


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 8))
def test_a_narrower_model_is_never_predicted_slower_on_a_device_without_steps(seed: int, place: int, less: int) -> None:
    layers = chain(FULL)
    model = fit_costs(layers, samples(layers, copies(seed % 7))).model
    dice = np.random.default_rng(seed)
    widths = np.array([3, *(dice.integers(9, width + 1) for width in FULL[1:])], float)
    narrower = widths.copy()
    narrower[place] -= less
    assert model.total_ms(narrower) <= model.total_ms(widths) + 1e-12


def test_the_unpruned_model_is_predicted_as_measured() -> None:
    layers = chain(FULL)
    measured = samples(layers, copies(2), 16, 1.2)
    assert fit_costs(layers, measured).model.total_ms(np.array(FULL, float)) == pytest.approx(
        measured[0].total_ms, rel=0.02
    )


def test_held_out_errors_are_of_models_that_were_not_seen() -> None:
    layers = chain(FULL)
    measured = samples(layers, copies(3), 1)
    lied = [*measured[:-1], type(measured[-1])(measured[-1].widths, measured[-1].layer_ms, measured[-1].total_ms * 3)]
    assert fit_costs(layers, lied).errors[-1] < -0.5
