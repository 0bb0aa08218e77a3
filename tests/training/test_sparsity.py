"""The sparsity term: the right scales, once per step, after averaging, unscaling and clipping."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgeprune import checkpoint
from edgeprune.errors import TargetError
from edgeprune.settings import AccuracyGoal, Schedule, SparsitySettings, TrainSettings
from edgeprune.training.scales import scales_of, summary_of
from edgeprune.training.sparsify import sparsify
from edgeprune.training.sparsity import (
    AttachSparsity,
    ScaleGroup,
    SparsityTerm,
    scale_groups,
)

GROUPS = [ScaleGroup("first", (("1", (0, 1, 2, 3)),)), ScaleGroup("tied", (("3", (0, 2)), ("5", (0, 2))))]


class Small(nn.Sequential):
    """Three convolutions with batch normalisation whose statistics are frozen, as averaging processes needs."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        super().__init__(
            nn.Conv2d(2, 4, 3),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, 1),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, 1),
            nn.BatchNorm2d(4),
        )
        for norm in (self[1], self[3], self[5]):
            norm.weight.data.uniform_(-1, 1)
            norm.eval()


def first_of(epochs: int = 1):
    return lambda: (0, epochs)


def optimizer_with_term(model: nn.Module, settings: SparsitySettings, learner: nn.Module | None = None):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    optimizer.register_step_pre_hook(SparsityTerm(learner or model, GROUPS, settings, first_of()))
    return optimizer


def batch(count: int) -> torch.Tensor:
    return torch.randn(count, 2, 6, 6, generator=torch.Generator().manual_seed(7))


def test_single_scales_get_their_sign_and_tied_ones_their_share() -> None:
    model = Small()
    optimizer = optimizer_with_term(model, SparsitySettings(strength=0.3, bias_strength=0.2))
    model(batch(2)).square().mean().backward()
    plain = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer.step()
    added = {name: parameter.grad - plain[name] for name, parameter in model.named_parameters()}
    assert torch.allclose(added["1.weight"], 0.3 * before["1.weight"].sign(), atol=1e-7)
    length = (before["3.weight"].square() + before["5.weight"].square()).sqrt()
    for name in ("3.weight", "5.weight"):
        expected = 0.3 * before[name] / length
        expected[[1, 3]] = 0.0  # channels of no prunable part
        assert torch.allclose(added[name], expected, atol=1e-7)
    assert torch.equal(added["1.bias"], 0.2 * before["1.bias"].sign())  # zero where the bias is zero
    assert added["0.weight"].abs().max() == 0


def test_tied_scales_can_be_exempt() -> None:
    model = Small()
    optimizer = optimizer_with_term(model, SparsitySettings(strength=0.3, tied="exempt"))
    model(batch(2)).square().mean().backward()
    plain = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    optimizer.step()
    assert not torch.equal(model[1].weight.grad, plain["1.weight"])
    assert torch.equal(model[3].weight.grad, plain["3.weight"])
    assert torch.equal(model[5].weight.grad, plain["5.weight"])


def test_loss_scaling_and_clipping_do_not_touch_the_term() -> None:
    """The step of a scaled, clipped run equals the step by the clipped gradient plus the whole subgradient."""
    settings = SparsitySettings(strength=0.3)
    model, twin = Small(), Small()
    optimizer = optimizer_with_term(model, settings)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(model(batch(2)).square().sum()).backward()
    scaler.unscale_(optimizer)  # the order of Ultralytics' optimizer_step
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm=0.5)
    assert norm > 0.5, "clipping must bite"
    scaler.step(optimizer)
    twin(batch(2)).square().sum().backward()
    nn.utils.clip_grad_norm_(twin.parameters(), max_norm=0.5)
    before = twin[1].weight.detach().clone()
    torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9).step()
    expected = twin[1].weight - 0.05 * 0.3 * before.sign()
    assert torch.allclose(model[1].weight, expected, atol=1e-6)


def test_a_step_that_the_scaler_skips_skips_the_term() -> None:
    model = Small()
    optimizer = optimizer_with_term(model, SparsitySettings(strength=0.3))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = model[1].weight.detach().clone()
    scaler.scale(model(batch(2)).sum() * float("inf")).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(model[1].weight, before)


def _train(images: torch.Tensor, model: nn.Module, learner: nn.Module) -> dict[str, torch.Tensor]:
    optimizer = optimizer_with_term(model, SparsitySettings(strength=0.2, bias_strength=0.1), learner)
    for _ in range(8):
        optimizer.zero_grad()
        model(images).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm=10.0)
        optimizer.step()
    return {name: value.clone() for name, value in learner.state_dict().items()}


