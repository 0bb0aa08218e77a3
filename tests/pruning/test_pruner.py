"""Pruner: widths asked for are widths given, outputs are those of the masked original, and plans can be trusted."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from dataclasses import MISSING, fields
from importlib.metadata import version

import numpy as np
import pytest
import torch
import ultralytics
from torch import nn

import edgeprune
from edgeprune.checkpoint import parameter_count, shape_signature
from edgeprune.errors import DataError, StageError, TargetError
from edgeprune.pruning import equivalence
from edgeprune.pruning.api import labelled_batches, prune
from edgeprune.pruning.batches import calibration_batches
from edgeprune.pruning.plan import plan_from_data
from edgeprune.pruning.pruner import Pruner
from edgeprune.pruning.sensitivity import sensitivity
from edgeprune.pruning.trace import trace_model
from edgeprune.serial import to_json
from edgeprune.settings import PruneSettings
from edgeprune.target import load_target
from edgeprune.training.iterative import prune_in_rounds

FAMILIES = ["yolov8n.yaml", "yolo11n.yaml", "yolo26n.yaml"]


@pytest.fixture(scope="module")
def pruner(stock):
    return Pruner(stock("yolo11n.yaml"), 320)


@pytest.fixture(scope="module")
def plan(pruner):
    return pruner.plan(macs_speed_up=2)


@pytest.mark.parametrize("yaml", FAMILIES)
def test_apply_reproduces_the_masked_original(stock, yaml):
    model = stock(yaml)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruner = Pruner(model, 320)
    plan = pruner.plan(macs_speed_up=2)
    pruned = pruner.apply(plan)
    image = torch.rand(1, 3, 96, 96)
    expected = equivalence.masked_outputs(model, pruner.structure, pruner.plan_mask(plan), image)
    got = equivalence.raw_outputs(pruned, image)
    assert max(float((a - b).abs().max()) for a, b in zip(expected, got, strict=True)) <= 1e-5
    assert equivalence.largest_difference(expected, got) <= 1e-4
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_wrong_channel_is_noticed(stock, pruner, plan):
    pruned = pruner.apply(plan)
    with torch.no_grad():
        pruned.model[4].cv2.conv.weight[:] = pruned.model[4].cv2.conv.weight.flip(1)
    image = equivalence.check_image(pruned)
    expected = equivalence.masked_outputs(pruner.model, pruner.structure, pruner.plan_mask(plan), image)
    assert (
        equivalence.largest_difference(expected, equivalence.raw_outputs(pruned, image))
        > 10 * equivalence.LARGEST_ERROR
    )


def test_shapes_follow_the_plan(pruner, plan):
    pruned = pruner.apply(plan)
    widths = pruner._width_vector(plan.widths)
    modules = dict(pruned.named_modules())
    for (name, kind), slot in pruner.structure.trace.slots.items():
        weight = modules[name].weight
        axis = 1 if kind == "in" else 0
        assert weight.shape[axis] == pruner.structure.width_shares(slot.labels) @ widths, (name, kind)
    assert any(line.after < line.before for line in plan.dimensions)
    assert parameter_count(pruned) == plan.params[1]
    assert shape_signature(pruned) == plan.result_shapes


def test_the_plan_survives_json_and_gives_the_same_bits(pruner, plan):
    again = plan_from_data(json.loads(plan.text()), "a plan")
    assert again == plan
    assert again.digest == plan.digest
    first, second = pruner.apply(plan).state_dict(), pruner.apply(again).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_plan_says_what_made_it(plan):
    assert dict(plan.versions) == {
        "edgeprune": edgeprune.__version__,
        "ultralytics": ultralytics.__version__,
        "torch": torch.__version__,
        "torch-pruning": version("torch-pruning"),
    }


def test_savings_are_those_of_each_width_alone(pruner, plan):
    savings = pruner.savings(plan.widths)
    assert set(savings) == {line.name for line in plan.dimensions if line.after != line.before}
    for name, (macs, params) in list(savings.items())[:3]:
        alone = pruner.plan(widths={name: plan.widths[name]})
        assert (alone.macs[0] - alone.macs[1], alone.params[0] - alone.params[1]) == (macs, params)
        assert macs > 0
        assert params > 0


def test_a_plan_for_another_model_is_refused(stock, plan):
    with pytest.raises(DataError, match="does not fit"):
        Pruner(stock("yolov8n.yaml"), 320).apply(plan)


def test_a_plan_with_unequal_heads_is_refused(pruner, plan):
    line = next(line for line in plan.dimensions if line.name.endswith("attn.qkv"))
    wrong = dataclasses.replace(line, after=8, kept={line.name: tuple(range(8))})
    lines = tuple(wrong if one is line else one for one in plan.dimensions)
    with pytest.raises(DataError, match="unequally many"):
        pruner.apply(dataclasses.replace(plan, dimensions=lines))


def test_a_foreign_block_is_refused_by_name(stock):
    class Homemade(nn.Module):
        def forward(self, x):
            return x

    model = __import__("copy").deepcopy(stock("yolov8n.yaml"))
    model.model[0].act = Homemade()
    with pytest.raises(StageError, match="Homemade"):
        Pruner(model, 320)


def test_a_model_whose_blocks_cannot_be_followed_is_refused_by_the_block():
    from ultralytics.nn.tasks import RTDETRDetectionModel

    model = RTDETRDetectionModel("rtdetr-l.yaml", verbose=False).eval()
    with pytest.raises(StageError, match=r"block \w+ \(model\.28\S*\) cannot be traced at 320 px"):
        trace_model(model, 320)


def test_a_model_in_the_interface_of_ultralytics_is_pruned_as_the_one_inside(stock):
    from ultralytics import YOLO

    wrapped = YOLO("yolov8n.yaml")
    wrapped.model = stock("yolov8n.yaml")
    plans = [prune(one, ratio=0.3, imgsz=64).plan for one in (wrapped, wrapped.model)]
    assert plans[0] == plans[1] == Pruner(wrapped, 64).plan(ratio=0.3)


@pytest.mark.parametrize("name", ["RTDETRDetectionModel", "WorldModel", "YOLOEModel", "YOLOESegModel"])
def test_a_model_of_another_family_is_refused_by_its_class(stock, name):
    """Given itself as in a checkpoint, to whatever prunes."""
    from ultralytics.nn import tasks

    model = getattr(tasks, name).__new__(getattr(tasks, name))
    model.__dict__.update(stock("yolov8n.yaml").__dict__)
    for refuse in (
        lambda: prune(model, macs_speed_up=2),
        lambda: Pruner(model, 64),
        lambda: sensitivity(model, []),
    ):
        with pytest.raises(DataError, match=f"the model is a {name} .* neither prunes nor judges; allowed are"):
            refuse()


@pytest.mark.parametrize("model", [nn.Conv2d(3, 8, 1), nn.Sequential(nn.Conv2d(3, 8, 1))])
def test_what_is_no_model_of_ultralytics_is_refused_by_its_class(model):
    with pytest.raises(DataError, match=f"the model is a {type(model).__name__}, not an Ultralytics model"):
        prune(model, macs_speed_up=2)


def test_an_exported_model_in_the_interface_of_ultralytics_is_refused(tmp_path):
    from ultralytics import YOLO

    (tmp_path / "n.onnx").touch()
    with pytest.raises(DataError, match=r"exported file, .*n\.onnx; give the checkpoint"):
        prune(YOLO(tmp_path / "n.onnx", task="detect"), macs_speed_up=2)


@pytest.fixture(scope="module")
def off_the_grid(stock):
    """Models with widths that are no multiples of the alignment they are pruned with, and that alignment."""
    from ultralytics.nn.tasks import DetectionModel

    narrow = Pruner(stock("yolov8n.yaml"), 64, align=1, min_width=1)
    return {
        "a stock pose model": (stock("yolov8n-pose.yaml"), 8),
        "70 classes": (DetectionModel("yolo11n.yaml", nc=70, verbose=False).eval(), 8),
        "pruned before": (narrow.apply(narrow.plan(ratio=0.2, scope="local"), check=False), 8),
        "steps of 16": (stock("yolov9t.yaml"), 16),
    }


@pytest.mark.parametrize("request_", [{"macs_speed_up": 1.0}, {"params_ratio": 1.0}, {"ratio": 0.0}])
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("name", ["a stock pose model", "70 classes", "pruned before", "steps of 16"])
def test_what_asks_for_nothing_changes_nothing(off_the_grid, name, steps, request_):
    model, align = off_the_grid[name]
    plan = Pruner(model, 64, align=align).plan(**request_, iterative_steps=steps)
    assert [(line.name, line.before, line.after) for line in plan.dimensions if line.before != line.after] == []
    assert (plan.params[0], plan.macs[0]) == (plan.params[1], plan.macs[1])


@pytest.mark.parametrize("name", ["a stock pose model", "70 classes", "pruned before", "steps of 16"])
def test_only_what_is_pruned_moves_to_the_grid(off_the_grid, name):
    model, align = off_the_grid[name]
    plan = Pruner(model, 64, align=align).plan(macs_speed_up=1.1)
    narrowed = [line for line in plan.dimensions if line.before != line.after]
    assert narrowed and all(line.after % align == 0 for line in narrowed)
    assert plan.macs_speed_up >= 1.1


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({}, "exactly one"),
        ({"macs_speed_up": 2, "ratio": 0.5}, "exactly one"),
        ({"macs_speed_up": 0.5}, "at least 1"),
        ({"macs_speed_up": 1000}, "out of reach"),
        ({"ratio": 1.5}, "between 0 and 1"),
        ({"macs_speed_up": 2, "importance": "magic"}, "choose one of"),
        ({"macs_speed_up": 2, "importance": "taylor"}, "batches"),
    ],
)
def test_impossible_requests_are_refused(pruner, request_, error):
    with pytest.raises(TargetError, match=error):
        pruner.plan(**request_)


@pytest.mark.parametrize(
    ("request_", "same"),
    [
        ({"macs_speed_up": np.int64(2)}, {"macs_speed_up": 2}),
        ({"macs_speed_up": np.float64(1.5)}, {"macs_speed_up": 1.5}),
        ({"ratio": np.float32(0.25)}, {"ratio": 0.25}),
        ({"params_ratio": np.float32(0.5)}, {"params_ratio": 0.5}),
    ],
)
def test_a_number_of_numpy_is_the_number(stock, request_, same):
    """As the points of a range come; a plan and what the checkpoint says of it are JSON."""
    more = {"imgsz": 64, "importance": "l2"}
    kept = {"max_ratio": {"model.2.*": np.float32(0.5)}}, {"max_ratio": {"model.2.*": 0.5}}
    made = prune(stock("yolov8n.yaml"), **request_, **kept[0], **more)
    plain = prune(stock("yolov8n.yaml"), **same, **kept[1], **more)
    assert (made.plan, made.metadata()) == (plain.plan, plain.metadata())
    assert repr(made.plan.settings.request) == repr(plain.plan.settings.request) == repr(same)


def test_ratios_may_be_an_array(stock):
    for ratios in (np.array([]), np.array([0.5, 1.0])):
        with pytest.raises(TargetError, match="ratios lie between 0 and 1"):
            sensitivity(stock("yolov8n.yaml"), [], imgsz=64, ratios=ratios)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({"macs_speed_up": -2.0}, r"macs_speed_up must be at least 1 \(seen: -2.0\)"),
        ({"macs_speed_up": 0.5}, r"macs_speed_up must be at least 1 \(seen: 0.5\)"),
        ({"macs_speed_up": math.nan}, r"macs_speed_up must be at least 1 \(seen: nan\)"),
        ({"macs_speed_up": math.inf}, r"macs_speed_up must be at least 1 \(seen: inf\)"),
        ({"macs_speed_up": 4000.0}, "macs_speed_up=4000 is out of reach: this model comes to "),
        ({"params_ratio": -0.5}, r"params_ratio must lie between 0 and 1 \(seen: -0.5\)"),
        ({"params_ratio": 1e-9}, "params_ratio=1e-09 is out of reach"),
        ({"ratio": 1.5}, r"ratio must lie between 0 and 1 \(seen: 1.5\)"),
        ({"ratio": 1.0}, "ratio=1 is out of reach"),
    ],
)
def test_what_cannot_be_met_is_refused_as_it_was_typed_before_any_channel_is_ranked(
    pruner, monkeypatch, request_, error, steps
):
    def ranked(*_, **__):
        raise AssertionError("ranked")

    monkeypatch.setattr(Pruner, "scores", ranked)
    with pytest.raises(TargetError, match=error):
        pruner.plan(**request_, iterative_steps=steps)


@pytest.mark.parametrize(
    ("constraints", "instead"),
    [
        ({"align": 8, "min_width": 8}, "lower align, or lower min_width, or ask for less"),
        ({"align": 1, "min_width": 8}, "lower min_width, or ask for less"),
        ({"align": 1, "min_width": 1}, "ask for less"),
    ],
)
def test_what_is_out_of_reach_is_not_laid_to_what_cannot_be_lowered(stock, constraints, instead):
    with pytest.raises(TargetError) as refused:
        Pruner(stock("yolov8n.yaml"), 64, **constraints).require_in_reach("ratio", 1.0)
    assert str(refused.value).endswith(f"); {instead}")


@pytest.mark.parametrize("request_", [{"macs_speed_up": -2.0}, {"params_ratio": 0.0}, {"ratio": 1.5}])
def test_a_request_out_of_range_is_refused_before_images_are_read_and_blocks_dropped(stock, request_):
    with pytest.raises(TargetError, match=f"{next(iter(request_))} must"):
        prune(stock("yolov8n.yaml"), **request_, imgsz=64, batches=[], drop_blocks=1)


def test_a_glob_that_matches_nothing_is_refused(stock):
    with pytest.raises(TargetError, match="matches no module"):
        Pruner(stock("yolov8n.yaml"), 320, ignore=["modle.*"])


def test_a_damaged_plan_is_refused():
    with pytest.raises(DataError, match="not a plan"):
        plan_from_data({"schema": 99}, "here")
    with pytest.raises(DataError, match="damaged"):
        plan_from_data({"schema": 1}, "here")


@pytest.mark.parametrize("counts", [{"macs": (0, 0)}, {"macs": (10, 0)}, {"params": (10, -1)}])
def test_a_plan_whose_counts_give_no_ratio_is_refused(stock, counts):
    plan = Pruner(stock("yolov8n.yaml"), 64).plan(ratio=0.2, importance="l2")
    with pytest.raises(DataError, match="both have to be 1 or more"):
        plan_from_data(to_json(dataclasses.replace(plan, **counts)), "here")


@pytest.mark.parametrize(
    "option",
    [
        {"ignore": ["model.2.*"]},
        {"max_ratio": {"model.4.*": 0.1}},
        {"align": 32},
        {"min_width": 64},
        {"drop_blocks": 2},
        {"importance": "fpgm"},
        {"iterative_steps": 7},
        {"scope": "local"},
        {"normalisation": "mean"},
        {"data": "data.yaml"},
        {"batches": []},
        {"head": "raw"},
        {"images": 8},
        {"batch": 2},
        {"seed": 3},
        *({one.name: one.default} for one in fields(PruneSettings) if one.default not in (MISSING, (), None)),
    ],
    ids=lambda option: next(iter(option)),
)
def test_what_a_plan_decides_is_not_taken_beside_it(stock, plan, option):
    with pytest.raises(TargetError, match=f"would be ignored: {next(iter(option))};"):
        prune(stock("yolo11n.yaml"), plan=plan, **option)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("images", 0), ("batch", 0), ("batch", 2**17), ("iterative_steps", 0), ("drop_blocks", -1), ("align", 0)),
        *(("min_width", 0), ("seed", -1), ("scope", "here"), ("head", "best"), ("max_ratio", {"model.*": 2.0})),
    ],
)
def test_prune_refuses_what_its_settings_do_not_allow(stock, name, value):
    with pytest.raises(TargetError, match=name) as refused:
        prune(stock("yolov8n.yaml"), ratio=0.2, imgsz=64, **{name: value})
    assert "\n" not in str(refused.value)


def test_pruning_is_by_default_the_same_from_a_profile_a_command_and_python():
    target, own = load_target("cpu"), PruneSettings()
    assert (target.channel_alignment, target.prune.min_width) == (own.align, own.min_width)
    for function in (Pruner, prune_in_rounds, labelled_batches, calibration_batches):
        taken = {name: one.default for name, one in inspect.signature(function).parameters.items()}
        for name in {"images", "batch", "align", "min_width"} & taken.keys():
            assert taken[name] == getattr(own, name), (function, name)
    assert all(inspect.signature(prune).parameters[one.name].default is None for one in fields(own))


def test_prune_takes_a_model(stock):
    result = prune(stock("yolov8n.yaml"), imgsz=320, params_ratio=0.5)
    assert result.plan.params[1] <= 0.5 * result.plan.params[0]
    assert result.plan.params[1] >= 0.5 * 0.97 * result.plan.params[0]
    assert parameter_count(result.model) == result.plan.params[1]
