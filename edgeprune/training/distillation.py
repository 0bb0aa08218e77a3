"""Distillation: draws the student's raw class scores and box distributions towards the teacher's.

The teacher answers at every anchor, where labels speak at the few that are assigned to an object, so each image says
more. Classes are compared as binary Kullback-Leibler divergences of sigmoids, box sides as divergences of the
distributions that the head predicts for them (localization distillation, Zheng et al. 2022, arXiv 2102.12252), each
anchor weighted by how sure the teacher is that something is there. Both sums are normalised as Ultralytics normalises
its own terms and take its gains ``cls`` and ``dfl``, so a weight of 1 means: as strong as the labels. For a classifier
it is the divergence of the two distributions over classes.

The term rides on the loss object that a model keeps in ``criterion``; neither model nor trainer is wrapped, so
checkpoints and their resumption are those of ordinary training.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from ultralytics.utils.torch_utils import unwrap_model

from edgeprune import checkpoint

LOSS_NAME = "kd_loss"
"""The distance's name in ``results.csv``; Ultralytics' table of epochs gives a column eleven letters."""


class DistillationLoss:
    """A model's own loss with the distance to a teacher's answers as one more item.

    Args:
        label_loss: the model's own loss object, called with predictions and batch.
        teacher: a frozen model of the same task, head and classes, in evaluation mode.
        weight: of the distance; 1 is as strong as the labels.
        gains: Ultralytics' gains of the class and the distribution term.
    """

    def __init__(self, label_loss: Any, teacher: nn.Module, weight: float, gains: tuple[float, float]) -> None:
        self.label_loss = label_loss
        self.teacher = teacher
        self.weight = weight
        self.gains = gains

    def __call__(self, preds: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss items times batch size, shape (items + 1,), and the items by name; the signature is Ultralytics'."""
        loss, items = self.label_loss(preds, batch)
        with torch.no_grad():
            teacher_output = self.teacher(batch["img"])
        term = self.weight * output_distance(preds, teacher_output, self.gains)
        # Ultralytics' detection losses are sums over the batch, its classification loss is a mean
        count = 1 if isinstance(_raw(preds), torch.Tensor) else len(batch["img"])
        return torch.cat([loss.view(-1), (term * count).view(1)]), {**items, LOSS_NAME: term.detach()}

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """The model's own loss alone. Ultralytics copies a model, and the loss on it, for the moving average, which is
        validated by its labels; after it recovered from a loss that was NaN it would carry a teacher along."""
        return deepcopy(self.label_loss, memo)

    def update(self) -> None:
        """Pass on that an epoch has ended; the trainer calls it, and some losses change their weights then."""
        if hasattr(self.label_loss, "update"):
            self.label_loss.update()


def output_distance(student: Any, teacher: Any, gains: tuple[float, float]) -> torch.Tensor:
    """Distance of two raw outputs of the same head, averaged over its branches; a scalar, 0 where they agree.

    Args:
        student, teacher: what a head returns in training or evaluation mode: ``scores`` (batch, classes, anchors) as
            logits, ``boxes`` (batch, 4 x bins, anchors); one such dictionary, or one for each branch of a dual head;
            a classifier's logits (batch, classes).
        gains: of classes and of boxes; a classifier has none.
    """
    student_raw, teacher_raw = _raw(student), _raw(teacher)
    if isinstance(student_raw, torch.Tensor):
        return _divergence(student_raw.float(), teacher_raw.float(), 1).mean()
    pairs = zip(_branches(student_raw), _branches(teacher_raw), strict=True)
    return torch.stack([_branch_distance(*pair, gains) for pair in pairs]).mean()


def _raw(output: Any) -> Any:
    """The raw part of an output; in evaluation mode a decoded one comes before it."""
    return output[1] if isinstance(output, tuple) else output


def _divergence(student: torch.Tensor, teacher: torch.Tensor, dim: int) -> torch.Tensor:
    """Kullback-Leibler divergence of two distributions given as logits, summed over ``dim``."""
    logarithms = student.log_softmax(dim), teacher.log_softmax(dim)
    return F.kl_div(*logarithms, reduction="none", log_target=True).sum(dim)


def _branches(raw: dict[str, Any]) -> list[dict[str, torch.Tensor]]:
    return [raw[name] for name in ("one2many", "one2one")] if "one2many" in raw else [raw]


def _branch_distance(
    student: dict[str, torch.Tensor], teacher: dict[str, torch.Tensor], gains: tuple[float, float]
) -> torch.Tensor:
    scores, teacher_scores = student["scores"].float(), teacher["scores"].float()
    certainty = teacher_scores.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(teacher_scores, certainty, reduction="sum")  # makes agreement zero
    cross_entropy = F.binary_cross_entropy_with_logits(scores, certainty, reduction="sum")
    classes = (cross_entropy - entropy) / certainty.sum().clamp_min(1.0)
    weight = certainty.amax(dim=1)  # (batch, anchors)
    sides = _side_distances(student["boxes"].float(), teacher["boxes"].float())
    boxes = (sides * weight).sum() / weight.sum().clamp_min(1.0)
    return gains[0] * classes + gains[1] * boxes


def _side_distances(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean over the four sides, shape (batch, anchors): divergence of distributions, or L1 of lengths without bins."""
    bins = student.shape[1] // 4
    if bins == 1:
        return F.smooth_l1_loss(student, teacher, reduction="none").mean(dim=1)
    shape = (student.shape[0], 4, bins, student.shape[2])
    return _divergence(student.view(shape), teacher.view(shape), 2).mean(dim=1)


class AttachTeacher:
    """Ultralytics callback for ``on_pretrain_routine_end``: puts the teacher behind the trainer's loss.

    A class of an importable module with plain attributes, so that distributed training can hand it to its processes.
    """

    def __init__(self, teacher: Path, weight: float) -> None:
        self.teacher = teacher
        self.weight = weight

    def __call__(self, trainer: Any) -> None:
        model = unwrap_model(trainer.model)
        learner: Any = getattr(model, "student_model", model)
        teacher = checkpoint.load(self.teacher).model.to(trainer.device).eval().requires_grad_(False)
        label_loss = learner.criterion  # a resumed dual head has one that knows its epoch
        label_loss = learner.init_criterion() if label_loss is None else label_loss
        learner.criterion = DistillationLoss(label_loss, teacher, self.weight, (trainer.args.cls, trainer.args.dfl))
