"""Which of a model's two heads ships (YOLOv10, YOLO26).

Such a model trains a one-to-many and a one-to-one head; an export keeps one of them. Everything that counts, ranks,
times or exports asks here which one.
"""

from __future__ import annotations

from typing import Any, get_args

from torch import nn

from edgeprune.errors import DataError, TargetError
from edgeprune.options import named
from edgeprune.pruning.copies import copy_sharing_weights, head_of
from edgeprune.settings import Head

HEADS = get_args(Head)
"""What can be exported: ``auto`` takes the one-to-one head where there is one, ``raw`` and ``nms`` the other."""


def has_end_to_end_head(model: nn.Module) -> bool:
    """Whether the model has a second, one-to-one head whose output needs no NMS (YOLOv10, YOLO26)."""
    return getattr(_last_layer(model), "one2one_cv2", None) is not None


def has_one_to_many_head(model: nn.Module) -> bool:
    """Whether the head that ``raw`` and ``nms`` ship is there: ``fuse()`` removes it where the other one ships."""
    return not has_end_to_end_head(model) or getattr(_last_layer(model), "cv2", None) is not None


def refuse_fused_head(model: nn.Module) -> None:
    """Raise DataError for a head that ``fuse()`` left without what its loss and its raw maps are made of (Pose26)."""
    last = _last_layer(model)
    if hasattr(last, "flow_model") and last.flow_model is None:
        raise DataError(_fused(last))


def _fused(head: nn.Module) -> str:
    return (
        f"the model was fused, which removed layers that its head ({type(head).__name__}) is trained with; give the "
        "checkpoint from before fuse()"
    )


def refuse_untrainable_head(model: nn.Module) -> None:
    """Raise DataError for a head that cannot be trained: ``fuse()`` left it without a part that only training needs,
    or an earlier edgeprune pruned what such a part reads and not the part (YOLO26-seg)."""
    refuse_fused_head(model)
    if not has_one_to_many_head(model):
        raise DataError(
            "the model was fused, which removed the one of its two heads that training learns most from; give the "
            "checkpoint from before fuse()"
        )
    proto: Any = getattr(_last_layer(model), "proto", None)
    if not hasattr(proto, "semseg"):
        return
    if proto.semseg is None:
        raise DataError(_fused(_last_layer(model)))
    reads, given = proto.semseg[0].conv.in_channels, proto.feat_fuse.conv.in_channels
    if reads != given:
        raise DataError(
            "the model was pruned so that it cannot be trained, as an earlier edgeprune did: proto.semseg, which only "
            f"training runs, reads {reads} channels where {given} are given; next: prune the original again "
            "(edgeprune prune ORIGINAL.pt --macs-speed-up N -o PRUNED.pt)"
        )


def ships_end_to_end(model: nn.Module, head: str = "auto") -> bool:
    """Whether an export with this head keeps the one-to-one head.

    Args:
        model: of one head or two.
        head: one of :data:`HEADS`.

    Raises:
        TargetError: an unknown head, one that the model has not, or one that ``fuse()`` removed.
    """
    if head not in HEADS:
        raise TargetError(f"{named('head')} '{head}' is unknown; {', '.join(HEADS)} are allowed")
    if head == "end-to-end" and not has_end_to_end_head(model):
        others = ", ".join(other for other in HEADS if other != head)
        raise TargetError(f"{named('head')} {head}: the model has no end-to-end head; {others} are allowed")
    asks_for_it = head in ("auto", "end-to-end")
    if not asks_for_it and not has_one_to_many_head(model):
        raise TargetError(
            f"{named('head')} {head}: the model was fused, which left its end-to-end head alone; auto and end-to-end "
            "are allowed, or give the checkpoint from before fuse()"
        )
    return asks_for_it and has_end_to_end_head(model)


def _last_layer(model: nn.Module) -> nn.Module:
    head = list(model.children())[-1]
    return list(head.children())[-1] if isinstance(head, nn.Sequential) else head


def training_only(model: nn.Module, head: str = "auto") -> frozenset[str]:
    """Names of the modules that an export with this head leaves out: the other head, and outputs for training alone.

    It is what the head's own ``fuse()`` removes, as an export calls it.
    """
    ships_end_to_end(model, head)  # refuses a head that is not there
    copy = copy_sharing_weights(model)
    before = {name for name, _ in copy.named_modules()}
    last: Any = head_of(copy)
    if has_end_to_end_head(copy):
        last.end2end = ships_end_to_end(copy, head)
    if hasattr(last, "fuse"):
        last.fuse()
    return frozenset(before - {name for name, _ in copy.named_modules()})
