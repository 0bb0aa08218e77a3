"""Depth: dropping a block leaves a stock model whose forward pass holds and whose other blocks compute the same."""

from __future__ import annotations

import copy

import pytest
import torch

from edgeprune.errors import StageError, TargetError
from edgeprune.pruning import depth, equivalence
from edgeprune.pruning import pruner as pruner_module
from edgeprune.pruning.api import prune
from edgeprune.pruning.batches import Batch
from edgeprune.pruning.depth import few_batches, least_important_blocks, removable_blocks, remove_blocks
from edgeprune.pruning.loss import loss_model, mean_loss
from edgeprune.pruning.pruner import Pruner
from edgeprune.pruning.structure import Constraints


@pytest.mark.parametrize("name", ["yolov8n", "yolo11n", "yolo26n", "yolo12n"])
def test_every_removable_block_can_go(stock, name):
    model = stock(f"{name}.yaml")
    blocks = removable_blocks(model)
    image = equivalence.check_image(model)
    assert len(blocks) >= 10
    for names in [[blocks[0].name], [blocks[-1].name], [block.name for block in blocks]]:
        equivalence.check_forward(remove_blocks(model, names), image)


def test_a_block_that_adds_nothing_leaves_no_trace(stock):
    """A residual block whose branch is zero, read by zero columns: dropping it must not change one output."""
    model = copy.deepcopy(stock("yolov8n.yaml"))
    block = model.model[4]
    with torch.no_grad():
        block.m[0].cv2.bn.weight.zero_()
        block.m[0].cv2.bn.bias.zero_()
        block.cv2.conv.weight[:, 64:96] = 0
    image = equivalence.check_image(model)
    shorter = remove_blocks(model, ["model.4.m.0"])
    assert len(shorter.model[4].m) == 1
    assert len(block.m) == 2
    assert (
        equivalence.largest_difference(equivalence.raw_outputs(model, image), equivalence.raw_outputs(shorter, image))
        <= 1e-5
    )


def test_a_plan_that_drops_blocks_is_relative_to_the_whole_model(stock):
    model = stock("yolo11n.yaml")
    names = ["model.22.m.0", "model.8.m.0.m.1"]
    pruner = Pruner(model, 320, removed=names)
    plan = pruner.plan(macs_speed_up=2)
    assert plan.removed == tuple(names)
    assert plan.macs[0] == Pruner(model, 320).macs()
    assert 2 <= plan.macs_speed_up <= 2.06
    assert sum(p.numel() for p in pruner.apply(plan).parameters()) == plan.params[1]
    with pytest.raises(StageError, match="removed="):
        Pruner(model, 320).apply(plan)


def test_an_unknown_block_is_refused_with_those_that_exist(stock):
    with pytest.raises(TargetError, match=r"model\.2\.m\.0"):
        remove_blocks(stock("yolov8n.yaml"), ["model.0"])


def last_items_and_all_within_the_first(model):
    """Of every list whose first item has blocks of its own: those blocks, and all further items of the list."""
    names = [block.name for block in removable_blocks(model)]
    for first in [name for name in names if name.endswith(".m.0")]:
        inner = [name for name in names if name.startswith(f"{first}.")]
        siblings = [name for name in names if name.rpartition(".")[0] == first.rpartition(".")[0] and name != first]
        if inner and siblings:
            yield [*inner, *siblings]


def test_items_behind_one_that_lost_all_of_its_blocks_take_their_own_columns_with_them(stock):
    """An emptied item hands on what it reads, and is as wide as before; its neighbour's columns begin behind it."""
    model = stock("yolo12n.yaml")
    together = list(last_items_and_all_within_the_first(model))
    assert together
    for names in together:
        owner = names[-1].rpartition(".m")[0]
        width = model.get_submodule(owner).cv1.conv.out_channels
        shorter = remove_blocks(model, names)
        weight = model.get_submodule(owner).cv2.conv.weight
        assert torch.equal(shorter.get_submodule(owner).cv2.conv.weight, weight[:, : 2 * width])
        one_by_one = remove_blocks(remove_blocks(model, names[-1:]), names[:-1])
        assert torch.equal(one_by_one.get_submodule(owner).cv2.conv.weight, weight[:, : 2 * width])


def test_items_behind_an_emptied_one_can_still_go(stock):
    model = stock("yolo12n.yaml")
    emptied = remove_blocks(model, ["model.6.m.0.0", "model.6.m.0.1"])
    assert {"model.6.m.0", "model.6.m.1"} <= {block.name for block in removable_blocks(emptied)}


