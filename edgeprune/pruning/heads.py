"""Which of a model's two heads ships (YOLOv10, YOLO26).

Such a model trains a one-to-many and a one-to-one head; an export keeps one of them. Everything that counts, ranks,
times or exports asks here which one.
"""

from __future__ import annotations

from typing import Any, get_args

from torch import nn

from edgeprune.errors import TargetError
from edgeprune.options import named
from edgeprune.pruning.copies import copy_sharing_weights, head_of
from edgeprune.settings import Head

HEADS = get_args(Head)
"""What can be exported: ``auto`` takes the one-to-one head where there is one, ``raw`` and ``nms`` the other."""


def has_end_to_end_head(model: nn.Module) -> bool:
    """Whether the model has a second, one-to-one head whose output needs no NMS (YOLOv10, YOLO26)."""
    head = list(model.children())[-1]
    head = list(head.children())[-1] if isinstance(head, nn.Sequential) else head
    return getattr(head, "one2one_cv2", None) is not None


def ships_end_to_end(model: nn.Module, head: str = "auto") -> bool:
    """Whether an export with this head keeps the one-to-one head.

    Args:
        model: of one head or two.
        head: one of :data:`HEADS`.

    Raises:
        TargetError: an unknown head.
    """
    if head not in HEADS:
        raise TargetError(f"{named('head')} '{head}' is unknown; {', '.join(HEADS)} are allowed")
    return head in ("auto", "end-to-end") and has_end_to_end_head(model)


def training_only(model: nn.Module, head: str = "auto") -> frozenset[str]:
    """Names of the modules that an export with this head leaves out: the other head, and outputs for training alone.

    It is what the head's own ``fuse()`` removes, as an export calls it.
    """
    copy = copy_sharing_weights(model)
    before = {name for name, _ in copy.named_modules()}
    last: Any = head_of(copy)
    if has_end_to_end_head(copy):
        last.end2end = ships_end_to_end(copy, head)
    if hasattr(last, "fuse"):
        last.fuse()
    return frozenset(before - {name for name, _ in copy.named_modules()})
