"""Checkpoint to ONNX, by Ultralytics' own exporter.

Takes a checkpoint (.pt). Gives an FP32 ONNX file with Ultralytics' metadata and the build's own beside it. Refuses what
the exporter would quietly change: a size that is no multiple of the stride, NMS on a head that has none. The exporter
writes beside the checkpoint; here it works in a temporary folder, so that the checkpoint's folder stays as it is.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from edgeprune.checkpoint import Checkpoint, load, parameter_count
from edgeprune.errors import NOT_OF_THE_INPUT, DataError, StageError, TargetError, first_line
from edgeprune.export.graph import (
    MAX_BYTES,
    TensorInfo,
    count_ops,
    fault_of,
    inputs_of,
    load_graph,
    load_made,
    opset_of,
    outputs_of,
    rename_tensors,
    save_graph,
    set_metadata,
    tensor_names,
)
from edgeprune.export.metadata import HEAD_KEY, PLAN_KEY, PRECISION_KEY, SIGNATURE_KEY, facts_of
from edgeprune.input_size import Size, both_sides
from edgeprune.options import named, output_file_with_folder, refuse_source
from edgeprune.quiet import process_state_kept, quiet
from edgeprune.settings import LEAST_INT8_OPSET, Inference

# Newest opset on which every path was tried: TensorRT 10.3 parses up to 20, ONNX Runtime's static quantisation refuses
# 21 and later, and its CUDA kernels stop before Resize-19.
DEFAULT_OPSET = 17
OPSETS = range(12, 21)
TOO_SMALL = "output model too small"
"""Ultralytics of a whole file below 0.1 MB, which it takes for a broken one; the floor of a small input is such."""
# torch's tracer says of every shape in Ultralytics' heads that it becomes a constant: that is what an export is for
TRACER_NOISE = (
    "Converting a tensor to a Python",
    "The feature will be removed",
    "You are using the legacy TorchScript",
    "torch.tensor results are registered as constants",  # bounds of fake quantizers
)


@dataclass(frozen=True)
class ExportInfo:
    """What an exported file holds.

    Attributes:
        opset: version of the standard operator set.
        ops: nodes by operator type.
        inputs: ``images`` of shape (batch, channels, height, width), RGB in [0, 1].
        outputs: ``output0`` of shape (batch, 4 + nc + extra, anchors) for a raw head or (batch, 300, 6 + extra) for an
            end-to-end head or NMS, of more rows where the model was trained on images of more objects; ``output1`` are
            the mask prototypes of a segmentation model.
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
    def channels(self) -> int:
        """Of the images; 3 where the file leaves it free."""
        channels = self.inputs[0].shape[1]
        return channels if isinstance(channels, int) else 3

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return sum(self.ops.values())


@process_state_kept()
def onnx_from_checkpoint(
    weights: Path | str,
    output: Path | str,
    *,
    imgsz: Size | None = None,
    batch: int = 1,
    dynamic: bool = False,
    opset: int = DEFAULT_OPSET,
    head: str = "auto",
    output_names: Sequence[str] = (),
    metadata: Mapping[str, str] | None = None,
    trust: bool = False,
) -> ExportInfo:
    """Export a checkpoint to ONNX in FP32; one that was trained for INT8, with fake quantizers, in INT8 by Q/DQ pairs.

    Args:
        weights: the checkpoint; its folder is left alone.
        output: the ONNX file, written whole or not at all.
        imgsz: a side, or height and width, in pixels, multiples of the model's stride; what the checkpoint was trained
            at when None, 640 where it does not say (a classifier's is 224).
        batch: images a run; with ``dynamic`` and NMS inside, the most that a run may have; of no effect with
            ``dynamic`` alone.
        dynamic: leave batch, height and width free.
        opset: version of the operator set.
        head: ``auto`` takes the end-to-end head where the model has one, else the raw one; ``raw`` the one-to-many head
            with NMS left to the caller; ``end-to-end``; ``nms`` embeds NMS.
        output_names: names of the outputs, one each; ``output0`` and ``output1`` when empty.
        metadata: entries that are added to the file's ``metadata_props``; the plan's digest and the signature of a
            pruned checkpoint are there without them.
        trust: load a checkpoint with classes outside Ultralytics and torch (it can run any code).

    Raises:
        DataError: the checkpoint cannot be read safely, or the model is over 2 GB.
        DeviceError: it was trained for INT8, and ModelOpt is not installed.
        TargetError: an argument is out of range, or the output cannot be written.
        StageError: the exporter failed.
    """
    if opset not in OPSETS:
        raise TargetError(f"{named('opset')} {opset} is out of range; {OPSETS.start} to {OPSETS.stop - 1} are allowed")
    Inference(batch=batch)
    output_file_with_folder(output)
    refuse_source(output, weights)
    from ultralytics.engine.exporter import Exporter

    from edgeprune.export.module import head_arguments, module_from_checkpoint, most_detections
    from edgeprune.pruning.heads import ships_end_to_end

    checkpoint = load(weights, trust=trust)
    if checkpoint.quantizers and opset < LEAST_INT8_OPSET:
        raise TargetError(
            f"{named('opset')} {opset}: {weights} was trained for INT8, which needs opset {LEAST_INT8_OPSET} or more"
        )
    module: Any = module_from_checkpoint(checkpoint)
    end_to_end = ships_end_to_end(module, head)
    sides = both_sides(checkpoint.size_for(command=imgsz).side)
    size = parameter_count(module) * 4
    if size > MAX_BYTES:
        raise DataError(f"{weights} has {size / 2**30:.2f} GiB of weights; an ONNX file holds less than 2 GB")
    if head == "auto":
        head = "end-to-end" if end_to_end else "raw"
    if head == "nms" and checkpoint.task == "classify":
        raise TargetError(f"{weights} is a classifier; NMS is for detectors")
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
            "imgsz": list(sides),
            "batch": batch,
            "dynamic": dynamic,
            "opset": opset,
            "simplify": False,
            "device": "cpu",
            "max_det": most_detections(module, nms=head == "nms"),
            **head_arguments(end_to_end=end_to_end, nms=head == "nms"),
        }
        written = Path(folder) / "model.onnx"
        commentary = logging.getLogger("ultralytics")
        commentary.addFilter(_tells)
        try:
            written = Exporter(overrides=overrides)(model=module)
        except NOT_OF_THE_INPUT:
            raise
        except Exception as error:
            if not (TOO_SMALL in str(error) and written.is_file()):
                raise StageError(
                    f"Ultralytics could not export {weights} with opset {opset} and head {head}: {first_line(error)}"
                ) from error
        finally:
            commentary.removeFilter(_tells)
        model = load_made(Path(written), "Ultralytics' exporter")
    _make_reproducible(model)
    _name_outputs(model, output_names)
    precision = {PRECISION_KEY: "int8"} if checkpoint.quantizers else {}
    set_metadata(model, {HEAD_KEY: head, **precision, **_plan_entries(checkpoint), **(metadata or {})})
    if fault := fault_of(model):  # the exporter's was checked when it was read; this is what became of it
        raise StageError(f"what {weights} became is not a valid ONNX model: {fault}")
    save_graph(model, output)
    return describe_onnx(model)


