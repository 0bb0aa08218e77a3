"""Ultralytics' training arguments, from edgeprune's settings."""

from __future__ import annotations

from typing import Any

from edgeprune.errors import TargetError, first_line
from edgeprune.export.modelopt import require_modelopt
from edgeprune.input_size import both_sides, pixels
from edgeprune.options import named
from edgeprune.settings import TrainSettings

SHORT_RUN = 30
"""Epochs below which mosaic is off: a short recovery cannot afford images that look unlike those it is judged on. v8n
on BCCD, pruned to a latency ratio of 1.6, ten epochs with a teacher, one seed: mAP50-95 .511 with mosaic closed for the
last third, .539 without."""


def training_device(settings: TrainSettings) -> str:
    """Where to train, as Ultralytics names it: as the settings say, else a GPU when there is one.

    Raises:
        TargetError: there is no such device, or ``torchrun`` started another number of processes than there are GPUs.
    """
    import torch
    from ultralytics.utils.torch_utils import select_device

    from edgeprune.training.distributed import require_a_gpu_each

    device = settings.device or ("0" if torch.cuda.is_available() else "cpu")
    try:
        select_device(device, verbose=False)
    except ValueError as error:
        raise TargetError(
            f"{named('device')} {device!r} is not here; cpu is allowed, or GPUs by number: edgeprune doctor"
        ) from error
    require_a_gpu_each(device)
    return device


def ultralytics_arguments(settings: TrainSettings) -> dict[str, Any]:
    """The keyword arguments for ``YOLO.train``, checked against Ultralytics' own list of names and types.

    They suit a pruned model: every batch is an optimiser step (``nbs`` = ``batch``), warm-up ends after a twentieth of
    the run and never lifts the bias learning rate above the others, and mosaic is off in a short run
    (:data:`SHORT_RUN`) and closed for the last third of a longer one: shares of ``epochs``, also where ``time_h`` ends
    the run earlier or later. ``settings.train`` replaces any of it.

    Raises:
        TargetError: an unknown name in ``settings.train`` or a value of the wrong type, or a batch that its devices
            cannot share.
        DeviceError: it asks for INT8, and ModelOpt is not installed.
    """
    device = training_device(settings)
    arguments = {**_own_arguments(settings), "device": device, "amp": _precision(device), **settings.train}
    if _checked(settings, arguments).quantize == 8:  # in whatever words
        require_modelopt()
    return arguments


def _precision(device: str) -> str | bool:
    """Ultralytics' ``amp``. Its test of float16 autocast fetches other weights from the network; bfloat16 needs no such
    test."""
    import torch

    return "bf16" if device != "cpu" and torch.cuda.is_available() and torch.cuda.is_bf16_supported(False) else False


def validates_in_half(settings: TrainSettings) -> bool:
    """Whether the trainer validates its epochs in float16, as it does on a GPU where it trains in mixed precision."""
    import torch

    on_gpu = settings.device != "cpu" and torch.cuda.is_available()
    return on_gpu and settings.train.get("amp", _precision(settings.device)) not in (False, "fp32")


def check_arguments(settings: TrainSettings) -> None:
    """Raise ``TargetError`` as :func:`ultralytics_arguments` does, whatever devices and packages are here."""
    _checked(settings, {**_own_arguments(settings), **settings.train})


def _own_arguments(settings: TrainSettings) -> dict[str, Any]:
    return {
        # by time Ultralytics counts the epochs that fit only after the first, and the only one would be the last
        "epochs": settings.epochs if settings.time_h is None else max(settings.epochs, 2),
        "time": settings.time_h,
        "batch": settings.batch,
        "nbs": settings.batch,
        "lr0": settings.lr0,
        "optimizer": settings.optimizer,
        "patience": settings.patience,
        "imgsz": max(both_sides(settings.side)),
        "workers": settings.workers,
        "seed": settings.seed,
        "distill_model": str(settings.teacher) if settings.teacher and settings.feature else None,
        "dis": settings.feature,
        "deterministic": True,
        "cos_lr": True,
        "warmup_epochs": min(3.0, 0.05 * settings.epochs),
        "warmup_bias_lr": 0.0,
        "mosaic": 0.0 if settings.epochs < SHORT_RUN else 1.0,
        "close_mosaic": max(1, round(settings.epochs / 3)),
        "plots": False,
        "verbose": False,
    }


def _checked(settings: TrainSettings, arguments: dict[str, Any]) -> Any:
    """Ultralytics' own reading of the arguments; TargetError for what it does not take."""
    from ultralytics.cfg import get_cfg
    from ultralytics.utils import DEFAULT_CFG_DICT

    unknown = sorted(set(settings.train) - set(DEFAULT_CFG_DICT))
    if unknown:
        from difflib import get_close_matches

        near = get_close_matches(unknown[0], DEFAULT_CFG_DICT, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise TargetError(f"train argument {unknown[0]!r} is not one that Ultralytics knows{hint}")
    from edgeprune.training.distributed import processes, require_shared

    require_shared(settings.batch, processes(arguments.get("device", settings.device)))
    height, width = both_sides(settings.side)
    if height != width and settings.train.get("rect"):
        raise TargetError(f"train argument 'rect': images are {pixels(settings.side)} already; remove it")
    try:
        return get_cfg(overrides=dict(arguments))
    except (TypeError, ValueError, SyntaxError) as error:
        raise TargetError(f"a train argument is wrong: {first_line(error)}") from error
