"""Random widths on three families: a plan applies and the forward pass holds, or it is refused; there is no third."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeprune.errors import EdgepruneError, StageError, TargetError
from edgeprune.pruning import narrow
from edgeprune.pruning.plan import Plan
from edgeprune.pruning.pruner import Pruner

FAMILIES = ["yolov8n", "yolo11n", "yolo26n"]
SLOW_ON_PURPOSE = settings(
    max_examples=6,
    deadline=None,
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
    pruned = pruner.apply(Plan.from_json(plan.to_json()))  # compares outputs with the masked original
    assert all(torch.isfinite(out).all() for out in narrow.raw_outputs(pruned, narrow.check_image(pruned)))


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
    content = pruner.plan(ratio=0.5, scores=scores).to_data()
    lines = [line for line in content["dimensions"] if line["kept"]]
    line = data.draw(st.sampled_from(lines), label="line")
    part = data.draw(st.sampled_from(sorted(line["kept"])), label="part")
    at = data.draw(st.integers(0, len(line["kept"][part]) - 1), label="position")
    line["kept"][part][at] = data.draw(st.integers(-2, line["before"] + 1), label="index")
    try:
        pruner.apply(Plan.from_data(content))
    except StageError as error:
        assert line["name"] in str(error)


@SLOW_ON_PURPOSE
@given(junk=st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_junk_is_never_a_plan(junk):
    with pytest.raises(EdgepruneError):
        Plan.from_data(junk)
