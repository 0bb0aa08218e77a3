"""Sparsity training is for a model that is going to be pruned."""

from __future__ import annotations

import numpy as np
import pytest

from edgeprune.stages import sparsify
from edgeprune.stages.base import Judgement
from tests.samples.made import latency

PROFILE = """
extends: cpu
description: a budget in milliseconds
budget: {{latency_ms: {limit}, statistic: p50}}
sparsify: {{epochs: 1}}
"""


@pytest.mark.parametrize(
    ("limit", "measured", "needed"),
    [
        (50.0, True, False),  # within the budget as it is: nothing will be pruned
        (5.0, True, True),
        (10.0, True, True),  # nobody can tell
        (50.0, False, True),  # before the baseline stage, or without its device
    ],
)
def test_a_model_that_is_within_its_budget_is_not_trained_for_pruning(build_at, limit, measured, needed):
    build = build_at(PROFILE.format(limit=limit))
    seen = latency(10.0 * np.random.default_rng(0).normal(1, 0.01, 400))
    build.judged["baseline"] = Judgement([], [("baseline", seen)] if measured else [])
    assert sparsify.STAGE.needed(build) is needed


@pytest.mark.parametrize("kind", ["speed_up", "macs_speed_up"])
@pytest.mark.parametrize(("ratio", "needed"), [(1.0, False), (1.5, True)])
def test_a_ratio_that_the_unpruned_model_has_needs_no_training(build_at, kind, ratio, needed):
    build = build_at(PROFILE.format(limit=5.0).replace("latency_ms: 5.0", f"{kind}: {ratio}"))
    assert sparsify.STAGE.needed(build) is needed
