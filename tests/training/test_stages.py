"""A build with sparsity training and an accuracy goal: what is pruned changes, what it is held against does not."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgeprune
from edgeprune import checkpoint
from edgeprune.input_size import InputSize
from edgeprune.records.build import BuildResult

PROFILE = """
extends: cpu
description: small and quick, for tests
imgsz: 64
budget: {macs_speed_up: 1.2, statistic: p50}
accuracy: {max_map_drop: 1.0}
sparsify: {lambda: 0.5, lr0: 0.05, epochs: 1, batch: 8, optimizer: SGD, train: {warmup_epochs: 0.0}}
finetune: {epochs: 3, batch: 8, distill: true, until: map_drop <= 0.5}
measure: {warmup_s: 0.05, rounds: 8, per_round: 2, retries: 0}
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, narrow: Path, digits: Path) -> BuildResult:
    folder = tmp_path_factory.mktemp("build")
    (folder / "sparse.yaml").write_text(PROFILE)
    return edgeprune.build(folder / "sparse.yaml", narrow, digits, out=folder / "run")


def test_the_stage_comes_between_baseline_and_prune(built: BuildResult) -> None:
    assert [name for name, _ in built.record.stages.items()][:4] == ["baseline", "sparsify", "prune", "finetune"]


def test_a_size_other_than_the_trained_one_is_on_record_with_the_accuracy_at_both(built: BuildResult) -> None:
    assert built.record.input_size == InputSize(64, "profile", 640)
    facts = built.record.stages.baseline.facts
    assert facts.accuracy_as_trained is not None
    [gate] = [gate for gate in built.record.gates if gate.metric == "mAP50-95 at 640 px"]
    assert gate.value == facts.accuracy_as_trained.value
    assert "this build is at 64 px" in gate.reason


def test_its_scales_are_on_record_for_the_report(built: BuildResult) -> None:
    assert built.record.stages.sparsify is not None
    scales = built.record.stages.sparsify.facts.scales
    assert scales.settings.strength == 0.5
    before, after = scales.before, scales.after
    assert before.overall.channels == after.overall.channels == sum(after.overall.scales)
    assert before.layers.keys() == after.layers.keys()
    assert before.overall.scales != after.overall.scales
    gate = next(gate for gate in built.record.gates if gate.metric == "channels off")
    assert gate.value == pytest.approx(100 * after.overall.share_off)
    assert scales.summary in gate.reason


def test_sparse_weights_are_pruned_by_scale(built: BuildResult, narrow: Path) -> None:
    assert built.record.stages.prune.facts.importance == "bn_scale"
    [sparse] = built.out.glob("sparsify-*/best.pt")
    [pruned] = built.out.glob("prune-*/*/model.pt")
    kept = checkpoint.load(pruned).model.state_dict()["model.0.bn.weight"]
    source = checkpoint.load(sparse).model.state_dict()["model.0.bn.weight"]
    assert all(any(abs(value - other) < 1e-7 for other in source) for value in kept), "channels of the sparse weights"


def test_the_baseline_is_the_model_before_sparsity_training(built: BuildResult, narrow: Path) -> None:
    [baseline] = built.out.glob("baseline-*/model.pt")
    given, kept = (checkpoint.load(path).model.state_dict() for path in (narrow, baseline))
    assert all(bool((given[name] == kept[name]).all()) for name in given)


def test_the_goal_ends_fine_tuning_and_is_on_record(built: BuildResult) -> None:
    tuned = built.record.stages.finetune.facts
    assert tuned.training.epochs_run == 1
    assert tuned.goal is not None and tuned.goal.max_drop == 0.5
    reason = next(gate.reason for gate in built.record.gates if gate.stage == "finetune")
    assert "until within 0.5 of" in reason
    assert "taught by the unpruned model (distance of answers" in reason
