"""ONNX to a simpler ONNX, by onnxsim.

Takes an ONNX file. Gives a file that says the same with fewer nodes. Where onnxsim fails, or its result says something
else, the source goes on unchanged and the answer says so: a build never stops here.

A graph with NMS inside gives nothing for an image without detections, and a trained model detects nothing on noise. So
of such a graph the decoded candidates, which NMS chooses from, are compared too; they are outputs meanwhile, whatever
is detected, so that a pruned model and its unpruned one are simplified alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from edgeprune.errors import TargetError, first_line
from edgeprune.export.detections import Layout
from edgeprune.export.graph import load_graph, metadata_of, save_graph, set_metadata, tensorrt_plugins, with_shapes
from edgeprune.export.images import batch_from_images
from edgeprune.export.metadata import facts_of
from edgeprune.export.onnx import describe_to_run
from edgeprune.export.parity import compare_arrays
from edgeprune.export.regions import candidates_of
from edgeprune.export.result import SIMPLIFY_TOLERANCE, SimplifyInfo, box_tolerance_px
from edgeprune.export.run import Outputs, by_image, stacks_of_onnx
from edgeprune.options import named


def simplify_onnx(
    model: Path | str, output: Path | str, *, images: Sequence[Path] = (), tolerance: float = SIMPLIFY_TOLERANCE
) -> SimplifyInfo:
    """Simplify an ONNX file; where that fails or changes an output, the file goes on as it is.

    Args:
        model: the ONNX file.
        output: the file to write; may be the same.
        images: images to compare outputs on; two seeded images of noise without.
        tolerance: largest absolute difference of a score that is accepted, and of a pixel for sizes up to 640; beyond
            in proportion (:func:`~edgeprune.export.result.box_tolerance_px`).

    Raises:
        DataError: the model cannot be read or run.
        TargetError: the tolerance is none, or the output cannot be written.
    """
    if not 0 <= tolerance < math.inf:
        raise TargetError(f"{named('tolerance', repr(tolerance))}: allowed is a number from 0 on")
    source = load_graph(model)
    before = len(source.graph.node)
    simplified, reason, difference = _simplify_checked(source, images, tolerance)
    if simplified is None:
        save_graph(source, output)
        return SimplifyInfo(before, before, False, difference, f"the unsimplified file goes on: {reason}")
    del simplified.metadata_props[:]  # onnxsim 0.8 adds a report of its own, with this machine's timings
    set_metadata(simplified, metadata_of(source))
    simplified.ir_version = min(simplified.ir_version, source.ir_version)  # an older runtime must still read it
    save_graph(simplified, output)
    return SimplifyInfo(before, len(simplified.graph.node), True, difference, reason)


def _simplify_checked(
    model: onnx.ModelProto, images: Sequence[Path], tolerance: float
) -> tuple[onnx.ModelProto | None, str, float | None]:
    """A simplified model that gives the same outputs, or None; the reason; the largest difference of an output."""
    import onnxsim

    if plugins := tensorrt_plugins(model):
        return None, f"nothing here runs its {plugins[0]}, a plugin of TensorRT, to compare outputs", None
    layout, pixels = Layout.of(facts_of(model)), _comparison_images(model, images)
    candidates = candidates_of(model) if layout.head == "nms" else ()
    source = _with_outputs(model, candidates)
    expected = stacks_of_onnx(source, pixels)  # first: onnxsim writes tracebacks over what ONNX Runtime does not run
    try:
        # its own check compares with random inputs of its own and a relative tolerance; ours below is absolute and on
        # images. These two arguments are the same in 0.4.36 and 0.8.1.
        simplified, _ = onnxsim.simplify(source, check_n=0)
    except Exception as error:  # a native optimiser: it raises what it likes
        return None, f"onnxsim failed ({first_line(error)})", None
    if not simplified.graph.node:
        return None, "onnxsim gave an empty graph", None
    try:
        found = stacks_of_onnx(simplified, pixels)
        ours, theirs = (by_image(stacks, batch, len(pixels)) for stacks, batch in (expected, found))
        outputs = len(model.graph.output)
        parity = compare_arrays(ours[:outputs], theirs[:outputs], layout)
        inside = _largest_difference(expected[0], found[0], outputs)
    except Exception as error:
        return None, f"onnxsim's file does not run like its source ({first_line(error)})", None
    if parity.compared_nothing and not candidates:
        return None, "the NMS inside finds nothing to compare outputs by on these images", None
    worst, difference = parity.beyond(tolerance, pixels.shape[2:]), max(parity.max_abs, inside)
    if not worst.difference <= worst.limit:
        reason = f"onnxsim changed an output by {worst.difference:.2g}, more than {worst.limit:g}"
        return None, reason, difference
    if not inside <= (most := box_tolerance_px(tolerance, pixels.shape[2:])):
        reason = f"onnxsim changed what NMS chooses from by {inside:.2g}, more than {most:g}"
        return None, reason, difference
    if parity.nothing_agrees:
        return None, "onnxsim's file gives other detections than its source", difference
    del simplified.graph.output[outputs:]
    after = len(simplified.graph.node)
    what = "candidates of NMS" if parity.compared_nothing else "outputs"
    return simplified, f"{len(model.graph.node)} → {after} nodes, {what} within {difference:.2g}", difference


def _with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy that has these values as further outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    typed = {value.name: value for value in with_shapes(model).graph.value_info} if names else {}
    copy.graph.output.extend(typed[name] for name in names)
    return copy


def _largest_difference(expected: Sequence[Outputs], found: Sequence[Outputs], start: int) -> float:
    """The largest difference of the outputs from ``start`` on, stack by stack; infinite where a number is none."""
    pairs = [(a, b) for stacks in zip(expected, found, strict=True) for a, b in list(zip(*stacks, strict=True))[start:]]
    apart = [np.abs(a.astype(np.float64) - b).max(initial=0.0) for a, b in pairs]
    return float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0))


def _comparison_images(model: onnx.ModelProto, images: Sequence[Path]) -> np.ndarray:
    info = describe_to_run(model)
    if images:
        return batch_from_images(images, imgsz=info.imgsz, task=info.task, channels=info.channels)
    return np.random.default_rng(0).random((2, info.channels, *info.imgsz), dtype=np.float32)
