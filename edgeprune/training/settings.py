"""What a training run is asked to do, checked before anything heavy starts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from edgeprune.errors import TargetError

OWNED = frozenset(
    ("model", "data", "mode", "task", "project", "name", "exist_ok", "save_dir", "resume", "pretrained", "save", "val")
    + ("cfg", "profile")
)
"""Ultralytics arguments that edgeprune sets itself."""
RENAMED = {"time": "time_h", "distill_model": "distill", "dis": "feature"}
SHORT_RUN = 30
"""Epochs below which mosaic is off: a short recovery cannot afford images that look unlike those it is judged on. v8n
on BCCD, pruned to a latency ratio of 1.6, ten epochs with a teacher, one seed: mAP50-95 .511 with mosaic closed for the
last third, .539 without."""
OPTIMIZERS = ("AdamW", "SGD", "Adam", "Adamax", "NAdam", "RAdam", "RMSprop", "MuSGD")


@dataclass(frozen=True)
class TrainSettings:
    """Settings of one training run; anything else Ultralytics can be told goes into ``extra``.

    The defaults suit a pruned model: every batch is an optimizer step (``nbs`` = ``batch``), warm-up ends after a
    twentieth of the run and never lifts the bias learning rate above the others, and mosaic is off in a
    short run (:data:`SHORT_RUN`) and closed for the last third of a longer one.

    Attributes:
        epochs: passes over the training split, 1 or more.
        time_h: hours after which training ends, whatever ``epochs`` says; None for no limit.
        batch: images in one optimizer step, over all devices.
        lr0: learning rate after warm-up.
        optimizer: one of :data:`OPTIMIZERS`. Ultralytics' ``auto`` is refused because it ignores ``lr0``.
        patience: epochs without improvement after which training ends; 0 never.
        imgsz: side of the square training images in pixels.
        device: as Ultralytics takes it: ``cpu``, ``0``, or ``0,1`` for distributed training.
        workers: data loader processes per device; Ultralytics uses none on a CPU.
        seed: seed of everything random; every epoch draws from a seed of its own, so that a resumed run repeats it.
        distill: weights of a teacher with the same classes, or None.
        response: weight of the distance to the teacher's answers (:mod:`edgeprune.training.response`); 0 leaves it out.
        feature: weight of Ultralytics' own distillation of the head's inputs (its ``dis``); 0 leaves it out.
        quiet: hide Ultralytics' log and progress bars.
        extra: any other Ultralytics training argument, by its own name.

    Raises:
        TargetError: on construction, if a value is impossible.
    """

    epochs: int = 50
    time_h: float | None = None
    batch: int = 16
    lr0: float = 1e-3
    optimizer: str = "AdamW"
    patience: int = 0
    imgsz: int = 640
    device: str = "cpu"
    workers: int = 4
    seed: int = 0
    distill: Path | None = None
    response: float = 1.0
    feature: float = 0.0
    quiet: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch", 1), ("imgsz", 32), ("patience", 0), ("workers", 0), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise TargetError(f"{name}={value!r}: allowed is a whole number of {least} or more")
        if not self.lr0 > 0:
            raise TargetError(f"lr0={self.lr0!r}: allowed is a number above 0, for example 0.001")
        if self.time_h is not None and not self.time_h > 0:
            raise TargetError(f"time_h={self.time_h!r}: allowed is a number of hours above 0, or nothing")
        for name in ("response", "feature"):
            if not 0 <= getattr(self, name) < math.inf:
                raise TargetError(f"{name}={getattr(self, name)!r}: allowed is 0 or a number above it")
        if self.distill and not (self.response or self.feature):
            raise TargetError("a teacher with response=0 and feature=0 teaches nothing; raise one or name no teacher")
        if self.optimizer not in OPTIMIZERS:
            hint = " (auto would ignore lr0)" if self.optimizer == "auto" else ""
            raise TargetError(f"optimizer={self.optimizer!r}{hint}: allowed is one of {', '.join(OPTIMIZERS)}")
        own = {one.name for one in fields(self)} - {"extra", "quiet"}
        for key in self.extra:
            if key in own or key in RENAMED:
                raise TargetError(f"train argument {key!r} has a setting of its own: use {RENAMED.get(key, key)}")
            if key in OWNED:
                raise TargetError(f"train argument {key!r} is set by edgeprune itself; remove it")


def ultralytics_arguments(settings: TrainSettings) -> dict[str, Any]:
    """The keyword arguments for ``YOLO.train``, checked against Ultralytics' own list of names and types.

    Raises:
        TargetError: an unknown name in ``extra`` or a value of the wrong type.
    """
    import torch
    from ultralytics.cfg import get_cfg
    from ultralytics.utils import DEFAULT_CFG_DICT

    on_cpu = settings.device == "cpu"
    # Ultralytics' test of float16 autocast fetches other weights from the network; bfloat16 needs no such test.
    amp = "bf16" if not on_cpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported(False) else False
    arguments: dict[str, Any] = {
        "epochs": settings.epochs,
        "time": settings.time_h,
        "batch": settings.batch,
        "nbs": settings.batch,
        "lr0": settings.lr0,
        "optimizer": settings.optimizer,
        "patience": settings.patience,
        "imgsz": settings.imgsz,
        "device": settings.device,
        "workers": settings.workers,
        "seed": settings.seed,
        "distill_model": str(settings.distill) if settings.distill and settings.feature else None,
        "dis": settings.feature,
        "deterministic": True,
        "amp": amp,
        "cos_lr": True,
        "warmup_epochs": min(3.0, 0.05 * settings.epochs),
        "warmup_bias_lr": 0.0,
        "mosaic": 0.0 if settings.epochs < SHORT_RUN else 1.0,
        "close_mosaic": max(1, round(settings.epochs / 3)),
        "plots": False,
        "verbose": False,
    }
    unknown = sorted(set(settings.extra) - set(DEFAULT_CFG_DICT))
    if unknown:
        from difflib import get_close_matches

        near = get_close_matches(unknown[0], DEFAULT_CFG_DICT, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise TargetError(f"train argument {unknown[0]!r} is not one that Ultralytics knows{hint}")
    arguments.update(settings.extra)
    try:
        get_cfg(overrides=dict(arguments))
    except (TypeError, ValueError, SyntaxError) as error:
        raise TargetError(f"a train argument is wrong: {first_line(error)}") from error
    return arguments


def first_line(error: BaseException) -> str:
    """An error's message on one line, without the markings that Ultralytics adds."""
    text = " ".join(str(error).split())
    return "".join(mark for mark in text if ord(mark) < 0x2190).replace("\x1b[0m", "").strip() or type(error).__name__
