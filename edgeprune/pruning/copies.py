"""Copies of a model for a forward pass, and the few facts of an Ultralytics model that such a pass needs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def copy_sharing_weights(model: nn.Module) -> nn.Module:
    """A copy of a model's structure that shares its parameters and buffers."""
    memo: dict[int, Any] = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return copy_without_criterion(model, memo)


def copy_without_criterion(model: nn.Module, memo: dict[int, Any] | None = None) -> Any:
    """A deep copy of a model without its loss object, which holds references to half a trainer.

    Args:
        model: the model.
        memo: replacements by the ``id`` of what they replace, as :func:`copy.deepcopy` takes them.
    """
    memo = dict(memo or {})
    if getattr(model, "criterion", None) is not None:
        memo[id(model.criterion)] = None
    return copy.deepcopy(model, memo)


def set_raw_outputs(model: nn.Module) -> nn.Module:
    """Put a model into evaluation mode with a head that returns its raw maps; gives the model back.

    The raw maps hold both branches of a dual head and exist before anything is decoded or sorted. With them come the
    maps that are there for training alone (:func:`semantic_part`): what they read must stay as wide as they read it.
    """
    model.eval()
    head_of(model).training = True
    if semantic_part(model) is not None:
        head_of(model).proto.training = True
    return model


def head_of(model: Any) -> Any:
    """The last block of an Ultralytics model."""
    return model.model[-1]


def semantic_part(model: Any) -> Any:
    """The layers of YOLO26-seg that only training runs, for its loss by semantic masks; None where there are none.

    The block that holds them (``Proto26``) asks its own flag whether it trains, not the head's.
    """
    return getattr(getattr(head_of(model), "proto", None), "semseg", None)


def output_tensors(output: Any) -> list[torch.Tensor]:
    """Every tensor of a model's nested output, in order, but the head's inputs, which it hands on for their shapes."""
    if isinstance(output, torch.Tensor):
        return [output]
    if isinstance(output, Mapping):
        return [tensor for key, value in output.items() if key != "feats" for tensor in output_tensors(value)]
    if isinstance(output, (list, tuple)):
        return [tensor for value in output for tensor in output_tensors(value)]
    return []
