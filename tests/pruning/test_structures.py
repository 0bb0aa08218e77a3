"""Layers that stock models lack: followed where a channel that is zero stays zero, or said to fix what they fix."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from ultralytics.nn.modules import Focus, RepConv, RepVGGDW
from ultralytics.nn.tasks import DetectionModel

from edgeprune.errors import TargetError
from edgeprune.pruning.batches import Batch
from edgeprune.pruning.channel_gradients import _layer_gradient, channel_gradients
from edgeprune.pruning.equivalence import masked_parameters
from edgeprune.pruning.group import GroupSlot
from edgeprune.pruning.loss import batch_loss, loss_model
from edgeprune.pruning.pruner import Pruner
from edgeprune.pruning.rules import rewrite_repeated_widths


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


def upsampling(made: Any, groups: int) -> nn.ConvTranspose2d:
    """A learned layer in place of the first upsampling of a v8n; gives it back."""
    layer: Any = nn.ConvTranspose2d(256, 256, 2, 2, groups=groups)
    for attribute in ("i", "f", "type", "np"):
        setattr(layer, attribute, getattr(made.model[10], attribute))
    made.model[10] = layer.eval()
    return layer


@pytest.mark.parametrize("groups", [1, 4, 256])
def test_a_transposed_convolution_is_pruned_whatever_its_groups(groups: int) -> None:
    made = model()
    upsampling(made, groups)
    pruner = Pruner(made, 64)
    for importance in ("lamp", "l2"):
        plan = pruner.plan(ratio=0.5, importance=importance)
        pruned: Any = pruner.apply(plan)  # which proves that it equals the original with the removed channels at zero
        left = pruned.model[10]
        assert left.groups == (left.in_channels if groups == 256 else groups)
        assert (left.out_channels < 256) == (groups != 4), "channels in groups of several keep their width"
        assert pruned(torch.rand(1, 3, 64, 64))[0].shape == made(torch.rand(1, 3, 64, 64))[0].shape


@pytest.mark.parametrize("groups", [1, 4, 256])
def test_a_gradient_by_a_transposed_convolutions_channel_is_that_by_a_factor_on_its_output(groups: int) -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(256, 256, 2, 2, groups=groups)
    factor = torch.ones(1, 256, 1, 1, requires_grad=True)
    (layer(torch.rand(1, 256, 4, 4)) * factor).square().sum().backward()
    assert factor.grad is not None
    assert torch.from_numpy(_layer_gradient(layer)).allclose(factor.grad.flatten(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 256])
def test_the_weights_of_a_transposed_convolutions_channels_are_found_and_put_to_zero(groups: int) -> None:
    made = model()
    layer = upsampling(made, groups)
    pruner = Pruner(made, 64)
    slot = next(
        one for (name, kind), one in pruner.structure.trace.slots.items() if name == "model.10" and kind != "in"
    )
    weight = GroupSlot(layer, slot.kind, np.arange(256)[:, None]).weight
    every = layer.weight.detach()
    assert torch.equal(weight, (every if groups == 256 else every.transpose(0, 1)).flatten(1))
    keep = np.ones(int(pruner.structure.unit.max()) + 1, dtype=bool)
    keep[pruner.structure.unit[slot.labels[7]]] = False
    masked = masked_parameters(made, pruner.structure, keep)["model.10.weight"]
    assert masked.shape == every.shape
    assert not (masked[7] if groups == 256 else masked[:, 7]).any()
    assert int((masked == 0).sum()) == (4 if groups == 256 else 4 * 256)


@pytest.mark.parametrize("name", ["yolov8n", "yolov9t", "yolov10n"])
def test_a_fused_model_is_pruned_too(name: str) -> None:
    """``fuse()`` merges the branches of RepConv and RepVGGDW into one convolution."""
    fused: Any = DetectionModel(f"{name}.yaml", nc=3, verbose=False).eval().fuse(verbose=False)
    pruner = Pruner(fused, 64)
    plan = pruner.plan(macs_speed_up=1.5, importance="l2")
    pruned = pruner.apply(plan)
    merged = [module for module in pruned.modules() if isinstance(module, RepConv)]
    assert bool(merged) == (name == "yolov9t")
    for module in merged:
        assert (module.c1, module.c2) == (module.conv.in_channels, module.conv.out_channels)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("kind", "told"), [(RepConv, ("c1", "c2", "g")), (RepVGGDW, ("dim",))])
def test_a_block_of_merged_branches_is_told_its_widths(kind: Any, told: tuple[str, ...], fused: bool) -> None:
    whole, narrow = (kind(width, width) if kind is RepConv else kind(width) for width in (16, 8))
    if fused:
        for block in (whole, narrow):
            block.fuse_convs() if kind is RepConv else block.fuse()
    whole._modules.update(narrow._modules)
    rewrite_repeated_widths(whole)
    assert [getattr(whole, key) for key in told] == [getattr(narrow, key) for key in told]


STEM = ("Conv", [32, 3, 2])


def by_description(*layers: Any) -> Any:
    """A detector of a few layers, whose normalisation layers are not all alike."""
    torch.manual_seed(0)
    backbone = [[-1, 1, kind, arguments] for kind, arguments in layers]
    head = [[-1, 1, "Conv", [64, 3, 2]], [[-2, -1], 1, "Detect", ["nc"]]]
    described = {"nc": 2, "scales": {"n": [1, 1, 1024]}, "scale": "n", "backbone": backbone, "head": head}
    made = DetectionModel(described, verbose=False).eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.3, 0.3)
    return made


def labelled() -> Batch:
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5]])
    labels = {"cls": torch.zeros(1, 1), "bboxes": boxes, "batch_idx": torch.zeros(1)}
    return Batch(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)), labels)


@pytest.mark.parametrize(
    "layers",
    [
        [STEM, ("Conv", [64, 3])],
        [STEM, ("Conv2", [32, 32, 3]), ("Conv", [64, 3])],
        [STEM, ("BottleneckCSP", [64])],
        [STEM, ("C3Ghost", [64])],
        [STEM, ("ConvTranspose", [64, 2, 2]), ("Conv", [64, 3, 2])],
        [("TorchVision", [64, "resnet18", None, True, 5]), ("Conv", [64, 3])],
    ],
    ids=lambda layers: "-".join(layer[0] for layer in layers),
)
def test_a_channel_is_counted_once_whatever_its_normalisation_is_called(layers: list[Any]) -> None:
    """By its normalisation alone where one reads what its convolution gives: ``conv1`` and ``bn1``, a sum, a join."""
    made = by_description(*layers)
    structure = Pruner(made, 64).structure
    found = channel_gradients(made, structure, [labelled()])[0]
    judged = loss_model(made)
    batch_loss(judged, labelled()).backward()
    modules = dict(judged.named_modules())
    expected, has_norm = np.zeros_like(found), np.zeros(len(found), bool)
    for (name, kind), slot in structure.trace.slots.items():
        if kind == "norm":
            units = structure.unit[slot.labels]
            np.add.at(expected, units, _layer_gradient(modules[name]))
            has_norm[units] = True
    assert has_norm.any()
    np.testing.assert_allclose(found[has_norm], expected[has_norm], rtol=1e-4, atol=1e-6)
