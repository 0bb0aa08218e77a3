"""Torch-Pruning as judge: its own graph ties the same channels as our trace, and its own groups score the same."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch_pruning as tp
from torch import nn

from edgeprune.errors import TargetError
from edgeprune.pruning.copies import set_raw_outputs
from edgeprune.pruning.criteria import REGISTRY, torch_pruning_importance
from edgeprune.pruning.group import group_of
from edgeprune.pruning.pruner import Pruner
from edgeprune.pruning.torch_pruning_ import torch_pruning_group, torch_pruning_scores

DIRECT = {
    "random": tp.importance.RandomImportance(),
    "l1": tp.importance.MagnitudeImportance(p=1),
    "l2": tp.importance.MagnitudeImportance(p=2),
    "lamp": tp.importance.LAMPImportance(),
    "bn_scale": tp.importance.BNScaleImportance(normalizer=None),
    "fpgm": tp.importance.FPGMImportance(),
}
TOY = {
    "nc": 5,
    "backbone": [
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "Conv", [24, 3, 2]],
        [-1, 2, "Bottleneck", [24]],
        [-1, 1, "DWConv", [24, 3, 1]],
        [-1, 1, "Conv", [32, 1, 1]],
        [-1, 1, "SPPF", [32, 5]],
    ],
    "head": [[-1, 1, "Classify", ["nc"]]],
}


class Judged:
    """A model, our pruner of it, and Torch-Pruning's graph of it or of some of its blocks."""

    def __init__(self, model: Any, blocks: nn.Module | None = None, example: torch.Tensor | None = None) -> None:
        self.pruner = Pruner(model, 64, align=1, min_width=1)
        self.modules = dict(model.named_modules())
        self.names = {id(module): name for name, module in self.modules.items()}
        blocks = model if blocks is None else blocks
        self.seen = {id(module) for module in blocks.modules()}
        blocks.requires_grad_(True)  # autograd is what Torch-Pruning traces by
        self.graph = tp.DependencyGraph().build_dependency(
            blocks,
            torch.rand(1, 3, 64, 64) if example is None else example,
            verbose=False,
        )

    def parts(self) -> list[Any]:
        """Free parts that lie wholly within what Torch-Pruning traced."""
        return [
            part
            for dimension in self.pruner.dimensions
            if dimension.fixed is None
            for part in dimension.parts
            if all(id(self.modules[name]) in self.seen for name in part.members)
        ]

    def group(self, part: Any, seed: int = 0) -> Any:
        generator = torch.Generator().manual_seed(seed)
        return group_of(self.pruner.structure, self.modules, part, gradients=None, generator=generator)

    def theirs(self, part: Any) -> tp.Group:
        """Torch-Pruning's own group, from the same root."""
        root = torch_pruning_group(self.group(part))[0]
        return self.graph.get_pruning_group(root.dep.layer, root.dep.pruning_fn, list(root.idxs))

    def places(self, group: tp.Group) -> set[tuple[str, str, int, int]]:
        """Every place as module, side, position and channel; what has no weights (ReLU, concatenation) is left out."""
        return {
            (self.names[id(item.dep.layer)], item.dep.pruning_fn.__func__.__qualname__, position, channel)
            for item in group.items
            if id(item.dep.layer) in self.names
            for position, channel in zip(item.idxs, item.root_idxs, strict=True)
        }


def _random_scales(model: Any) -> Any:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
    return set_raw_outputs(model.float())


@pytest.fixture(scope="module")
def toy():
    """A chain, shortcuts, a depthwise convolution and a map that is concatenated with three pooled forms of itself."""
    from ultralytics.nn.tasks import ClassificationModel

    torch.manual_seed(0)
    return Judged(_random_scales(ClassificationModel(copy.deepcopy(TOY), verbose=False)))


@pytest.fixture(scope="module")
def yolov5(stock):
    """A whole detector without one split: C3 blocks, SPPF, the neck's concatenations, the head's branches."""
    return Judged(set_raw_outputs(copy.deepcopy(stock("yolov5n.yaml"))))


