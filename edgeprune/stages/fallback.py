"""What quantize does when its graph misses the accuracy floor: a few layers go back to float, as few as it takes.

Accuracy is that of the artifact: compiled and run by the target's runtime where that is usable, else the graph by ONNX
Runtime on this CPU.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeprune.samples.gates import Gate, informs
from edgeprune.stages import compiling, timing
from edgeprune.stages.base import Context

RANKING_IMAGES = 4  # layers are ranked by their error where the head ends, which hardly differs between images
EFFORT = 0.5  # of a gate's measurement: what the fallback costs is told, not judged


def rescued(context: Context, source: Path, low: Path) -> dict[str, Any]:
    """Measure a low-precision graph; where it misses the floor, replace ``low`` by a graph with layers in float.

    Returns facts: ``accuracy`` of the graph as it was made with its ``metric``, the ``floor``, ``mixed``
    (:class:`~edgeprune.export.mixed.MixedInfo` as plain data, None when nothing was searched) and ``why`` not.
    """
    floor = compiling.unpruned_accuracy(context) - context.target.accuracy.max_map_drop
    measured = _accuracy(context, low)
    facts = {"accuracy": measured["value"], "metric": measured["metric"], "floor": floor, "mixed": None, "why": ""}
    if measured["value"] >= floor:
        return facts | {"why": "it reaches the floor"}
    if not context.target.mixed_precision:
        return facts | {"why": "mixed_precision is off in the profile"}
    plain = compiling.measured_accuracy(context, {"onnx": ("onnx", source)})["value"]
    if plain < floor:
        return facts | {"why": f"the FP32 graph has {plain:.4f} itself: precision is not what costs the accuracy"}
    from edgeprune.export.mixed import mixed_precision_onnx

    precision, count = context.target.precision, context.dataset.sample_images
    with tempfile.TemporaryDirectory(dir=low.parent, prefix=".fallback-") as scratch:
        start = low
        if precision == "int8-fp16":  # layers go back in the INT8 graph, which is cast afterwards
            start = Path(scratch) / "int8.onnx"
            compiling.in_precision(context, source, start, "int8")
        found = mixed_precision_onnx(
            source,
            start,
            Path(scratch) / "mixed.onnx",
            count(context.target.accuracy.split, RANKING_IMAGES, context.seed),
            floor=floor,
            accuracy_of=lambda path: _accuracy(context, path)["value"],
            latency_of=(lambda paths: _latency(context, paths)) if context.usable else None,
            half=precision == "int8-fp16",
            progress=context.reporter.progress,
        )
        (Path(scratch) / "mixed.onnx").replace(low)
    context.reporter.note(f"{precision} missed the accuracy floor; {found.reason}")
    return facts | {"mixed": found.to_json()}


def fallback_rows(facts: dict[str, Any], precision: str) -> list[Gate]:
    """Rows of the verdict table: accuracy before and after, which layers went back, and what that costs."""
    name, mixed = f"{facts['metric']} in {precision}", facts["mixed"]
    reason = f"floor {facts['floor']:.4f}; {facts['why'] or 'missed: layers go back to float'}"
    rows = [informs("quantize", name, facts["accuracy"], "", reason)]
    if mixed:
        reason = f"{mixed['reason']}: {', '.join(mixed['layers'])}"
        rows.append(informs("quantize", "layers back in float", float(len(mixed["layers"])), "layers", reason))
    return rows


def _accuracy(context: Context, onnx: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=onnx.parent, prefix=".trial-") as folder:
        files = {"onnx": ("onnx", onnx)}
        if context.usable:
            files["engine"] = ("engine", compiling.engine_of(context, onnx, Path(folder)))
        return compiling.measured_accuracy(context, files)


def _latency(context: Context, paths: Sequence[Path]) -> list[float]:
    from edgeprune.samples.statistics import value_of

    with tempfile.TemporaryDirectory(dir=paths[0].parent, prefix=".trial-") as folder:
        engines = []
        for number, path in enumerate(paths):
            place = Path(folder) / str(number)
            place.mkdir()
            engines.append(compiling.engine_of(context, path, place))
        before, after = timing.raced(context, engines[0], engines[1], EFFORT)
    return [value_of(found.values, "p50") for found in (before, after)]
