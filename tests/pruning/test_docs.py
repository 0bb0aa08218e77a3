"""What docs/pruning.md shows does run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgeprune.pruning import criteria
from edgeprune.pruning.pruner import Pruner

PAGE = (Path(__file__).resolve().parents[2] / "docs/pruning.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("name", ["largest_weight", "l2_median"])
def test_a_criterion_of_ones_own_is_registered_and_prunes(stock, name):
    (code,) = [code for code in EXAMPLES if name in code]
    assert len(code.strip().splitlines()) <= 10
    before = dict(criteria.REGISTRY)
    try:
        exec(compile(code, "docs/pruning.md", "exec"), {})
        assert set(criteria.REGISTRY) - set(before) == {name}
        pruner = Pruner(stock("yolov8n.yaml"), 64)
        plan = pruner.plan(macs_speed_up=2, importance=name)
    finally:
        criteria.REGISTRY.clear()
        criteria.REGISTRY.update(before)
    assert plan.settings.importance == name
    pruner.apply(plan)


def test_every_criterion_and_normalisation_is_named():
    named = set(re.findall(r"`(\w+)`", PAGE))
    assert set(criteria.REGISTRY) <= named
    assert set(criteria.NORMALISATIONS) <= named
