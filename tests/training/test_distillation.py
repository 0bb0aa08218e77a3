"""The distance to a teacher's answers: zero where they agree, for every head, and never above its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ultralytics.cfg import get_cfg
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils.torch_utils import ModelEMA

from edgeprune import checkpoint
from edgeprune.errors import DataError, TargetError
from edgeprune.settings import TrainSettings
from edgeprune.training.distillation import LOSS_NAME, DistillationLoss, output_distance
from edgeprune.training.finetune import finetune
from tests.training.narrow import narrow_checkpoint

GAINS = (0.5, 1.5)


def answers(seed: int, bins: int = 4, images: int = 2) -> dict[str, torch.Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    return {
        "scores": torch.randn(images, 3, 10, generator=drawn),
        "boxes": torch.randn(images, 4 * bins, 10, generator=drawn),
    }


def layouts(seed: int) -> dict[str, object]:
    return {
        "bins": answers(seed),
        "lengths": answers(seed, bins=1),
        "dual head": {"one2many": answers(seed), "one2one": answers(seed + 10)},
        "evaluation mode": (torch.zeros(1), answers(seed)),
        "classifier": torch.randn(4, 5, generator=torch.Generator().manual_seed(seed)),
    }


def test_its_column_is_not_run_together_with_its_neighbours() -> None:
    losses = (*("box_loss", "cls_loss", "dfl_loss", "dis_loss"), LOSS_NAME)  # with features too
    header = DetectionTrainer.progress_string(SimpleNamespace(loss_names=losses))  # pyright: ignore[reportArgumentType]
    assert header.split() == ["Epoch", "GPU_mem", *losses, "Instances", "Size"]


@pytest.mark.parametrize("layout", list(layouts(0)))
def test_it_is_zero_where_answers_agree_and_positive_elsewhere(layout: str) -> None:
    mine, theirs = layouts(0)[layout], layouts(1)[layout]
    assert float(output_distance(mine, mine, GAINS)) == pytest.approx(0.0, abs=1e-5)
    assert float(output_distance(mine, theirs, GAINS)) > 0.05


@pytest.mark.parametrize(("part", "gains"), [("scores", (0.5, 0.0)), ("boxes", (0.0, 1.5))], ids=["classes", "boxes"])
def test_descending_it_leads_to_the_teacher(part: str, gains: tuple[float, float]) -> None:
    student, teacher = answers(0), answers(1)
    before = float(output_distance(student, teacher, gains))
    student[part].requires_grad_(True)
    optimizer = torch.optim.Adam([student[part]], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        output_distance(student, teacher, gains).backward()
        optimizer.step()
    assert float(output_distance(student, teacher, gains).detach()) < 0.02 * before


def test_boxes_count_where_the_teacher_is_sure() -> None:
    student, teacher = answers(0), answers(1)
    teacher["scores"].fill_(-20.0)
    teacher["scores"][:, 0, 3] = 5.0
    moved = {**student, "boxes": student["boxes"].clone()}
    moved["boxes"][:, :, 5] += torch.randn(2, 16)
    only_boxes = (0.0, 1.5)
    assert torch.allclose(
        output_distance(student, teacher, only_boxes), output_distance(moved, teacher, only_boxes), atol=1e-6
    )
    moved["boxes"][:, 0, 3] += 3.0
    assert not torch.allclose(
        output_distance(student, teacher, only_boxes), output_distance(moved, teacher, only_boxes), atol=1e-2
    )


class Fixed(torch.nn.Module):
    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output

    def forward(self, images: torch.Tensor) -> object:
        return self.output


@pytest.mark.parametrize(("layout", "factor"), [("bins", 2.0), ("classifier", 1.0)])
def test_it_is_scaled_like_the_losses_beside_it(layout: str, factor: float) -> None:
    """Twice the same images: a detection loss doubles, a classification loss stays."""

    def own(preds: object, batch: dict) -> tuple[torch.Tensor, dict]:
        return torch.zeros(3), {"box_loss": torch.zeros(())}

    def doubled(output: object) -> object:
        if isinstance(output, dict):
            return {key: torch.cat([value, value]) for key, value in output.items()}
        assert isinstance(output, torch.Tensor)
        return torch.cat([output, output])

    mine, theirs, images = layouts(0)[layout], layouts(1)[layout], torch.zeros(2, 3, 8, 8)
    one, items = DistillationLoss(own, Fixed(theirs), 0.7, GAINS)(mine, {"img": images})
    two, _ = DistillationLoss(own, Fixed(doubled(theirs)), 0.7, GAINS)(
        doubled(mine), {"img": torch.cat([images, images])}
    )
    assert list(items) == ["box_loss", "kd_loss"]
    assert one.shape == (4,)
    assert float(two.sum()) == pytest.approx(factor * float(one.sum()), rel=1e-5)


@pytest.mark.parametrize(
    "config",
    ["yolov8n.yaml", "yolo26n.yaml", "yolo11n-seg.yaml", "yolov8n-pose.yaml", "yolo26n-obb.yaml", "yolov8n-cls.yaml"],
)
def test_a_narrower_student_of_every_head_is_compared_with_its_teacher(tmp_path: Path, config: str) -> None:
    teacher = checkpoint.load(narrow_checkpoint(tmp_path / "t.pt", config, factor=1.0)).model.eval()
    student = checkpoint.load(narrow_checkpoint(tmp_path / "s.pt", config)).model.train()
    images = torch.rand(2, 3, 64, 64)
    student(images)  # batch normalisation has statistics of its own afterwards
    with torch.no_grad():
        wanted = teacher(images)
    distance = output_distance(student(images), wanted, GAINS)
    distance.backward()
    assert torch.isfinite(distance)
    assert distance > 0
    assert any(one.grad is not None and one.grad.abs().sum() > 0 for one in student.parameters())


@pytest.mark.parametrize("task", ["classify"])
def test_a_classifier_is_taught_too(tmp_path: Path, task: str, task_data, settings: TrainSettings) -> None:
    names = ("loud", "quiet")
    pruned = narrow_checkpoint(tmp_path / "s.pt", "yolov8n-cls.yaml", names=names)
    teacher = narrow_checkpoint(tmp_path / "t.pt", "yolov8n-cls.yaml", names=names, factor=1.0)
    where = {"data": task_data(task), "out": tmp_path / "o", "work": tmp_path / "w"}
    taught = replace(settings, epochs=1, batch=4, teacher=teacher)
    assert finetune(pruned, settings=taught, **where).summary.epochs[0].figures["train/kd_loss"] > 0
    with pytest.raises(DataError, match="detection head"):
        finetune(pruned, settings=replace(taught, feature=1.0), **where)


@pytest.mark.parametrize("config", ["yolov8n.yaml", "yolo26n.yaml", "yolov8n-cls.yaml"])
def test_a_copy_of_the_model_carries_no_teacher(tmp_path: Path, config: str) -> None:
    """Ultralytics makes the moving average anew when a loss was NaN, from the model with its loss; the average is
    validated by the labels alone."""
    teacher = checkpoint.load(narrow_checkpoint(tmp_path / "t.pt", config, factor=1.0)).model
    student: Any = checkpoint.load(narrow_checkpoint(tmp_path / "s.pt", config)).model
    student.args = get_cfg()
    own = student.init_criterion()
    student.criterion = DistillationLoss(own, teacher, 1.0, GAINS)
    images = torch.rand(2, 3, 64, 64)
    labels = {"cls": torch.zeros(2, 1), "bboxes": torch.full((2, 4), 0.5), "batch_idx": torch.arange(2.0)}
    batch = {"img": images} | ({"cls": torch.zeros(2, dtype=torch.long)} if "cls" in config else labels)
    average: Any = ModelEMA(student).ema
    assert type(average.criterion) is type(own) and average.criterion is not own
    assert set(average.loss(batch)[1]) == set(student.loss(batch)[1]) - {LOSS_NAME}
    assert student.criterion.teacher is teacher, "training goes on with it"


@pytest.mark.parametrize("values", [{"response": -1.0}, {"feature": float("nan")}], ids=str)
def test_impossible_weights_are_refused(values: dict) -> None:
    with pytest.raises(TargetError, match=next(iter(values))):
        TrainSettings(**values)


def test_a_teacher_that_teaches_nothing_is_refused(full: Path) -> None:
    with pytest.raises(TargetError, match="teaches nothing"):
        TrainSettings(teacher=full, response=0.0, feature=0.0)
