"""What the row of fine-tuning says: which epoch was kept, on which split, and who taught it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeprune.settings import AccuracyGoal
from edgeprune.stages import finetune, pretrain, qat, sparsify
from edgeprune.stages.finetune import training_text
from edgeprune.training.result import Epoch, TrainResult, TrainSummary

TAUGHT = (Epoch(1, 1.0, {"train/kd_loss": 0.411}), Epoch(2, 2.0, {"train/kd_loss": 0.2}))
GOAL = AccuracyGoal(baseline=0.5, max_drop=0.02)


@pytest.mark.parametrize(
    ("run", "best", "teacher", "text"),
    [
        (2, 2, None, "best epoch 2 of 2 on split val"),
        (2, 1, "big.pt", "best epoch 1 of 2 on split val, taught by big.pt (distance of answers 0.411 → 0.2)"),
        (
            2,
            0,
            "big.pt",
            "epoch 0: none of 2 epochs was better on split val than the pruned model, which is kept as it was",
        ),
        (
            1,
            0,
            None,
            "epoch 0: the only epoch was not better on split val than the pruned model, which is kept as it was",
        ),
    ],
)
def test_a_model_that_is_kept_as_it_was_was_taught_by_nobody(
    run: int, best: int, teacher: str | None, text: str
) -> None:
    training = TrainSummary(run, best, TAUGHT[:run], 0.5, 1.0)
    assert training_text(training, teacher, None) == f"{text}; the artifact is judged below"
    assert training_text(training, teacher, GOAL).startswith(f"{text}, until within 0.02 of 0.5000")


@pytest.mark.parametrize(
    ("task", "name"), [("detect", "mAP50-95"), ("segment", "mAP50-95"), ("classify", "top-1 accuracy")]
)
@pytest.mark.parametrize(
    ("stage", "form"),
    [(pretrain, "PyTorch"), (sparsify, "PyTorch"), (finetune, "PyTorch"), (qat, "PyTorch, INT8")],
    ids=["pretrain", "sparsify", "finetune", "qat"],
)
def test_a_row_of_training_names_the_figure_of_its_task(stage: Any, form: str, task: str, name: str) -> None:
    share = SimpleNamespace(overall=SimpleNamespace(share_off=0.1))
    facts = SimpleNamespace(
        training=TrainSummary(2, 1, TAUGHT, 0.5, 1.0),
        goal=None,
        scales=SimpleNamespace(before=share, after=share, summary=""),
    )
    target = SimpleNamespace(finetune=SimpleNamespace(teacher=None, distill=False))
    build = SimpleNamespace(weights=SimpleNamespace(task=task), target=target)
    judged = stage.STAGE.judge(build, SimpleNamespace(facts=facts))
    assert judged.gates[0].metric == f"{name} ({form})"


@pytest.mark.parametrize(
    "figure", ["metrics/mAP50-95(B)", "metrics/mAP50-95(M)", "metrics/mAP50-95(P)", "metrics/accuracy_top1"]
)
@pytest.mark.parametrize("best", [0, 2])
def test_an_epoch_of_a_model_that_never_finds_anything_is_no_best_one(best: int, figure: str) -> None:
    epochs = tuple(Epoch(number, 1.0, {"train/box_loss": 2.0, figure: 0.0}) for number in (1, 2))
    nothing = TrainSummary(2, best, epochs, 0.0, 1.0)
    said = f"none of 2 epochs found anything on split val, so that none is the best, and epoch {best} was kept"
    assert nothing.which_epoch.startswith(said)
    taught = ", taught by big.pt" if best else ""  # the given model was taught nothing
    assert training_text(nothing, "big.pt", None).startswith(f"{said}{taught}; train for more epochs")
    facts: Any = SimpleNamespace(training=nothing, goal=None)
    for stage in (pretrain, finetune, qat):
        target = SimpleNamespace(finetune=SimpleNamespace(teacher=None, distill=False))
        build: Any = SimpleNamespace(weights=SimpleNamespace(task="detect"), target=target)
        [gate] = stage.STAGE.judge(build, SimpleNamespace(facts=facts)).gates
        assert gate.reason.startswith(said) and "best epoch" not in gate.reason
    found = TrainSummary(2, 2, (epochs[0], Epoch(2, 1.0, {figure: 0.01})), 0.01, 1.0)
    assert found.which_epoch == "best epoch 2 of 2 on split val"


def test_the_command_says_that_no_epoch_found_anything(capsys: pytest.CaptureFixture[str]) -> None:
    from edgeprune.cli.training import _print

    _print(TrainResult(Path("best.pt"), TrainSummary(1, 1, (Epoch(1, 1.0, {"metrics/mAP50-95(B)": 0.0}),), 0.0, 1.0)))
    assert "the only epoch found nothing on split val, so that none is the best" in capsys.readouterr().out
