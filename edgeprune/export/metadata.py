"""What an exported model says about itself: Ultralytics' entries of ``metadata_props``, and the build's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, get_args

import onnx

from edgeprune.errors import DataError
from edgeprune.export.graph import inputs_of, load_graph, metadata_of, outputs_of, tensorrt_plugins
from edgeprune.families import refuse_foreign_head
from edgeprune.model_metadata import count_of, literal_of, mapping_of, names_of, refused, size_of, stride_of, task_of
from edgeprune.settings import ExportedHead

# the build's own entries
HEAD_KEY = "edgeprune_head"
PLAN_KEY = "edgeprune_plan"
SIGNATURE_KEY = "edgeprune_signature"
PRECISION_KEY = "edgeprune_precision"
FLOAT_LAYERS_KEY = "edgeprune_float_layers"  # layers that went back from low precision to float, by name

HEADS = get_args(ExportedHead)
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


def read_metadata(entries: Mapping[str, str], what: str = "the model's metadata") -> ModelMetadata:
    """Read the entries of a file's ``metadata_props``; nothing in them is evaluated.

    Args:
        entries: as the file has them.
        what: the file, for messages.

    Raises:
        DataError: an entry is no literal, or of another type or range than it has to be; names it. Or the head is of a
            family that is not read here.
    """
    refuse_foreign_head(entries.get("head", ""))
    literals = ("names", "imgsz", "stride", "batch", "channels", "kpt_shape", "args", "end2end")
    told = {key: value for key in literals if (value := _literal(entries, key, what)) is not None}
    arguments = mapping_of(told.get("args"), what, "args")
    for key, value in (
        *((f"args.{key}", arguments.get(key)) for key in ("nms", "dynamic")),
        ("end2end", told.get("end2end")),
    ):
        if value not in (None, True, False):
            raise refused(what, key, value, "true or false")
    kpt_shape = told.get("kpt_shape", ())
    if not isinstance(kpt_shape, (list, tuple)) or len(kpt_shape) not in (0, 2):
        raise refused(what, "kpt_shape", kpt_shape, "keypoints and numbers a keypoint")
    head = entries.get(HEAD_KEY) or ("nms" if arguments.get("nms") else "end-to-end" if told.get("end2end") else "raw")
    if head not in HEADS:
        raise refused(what, HEAD_KEY, head, ", ".join(HEADS))
    return ModelMetadata(
        task=task_of(entries["task"], what) if entries.get("task") else "",
        names=names_of(told["names"], what) if "names" in told else {},
        imgsz=size_of(told["imgsz"], what) if "imgsz" in told else None,
        stride=stride_of(told["stride"], what) if "stride" in told else 0,
        batch=count_of(told.get("batch", 1), what, "batch"),
        channels=count_of(told.get("channels", 3), what, "channels"),
        kpt_shape=tuple(count_of(number, what, "kpt_shape") for number in kpt_shape),
        head=head,
        dynamic=bool(arguments.get("dynamic")),
    )


def facts_of(model: onnx.ModelProto | Path | str) -> ModelMetadata:
    """What a graph is: its metadata, with the sizes that its image input fixes, which hold whatever the file says.

    Raises:
        DataError: the file cannot be read, an entry of its metadata is not what it has to be, or its input is larger
            than any image.
    """
    graph = model if isinstance(model, onnx.ModelProto) else load_graph(model)
    what = "the model's metadata" if isinstance(model, onnx.ModelProto) else str(model)
    told = read_metadata(metadata_of(graph), what)
    shape = next((value.shape for value in inputs_of(graph) if len(value.shape) == 4), ("?",) * 4)
    batch, channels, height, width = (size if isinstance(size, int) and size > 0 else None for size in shape)
    return replace(
        told,
        imgsz=size_of((height, width), what, key="input size") if height and width else told.imgsz,
        batch=count_of(batch, what, "input's batch") if batch else told.batch,
        channels=count_of(channels, what, "input's number of channels") if channels else told.channels,
    )


def facts_to_run(model: onnx.ModelProto | Path | str, what: str = "") -> ModelMetadata:
    """:func:`facts_of` a graph whose outputs are read: they have to be those of the task and the head that it says.

    Raises:
        DataError: as :func:`facts_of`, or a graph of other outputs: read as what it says, it would find nothing, or
            things that are not there.
    """
    graph = model if isinstance(model, onnx.ModelProto) else load_graph(model)
    what = what or ("the model" if isinstance(model, onnx.ModelProto) else str(model))
    facts, outputs = facts_of(graph), outputs_of(graph)
    classes = len(facts.names)
    if not (facts.task and classes and outputs) or tensorrt_plugins(graph):
        return facts
    extra = {"pose": prod(facts.kpt_shape) if facts.kpt_shape else 0, "obb": 1}.get(facts.task, 0)
    masks = outputs[1].shape[1] if facts.task == "segment" and len(outputs) > 1 and len(outputs[1].shape) == 4 else None
    if facts.task == "classify":
        axis, sides, size = 1, 2, classes
    elif facts.head == "raw":
        axis, sides, size = 1, 3, 4 + classes + extra
    else:  # sorted rows of box, score and class
        axis, sides, size = 2, 3, 6 + extra
    size = size + masks if isinstance(masks, int) else size
    shape = next(iter(outputs)).shape
    free = isinstance(masks, str) or (len(shape) == sides and isinstance(shape[axis], str))
    if len(shape) != sides or (shape[axis] != size and not free) or (facts.task == "segment" and masks is None):
        if (facts.head, facts.task, len(shape)) == ("raw", "detect", 3) and shape[2] == 6:
            other = " or RT-DETR's two scores" if classes == 2 else ""
            raise DataError(
                f"{what} gives {shape[1]} rows of 6 values, which are boxes, scores and classes of an end-to-end head "
                f"(YOLOv10) or of NMS inside{other}, and its metadata does not say so (end2end), as of an older "
                "Ultralytics; export the checkpoint again: edgeprune export CHECKPOINT"
            )
        raise DataError(
            f"{what} says that it is a {facts.task} model of {classes} classes with head {facts.head}, whose output "
            f"has {size} values {'a row' if axis == 2 else 'a place'}, and gives {len(outputs)} of shape {shape}: it "
            "is of another family (RT-DETR), or its metadata is another model's"
        )
    return facts


def _literal(entries: Mapping[str, str], key: str, what: str) -> Any:
    text = entries.get(key, "")
    if not text:
        return None
    try:
        return literal_of(text)
    except ValueError:
        raise refused(what, key, text, "a value as Ultralytics writes it: a number, a list or a mapping") from None
