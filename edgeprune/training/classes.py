"""Give a model the classes of a data set without touching its other layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from ultralytics.nn.modules import Classify, Detect
from ultralytics.nn.tasks import ClassificationModel

from edgeprune.dataset.class_names import old_indices, same_classes, words_of
from edgeprune.errors import DataError


def fit_classes(model: nn.Module, names: Mapping[int, str], *, by_name: bool = True) -> bool:
    """Give ``model`` class outputs for ``names``, in place.

    With another number of classes, a detector's outputs of classes whose name both have are kept
    (:func:`~edgeprune.dataset.class_names.old_indices`), others start from random weights and Ultralytics' bias prior.
    With the same number in another order, outputs move to where their name is; a place whose old class is gone keeps
    its output for the new one, which is then that class by another name. The box, mask and keypoint branches and every
    width stay as they are.

    How an earlier training weighed its classes in the loss (``cls_pw``), which Ultralytics leaves on the model, is
    dropped: a training that asks for it counts its own labels.

    Args:
        model: an Ultralytics task model, pruned or not.
        names: class index to name, as the data set gives them.
        by_name: Ultralytics' ``cls_remap``; without it outputs of as many classes stay where they are, and those of
            another number all start anew.

    Returns:
        Whether anything was replaced or moved.

    Raises:
        DataError: the model's head is of a kind whose classes cannot be replaced.
    """
    owner: Any = model
    vars(owner).pop("class_weights", None)
    head, count = owner.model[-1], len(names)
    if isinstance(head, Classify):
        replaced = head.linear.out_features != count
        old_rows = _moved_rows(words_of(owner.names), words_of(names)) if by_name else None
        ClassificationModel.reshape_outputs(model, count)
        if old_rows is not None:
            _move_rows(head.linear, old_rows)
            replaced = True
    elif isinstance(head, Detect):
        replaced = head.nc != count
        if replaced:
            _fit_detect(head, old_indices(owner.names, names) if by_name else {}, count)
        elif by_name and (old_rows := _moved_rows(owner.names, names)) is not None:
            for layer in _class_layers(head):
                _move_rows(layer, old_rows)
            replaced = True
    else:
        raise DataError(
            f"a {type(head).__name__} head cannot be trained here; detect, segment, pose, obb and classify can"
        )
    if replaced:
        owner.nc = count
        owner.yaml["nc"] = count
        owner.names = dict(names)
    return replaced


def require_same_names(what: str, names: Mapping[int, str], dataset_names: Mapping[int, str]) -> None:
    """Refuse a model, called ``what``, that has other classes than the data set.

    Raises:
        DataError: they differ in number, order or name (:func:`~edgeprune.dataset.class_names.same_classes`).
    """
    if not same_classes(names, dataset_names):
        raise DataError(
            f"{what} knows {_listed(names)}, the data set {_listed(dataset_names)}; "
            "name one that was trained on these classes, or go without"
        )


def _listed(names: Mapping[int, str]) -> str:
    first = ", ".join(list(names.values())[:3])
    return f"{len(names)} classes ({first}{', …' if len(names) > 3 else ''})"


def _fit_detect(head: Detect, old_indices: dict[int, int], count: int) -> None:
    branches: list[Any] = [b for b in (head.cv3, getattr(head, "one2one_cv3", None)) if b is not None]
    for branch in branches:
        for level, layers in enumerate(branch):
            old = layers[-1]
            # the prior of Ultralytics' bias_init: five objects in a 640 px image; the box branch keeps what it learned
            prior = math.log(5 / count / (640 / float(head.stride[level])) ** 2)
            layers[-1] = _class_convolution(old, old_indices, count, prior)
    segments: Any = getattr(getattr(head, "proto", None), "semseg", None)
    if segments is not None:  # the training-only class map of YOLO26's mask prototypes
        segments[-1] = _class_convolution(segments[-1], old_indices, count, None)
    head.nc = count
    head.no = count + head.reg_max * 4


def _class_layers(head: Any) -> list[nn.Conv2d]:
    """The layers of a detector whose outputs are one a class."""
    branches = [branch for branch in (head.cv3, getattr(head, "one2one_cv3", None)) if branch is not None]
    layers = [layers[-1] for branch in branches for layers in branch]
    segments: Any = getattr(getattr(head, "proto", None), "semseg", None)
    return layers if segments is None else [*layers, segments[-1]]


def _moved_rows(before: Mapping[int, str], after: Mapping[int, str]) -> list[int] | None:
    """For every new class the place of its old output, of as many classes; None where each stays where it is,
    or where a name stands for several."""
    if sorted(before) != sorted(after):
        return None
    rows = old_indices(before, after)
    told_apart = [[*before.values()], [*after.values()], [*rows.values()]]
    if any(len({*each}) < len(each) for each in told_apart):
        return None
    # what is new in place of what is gone has another name; the rest of the new ones take what nobody took, in order
    rows |= {index: index for index in after if index not in rows and index not in rows.values()}
    left = iter(sorted(set(before) - set(rows.values())))
    moved = [rows[index] if index in rows else next(left) for index in sorted(after)]
    return None if moved == sorted(after) else moved


def _move_rows(layer: nn.Conv2d | nn.Linear, old_rows: list[int]) -> None:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(parameter[old_rows].clone())


def _class_convolution(old: nn.Conv2d, old_indices: dict[int, int], count: int, prior: float | None) -> nn.Conv2d:
    new = nn.Conv2d(old.in_channels, count, 1, bias=old.bias is not None).to(old.weight.device)
    with torch.no_grad():
        if prior is not None and new.bias is not None:
            new.bias.fill_(prior)
        for after, before in old_indices.items():
            new.weight[after] = old.weight[before].float()
            if new.bias is not None and old.bias is not None:
                new.bias[after] = old.bias[before].float()
    return new
