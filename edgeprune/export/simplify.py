"""ONNX to a simpler ONNX, by onnxsim.

Takes an ONNX file. Gives a file that says the same with fewer nodes. Where onnxsim fails, or its result says something
else, the source goes on unchanged and the answer says so: a build never stops here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeprune.errors import DataError
from edgeprune.export.detections import Layout
from edgeprune.export.graph import inputs_of, load_graph, metadata_of, parsed_metadata, save_graph, set_metadata
from edgeprune.export.images import batch_from_images
from edgeprune.export.onnx import describe
from edgeprune.export.parity import compare
from edgeprune.export.run import outputs_of_onnx

TOLERANCE = 1e-4  # absolute, over every output: what folding constants may change at most


@dataclass(frozen=True)
class SimplifyInfo:
    """What simplifying did.

    Attributes:
        nodes_before: nodes of the source.
        nodes_after: nodes of the file that was written.
        changed: whether that file is the simplified one; False when the source went on.
        max_abs: largest difference of any output to the source's; None when nothing was compared.
        reason: one line.
    """

    nodes_before: int
    nodes_after: int
    changed: bool
    max_abs: float | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``build.json``."""
        return asdict(self)


def simplified_onnx(
    source: Path, target: Path, *, images: list[Path] | None = None, tolerance: float = TOLERANCE
) -> SimplifyInfo:
    """Simplify an ONNX file.

    Args:
        source: the file to read.
        target: the file to write; may be the same.
        images: images to compare outputs on; two seeded images of noise when None.
        tolerance: largest absolute difference of any output that is accepted.

    Raises:
        DataError: the source cannot be read or run.
        TargetError: the target cannot be written.
    """
    model = load_graph(source)
    before = len(model.graph.node)
    simplified, reason, difference = _attempt(model, images, tolerance)
    if simplified is None:
        save_graph(model, target)
        return SimplifyInfo(before, before, False, difference, f"the unsimplified file goes on: {reason}")
    del simplified.metadata_props[:]  # onnxsim 0.8 adds a report of its own, with this machine's timings
    set_metadata(simplified, metadata_of(model))
    simplified.ir_version = min(simplified.ir_version, model.ir_version)  # an older runtime must still read it
    save_graph(simplified, target)
    return SimplifyInfo(before, len(simplified.graph.node), True, difference, reason)


def _attempt(
    model: onnx.ModelProto, images: list[Path] | None, tolerance: float
) -> tuple[onnx.ModelProto | None, str, float | None]:
    """A simplified model that gives the same outputs, or None and why not."""
    import onnxsim

    before = onnx.ModelProto()
    before.CopyFrom(model)
    try:
        # its own check compares with random inputs of its own and a relative tolerance; ours below is absolute and on
        # images. These two arguments are the same in 0.4.36 and 0.8.1.
        simplified, _ = onnxsim.simplify(before, check_n=0)
    except Exception as error:  # a native optimiser: it raises what it likes
        return None, f"onnxsim failed ({(str(error).strip() or type(error).__name__).splitlines()[0][:200]})", None
    if not simplified.graph.node:
        return None, "onnxsim gave an empty graph", None
    pixels = _inputs(model, images)
    info, data = describe(model), parsed_metadata(metadata_of(model))
    layout = Layout(info.task, info.head, len(data.get("names") or ()), tuple(data.get("kpt_shape") or ()))
    expected = outputs_of_onnx(model, pixels)
    try:
        found = compare(expected, outputs_of_onnx(simplified, pixels), layout)
    except Exception as error:
        return None, f"onnxsim's file does not run like its source ({str(error).splitlines()[0][:200]})", None
    difference = found.max_abs
    if not difference <= tolerance:
        return None, f"onnxsim changed an output by {difference:.2g}, more than {tolerance:g}", difference
    after = len(simplified.graph.node)
    return simplified, f"{len(model.graph.node)} → {after} nodes, outputs within {difference:.2g}", difference


def _inputs(model: onnx.ModelProto, images: list[Path] | None) -> np.ndarray:
    info = describe(model)
    if images:
        return batch_from_images(images, imgsz=info.imgsz, task=info.task)
    shape = inputs_of(model)[0].shape
    if len(shape) != 4 or not all(info.imgsz):
        raise DataError(f"the model's input has shape {shape}; (batch, channels, height, width) was expected")
    channels = shape[1] if isinstance(shape[1], int) else 3
    return np.random.default_rng(0).random((2, channels, *info.imgsz), dtype=np.float32)
