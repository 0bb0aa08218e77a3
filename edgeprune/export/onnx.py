"""Checkpoint to ONNX, by Ultralytics' own exporter.

Takes a checkpoint (.pt). Gives an FP32 ONNX file with Ultralytics' metadata and the build's own beside it. Refuses what
the exporter would quietly change: a size that is no multiple of the stride, NMS on a head that has none. The exporter
writes beside the checkpoint; here it works in a temporary folder, so that the checkpoint's folder stays as it is.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx as onnx_package

from edgeprune.errors import DataError, StageError, TargetError
from edgeprune.export.graph import (
    MAX_BYTES,
    TensorInfo,
    count_ops,
    inputs_of,
    load_graph,
    metadata_of,
    opset_of,
    outputs_of,
    parsed_metadata,
    rename_tensor,
    save_graph,
    set_metadata,
)
from edgeprune.export.quiet import quiet
from edgeprune.options import image_side

# Newest opset on which every path was tried: TensorRT 10.3 parses up to 20, ONNX Runtime's static quantisation refuses
# 21 and later, and its CUDA kernels stop before Resize-19.
DEFAULT_OPSET = 17
OPSETS = range(12, 21)
HEADS = ("auto", "end-to-end", "raw", "nms")
# torch's tracer says of every shape in Ultralytics' heads that it becomes a constant: that is what an export is for
TRACER_NOISE = (
    "Converting a tensor to a Python",
    "The feature will be removed",
    "You are using the legacy TorchScript",
)
HEAD_KEY = "edgeprune_head"  # entry of metadata_props
PLAN_KEYS = {"plan": "edgeprune_plan", "signature": "edgeprune_signature"}  # a checkpoint's entry to the file's


@dataclass(frozen=True)
class ExportInfo:
    """What an exported file holds.

    Attributes:
        opset: version of the standard operator set.
        ops: nodes by operator type.
        inputs: ``images`` of shape (batch, channels, height, width), RGB in [0, 1].
        outputs: ``output0`` of shape (batch, 4 + nc + extra, anchors) for a raw head or (batch, 300, 6 + extra) for an
            end-to-end head or NMS; ``output1`` are the mask prototypes of a segmentation model.
        head: ``raw``, ``end-to-end`` or ``nms``.
        task: detect, segment, pose, obb or classify.
        imgsz: height and width in pixels.
        batch: images a run.
        dynamic: whether batch and size are free.
        size_bytes: size of the file.
    """

    opset: int
    ops: dict[str, int]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    head: str
    task: str
    imgsz: tuple[int, int]
    batch: int
    dynamic: bool
    size_bytes: int

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return sum(self.ops.values())


def onnx_from_checkpoint(
    pt: Path,
    onnx: Path,
    *,
    imgsz: int,
    batch: int = 1,
    dynamic: bool = False,
    opset: int | None = None,
    nms: bool = False,
    head: str = "auto",
    output_names: Sequence[str] = (),
    metadata: Mapping[str, str] | None = None,
) -> ExportInfo:
    """Export a checkpoint in FP32.

    Args:
        pt: the checkpoint; read with restricted loading, its folder is left alone.
        onnx: where the file goes; written whole or not at all.
        imgsz: height and width in pixels, a multiple of the model's stride.
        batch: images a run; with ``dynamic`` and NMS inside, the most that a run may have.
        dynamic: leave batch, height and width free.
        opset: version of the operator set; :data:`DEFAULT_OPSET` when None.
        nms: embed NMS; the same as ``head="nms"``.
        head: ``auto`` takes the end-to-end head where the model has one, else the raw one; ``raw`` the one-to-many head
            with NMS left to the caller; ``end-to-end``; ``nms``.
        output_names: names of the outputs, one each; ``output0`` and ``output1`` when empty.
        metadata: entries that are added to the file's ``metadata_props``; the plan's digest and the signature of a
            pruned checkpoint are there without them.

    Raises:
        DataError: the checkpoint cannot be read safely, or the model is over 2 GB.
        TargetError: an argument is out of range, or the output cannot be written.
        StageError: the exporter failed.
    """
    from ultralytics.engine.exporter import Exporter

    from edgeprune.export.module import has_end_to_end_head, head_arguments, module_from_checkpoint

    opset = DEFAULT_OPSET if opset is None else opset
    if opset not in OPSETS:
        raise TargetError(f"opset {opset} is out of range; {OPSETS.start} to {OPSETS.stop - 1} are allowed")
    if batch < 1:
        raise TargetError(f"batch {batch} is out of range; 1 or more is allowed")
    if head not in HEADS:
        raise TargetError(f"head '{head}' is unknown; {', '.join(HEADS)} are allowed")
    if nms and head not in {"auto", "nms"}:
        raise TargetError(f"nms and head '{head}' contradict each other; leave one of them out")
    pt, onnx = Path(pt), Path(onnx)
    module: Any = module_from_checkpoint(pt)
    task, stride = str(module.task), int(max(module.stride))
    image_side(imgsz, stride, task)
    size = sum(p.numel() for p in module.parameters()) * 4
    if size > MAX_BYTES:
        raise DataError(f"{pt} has {size / 2**30:.2f} GiB of weights; an ONNX file holds less than 2 GB")
    head = _head(head, nms=nms, task=task, dual=has_end_to_end_head(module), pt=pt)
    if head == "nms" and dynamic and batch < 2:  # the exporter would write a graph that answers for one image alone
        raise TargetError(
            "NMS in a graph of free batch needs the largest batch that it will meet; give --batch N, N > 1"
        )

    with tempfile.TemporaryDirectory(prefix="edgeprune-export-") as folder, quiet(), warnings.catch_warnings():
        for text in TRACER_NOISE:
            warnings.filterwarnings("ignore", message=text)
        module.pt_path = str(Path(folder) / "model.pt")  # the exporter writes beside this path; nothing lies there
        overrides = {
            "format": "onnx",
            "imgsz": imgsz,
            "batch": batch,
            "dynamic": dynamic,
            "opset": opset,
            "simplify": False,
            "device": "cpu",
            **head_arguments(end_to_end=head == "end-to-end", nms=head == "nms"),
        }
        try:
            written = Exporter(overrides=overrides)(model=module)
        except Exception as error:
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise StageError(f"Ultralytics could not export {pt} with opset {opset} and head {head}: {line}") from error
        model = load_graph(written)
    _make_reproducible(model)
    _name_outputs(model, output_names)
    set_metadata(model, {HEAD_KEY: head, **_told_by(module), **(metadata or {})})
    save_graph(model, onnx)
    return describe(model)


def describe(model: onnx_package.ModelProto | Path | str) -> ExportInfo:
    """What an ONNX file that :func:`onnx_from_checkpoint` wrote holds; also reads other exports of Ultralytics.

    Raises:
        DataError: the file cannot be read, or its first input is no stack of images.
    """
    what = "the model" if isinstance(model, onnx_package.ModelProto) else str(model)
    if not isinstance(model, onnx_package.ModelProto):
        model = load_graph(model)
    data = parsed_metadata(metadata_of(model))
    inputs = inputs_of(model)
    shape = inputs[0].shape if inputs else ()
    if len(shape) != 4:
        seen = f"its first input has the shape {shape}" if inputs else "it has no inputs"
        raise DataError(f"{what} has no image input of shape (N, 3, H, W): {seen}; export it with: edgeprune export")
    imgsz = data.get("imgsz") or [s if isinstance(s, int) else 0 for s in shape[2:4]]
    head = data.get(HEAD_KEY) or (
        "nms" if (data.get("args") or {}).get("nms") else "end-to-end" if data.get("end2end") else "raw"
    )
    return ExportInfo(
        opset=opset_of(model),
        ops=count_ops(model),
        inputs=inputs,
        outputs=outputs_of(model),
        head=head,
        task=str(data.get("task", "unknown")),
        imgsz=(int(imgsz[0]), int(imgsz[-1])),
        batch=int(data.get("batch", 1)),
        dynamic=any(isinstance(s, str) for s in shape),
        size_bytes=model.ByteSize(),
    )


def _head(head: str, *, nms: bool, task: str, dual: bool, pt: Path) -> str:
    """The head that will be exported, with ``auto`` resolved."""
    wanted = "nms" if nms else head
    if wanted == "auto":
        return "end-to-end" if dual else "raw"
    if wanted == "end-to-end" and not dual:
        raise TargetError(f"{pt} has no end-to-end head; use head raw or nms")
    if wanted == "nms" and task == "classify":
        raise TargetError(f"{pt} is a classifier; NMS is for detectors")
    return wanted


def _told_by(module: Any) -> dict[str, str]:
    """Which plan a checkpoint was pruned by, where it says so."""
    return {key: str(module.edgeprune[name]) for name, key in PLAN_KEYS.items() if module.edgeprune.get(name)}


def _name_outputs(model: onnx_package.ModelProto, names: Sequence[str]) -> None:
    if not names:
        return
    outputs = model.graph.output
    taken = {name for node in model.graph.node for name in (*node.input, *node.output)} - {o.name for o in outputs}
    if len(names) != len(outputs) or len(set(names)) != len(names) or taken & set(names) or not all(names):
        old = ", ".join(value.name for value in outputs)
        raise TargetError(
            f"output names {', '.join(names)} do not fit: the graph has {len(outputs)} outputs ({old}), "
            "and each needs a name of its own"
        )
    for value, name in zip(outputs, names, strict=True):
        rename_tensor(model.graph.node, value.name, name)
        value.name = name


def _make_reproducible(model: onnx_package.ModelProto) -> None:
    """Drop the export's date and the tracer's source locations: the same checkpoint shall give the same bytes."""
    for node in model.graph.node:
        node.doc_string = ""
    kept = [entry for entry in model.metadata_props if entry.key != "date"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
