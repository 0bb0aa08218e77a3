"""ONNX to a simpler ONNX, by onnxsim.

Takes an ONNX file. Gives a file that says the same with fewer nodes. Where onnxsim fails, or its result says something
else, the source goes on unchanged and the answer says so: a build never stops here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from edgeprune.errors import TargetError, first_line
from edgeprune.export.detections import Layout
from edgeprune.export.graph import load_graph, metadata_of, save_graph, set_metadata, tensorrt_plugins
from edgeprune.export.images import batch_from_images
from edgeprune.export.metadata import facts_of
from edgeprune.export.onnx import describe_to_run
from edgeprune.export.parity import compare_arrays
from edgeprune.export.result import SIMPLIFY_TOLERANCE, SimplifyInfo
from edgeprune.export.run import outputs_of_onnx
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
    pixels = _comparison_images(model, images)
    expected = outputs_of_onnx(model, pixels)  # first: onnxsim writes tracebacks over what ONNX Runtime does not run
    before = onnx.ModelProto()
    before.CopyFrom(model)
    try:
        # its own check compares with random inputs of its own and a relative tolerance; ours below is absolute and on
        # images. These two arguments are the same in 0.4.36 and 0.8.1.
        simplified, _ = onnxsim.simplify(before, check_n=0)
    except Exception as error:  # a native optimiser: it raises what it likes
        return None, f"onnxsim failed ({first_line(error)})", None
    if not simplified.graph.node:
        return None, "onnxsim gave an empty graph", None
    try:
        parity = compare_arrays(expected, outputs_of_onnx(simplified, pixels), Layout.of(facts_of(model)))
    except Exception as error:
        return None, f"onnxsim's file does not run like its source ({first_line(error)})", None
    if parity.compared_nothing:
        return None, "the NMS inside finds nothing to compare outputs by on these images", None
    difference, worst = parity.max_abs, parity.beyond(tolerance, pixels.shape[2:])
    if not worst.difference <= worst.limit:
        reason = f"onnxsim changed an output by {worst.difference:.2g}, more than {worst.limit:g}"
        return None, reason, difference
    if parity.nothing_agrees:
        return None, "onnxsim's file gives other detections than its source", difference
    after = len(simplified.graph.node)
    return simplified, f"{len(model.graph.node)} → {after} nodes, outputs within {difference:.2g}", difference


def _comparison_images(model: onnx.ModelProto, images: Sequence[Path]) -> np.ndarray:
    info = describe_to_run(model)
    if images:
        return batch_from_images(images, imgsz=info.imgsz, task=info.task, channels=info.channels)
    return np.random.default_rng(0).random((2, info.channels, *info.imgsz), dtype=np.float32)
