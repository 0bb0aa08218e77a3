"""Sparsity training is for a model that is going to be pruned."""

from __future__ import annotations

import numpy as np
import pytest

from edgeprune.records.facts import SparsifyFacts
from edgeprune.settings import SparsitySettings
from edgeprune.stages import sparsify
from edgeprune.stages.base import Judgement
from edgeprune.training.result import ScaleHistogram, ScaleReport, SparsityReport
from tests.records.sample import build_record
from tests.samples.made import latency

BASELINE = build_record().stages.baseline.facts
SEEN = latency(10.0 * np.random.default_rng(0).normal(1, 0.01, 400))

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
def test_a_model_that_is_within_its_budget_is_not_trained_for_pruning(build_at, limit, measured, needed, tmp_path):
    build = build_at(PROFILE.format(limit=limit), {"baseline": ({"model": tmp_path / "m.pt"}, BASELINE)})
    build.judged["baseline"] = Judgement([], [("baseline", SEEN)] if measured else [])
    assert sparsify.STAGE.needed(build) is needed
    assert "sparsify is left out: the unpruned model is within the budget" in sparsify.STAGE.left_out(build)


def test_one_more_look_at_the_latency_drops_no_training_that_is_finished(build_at, tmp_path):
    """Near its budget the unpruned model passes at one look and not at the next: all behind would be made again."""
    build = build_at(PROFILE.format(limit=50.0), {"baseline": ({"model": tmp_path / "m.pt"}, BASELINE)})
    build.judged["baseline"] = Judgement([], [("baseline", SEEN)])
    assert not sparsify.STAGE.needed(build)
    key = sparsify.STAGE.key(build)
    with build.workspace.partial(key) as folder:
        (folder / "model.pt").write_bytes(b"")
        finetune = build_record().stages.finetune
        assert finetune is not None
        training = finetune.facts.training
        scales = ScaleReport((0.0,), ScaleHistogram(1, 0.5, (1,), (1,)), {})
        facts = SparsifyFacts(training, SparsityReport("half", SparsitySettings(), scales, scales))
        build.workspace.publish(key, folder, {"model": folder / "model.pt"}, facts, 1.0)
    assert sparsify.STAGE.needed(build)
    other = build_at(PROFILE.format(limit=50.0).replace("epochs: 1", "epochs: 2"))
    other.records, other.judged = build.records, build.judged
    assert not sparsify.STAGE.needed(other), "another training is none of today's"


def test_a_profile_that_asks_for_none_is_told_nothing(build_at):
    assert sparsify.STAGE.left_out(build_at(PROFILE.format(limit=5.0).replace("sparsify: {epochs: 1}", ""))) == ""


@pytest.mark.parametrize("kind", ["speed_up", "macs_speed_up"])
@pytest.mark.parametrize(("ratio", "needed"), [(1.0, False), (1.5, True)])
def test_a_ratio_that_the_unpruned_model_has_needs_no_training(build_at, kind, ratio, needed):
    build = build_at(PROFILE.format(limit=5.0).replace("latency_ms: 5.0", f"{kind}: {ratio}"))
    assert sparsify.STAGE.needed(build) is needed
