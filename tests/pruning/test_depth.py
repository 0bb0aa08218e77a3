"""Depth: dropping a block leaves a stock model whose forward pass holds and whose other blocks compute the same."""

from __future__ import annotations

import copy

import pytest
import torch

from edgeprune.errors import StageError, TargetError
from edgeprune.pruning import equivalence
from edgeprune.pruning.depth import removable_blocks, remove_blocks
from edgeprune.pruning.pruner import Pruner


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
