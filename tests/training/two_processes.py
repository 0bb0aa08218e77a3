"""Sparsity training of a narrow v8n, as one process or as one of two: run it with WEIGHTS DATA OUT
STRENGTH NBS.

What makes one process with the whole batch and two with a half each the same run: statistics of batch normalisation
that are frozen, a loss that is a sum over images (Ultralytics normalises by the targets of a process's share), steps
that see the same images, and no random augmentation.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.utils.torch_utils import unwrap_model

from edgeprune import checkpoint
from edgeprune.settings import SparsitySettings, TrainSettings
from edgeprune.training.finetune import finetune
from edgeprune.training.sparsity import AttachSparsity, scale_groups

PLAIN = dict.fromkeys(("fliplr", "hsv_h", "hsv_s", "hsv_v", "scale", "translate", "mosaic", "warmup_epochs"), 0.0)


class PerImage:
    """A detection loss, image by image."""

    def __init__(self, own: Any) -> None:
        self.own = own

    def __call__(self, preds: dict[str, Any], batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        losses, items = [], {}
        for index in range(len(batch["img"])):
            here = batch["batch_idx"] == index
            one = {
                "batch_idx": torch.zeros(int(here.sum())),
                "cls": batch["cls"][here],
                "bboxes": batch["bboxes"][here],
            }
            answers = {key: preds[key][index : index + 1] for key in ("boxes", "scores")}
            loss, items = self.own(answers | {"feats": [level[index : index + 1] for level in preds["feats"]]}, one)
            losses.append(loss)
        return torch.stack(losses).sum(0), items


def sum_over_images(trainer: Any) -> None:
    learner: Any = unwrap_model(trainer.model)
    learner.criterion = PerImage(learner.init_criterion())


def freeze_statistics(trainer: Any) -> None:
    for module in trainer.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def main(weights: Path, data: Path, out: Path, strength: float, nbs: int) -> None:
    settings = TrainSettings(
        epochs=3,
        batch=8,
        device="cpu",
        imgsz=64,
        lr0=0.02,
        optimizer="SGD",
        quiet=True,
        train={**PLAIN, "momentum": 0.9, "nbs": nbs},
    )
    groups = scale_groups(checkpoint.load(weights).model, 64)
    watchers = [
        (
            "on_pretrain_routine_end",
            AttachSparsity(groups, SparsitySettings(strength=strength, bias_strength=strength)),
        ),
        ("on_pretrain_routine_end", sum_over_images),
        ("on_train_batch_start", freeze_statistics),
    ]
    result = finetune(weights, data=data, out=out, settings=settings, work=out / "w", watchers=watchers, keep="last")
    print(result.best, result.summary.map50_95)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
