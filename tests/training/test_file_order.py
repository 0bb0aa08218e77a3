"""What is written lies in the order of files (NCHW), in whatever order a GPU trained it: older releases of Ultralytics
merge layers by ``view``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgeprune import checkpoint
from edgeprune.settings import TrainSettings
from edgeprune.training.finetune import finetune
from edgeprune.training.result_from_run import weights_digest


def as_on_a_gpu(trainer: Any) -> None:
    for model in (trainer.model, trainer.ema.ema):
        model.to(memory_format=torch.channels_last)
    assert not in_order(trainer.ema.ema)


def in_order(model: nn.Module) -> bool:
    return all(tensor.is_contiguous() for tensor in model.state_dict().values())


def model_in(path: Path) -> nn.Module:
    content = torch.load(path, weights_only=False)
    return content["model"] if content["model"] is not None else content["ema"]


def merge_by_view(model: nn.Module) -> None:
    """What ``fuse_conv_and_bn`` does to a weight in the releases that are out."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.view(layer.out_channels, -1)


@pytest.mark.parametrize("taught", [False, True], ids=["alone", "by features"])
def test_every_checkpoint_of_a_training(
    taught: bool, tmp_path: Path, narrow: Path, full: Path, digits: Path, settings: TrainSettings
) -> None:
    """Of every epoch, of the best, of the last, and what is handed on."""
    once = replace(settings, epochs=1, train={"save_period": 1})
    if taught:
        once = replace(once, teacher=full, response=0.0, feature=1.0)
    watchers = [("on_pretrain_routine_end", as_on_a_gpu)]
    trained = finetune(narrow, data=digits, out=tmp_path / "out", settings=once, work=tmp_path / "w", watchers=watchers)
    files = [*(tmp_path / "w" / "run" / "weights").glob("*.pt"), trained.best]
    assert {file.name for file in files} >= {"best.pt", "last.pt", "epoch0.pt"}
    for file in files:
        assert in_order(model_in(file)), file.name
        merge_by_view(model_in(file))


def test_a_model_in_another_order_is_saved_and_read_in_that_of_files(tmp_path: Path, narrow: Path) -> None:
    """Also one that was written in it before: by training on CUDA, and by whoever saves a module as it is."""
    source = checkpoint.load(narrow)
    figures = weights_digest(source.model)
    source.model.to(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError, match="view"):
        merge_by_view(source.model)
    checkpoint.save(source.model, tmp_path / "saved.pt", like=source)
    assert in_order(model_in(tmp_path / "saved.pt"))
    assert not in_order(source.model), "what is saved is not changed"
    content = torch.load(narrow, weights_only=False)
    torch.save({**content, "model": content["model"].to(memory_format=torch.channels_last)}, tmp_path / "by-hand.pt")
    assert not in_order(model_in(tmp_path / "by-hand.pt"))
    read = checkpoint.load(tmp_path / "by-hand.pt").model
    merge_by_view(read)
    assert in_order(read) and weights_digest(read) == figures
