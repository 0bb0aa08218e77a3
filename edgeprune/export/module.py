"""A checkpoint as a torch module, read with restriction: the one place of this room that opens a .pt file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.nn.tasks import guess_model_task, torch_safe_load
from ultralytics.utils import DEFAULT_CFG_DICT

from edgeprune.errors import DataError


def module_from_checkpoint(pt: Path) -> nn.Module:
    """The model of a checkpoint, in FP32 and eval mode, on the CPU.

    Only Ultralytics' and torch's own classes are reconstructed (``torch_safe_load(safe_only=True)``).

    Raises:
        DataError: the file is missing, damaged, or holds anything else.
    """
    pt = Path(pt)
    if not pt.is_file():  # Ultralytics would look for it on the network
        raise DataError(f"weights {pt} do not exist")
    try:
        checkpoint, _ = torch_safe_load(pt, safe_only=True)
        module = checkpoint.get("ema") or checkpoint["model"]
    except Exception as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{pt} is not a checkpoint that can be read safely: {line}") from error
    if not isinstance(module, nn.Module):
        raise DataError(f"{pt} holds no model ({type(module).__name__} in its place)")
    module = module.float().eval()
    described: Any = module
    described.args = {**DEFAULT_CFG_DICT, **(checkpoint.get("train_args") or {})}
    described.task = getattr(module, "task", None) or guess_model_task(module)
    if not hasattr(module, "stride"):
        described.stride = torch.tensor([32.0])
    return module


def has_end_to_end_head(module: nn.Module) -> bool:
    """Whether the model has a second, one-to-one head whose output needs no NMS (YOLOv10, YOLO26)."""
    head = list(module.children())[-1]
    head = list(head.children())[-1] if isinstance(head, nn.Sequential) else head
    return getattr(head, "one2one_cv2", None) is not None


def head_arguments(*, end_to_end: bool, nms: bool = False) -> dict[str, Any]:
    """The arguments of Ultralytics' exporter and validator that select the head.

    Until the middle of 8.4 there was ``end2end`` beside ``nms``; later, ``nms`` alone says both: True embeds NMS, False
    asks for the one-to-one head, None for the one-to-many head with NMS outside.
    """
    if "end2end" in DEFAULT_CFG_DICT:
        return {"end2end": end_to_end, "nms": nms}
    return {"nms": True if nms else (False if end_to_end else None)}
