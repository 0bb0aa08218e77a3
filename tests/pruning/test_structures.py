"""Layers that stock models lack: followed where a channel that is zero stays zero, or said to fix what they fix."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from ultralytics.nn.modules import Focus
from ultralytics.nn.tasks import DetectionModel

from edgeprune.errors import TargetError
from edgeprune.pruning.pruner import Pruner


def model(change: Any = None) -> Any:
    """A v8n of random weights whose normalisation layers are not all alike; ``change`` gets every module."""
    torch.manual_seed(0)
    made = DetectionModel("yolov8n.yaml", nc=3, verbose=False).eval()
    for module in list(made.modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
        if change is not None:
            change(module)
    return made


def slopes(count: str) -> Any:
    """Every activation replaced by a PReLU with one slope, or with one for each channel."""

    def change(module: Any) -> None:
        if type(module).__name__ == "Conv":
            module.act = nn.PReLU(module.conv.out_channels if count == "each" else 1)
            module.act.weight.data.uniform_(0.1, 0.4)

    return change


@pytest.mark.parametrize("count", ["one", "each"])
def test_prelu_is_pruned_with_its_slopes(count: str) -> None:
    made = model(slopes(count))
    pruner = Pruner(made, 64)
    plan = pruner.plan(macs_speed_up=2.0, importance="lamp")
    pruned: Any = pruner.apply(plan)  # which proves that it equals the original with the removed channels at zero
    assert plan.macs_speed_up >= 2.0
    stem = pruned.model[0]
    assert stem.act.num_parameters == (stem.conv.out_channels if count == "each" else 1)
    assert pruned(torch.rand(1, 3, 64, 64))[0].shape == made(torch.rand(1, 3, 64, 64))[0].shape


def test_a_focus_stem_is_traced_from_the_image() -> None:
    made = model()
    stem = Focus(3, 16, 3)
    for attribute in ("i", "f", "type", "np"):
        setattr(stem, attribute, getattr(made.model[0], attribute))
    made.model[0] = stem.eval()
    pruner = Pruner(made, 64)
    plan = pruner.plan(macs_speed_up=1.5, importance="lamp")
    assert pruner.apply(plan)(torch.rand(1, 3, 64, 64))[0].shape[1] == 7
    assert plan.macs_speed_up >= 1.5


def test_nothing_to_prune_is_said_with_the_reasons() -> None:
    pruner = Pruner(model(), 64, ignore=["model.*"])
    for request in ({"macs_speed_up": 1.5}, {"ratio": 0.3}, {"params_ratio": 0.5}):
        with pytest.raises(TargetError, match=r"nothing can be pruned.*ignored by 'model\.\*'"):
            pruner.plan(**request, importance="lamp")
    assert pruner.plan(macs_speed_up=1.0, importance="lamp").macs_speed_up == 1.0  # asks for nothing


def test_an_activation_that_moves_zero_fixes_its_channels_and_says_so() -> None:
    def change(module: Any) -> None:
        if type(module).__name__ == "Conv":
            module.act = nn.Softplus()  # ln 2 at zero: a removed channel would have been read

    pruner = Pruner(model(change), 64)
    with pytest.raises(TargetError, match=r"nothing can be pruned.*Conv .*fixes it \(softplus\)"):
        pruner.plan(macs_speed_up=1.5, importance="lamp")


def test_the_given_model_is_not_touched() -> None:
    made = model(slopes("each"))
    before = copy.deepcopy(made.state_dict())
    pruner = Pruner(made, 64)
    pruner.apply(pruner.plan(ratio=0.5, importance="lamp"))
    assert all(torch.equal(before[key], value) for key, value in made.state_dict().items())
