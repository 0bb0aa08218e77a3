"""What an exported model says about itself: Ultralytics' entries of ``metadata_props``, and the build's own."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeprune.errors import DataError
from edgeprune.families import refuse_foreign_head

# the build's own entries
HEAD_KEY = "edgeprune_head"
PLAN_KEY = "edgeprune_plan"
SIGNATURE_KEY = "edgeprune_signature"
PRECISION_KEY = "edgeprune_precision"
FLOAT_LAYERS_KEY = "edgeprune_float_layers"  # layers that went back from low precision to float, by name

REQUIRED = ("names", "task", "stride", "imgsz")  # without these a model cannot be validated


@dataclass(frozen=True)
class ModelMetadata:
    """What a file says about its model.

    Attributes:
        task: detect, segment, pose, obb or classify; empty when it is not told.
        names: class names by index; empty when they are not told.
        imgsz: height and width in pixels; None when they are not told.
        stride: largest stride in pixels; 0 when it is not told.
        batch: images a run; with ``dynamic`` and NMS inside, the most that a run may have.
        channels: of the images.
        kpt_shape: keypoints and numbers a keypoint; empty for a model without.
        head: ``raw``, ``end-to-end`` or ``nms``.
        dynamic: whether batch and size are free.
    """

    task: str
    names: Mapping[int, str]
    imgsz: tuple[int, int] | None
    stride: int
    batch: int
    channels: int
    kpt_shape: tuple[int, ...]
    head: str
    dynamic: bool

    @property
    def missing(self) -> tuple[str, ...]:
        """Those of :data:`REQUIRED` that are not told."""
        return tuple(key for key in REQUIRED if not getattr(self, key))

    @property
    def largest_batch(self) -> int | None:
        """The most images that a graph of free batch answers for: NMS inside it has a limit, and leaves the images
        beyond it empty without a word. None where there is no limit."""
        return self.batch if self.head == "nms" else None


def read_metadata(entries: Mapping[str, str]) -> ModelMetadata:
    """Read the entries of a file's ``metadata_props``; nothing in them is evaluated.

    Raises:
        DataError: an entry is no literal; names it. Or the head is of a family that is not read here.
    """
    refuse_foreign_head(entries.get("head", ""))
    names = _literal(entries, "names") or {}
    imgsz, arguments = _literal(entries, "imgsz"), _literal(entries, "args") or {}
    inner_head = "nms" if arguments.get("nms") else "end-to-end" if _literal(entries, "end2end") else "raw"
    return ModelMetadata(
        task=entries.get("task", ""),
        names={
            int(index): str(name)
            for index, name in dict(names if isinstance(names, dict) else enumerate(names)).items()
        },
        imgsz=(int(imgsz[0]), int(imgsz[-1])) if imgsz else None,
        stride=int(_literal(entries, "stride") or 0),
        batch=int(_literal(entries, "batch") or 1),
        channels=int(_literal(entries, "channels") or 3),
        kpt_shape=tuple(_literal(entries, "kpt_shape") or ()),
        head=entries.get(HEAD_KEY) or inner_head,
        dynamic=bool(arguments.get("dynamic")),
    )


def _literal(entries: Mapping[str, str], key: str) -> Any:
    try:
        return ast.literal_eval(entries[key]) if key in entries else None
    except (ValueError, SyntaxError) as error:
        raise DataError(f"the model's metadata entry '{key}' is not readable: {entries[key]!r}") from error
