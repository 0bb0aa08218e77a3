"""Blocks against channels, and names that move up when a block goes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from edgeprune.pruning.batches import Batch
from edgeprune.pruning.depth import original_names, removable_blocks
from edgeprune.pruning.pruner import Pruner
from edgeprune.search import planner as planner_module
from edgeprune.search.diagnosis import _outermost_blocks
from edgeprune.search.knapsack import Knapsack
from edgeprune.search.layers import FIXED, layers_of
from edgeprune.search.planner import Block, Planner, inherited_scores
from edgeprune.search.profile import LayerProfile, copy_widths

from ..pruning.conftest import _built
from .devices import samples, true_ms


def labelled(seed: int, size: int = 64) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.3, 0.6, 0.2, 0.3]])
    images = torch.rand(2, 3, size, size, generator=generator)
    classes = torch.tensor([[0.0], [1.0]])
    return Batch(images, {"batch_idx": torch.tensor([0.0, 1.0]), "cls": classes, "bboxes": boxes})


def profile_of(model: Any, launch_ms: float = 0.0) -> LayerProfile:
    """A made-up device; ``launch_ms`` is what every layer takes, however narrow."""
    pruner = Pruner(model, 64)
    layers = tuple(layers_of(pruner.model, pruner.structure))
    names = tuple(one.name for one in pruner.dimensions)
    copies = [[widths.get(one.name, one.width) for one in pruner.dimensions] for widths in copy_widths(pruner, 0)]
    measured = []
    for sample in samples(list(layers), copies):
        spent = {name: ms + launch_ms for name, ms in sample.layer_ms.items()}
        measured.append(type(sample)(sample.widths, spent, sum(spent.values())))
    return LayerProfile({}, "", names, layers, tuple(measured), len(layers))


@pytest.fixture(scope="module")
def model() -> Any:
    return _built("yolov8n.yaml")


def planner(model: Any, launch_ms: float, batches: list[Batch] | None) -> Planner:
    pruner = Pruner(model, 64)
    return Planner(pruner, pruner.scores("l2"), "l2", profile_of(model, launch_ms), batches=batches)


def test_names_of_a_model_without_blocks_lead_back(model: Any) -> None:
    back = original_names(model, ["model.4.m.0"])
    assert back("model.4.m.0.cv1.conv") == "model.4.m.1.cv1.conv"
    assert back("model.6.m.0.cv1#2") == "model.6.m.0.cv1#2"
    assert back("model.4.cv2") == "model.4.cv2"


def test_a_plan_is_what_was_proposed(model: Any) -> None:
    made = planner(model, 0.0, None)
    candidate = made.solve(0.5)
    plan, pruned = made.plan(candidate)
    assert candidate.share <= 0.5
    assert plan.removed == ()
    layers = layers_of(pruned, Pruner(pruned, 64).structure)
    assert len(layers) == len(made.profile.layers)
    assert sum(parameter.numel() for parameter in pruned.parameters()) == plan.params[1]


def test_a_launch_bound_device_drops_blocks_and_a_compute_bound_one_does_not(model: Any) -> None:
    batches = [labelled(1)]
    launch = planner(model, 1.0, batches)
    dropped = launch.solve(0.85)
    assert dropped.share <= 0.85
    plan, pruned = launch.plan(dropped)
    assert plan.removed
    assert len(removable_blocks(pruned)) == len(removable_blocks(model)) - len(plan.removed)
    without = planner(model, 1.0, None).solve(0.85)
    assert without.exhausted, "channels alone do not get there on this device"


def test_an_exhausted_plan_names_what_holds_it(model: Any) -> None:
    made = planner(model, 0.0, None)
    floor = made.solve(0.001)
    assert floor.exhausted
    lines = made.slowest_layers(floor)
    assert len(lines) == 4
    assert all("ms (" in line and "model." in line for line in lines)
    assert any("at its least" in line or "stays" in line for line in lines)


def test_predicted_time_without_a_block_is_that_of_the_smaller_model(model: Any) -> None:
    """Costs of the measured layers, looked up by the names that they have in the model without the block."""
    removed = ("model.4.m.0",)
    smaller = Pruner(model, 64, removed=removed)
    layers = layers_of(smaller.model, smaller.structure)
    back = original_names(model, removed)
    whole = profile_of(model).fit.model
    reduced = whole.for_layers(layers, {layer.name: back(layer.name) for layer in layers})
    wanted = sum(true_ms(list(layers), smaller.structure.widths).values())
    assert len(reduced.layers) == len(whole.layers) - 2
    assert reduced.total_ms(smaller.structure.widths) == pytest.approx(wanted, rel=0.05)
    assert np.isfinite(reduced.coefficients).all()


@pytest.mark.parametrize("name", ["yolo11n", "yolo26n"])
def test_without_an_attention_block_its_owner_keeps_the_scores_that_it_had(name: str) -> None:
    """The owner's dimension has one part less then: its channels are none the cheaper for that."""
    made = planner(_built(f"{name}.yaml"), 0.0, None)
    made._drop([Block("model.10.m.0", 0.0, 1.0)])
    before, after = (branch.scores["model.10.cv1"] for branch in made._branches)
    assert len(before) == 3
    assert torch.equal(after, before[:2])


