"""The budget search against devices whose latency is known."""

from __future__ import annotations

import random

import pytest

from edgeprune.pruning.search import WINDOW, Probe, search


def device(exponent: float, needed: float, *, noise: float = 0.0, step: float = 0.0, seed: int = 0):
    """A made-up device: latency ratio = macs ratio ** exponent, widths in steps, noisy timing."""
    dice = random.Random(seed)

    def measure(ratio: float, expected: float | None) -> Probe:
        real = round(ratio / step) * step if step else ratio
        margin = real**exponent / needed * (1 + dice.uniform(-noise, noise))
        return Probe(ratio=real, margin=margin, low=margin * (1 - noise), predicted=expected)

    return measure


@pytest.mark.parametrize("exponent", [0.4, 0.6, 0.75, 0.95])
@pytest.mark.parametrize("needed", [1.1, 1.3, 1.7, 2.2, 3.0])
def test_lands_in_the_window_within_six_probes(exponent: float, needed: float) -> None:
    result = search(device(exponent, needed), start_margin=1 / needed, limit=60)
    assert result.best is not None
    assert WINDOW[0] <= result.best.margin <= WINDOW[1]
    assert len(result.probes) <= 6


def test_noise_of_two_percent_still_lands() -> None:
    for seed in range(20):
        result = search(device(0.7, 2.0, noise=0.02, seed=seed), start_margin=0.5, limit=40)
        assert result.best is not None
        assert 0.98 <= result.best.ratio**0.7 / 2.0 <= 1.12


def test_an_unreachable_budget_reports_the_floor() -> None:
    result = search(device(0.7, 50.0), start_margin=1 / 50, limit=10)
    assert result.best is None
    assert result.floor.ratio == pytest.approx(10)
    assert result.floor.margin == pytest.approx(10**0.7 / 50)
    assert len(result.probes) <= 6


def test_coarse_widths_end_the_search_instead_of_repeating_a_probe() -> None:
    result = search(device(0.7, 2.0, step=1.5), start_margin=0.5, limit=40, max_probes=12)
    assert len(result.probes) < 12
    assert result.best is not None
    assert result.best.margin >= 1


def test_the_mildest_probe_that_meets_the_budget_is_chosen() -> None:
    result = search(device(0.5, 1.9), start_margin=1 / 1.9, limit=40)
    assert result.best is not None
    assert all(probe.ratio >= result.best.ratio for probe in result.probes if probe.margin >= 1)