def _blocks_of_yolov8(stock, which):
    model = set_raw_outputs(copy.deepcopy(stock("yolov8n.yaml")))
    if which == "stem":
        return Judged(model, nn.Sequential(model.model[0], model.model[1]))
    branch = getattr(model.model[22], which)[1]
    return Judged(model, branch, torch.rand(1, 128, 4, 4))


def _tied_alike(judged: Judged) -> int:
    parts = judged.parts()
    for part in parts:
        ours, theirs = torch_pruning_group(judged.group(part)), judged.theirs(part)
        assert judged.places(ours) == judged.places(theirs), part.name
        normal = {name for name, *_ in judged.places(theirs)}
        assert normal == set(part.members), part.name
    return len(parts)


def test_the_toy_is_tied_as_torch_pruning_ties_it(toy):
    assert _tied_alike(toy) == 8


def test_every_channel_of_yolov5_is_tied_as_torch_pruning_ties_it(yolov5):
    assert _tied_alike(yolov5) == 62


@pytest.mark.parametrize(("which", "count"), [("stem", 1), ("cv2", 2), ("cv3", 2)])
def test_blocks_of_yolov8_without_a_split_are_tied_as_torch_pruning_ties_them(stock, which, count):
    assert _tied_alike(_blocks_of_yolov8(stock, which)) == count


@pytest.mark.parametrize("name", DIRECT)
@pytest.mark.parametrize("network", ["toy", "yolov5"])
def test_a_criterion_is_torch_prunings_class_on_its_own_group(request, network, name):
    judged, repeated = request.getfixturevalue(network), []
    for part in judged.parts():
        theirs = judged.theirs(part)
        if name == "fpgm" and any(len(item.idxs) > len(part.units) for item in theirs.items):
            repeated.append(part.name)  # several occurrences in one layer: see torch_pruning_group
            continue
        torch.manual_seed(3)
        expected = DIRECT[name](theirs)
        got = REGISTRY[name].score(judged.group(part, seed=3))
        # the same summands, in Torch-Pruning's order of layers there and in order of execution here
        torch.testing.assert_close(got, expected, rtol=2e-6 if name != "lamp" else 2e-5, atol=0)
    assert repeated == ([] if name != "fpgm" else ["model.5.cv1" if network == "toy" else "model.9.cv1"])


def test_what_occurs_twice_in_one_layer_counts_as_the_mean_over_occurrences(stock):
    """Queries and keys: the root itself holds every channel twice."""
    judged = Pruner(stock("yolo11n.yaml"), 64, align=1, min_width=1)
    modules = dict(judged.model.named_modules())
    groups = [
        group_of(judged.structure, modules, part, gradients=None, generator=torch.Generator())
        for dimension in judged.dimensions
        if dimension.fixed is None
        for part in dimension.parts
    ]
    twice = [group for group in groups if group.slots[0].positions.shape[1] == 2]
    assert twice
    for group in twice:
        for item in torch_pruning_group(group).items:
            assert sorted(item.root_idxs) == list(range(group.channels))
        conv, norm = group.slots[0], next(slot for slot in group.slots if slot.is_norm)
        assert {slot.module for slot in group.slots} == {conv.module, norm.module}
        flat = conv.module.weight.detach().flatten(1).abs().sum(1) + norm.module.weight.detach().abs()
        expected = flat[torch.from_numpy(conv.positions)].mean(1)
        torch.testing.assert_close(REGISTRY["l1"].score(group), expected / expected.mean())


@pytest.mark.parametrize("reduction", ["sum", "mean", "max", "prod", "first"])
def test_every_reduction_of_torch_pruning_gives_one_score_per_channel(stock, reduction):
    pruner = Pruner(stock("yolo12n.yaml"), 64)
    name = f"l2_{reduction}"
    torch_pruning_importance(name, tp.importance.MagnitudeImportance(group_reduction=reduction))
    try:
        scores = pruner.scores(name)
    finally:
        del REGISTRY[name]
    free = [dimension for dimension in pruner.dimensions if dimension.fixed is None]
    assert len(free) > 10
    for dimension in free:
        assert scores[dimension.name].shape == (len(dimension.parts), dimension.width)
        assert torch.isfinite(scores[dimension.name]).all()