def _worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    learner = Small()
    model = nn.parallel.DistributedDataParallel(learner)
    torch.save(_train(batch(8).chunk(2)[rank], model, learner), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_sparsify_like_one_with_the_doubled_batch(tmp_path: Path) -> None:
    alone = Small()
    expected = _train(batch(8), alone, alone)
    mp.spawn(_worker, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    start = Small().state_dict()
    assert (expected["1.weight"] - start["1.weight"]).abs().max() > 0.05, "training must move the scales"
    for name, value in expected.items():
        assert torch.equal(first[name], second[name]), f"{name} differs between the processes"
        assert torch.allclose(first[name], value, atol=1e-5), f"{name} differs from one process"


@given(st.sampled_from(get_args(Schedule)), st.floats(0, 1), st.integers(1, 400))
def test_the_strength_never_rises_and_ends_where_it_should(schedule, final: float, epochs: int) -> None:
    settings = SparsitySettings(schedule=schedule, final=final)
    factors = [settings.factor(epoch, epochs) for epoch in range(epochs)]
    assert factors[0] == 1.0
    assert all(a >= b - 1e-12 for a, b in pairwise(factors))
    assert factors[-1] == pytest.approx(1.0 if schedule == "constant" or epochs == 1 else final)


@pytest.mark.parametrize(
    "values",
    [{"strength": 0.0}, {"strength": float("nan")}, {"bias_strength": -1.0}, {"schedule": "steps"}, {"final": 2.0}]
    + [{"tied": "maybe"}],
    ids=str,
)
def test_impossible_settings_are_refused(values: dict) -> None:
    with pytest.raises(TargetError):
        SparsitySettings(**values)


def test_groups_come_from_the_model_and_cover_shortcuts(narrow: Path) -> None:
    model = checkpoint.load(narrow).model
    groups = scale_groups(model, 64)
    norms = {name for group in groups for name, _ in group.norms}
    modules = dict(model.named_modules())
    assert all(isinstance(modules[name], nn.BatchNorm2d) for name in norms)
    tied = [group for group in groups if group.tied]
    assert {"model.8.cv1.bn", "model.8.m.0.cv2.bn"} in [{name for name, _ in group.norms} for group in tied]
    seen: set[tuple[str, int]] = set()
    for group in groups:
        assert len({len(indices) for _, indices in group.norms}) == 1
        for name, indices in group.norms:
            for index in indices:
                assert (name, index) not in seen, "no scale may be penalised twice"
                seen.add((name, index))
                assert index < modules[name].num_features


def test_training_shrinks_scales_and_reports_it(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings
) -> None:
    hard = SparsitySettings(strength=1.0, schedule="constant")
    quick = replace(settings, epochs=1, lr0=0.1, optimizer="SGD", train={"warmup_epochs": 0.0})
    result = sparsify(narrow, data=digits, out=tmp_path / "o", work=tmp_path / "w", settings=quick, sparsity=hard)
    plain = sparsify(
        narrow,
        data=digits,
        out=tmp_path / "o2",
        work=tmp_path / "w2",
        settings=quick,
        sparsity=replace(hard, strength=1e-9),
    )
    groups = scale_groups(checkpoint.load(narrow).model, 64)
    after, plain_after = (scales_of(checkpoint.load(r.trained.best).model, groups).channels for r in (result, plain))
    assert after.mean() < plain_after.mean() - 0.05
    report = json.loads((tmp_path / "o" / "scales.json").read_text())
    assert report["summary"] == result.scales.summary
    assert result.trained.summary.best_epoch == result.trained.summary.epochs_run
    assert sum(report["after"]["overall"]["scales"]) == report["after"]["overall"]["channels"] == len(after)
    layers = report["after"]["layers"].values()
    assert all(sum(layer["biases"]) == layer["channels"] for layer in layers)


@pytest.mark.parametrize(
    ("bias", "words"), [(0.01, "small enough to prune"), (0.5, "not small enough")], ids=["small", "large"]
)
def test_the_verdict_is_about_biases_of_channels_that_are_off(bias: float, words: str) -> None:
    model = Small()
    before = scales_of(model, GROUPS)
    for norm in (model[1], model[3], model[5]):
        norm.weight.data.fill_(1e-3)
        norm.bias.data.fill_(bias)
    after = scales_of(model, GROUPS)
    assert after.share_off == 1.0
    assert words in summary_of(before, after)


def test_a_channel_is_off_only_if_all_its_tied_scales_are() -> None:
    model = Small()
    model[3].weight.data.zero_()
    model[5].weight.data.fill_(1.0)
    assert scales_of(model, GROUPS[1:]).share_off == 0.0


def test_nothing_off_is_said_plainly() -> None:
    scales = scales_of(Small(), GROUPS[:1])
    assert "nothing is ready" in summary_of(scales, scales)


def test_distributed_training_can_pickle_what_it_is_given(narrow: Path) -> None:
    """Ultralytics hands trainer class, model and callbacks to its processes through cloudpickle, by name."""
    import cloudpickle

    from edgeprune.training.distillation import AttachTeacher
    from edgeprune.training.early_stop import StopAtGoal
    from edgeprune.training.run import EpochReporter
    from edgeprune.training.trainers import TRAINERS

    callbacks = [
        AttachSparsity(GROUPS, SparsitySettings()),
        StopAtGoal(AccuracyGoal(baseline=0.5, max_drop=0.01)),
        EpochReporter("x", lambda *a, **k: None),
    ]
    callbacks.append(AttachTeacher(Path("teacher.pt"), 0.5))
    again = cloudpickle.loads(cloudpickle.dumps({"trainers": TRAINERS, "callbacks": callbacks}))
    assert all(again["trainers"][task] is trainer for task, trainer in TRAINERS.items())
    assert again["callbacks"][0].groups == GROUPS
    assert again["callbacks"][1] == callbacks[1]
    assert (again["callbacks"][3].teacher, again["callbacks"][3].weight) == (Path("teacher.pt"), 0.5)


def test_an_optimizer_that_rescales_gradients_is_refused(
    tmp_path: Path, narrow: Path, digits: Path, settings: TrainSettings
) -> None:
    with pytest.raises(TargetError, match=r"MuSGD rescales gradients.*; allowed: AdamW, SGD, Adam, .*RMSprop$"):
        muon = replace(settings, optimizer="MuSGD")
        sparsify(narrow, data=digits, out=tmp_path / "o", work=tmp_path / "w", settings=muon)
