"""Stand-in for edgeprune.checkpoint until that room is merged."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeprune.artifact import write_atomically
from edgeprune.errors import DataError


@dataclass(frozen=True)
class Checkpoint:
    model: Any
    ckpt: dict[str, Any]


def load(path: Path | str, trust: bool = False) -> Checkpoint:
    from ultralytics.nn.tasks import torch_safe_load

    if not Path(path).is_file():
        raise DataError(f"{path} does not exist")
    try:
        ckpt, _ = torch_safe_load(str(path), safe_only=not trust)
    except Exception as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    model: Any = ckpt.get("ema") or ckpt.get("model")
    return Checkpoint(model.float(), ckpt)


def save(model: nn.Module, path: Path | str, *, like: Path | str | None = None, metadata: Any = None) -> None:
    buffer = io.BytesIO()
    base = load(like).ckpt if like else {}
    torch.save({**base, "model": model, "ema": None, "edgeprune": metadata, "epoch": -1, "optimizer": None}, buffer)
    write_atomically(path, buffer.getvalue())


def parameter_count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def shape_signature(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in model.state_dict().items()}