def _tells(record: logging.LogRecord) -> bool:
    return TOO_SMALL not in record.getMessage()


def describe_onnx(model: onnx.ModelProto | Path | str) -> ExportInfo:
    """What an ONNX file that :func:`onnx_from_checkpoint` wrote holds; also reads other exports of Ultralytics.

    Raises:
        DataError: the file cannot be read, or its first input is no stack of images.
    """
    what = "the model" if isinstance(model, onnx.ModelProto) else str(model)
    if not isinstance(model, onnx.ModelProto):
        model = load_graph(model)
    metadata = facts_of(model)
    inputs = inputs_of(model)
    shape = inputs[0].shape if inputs else ()
    if len(shape) != 4:
        seen = f"its first input has the shape {shape}" if inputs else "it has no inputs"
        raise DataError(f"{what} has no image input of shape (N, 3, H, W): {seen}; next: edgeprune export CHECKPOINT")
    return ExportInfo(
        opset=opset_of(model),
        ops=count_ops(model),
        inputs=inputs,
        outputs=outputs_of(model),
        head=metadata.head,
        task=metadata.task or "unknown",
        imgsz=metadata.imgsz or (0, 0),
        batch=metadata.batch,
        dynamic=any(isinstance(side, str) for side in shape),
        size_bytes=model.ByteSize(),
    )


def describe_to_run(model: onnx.ModelProto | Path | str, what: str = "the model") -> ExportInfo:
    """As :func:`describe_onnx`, of a graph that images are going to be run through: it has to say their size.

    Raises:
        DataError: as there, or it leaves the size free, and its metadata do not say one.
    """
    info = describe_onnx(model)
    if not all(info.imgsz):
        shape = ", ".join(map(str, info.inputs[0].shape))
        raise DataError(
            f"{what} takes images of any size ({shape}) and does not say which ones it was made for (imgsz in its "
            "metadata); next: edgeprune export CHECKPOINT --imgsz PIXELS"
        )
    return info


def _plan_entries(checkpoint: Checkpoint) -> dict[str, str]:
    """Which plan a checkpoint was pruned by, where it says so."""
    entries = {PLAN_KEY: checkpoint.plan_digest, SIGNATURE_KEY: checkpoint.signature}
    return {key: value for key, value in entries.items() if value is not None}


def _name_outputs(model: onnx.ModelProto, names: Sequence[str]) -> None:
    if not names:
        return
    outputs = model.graph.output
    inner = tensor_names(model.graph) - {value.name for value in outputs}
    if len(names) != len(outputs) or len(set(names)) != len(names) or inner & set(names) or not all(names):
        old = ", ".join(value.name for value in outputs)
        raise TargetError(
            f"output names {', '.join(names)} do not fit: the graph has {len(outputs)} outputs ({old}), "
            "and each needs a name of its own"
        )
    renamed = {value.name: name for value, name in zip(outputs, names, strict=True)}
    rename_tensors(model.graph.node, renamed)
    for value in (*outputs, *model.graph.value_info):
        value.name = renamed.get(value.name, value.name)


def _make_reproducible(model: onnx.ModelProto) -> None:
    """Drop the export's date and the tracer's source locations: the same checkpoint shall give the same bytes."""
    for node in model.graph.node:
        node.doc_string = ""
    entries = [entry for entry in model.metadata_props if entry.key != "date"]
    del model.metadata_props[:]
    model.metadata_props.extend(entries)