def test_wrong_columns_are_found_out(stock, monkeypatch):
    right = depth._drop_columns
    monkeypatch.setattr(depth, "_drop_columns", lambda layer, start, count: right(layer, start - count, count))
    with pytest.raises(StageError, match=r"without model\.6\.m\.1 the outputs of model\.6 are not those"):
        remove_blocks(stock("yolov8n.yaml"), ["model.6.m.1"])


def test_globs_speak_of_the_names_in_the_model_that_was_given(stock):
    """Blocks behind a dropped one move up: the second becomes the first."""
    model = stock("yolov8n.yaml")

    def fixed(glob):
        smaller = Pruner(model, 64, ignore=[glob]).without(["model.4.m.0"])
        return {one.name: one.fixed for one in smaller.dimensions}["model.4.m.0.cv1"]

    assert fixed("model.4.m.1.*") == "ignored by 'model.4.m.1.*'"
    assert "ignored" not in (fixed("model.4.m.0.*") or "")
    limited = Pruner(model, 64, max_ratio={"model.4.m.1.cv1": 0.25}, removed=["model.4.m.0"])
    assert min(limited.dimensions[limited.structure.index["model.4.m.0.cv1"]].allowed) >= 24
    with pytest.raises(TargetError, match=r"'model\.4\.m\.2\.\*' matches no module"):
        Pruner(model, 64, ignore=["model.4.m.2.*"], removed=["model.4.m.0"])


def noise():
    generator = torch.Generator().manual_seed(0)
    labels = {"batch_idx": torch.zeros(1), "cls": torch.zeros(1, 1), "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.4]])}
    return Batch(torch.rand(1, 3, 64, 64, generator=generator), labels)


def test_blocks_that_a_user_keeps_are_not_dropped(stock):
    model = stock("yolov8n.yaml")
    every = {block.name for block in removable_blocks(model)}
    kept = Constraints(ignore=("model.[1-8].*", "model.15.m.0.cv1"), max_ratio={"model.18.m.*": 0.5})
    left = {block.name for block in removable_blocks(model, kept)}
    assert every - left == {name for name in every if name.split(".")[1] in ("2", "4", "6", "8", "15", "18")}
    assert left == set(least_important_blocks(model, len(left), [noise()], constraints=kept))
    with pytest.raises(TargetError, match=f"has {len(left)} removable ones beside {len(every - left)} that"):
        least_important_blocks(model, len(left) + 1, [], constraints=kept)


@pytest.mark.parametrize("count", range(1, 12))
def test_as_many_blocks_go_as_were_asked_for_none_inside_another(stock, monkeypatch, count):
    """The inner blocks of a list cost least, then the one around them: it takes their place and counts once."""
    monkeypatch.setattr(depth, "remove_blocks", lambda model, names: names)
    monkeypatch.setattr(depth, "loss_model", lambda names, head, **_: names)
    dear = {"model.22": 9, "model.13": 7, "model.2": 5}
    monkeypatch.setattr(
        depth, "mean_loss", lambda names, _: sum(dear.get(".".join(name.split(".")[:2]), 1) for name in names)
    )
    names = [block.name for block in removable_blocks(stock("yolo11n.yaml"))]
    nested = [name for name in names if any(other.startswith(f"{name}.") for other in names)]
    innermost = [name for name in names if name not in nested]
    assert nested
    if count > len(innermost):
        with pytest.raises(TargetError, match=f"cannot drop {count} blocks: this model has {len(innermost)} removable"):
            least_important_blocks(stock("yolo11n.yaml"), count, [])
        return
    chosen = least_important_blocks(stock("yolo11n.yaml"), count, [])
    assert len(chosen) == count == len(set(chosen))
    assert not any(one.startswith(f"{other}.") for one in chosen for other in chosen)


def test_an_outer_block_takes_the_place_of_those_inside_it(stock, monkeypatch):
    monkeypatch.setattr(depth, "remove_blocks", lambda model, names: names)
    monkeypatch.setattr(depth, "loss_model", lambda names, head, **_: names)
    order = ["model.6.m.0.m.1", "model.6.m.0.m.0", "model.6.m.0", "model.8.m.0.m.0", "model.2.m.0"]
    monkeypatch.setattr(depth, "mean_loss", lambda names, _: order.index(names[-1]) if names[-1] in order else 99)
    found = {count: least_important_blocks(stock("yolo11n.yaml"), count, []) for count in (1, 2, 3)}
    assert found[1] == order[:1]
    assert found[2] == ["model.6.m.0.m.1", "model.6.m.0.m.0"]
    assert found[3] == ["model.6.m.0", "model.8.m.0.m.0", "model.2.m.0"]


def test_fewer_than_no_blocks_cannot_be_dropped(stock):
    with pytest.raises(TargetError, match="from 0"):
        least_important_blocks(stock("yolov8n.yaml"), -1, [])
    with pytest.raises(TargetError, match=r"^drop_blocks=-1: .* equal to 0"):
        prune(stock("yolov8n.yaml"), ratio=0.3, drop_blocks=-1)


def test_a_model_of_any_float_type_loses_blocks_and_channels(stock):
    for dtype in (torch.float16, torch.bfloat16):
        model = copy.deepcopy(stock("yolov8n.yaml")).to(dtype)
        assert next(remove_blocks(model, ["model.4.m.0"]).parameters()).dtype == dtype
        assert len(Pruner(model, 64).source.weights) == 64


def storages(model):
    return {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}


def test_a_model_without_blocks_takes_no_second_set_of_weights(stock):
    model = copy.deepcopy(stock("yolov8n.yaml"))
    model.criterion = model.init_criterion()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    shorter = remove_blocks(model, ["model.4.m.0", "model.6.m.1"])
    own = storages(shorter) - storages(model)
    assert len(own) == 2, "the columns of each block that owned a dropped one"
    assert getattr(shorter, "criterion", None) is None
    ready = loss_model(shorter, own_weights=False)
    assert not (storages(ready) - storages(shorter))
    mean_loss(ready, [noise()])
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())


