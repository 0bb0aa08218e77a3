"""Criteria: their formulas on a model small enough to check by hand, and the loss's derivatives against differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeprune.errors import TargetError
from edgeprune.pruning.batches import Batch
from edgeprune.pruning.channel_gradients import channel_gradients
from edgeprune.pruning.criteria import REGISTRY, importance, importance_named
from edgeprune.pruning.group import group_of
from edgeprune.pruning.loss import batch_loss, loss_model
from edgeprune.pruning.pruner import Pruner


@pytest.fixture(scope="module")
def pruner(stock):
    return Pruner(stock("yolov8n.yaml"), 64)


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(0)
    labels = {
        "cls": torch.tensor([[1.0], [2.0], [0.0]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.3], [0.3, 0.6, 0.2, 0.2], [0.6, 0.4, 0.5, 0.6]]),
        "batch_idx": torch.tensor([0.0, 0.0, 1.0]),
    }
    return Batch(torch.rand(2, 3, 64, 64, generator=generator), labels)


def _group(pruner, name):
    dimension = pruner.dimensions[pruner.structure.index[name]]
    modules = dict(pruner.model.named_modules())
    return group_of(pruner.structure, modules, dimension.parts[0], gradients=None, generator=torch.Generator())


def _norms(pruner):
    """Mean over convolution, normalisation and next convolution of the squared weights of ``model.0``'s channels."""
    first, second = pruner.model.model[0], pruner.model.model[1]
    terms = [first.conv.weight.square().sum((1, 2, 3)), first.bn.weight.square()]
    return ((sum(terms) + second.conv.weight.square().sum((0, 2, 3))) / 3).detach()


def test_l2_is_the_mean_over_layers_of_squared_weights(pruner):
    expected = _norms(pruner) / _norms(pruner).mean()
    assert torch.allclose(REGISTRY["l2"].score(_group(pruner, "model.0")), expected, rtol=1e-5)


def test_lamp_divides_by_everything_that_is_not_smaller(pruner):
    norms = _norms(pruner)
    expected = torch.stack([norm / norms[norms >= norm].sum() for norm in norms])
    assert torch.allclose(REGISTRY["lamp"].score(_group(pruner, "model.0")), expected, rtol=1e-5)


def test_a_channel_that_is_concatenated_four_times_counts_every_column(pruner):
    group = _group(pruner, "model.9.cv1")  # SPPF
    consumer = next(slot for slot in group.slots if slot.kind == "in")
    weight = pruner.model.model[9].cv2.conv.weight[:, :, 0, 0]
    assert consumer.weight.shape == (128, 4 * 256)
    assert torch.equal(consumer.weight[5].sort().values, weight[:, 5::128].flatten().sort().values)


@pytest.mark.parametrize("name", ["model.0", "model.4.cv1", "model.12.m.0.cv1", "model.22.cv3.0.0"])
def test_gradients_are_the_derivative_by_a_factor_on_the_channel(pruner, batch, name):
    gradients = channel_gradients(pruner.model, pruner.structure, [batch])
    part = pruner.dimensions[pruner.structure.index[name]].parts[0]
    unit = int(part.units[3])
    ready = loss_model(pruner.model).double()

    def loss(factor: float) -> float:
        changed = []
        for (module, kind), slot in pruner.structure.trace.slots.items():
            if kind == "norm":
                at = np.flatnonzero(pruner.structure.unit[slot.labels] == unit)
                layer = ready.get_submodule(module)
                with torch.no_grad():
                    layer.weight[at] *= factor
                    layer.bias[at] *= factor
                changed.append((layer, at))
        with torch.no_grad():
            value = float(batch_loss(ready, batch))
            for layer, at in changed:
                layer.weight[at] /= factor
                layer.bias[at] /= factor
        return value

    step = 1e-5
    numeric = (loss(1 + step) - loss(1 - step)) / (2 * step)
    assert gradients[0, unit] == pytest.approx(numeric, rel=0.05, abs=1e-4)


def test_ten_lines_add_a_criterion(pruner):
    @importance("largest_weight")
    def largest_weight(group):
        return torch.stack([slot.weight.abs().amax(1) for slot in group.layers]).mean(0)

    try:
        plan = pruner.plan(ratio=0.3, importance="largest_weight")
        assert plan.settings.importance == "largest_weight"
        pruner.apply(plan)
    finally:
        del REGISTRY["largest_weight"]


@pytest.mark.parametrize("name", ["l1", "fpgm", "lamp", "random"])
@pytest.mark.parametrize(
    ("normalisation", "holds"),
    [
        ("sum", lambda scores: scores.sum() == pytest.approx(1)),
        ("mean", lambda scores: scores.mean() == pytest.approx(1)),
        ("max", lambda scores: scores.max() == pytest.approx(1)),
        ("standarization", lambda scores: scores.min() == 0 and scores.max() == pytest.approx(1)),
    ],
)
def test_a_normalisation_is_what_its_name_says(pruner, name, normalisation, holds):
    scores = pruner.scores(name, normalisation=normalisation)
    assert all(holds(row.numpy()) for rows in scores.values() for row in rows)


def test_without_normalisation_l1_is_the_sum_of_absolute_weights(pruner):
    first, second = pruner.model.model[0], pruner.model.model[1]
    terms = [first.conv.weight.abs().sum((1, 2, 3)), first.bn.weight.abs(), second.conv.weight.abs().sum((0, 2, 3))]
    expected = (sum(terms) / 3).detach().double()
    assert torch.allclose(pruner.scores("l1", normalisation="none")["model.0"][0], expected, rtol=1e-5)


def test_a_normalisation_decides_between_dimensions_and_is_in_the_plan(pruner):
    plans = [pruner.plan(ratio=0.5, importance="l1", normalisation=one) for one in (None, "mean", "none", "max")]
    assert plans[0].widths == plans[1].widths  # the mean is what l1 does by itself
    assert plans[0].widths != plans[2].widths != plans[3].widths
    assert [plan.settings.normalisation for plan in plans] == [None, "mean", "none", "max"]
    with pytest.raises(TargetError, match="standarization"):
        pruner.plan(ratio=0.5, normalisation="magic")


def test_an_unknown_criterion_lists_the_known_ones():
    with pytest.raises(TargetError, match="lamp"):
        importance_named("magic")


def test_auto_is_taylor_with_batches_and_lamp_without(pruner, batch):
    assert pruner.plan(ratio=0.2).settings.importance == "lamp"
    assert pruner.plan(ratio=0.2, batches=[batch]).settings.importance == "taylor"


def test_random_is_the_seed(pruner):
    def kept(seed):
        return pruner.plan(ratio=0.3, importance="random", seed=seed).digest

    assert kept(1) == kept(1)
    assert kept(1) != kept(2)
