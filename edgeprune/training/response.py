"""Distillation of answers: the student's raw scores and box distributions towards the teacher's.

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

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from ultralytics.utils.torch_utils import unwrap_model

from edgeprune import checkpoint

ITEM = "response_loss"
"""Its name in ``results.csv``."""


class ResponseLoss:
    """A model's own loss with the distance to a teacher's answers as one more item.

    Args:
        own: the model's loss object, called with predictions and batch.
        teacher: a frozen model of the same task, head and classes, in evaluation mode.
        weight: of the distance; 1 is as strong as the labels.
        gains: Ultralytics' gains of the class and the distribution term.
    """

    def __init__(self, own: Any, teacher: nn.Module, weight: float, gains: tuple[float, float]) -> None:
        self.own = own
        self.teacher = teacher
        self.weight = weight
        self.gains = gains

    def __call__(self, preds: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss items times batch size, shape (items + 1,), and the items by name; the signature is Ultralytics'."""
        loss, items = self.own(preds, batch)
        with torch.no_grad():
            answers = self.teacher(batch["img"])
        term = self.weight * response_distance(preds, answers, self.gains)
        # Ultralytics' detection losses are sums over the batch, its classification loss is a mean
        count = 1 if isinstance(_raw(preds), torch.Tensor) else len(batch["img"])
        return torch.cat([loss.view(-1), (term * count).view(1)]), {**items, ITEM: term.detach()}

    def update(self) -> None:
        """What the trainer tells a loss object at the end of an epoch."""
        if hasattr(self.own, "update"):
            self.own.update()


def response_distance(student: Any, teacher: Any, gains: tuple[float, float]) -> torch.Tensor:
    """Distance of two raw outputs of the same head, averaged over its branches; a scalar, 0 where they agree.

    Args:
        student, teacher: what a head returns in training or evaluation mode: ``scores`` (batch, classes, anchors) as
            logits, ``boxes`` (batch, 4 x bins, anchors); one such dictionary, or one for each branch of a dual head;
            a classifier's logits (batch, classes).
        gains: of classes and of boxes; a classifier has none.
    """
    mine, theirs = _raw(student), _raw(teacher)
    if isinstance(mine, torch.Tensor):
        return _divergence(mine.float(), theirs.float(), 1).mean()
    pairs = list(zip(_branches(mine), _branches(theirs), strict=True))
    return torch.stack([_branch_distance(one, other, gains) for one, other in pairs]).mean()


def _raw(output: Any) -> Any:
    """The raw part of an output; in evaluation mode a decoded one comes before it."""
    return output[1] if isinstance(output, tuple) else output


def _divergence(logits: torch.Tensor, wanted: torch.Tensor, dim: int) -> torch.Tensor:
    mine, theirs = logits.log_softmax(dim), wanted.log_softmax(dim)
    return F.kl_div(mine, theirs, reduction="none", log_target=True).sum(dim)


def _branches(raw: dict[str, Any]) -> list[dict[str, torch.Tensor]]:
    return [raw[name] for name in ("one2many", "one2one")] if "one2many" in raw else [raw]


def _branch_distance(
    student: dict[str, torch.Tensor], teacher: dict[str, torch.Tensor], gains: tuple[float, float]
) -> torch.Tensor:
    scores, wanted = student["scores"].float(), teacher["scores"].float()
    sure = wanted.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(wanted, sure, reduction="sum")  # makes agreement zero
    whole = sure.sum().clamp_min(1.0)
    classes = (F.binary_cross_entropy_with_logits(scores, sure, reduction="sum") - entropy) / whole
    weight = sure.amax(dim=1)  # (batch, anchors)
    sides = _side_distances(student["boxes"].float(), teacher["boxes"].float())
    boxes = (sides * weight).sum() / weight.sum().clamp_min(1.0)
    return gains[0] * classes + gains[1] * boxes


def _side_distances(boxes: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean over the four sides, shape (batch, anchors): divergence of distributions, or of lengths without bins."""
    bins = boxes.shape[1] // 4
    shape = (boxes.shape[0], 4, bins, boxes.shape[2])
    if bins == 1:
        return F.smooth_l1_loss(boxes, wanted, reduction="none").mean(dim=1)
    return _divergence(boxes.view(shape), wanted.view(shape), 2).mean(dim=1)


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
        own = learner.criterion  # a resumed dual head has one that knows its epoch
        own = learner.init_criterion() if own is None else own
        learner.criterion = ResponseLoss(own, teacher, self.weight, (trainer.args.cls, trainer.args.dfl))
