"""Bounds of the share of detections that an engine and its graph have in common."""

from __future__ import annotations

import numpy as np
import pytest

from edgeprune.samples.agreement import (
    FIRST_LOOK,
    LOOKS,
    MIN_AGREEMENT,
    MOST_IMAGES,
    Counts,
    agreement_bounds,
    dice,
)


def alike(images: int, detections: int = 1, common: int | None = None) -> list[Counts]:
    return [Counts(detections, detections, detections if common is None else common)] * images


def decided(counts: list[Counts]) -> str:
    """What the looks, one behind the other, end with."""
    for images in LOOKS:
        found = agreement_bounds(counts[:images])
        if found.decided:
            return "agrees" if found.low >= MIN_AGREEMENT else "apart"
    return "open"


def drawn(rng: np.random.Generator, share: float, mean: float) -> list[Counts]:
    sizes = rng.geometric(1 / mean, MOST_IMAGES) if mean > 1 else np.ones(MOST_IMAGES, int)
    return [Counts(int(size), int(size), int(rng.binomial(size, share))) for size in sizes]


@pytest.mark.parametrize("mean", [1, 2, 8], ids=["a classifier", "few objects", "many objects"])
@pytest.mark.parametrize(("share", "wrong"), [(MIN_AGREEMENT - 1e-6, "agrees"), (MIN_AGREEMENT, "apart")])
def test_at_the_limit_a_wrong_verdict_is_as_rare_as_is_promised(mean: float, share: float, wrong: str) -> None:
    rng = np.random.default_rng(0)
    found = [decided(drawn(rng, share, mean)) for _ in range(600)]
    assert found.count(wrong) / len(found) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / len(found))
    assert sum(LOOKS.values()) == pytest.approx(0.05)


def test_a_sound_engine_is_told_from_a_broken_one() -> None:
    rng = np.random.default_rng(1)
    assert [decided(drawn(rng, 0.98, 8)) for _ in range(100)].count("agrees") == 100
    assert [decided(drawn(rng, 0.99, 1)) for _ in range(100)].count("agrees") >= 95
    assert [decided(drawn(rng, 0.6, 8)) for _ in range(100)].count("apart") == 100


def test_what_images_say_together_counts_as_images_not_as_detections() -> None:
    apart = [Counts(20, 20, 20)] * 29 + [Counts(20, 20, 0)] * 3
    spread = [Counts(20, 20, 18)] * 30 + [Counts(20, 20, 20)] * 2
    assert dice(apart) == pytest.approx(dice(spread), abs=0.001)
    assert agreement_bounds(apart).low < agreement_bounds(spread).low - 0.05


@pytest.mark.parametrize("images", [1, 4, 16])
def test_few_images_of_a_classifier_prove_nothing(images: int) -> None:
    assert not agreement_bounds(alike(images)).decided
    assert agreement_bounds(alike(FIRST_LOOK)).low >= MIN_AGREEMENT


def test_one_image_stands_for_no_other_whatever_is_in_it() -> None:
    assert not agreement_bounds(alike(1, 500)).decided and not agreement_bounds(alike(1, 500, 0)).decided


def test_images_without_detections_tell_nothing() -> None:
    nothing = agreement_bounds(alike(8, 0))
    assert (nothing.low, nothing.high, nothing.decided) == (0.0, 1.0, False)
    assert dice(alike(8, 0)) == 1.0
    assert agreement_bounds([*alike(20, 8), *alike(4, 0)]) == agreement_bounds(alike(20, 8))


def test_bounds_hold_the_share_and_stay_within_nought_and_one() -> None:
    for common in range(5):
        found = agreement_bounds([*alike(3, 4, common), *alike(3, 4, 4 - common)])
        assert 0 <= found.low <= 0.5 <= found.high <= 1