def test_a_pruned_model_has_weights_of_its_own(stock):
    """It is trained next: what it shared with the model that it comes from would change there too."""
    model = stock("yolov8n.yaml")
    smaller = Pruner(model, 64).without(["model.4.m.0"])
    pruned = smaller.apply(smaller.plan(ratio=0.2, importance="l2"))
    assert not storages(pruned) & storages(model)
    assert not storages(loss_model(smaller.model)) & storages(model)


def test_every_trial_of_a_block_is_told_and_looks_at_a_few_images_that_are_spread(stock, monkeypatch):
    model, lines, looked = stock("yolov8n.yaml"), [], []
    batches = [Batch(torch.full((4, 3, 32, 32), float(number)), {}) for number in range(16)]

    def loss(ready, seen):
        looked.append([float(batch.images[0, 0, 0, 0]) for batch in seen])
        return 1.0 - 0.001 * len(looked)

    monkeypatch.setattr(depth, "mean_loss", loss)
    chosen = least_important_blocks(
        model, 2, batches, progress=lambda text, done, total: lines.append((text, done, total))
    )
    blocks = len(removable_blocks(model))
    assert len(chosen) == 2 and looked == [[0.0, 15.0]] * (blocks + blocks - 1)
    trials = [line for line in lines if "loss without" in line[0]]
    assert len(trials) == len(looked)
    assert trials[0] == ("block 1 of 2: loss without model.2.m.0", 0, blocks)
    assert all(done <= total for _, done, total in lines)


def test_few_batches_hold_images_enough():
    def of(*sizes):
        return [Batch(torch.zeros(size, 1, 1, 1), {}) for size in sizes]

    assert [len(one.images) for one in few_batches(of(4, 1, 1, 4))] == [4, 4]
    assert few_batches(of(2, 2, 2)) != [] and len(few_batches(of(2, 2, 2))) == 3
    assert len(few_batches(of(*[1] * 64))) == 8
    assert len(few_batches(of(64, 64))) == 1
    assert few_batches([]) == []


def test_the_model_with_all_blocks_is_traced_and_digested_once(stock, monkeypatch):
    model, traced, digested = stock("yolov8n.yaml"), [], []
    trace, digest = pruner_module.trace_model, pruner_module._weights_digest
    monkeypatch.setattr(pruner_module, "trace_model", lambda one, size: traced.append(one) or trace(one, size))
    monkeypatch.setattr(pruner_module, "_weights_digest", lambda one: digested.append(one) or digest(one))
    whole = Pruner(model, 64, ignore=["model.4.m.1.*"])
    smaller = whole.without(["model.4.m.0"]).without(["model.4.m.0", "model.6.m.0"])
    assert len(traced) == 3 and sum(one is model for one in traced) == 1
    anew = Pruner(model, 64, ignore=["model.4.m.1.*"], removed=["model.4.m.0", "model.6.m.0"])
    assert (smaller.macs_unpruned, smaller.params_unpruned) == (anew.macs_unpruned, anew.params_unpruned)
    assert [(one.name, one.allowed, one.fixed) for one in smaller.dimensions] == [
        (one.name, one.allowed, one.fixed) for one in anew.dimensions
    ]
    assert smaller.source == whole.source == anew.source and len(digested) == 2