def test_every_channel_has_a_score_when_blocks_are_gone() -> None:
    pruner = Pruner(_built("yolo26n.yaml"), 64)
    scores = pruner.scores("l2")
    names = [block.name for block in removable_blocks(pruner.model)]
    outermost = [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
    for removed in (outermost, [name for name in names if name not in outermost]):
        smaller = pruner.without(removed)
        inherited = inherited_scores(pruner, scores, smaller)
        assert set(inherited) == {one.name for one in smaller.dimensions if one.fixed is None}
        assert all((rows > 0).all() for rows in inherited.values())


def test_blocks_that_a_user_keeps_are_neither_priced_nor_dropped(model: Any) -> None:
    """By the names of the model that was given: dropping its neighbour moves a kept block up."""
    for globs in (("model.4.m.1.*",), ("model.[2-8].*",)):
        pruner = Pruner(model, 64, ignore=globs)
        made = Planner(pruner, pruner.scores("l2"), "l2", profile_of(model, 1.0), batches=[labelled(1)])
        plan, _ = made.plan(made.solve(0.86))
        kept = {block.name for block in removable_blocks(model)} - {
            block.name for block in removable_blocks(model, pruner.constraints)
        }
        assert plan.removed and kept
        assert not kept & set(plan.removed)


def fixed_cost(model: Any) -> LayerProfile:
    """A device on which a layer takes as long however narrow it is."""
    made = profile_of(model)
    copies = []
    for one in made.copies:
        spent = dict.fromkeys(one.layer_ms, 0.05) | {FIXED: 0.3}
        copies.append(type(one)(one.widths, spent, sum(spent.values())))
    return replace(made, copies=tuple(copies))


def test_blocks_go_where_no_width_saves_any_time(model: Any) -> None:
    """There channels give no scale to price a block by; the rise of the loss alone ranks them."""
    pruner = Pruner(model, 64)
    made = Planner(pruner, pruner.scores("l2"), "l2", fixed_cost(model), batches=[labelled(1)])
    for share in (0.95, 0.9):
        found = made.solve(share)
        assert found.share <= share and not found.exhausted
        plan, _ = made.plan(found)
        assert plan.removed
    assert made.solve(0.2).exhausted


def test_what_was_asked_first_does_not_decide_which_blocks_can_go(model: Any) -> None:
    """A first budget so mild that its channels move no loss once told that no block could ever be priced."""
    batches = [labelled(1)]
    mild, heavy = planner(model, 1.0, batches), planner(model, 1.0, batches)
    mild.solve(0.999)
    after, at_once = mild.solve(0.8), heavy.solve(0.8)
    assert (after.share, after.loss, after.exhausted) == (at_once.share, at_once.loss, at_once.exhausted)
    assert mild.plan(after)[0].removed == heavy.plan(at_once)[0].removed != ()


def test_where_the_loss_does_not_rise_blocks_go_only_when_channels_do_not_get_there(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Planner, "_narrowed_loss", lambda *_: -1.0)
    made = planner(model, 0.0, [labelled(1)])
    assert made.plan(made.solve(0.7))[0].removed == ()
    assert made.plan(made.solve(0.001))[0].removed


def test_the_floor_is_without_all_blocks_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 30 blocks twelve went, and an inner one that had gone kept its outer one; a faster one was there."""
    model = _built("yolo11n.yaml")
    monkeypatch.setattr(planner_module, "MAX_BRANCHES", 3)
    made = planner(model, 1.0, [labelled(1)])
    floor = made.solve(0.001)
    assert floor.exhausted
    sets = [branch.removed for branch in made._branches]
    assert set(sets[-1]) == set(_outermost_blocks(Pruner(model, 64)))
    assert [len(names) for names in sets[:4]] == [0, 1, 2, 3], "one by one at first"
    assert len(sets) < len(removable_blocks(model)), "then several at a time"
    assert made.plan(floor)[0].removed == sets[-1]
    spent = [branch.spent for branch in made._branches]
    assert spent == sorted(spent)
    floors = [branch.knapsack.floor_ms for branch in made._branches]
    assert floors[-1] == min(floors) < floors[3]


def test_an_outer_block_costs_what_it_costs_beyond_those_inside_it() -> None:
    made = planner(_built("yolo11n.yaml"), 1.0, [labelled(1)])
    names = ["model.6.m.0.m.0", "model.6.m.0.m.1", "model.6.m.0"]
    made._blocks = [Block(name, price, ms) for name, price, ms in zip(names, (1, 2, 5), (1, 1, 4), strict=True)]
    for block in made._blocks:
        made._drop([block])
    assert [branch.removed for branch in made._branches] == [(), (names[0],), tuple(names[:2]), (names[2],)]
    assert [branch.spent for branch in made._branches] == [0, 1, 3, 5]
    choice = made._branches[-1].knapsack.solve(0.0)
    assert made._next_blocks(choice) == [], "none is left, and none lies inside one that is gone"


def test_prices_without_a_common_scale_never_compete_with_channels_whatever_was_asked_before(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block that a budget out of reach for channels had dropped stayed dropped for the milder ones that follow."""
    monkeypatch.setattr(Planner, "_narrowed_loss", lambda *_: -1.0)
    made = planner(model, 0.0, [labelled(1)])
    heavy = made.solve(0.001)
    assert made.plan(heavy)[0].removed
    floors = [branch.knapsack.floor_ms / made.unpruned_ms for branch in made._branches]
    shares = [0.99 * floors[0], (1 + floors[0]) / 2, 0.9]
    found = [made.solve(share) for share in shares]
    losses = [one.loss for one in (heavy, *found)]
    assert losses == sorted(losses, reverse=True), "whoever chooses among probes keeps channels before blocks too"
    first_there = [next(i for i, floor in enumerate(floors) if floor <= share) for share in shares]
    assert first_there[0] > 0 == first_there[1] == first_there[2]
    assert [made.plan(one)[0].removed for one in found] == [made._branches[i].removed for i in first_there]


def test_a_set_of_blocks_is_solved_once_for_a_latency(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = planner(model, 1.0, [labelled(1)])
    made.solve(0.999)  # prices the blocks
    solved: list[int] = []
    solve = Knapsack.solve
    monkeypatch.setattr(Knapsack, "solve", lambda self, ms: solved.append(id(self)) or solve(self, ms))
    made.solve(0.8)
    assert len(made._branches) > 2
    assert sorted(solved) == sorted(id(branch.knapsack) for branch in made._branches)


def test_without_images_the_blocks_that_stay_are_known(model: Any) -> None:
    assert planner(model, 1.0, None).blocks_stay
    assert not planner(model, 1.0, [labelled(1)]).blocks_stay
