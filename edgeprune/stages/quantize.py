"""quantize: the target's number format as a transform of the graph (DESIGN: precision is not a build flag)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprune.gate import informs
from edgeprune.stages import compiling
from edgeprune.stages.base import Context, Judged, Output, Stage
from edgeprune.workspace import Key, Record


def _inputs(context: Context) -> Mapping[str, Any]:
    return {
        **context.source(("simplify", "onnx")),
        "params": {**compiling.export_inputs(context), "seed": context.seed},
    }


def _run(context: Context, folder: Path, key: Key) -> Output:
    source, onnx = context.records["simplify"].path("onnx"), folder / "model.onnx"
    context.reporter.progress(f"transforming to {context.target.precision}")
    facts = compiling.in_precision(context, source, onnx)
    return Output({"onnx": ("onnx", onnx)}, facts | {"bytes": onnx.stat().st_size})


def _judge(context: Context, record: Record) -> Judged:
    size = record.facts["bytes"] / 2**20
    reason = f"{record.facts['precision']} graph; its accuracy is judged at the engine stage"
    return Judged([informs("quantize", "ONNX size", size, "MiB", reason)])


STAGE = Stage(
    name="quantize",
    version=1,
    inputs=_inputs,
    run=_run,
    judge=_judge,
    packages=("onnx", "onnxruntime", "onnxruntime-gpu"),
    needed=lambda context: context.target.precision != "fp32",
)