def test_one_line_registers_an_importance_of_torch_pruning(toy):
    torch_pruning_importance("largest", tp.importance.MagnitudeImportance(p=1, group_reduction="max", normalizer="max"))
    try:
        scores = toy.pruner.scores("largest")
        plan = toy.pruner.plan(ratio=0.3, importance="largest")
        toy.pruner.apply(plan)
    finally:
        summary = REGISTRY.pop("largest").summary
    assert "MagnitudeImportance" in summary
    assert plan.settings.importance == "largest"
    assert all(float(score.max()) == pytest.approx(1.0) for score in scores.values())


class _Longest(tp.importance.Importance):
    """A user's own class: the largest weight that reads a channel."""

    def __call__(self, group: tp.Group) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        readers = (tp.prune_conv_in_channels, tp.prune_linear_in_channels)
        item = next(item for item in group.items if item.dep.pruning_fn in readers)
        weight = item.dep.layer.weight.detach().abs().transpose(0, 1)[item.idxs].flatten(1).amax(1)
        return torch.empty_like(weight).index_put_((torch.tensor(item.root_idxs),), weight)


def test_a_users_own_class_scores_through_the_pruner(toy):
    torch_pruning_importance("longest", _Longest(), "Largest weight that reads a channel.")
    try:
        scores = toy.pruner.scores("longest")
    finally:
        assert REGISTRY.pop("longest").summary == "Largest weight that reads a channel."
    second = toy.modules["model.1.conv"].weight.detach()
    assert np.array_equal(scores["model.0"][0].float().numpy(), second.abs().amax((0, 2, 3)).numpy())


def test_gradients_of_the_users_backward_pass_reach_torch_prunings_taylor(toy):
    torch_pruning_importance("their_taylor", tp.importance.TaylorImportance())
    try:
        with pytest.raises(TargetError, match=r"TaylorImportance cannot score .* needs a backward pass"):
            toy.pruner.scores("their_taylor")
        set_raw_outputs(toy.pruner.model)(torch.rand(2, 3, 64, 64)).square().sum().backward()
        assert all(score.std() > 0 for score in toy.pruner.scores("their_taylor").values())
    finally:
        del REGISTRY["their_taylor"]
        toy.pruner.model.zero_grad(set_to_none=True)


def test_scores_of_another_shape_are_refused(toy):
    with pytest.raises(TargetError, match="one number for each of its 16 channels"):
        torch_pruning_scores(lambda group: torch.ones(3), toy.group(toy.parts()[0]))


def test_an_object_that_finds_nothing_to_read_is_refused_by_name(toy):
    score = torch_pruning_importance("linear", tp.importance.MagnitudeImportance(target_types=[nn.Linear]))
    try:
        with pytest.raises(TargetError, match=r"'linear'.*Conv2d.*otherwise="):
            score(toy.group(toy.parts()[0]))
    finally:
        del REGISTRY["linear"]


def test_without_a_normalisation_bn_scale_is_l1(toy):
    group = toy.group(toy.parts()[0])
    plain = type(group)(group.name, [slot for slot in group.slots if not slot.is_norm], None, group.generator)
    assert torch.equal(REGISTRY["bn_scale"].score(plain), REGISTRY["l1"].score(plain))


@pytest.mark.parametrize("name", ["l1", "l2", "lamp", "bn_scale", "fpgm"])
def test_weights_that_are_all_zero_score_zero(toy, name):
    judged = Pruner(copy.deepcopy(toy.pruner.model), 64, align=1, min_width=1)
    for parameter in judged.model.parameters():
        parameter.data.zero_()
    assert all(bool((score == 0).all()) for score in judged.scores(name).values())


def test_random_draws_leave_torchs_own_generator_alone(toy):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again = toy.pruner.scores("random", seed=5), toy.pruner.scores("random", seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.0"], toy.pruner.scores("random", seed=6)["model.0"])
