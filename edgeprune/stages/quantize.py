"""quantize: the target's number format as a transform of the graph (DESIGN: precision is not a build flag).

Where the transformed graph misses the accuracy floor, the few layers go back to float that win most of it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprune.samples.gates import informs
from edgeprune.stages import compiling
from edgeprune.stages.base import Context, Judged, Output, Stage
from edgeprune.stages.fallback import fallback_rows, rescued
from edgeprune.workspace import Key, Record


def _inputs(context: Context) -> Mapping[str, Any]:
    return {
        **context.source(("simplify", "onnx")),
        "params": {
            **compiling.export_inputs(context),
            **compiling.engine_inputs(context),
            "data": context.dataset.digest,
            "seed": context.seed,
            "floor": compiling.unpruned_accuracy(context) - context.target.accuracy.max_map_drop,
            "split": context.target.accuracy.split,
            "mixed_precision": context.target.mixed_precision,
        },
    }


def _run(context: Context, folder: Path, key: Key) -> Output:
    source, onnx = context.records["simplify"].path("onnx"), folder / "model.onnx"
    context.reporter.progress(f"transforming to {context.target.precision}")
    facts = compiling.in_precision(context, source, onnx)
    for line in facts["warnings"]:
        context.reporter.note(f"warning: {line}")
    context.reporter.progress("measuring what the precision costs")
    facts["fallback"] = rescued(context, source, onnx)
    return Output({"onnx": ("onnx", onnx)}, facts | {"bytes": onnx.stat().st_size})


def _judge(context: Context, record: Record) -> Judged:
    facts = record.facts
    reason = f"{facts['precision']} graph; its accuracy is judged at the engine stage"
    rows = [informs("quantize", "ONNX size", facts["bytes"] / 2**20, "MiB", reason)]
    if facts["images"]:
        reason = "; ".join(f"warning: {line}" for line in facts["warnings"]) or f"{facts['method']}, train split"
        rows.append(informs("quantize", "calibration images", float(facts["images"]), "images", reason))
    return Judged([*rows, *fallback_rows(facts["fallback"], facts["precision"])])


STAGE = Stage(
    name="quantize",
    version=3,
    inputs=_inputs,
    run=_run,
    judge=_judge,
    packages=("onnx", "onnxruntime", "onnxruntime-gpu", "ultralytics"),
    needed=lambda context: context.target.precision != "fp32",
)
