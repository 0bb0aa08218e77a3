"""Random plans on three families: a plan applies and the forward pass holds, or it is refused; there is no third.

``EDGEPRUNE_MATRIX`` (``make test-matrix``) draws many more.
"""

from __future__ import annotations

import json
import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeprune.checkpoint import parameter_count
from edgeprune.errors import DataError, EdgepruneError, TargetError
from edgeprune.pruning import equivalence
from edgeprune.pruning.depth import removable_blocks
from edgeprune.pruning.plan import plan_from_data
from edgeprune.pruning.pruner import Pruner

FAMILIES = ["yolov8n", "yolo11n", "yolo26n"]
SLOW_ON_PURPOSE = settings(
    max_examples=40 if os.environ.get("EDGEPRUNE_MATRIX") else 4,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def pruners(stock):
    made = {name: Pruner(stock(f"{name}.yaml"), 64, align=1, min_width=1) for name in FAMILIES}
    return {name: (pruner, pruner.scores("random")) for name, pruner in made.items()}


@pytest.mark.parametrize("name", FAMILIES)
@SLOW_ON_PURPOSE
@given(data=st.data())
def test_allowed_widths_apply(pruners, name, data):
    pruner, scores = pruners[name]
    widths = {
        dimension.name: data.draw(st.sampled_from(dimension.allowed), label=dimension.name)
        for dimension in pruner.dimensions
        if dimension.fixed is None
    }
    plan = pruner.plan(widths=widths, scores=scores)
    pruned = pruner.apply(
        plan_from_data(json.loads(plan.text()), "a plan")
    )  # compares outputs with the masked original
    assert all(torch.isfinite(out).all() for out in equivalence.raw_outputs(pruned, equivalence.check_image(pruned)))


@pytest.mark.parametrize("name", FAMILIES)
@SLOW_ON_PURPOSE
@given(data=st.data())
def test_any_width_applies_or_is_refused(pruners, name, data):
    pruner, scores = pruners[name]
    dimension = data.draw(st.sampled_from(pruner.dimensions), label="dimension")
    width = data.draw(st.integers(-1, dimension.width + 1), label="width")
    try:
        plan = pruner.plan(widths={dimension.name: width}, scores=scores)
    except TargetError as error:
        assert dimension.name in str(error)
        assert width not in dimension.allowed
        return
    pruner.apply(plan)


@pytest.mark.parametrize("name", FAMILIES)
@SLOW_ON_PURPOSE
@given(data=st.data())
def test_a_plan_with_one_changed_number_applies_or_is_refused(pruners, name, data):
    pruner, scores = pruners[name]
    content = json.loads(pruner.plan(ratio=0.5, scores=scores).text())
    lines = [line for line in content["dimensions"] if line["kept"]]
    line = data.draw(st.sampled_from(lines), label="line")
    part = data.draw(st.sampled_from(sorted(line["kept"])), label="part")
    at = data.draw(st.integers(0, len(line["kept"][part]) - 1), label="position")
    line["kept"][part][at] = data.draw(st.integers(-2, line["before"] + 1), label="index")
    try:
        pruner.apply(plan_from_data(content, "a plan"))
    except DataError as error:
        assert line["name"] in str(error)


REQUESTS = {
    "macs_speed_up": st.floats(1, 8),
    "params_ratio": st.floats(0.05, 1),
    "ratio": st.floats(0, 1),
}


@pytest.mark.parametrize("name", FAMILIES)
@SLOW_ON_PURPOSE
@given(data=st.data())
def test_any_request_under_any_constraint_is_met_or_refused(stock, name, data):
    model = stock(f"{name}.yaml")
    blocks = [block.name for block in removable_blocks(model)]
    align = data.draw(st.sampled_from([1, 2, 4, 8, 16, 24, 32]), label="align")
    min_width = data.draw(st.sampled_from([1, 8, 40]), label="min_width")
    removed = data.draw(st.lists(st.sampled_from(blocks), max_size=3, unique=True), label="removed")
    share = data.draw(st.sampled_from([None, 0.0, 0.3, 0.9]), label="max_ratio of the head")
    ignored = data.draw(st.sampled_from([(), ("model.[0-4]*",)]), label="ignore")
    kind = data.draw(st.sampled_from(sorted(REQUESTS)), label="request")
    amount = data.draw(REQUESTS[kind], label="amount")
    scope = data.draw(st.sampled_from(["global", "local"]), label="scope")
    pruner = Pruner(
        model, 64, align=align, min_width=min_width, removed=removed, ignore=ignored,
        max_ratio={} if share is None else {f"model.{len(model.model) - 1}.*": share},
    )  # fmt: skip
    try:
        plan = pruner.plan(**{kind: amount}, importance="random", scope=scope)  # pyright: ignore[reportArgumentType]
    except TargetError as error:
        assert "out of reach" in str(error)
        return
    if kind == "macs_speed_up":
        assert plan.macs_speed_up >= amount * (1 - 1e-6)
    elif kind == "params_ratio":
        assert plan.params[1] <= amount * plan.params[0] * (1 + 1e-6)
    for dimension, line in zip(pruner.dimensions, plan.dimensions, strict=True):
        assert line.after in dimension.allowed
        if dimension.fixed is None:
            assert line.after % align == 0 or line.after == line.before
            assert line.after >= min_width
    pruned = pruner.apply(
        plan_from_data(json.loads(plan.text()), "a plan")
    )  # compares outputs with the masked original
    assert parameter_count(pruned) == plan.params[1]


@SLOW_ON_PURPOSE
@given(junk=st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_junk_is_never_a_plan(junk):
    with pytest.raises(EdgepruneError):
        plan_from_data(junk, "junk")
