"""Differences between the outputs of two forms of a model on real images.

Takes a reference (a module, a checkpoint or an ONNX file), a candidate (an ONNX file, or anything a runtime can load)
and images. Gives differences in pixels and in scores, and the agreement of the detections a user would see. Decides
nothing: a limit belongs to a gate.

A raw head's rows are anchors, so outputs are compared number by number. The rows of an end-to-end head (and of embedded
NMS) are a list sorted by score and cut off at its k-th entry: where two scores differ by less than rounding, two rows
change places, and where the k-th and the next score do, one row replaces another. Neither is an error, yet a number by
number comparison reports hundreds of pixels. So rows are paired first, within a class, by the assignment of least
total difference. A row that finds no partner is charged with the least change of its score that explains its absence
from the other list: its score minus the other list's last score. Two rows near the cut are paired only where that is
the lesser change. A row that holds what is no finite number has no partner, and no change of a score explains it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import nn

from edgeprune.errors import StageError, TargetError
from edgeprune.export.detections import MAX_ROWS, Differences, Layout, apply_nms, detection_agreement, pair_rows
from edgeprune.export.graph import load_graph
from edgeprune.export.images import batch_from_images
from edgeprune.export.metadata import facts_to_run, read_metadata
from edgeprune.export.result import ParityInfo
from edgeprune.export.run import STACK, Outputs, fixed_batch, outputs_of_engine, outputs_of_module, outputs_of_onnx
from edgeprune.input_size import Size, both_sides, taken_size
from edgeprune.model_file import require_model
from edgeprune.options import named
from edgeprune.reading import exists
from edgeprune.runtimes.base import Runtime
from edgeprune.samples.agreement import dice


def parity(
    reference: nn.Module | Path | str,
    candidate: Path | str,
    images: Sequence[Path],
    *,
    imgsz: Size | None = None,
    runtime: Runtime | None = None,
    metadata: Mapping[str, str] | None = None,
    trust: bool = False,
) -> ParityInfo:
    """Compare two forms of a model on images.

    Args:
        reference: a module, a checkpoint (.pt) or an ONNX file.
        candidate: an ONNX file with Ultralytics' metadata, or an engine for ``runtime``.
        images: image files, best of the validation split.
        imgsz: a side, or height and width, in pixels; the candidate's own when None.
        runtime: runs the candidate; ONNX Runtime on the CPU when None.
        metadata: what the candidate is (task, names, imgsz, head), when its file does not say.
        trust: load a reference with foreign classes; this executes code from the file.

    Raises:
        DataError: a file cannot be read, or no images.
        TargetError: a size that the model does not take, or none that anybody says.
        StageError: the outputs cannot belong to the same model.
    """
    candidate = Path(candidate)
    if not isinstance(reference, nn.Module):
        require_reference(reference)
    model = facts_to_run(candidate) if metadata is None else read_metadata(metadata)
    size = model.imgsz if imgsz is None else taken_size(imgsz, model.stride or 1, model.task)
    if size is None:
        raise TargetError(f"{candidate} does not say its image size; give {named('imgsz')}")
    height, width = both_sides(size)
    layout = Layout.of(model)
    pixels = batch_from_images(images, imgsz=(height, width), task=layout.task, channels=model.channels)
    if runtime is None:
        theirs = outputs_of_onnx(candidate, pixels)
    else:
        batch = fixed_batch(candidate, model) or min(model.largest_batch or STACK, STACK, len(pixels))
        theirs = outputs_of_engine(runtime, candidate, pixels, batch=batch)
    rows = theirs[0].shape[1] if layout.head != "raw" and theirs[0].ndim == 3 else None
    ours = _reference_outputs(reference, pixels, head=layout.head, rows=rows, trust=trust)
    return compare_arrays(ours, theirs, layout, what=f"{candidate}")


def require_reference(path: Path | str) -> None:
    """Refuse what is neither a checkpoint, nor the name of published weights, nor an ONNX file, before it is read.

    Raises:
        DataError: it is such, and what to give instead.
    """
    if Path(path).suffix == ".pt" and not exists(Path(path)):
        return  # published weights, or said as the checkpoint is read
    require_model(path, ".pt", ".onnx")


def compare_arrays(
    reference: Outputs, candidate: Outputs, layout: Layout, *, what: str = "the candidate"
) -> ParityInfo:
    """Compare the outputs of two forms of a model for the same images; pure arithmetic.

    Args:
        reference: outputs with the images on the first axis; for a layout with NMS, sorted rows of shape
            (images, rows, 6 + extra) as the embedded NMS gives them.
        candidate: the same of the candidate.
        layout: how the first output is laid out.
        what: the candidate's name in an error.

    Raises:
        StageError: different numbers of outputs, or different shapes.
    """
    shapes = [[tuple(output.shape) for output in outputs] for outputs in (reference, candidate)]
    if shapes[0] != shapes[1]:
        raise StageError(f"{what} gives outputs of shapes {shapes[1]} where the reference gives {shapes[0]}")
    differences = Differences()
    rows_of_lists = unpaired = reordered = 0
    ours, theirs = (outputs[0].astype(np.float64) for outputs in (reference, candidate))
    if layout.head == "raw" or ours.ndim != 3:
        differences.add(np.abs(ours - theirs), columns=layout.columns(ours.shape[1]), axis=1)
    else:
        for rows, others in zip(ours, theirs, strict=True):
            pairing = pair_rows(rows, others, rotated=layout.task == "obb")
            differences.add(pairing.differences, columns=layout.row_columns(rows.shape[1]), axis=1)
            differences.score = max(differences.score, pairing.missing_score)
            differences.largest = max(differences.largest, pairing.missing_score)
            rows_of_lists += pairing.rows
            unpaired += pairing.unpaired
            reordered += pairing.reordered
    for ours_extra, theirs_extra in zip(reference[1:], candidate[1:], strict=True):
        extra = np.abs(ours_extra.astype(np.float64) - theirs_extra)
        differences.add(extra.reshape(len(extra), 1, -1), columns=np.array(["extra"]), axis=1)
    counts = detection_agreement(reference, candidate, layout)
    return ParityInfo(
        images=len(ours),
        task=layout.task,
        head=layout.head,
        max_abs=differences.largest,
        mean_abs=differences.total / max(differences.count, 1),
        max_abs_box_px=differences.box,
        max_abs_score=differences.score,
        max_abs_extra=differences.extra,
        unpaired=unpaired,
        reordered=reordered,
        detections_reference=sum(one.reference for one in counts),
        detections_candidate=sum(one.candidate for one in counts),
        detections_agreement=dice(counts),
        rows=rows_of_lists,
        by_image=counts,
    )


def _reference_outputs(
    reference: nn.Module | Path | str, pixels: np.ndarray, *, head: str, rows: int | None, trust: bool
) -> Outputs:
    """Outputs of the reference in the form the candidate's head has, and of a model as many rows as the candidate was
    exported with: an argument of every exporter, and no property of a model."""
    if isinstance(reference, nn.Module):
        module = reference
    elif Path(reference).suffix == ".pt":
        from edgeprune.checkpoint import load
        from edgeprune.export.module import module_from_checkpoint

        module = module_from_checkpoint(load(reference, trust=trust))
    else:
        graph = load_graph(reference)
        if (own := facts_to_run(graph, str(reference)).head) == head:
            return outputs_of_onnx(graph, pixels)
        raise StageError(f"{reference} has head {own} and the candidate {head}; they cannot be compared")
    outputs = outputs_of_module(module, pixels, end_to_end=head == "end-to-end", rows=rows)
    if head == "nms":
        nc = len(getattr(module, "names", ()))
        task = str(getattr(module, "task", "detect"))
        outputs[0] = apply_nms(outputs[0], nc=nc, task=task, rows=rows or MAX_ROWS)
    return outputs
