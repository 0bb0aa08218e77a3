"""export: the fine-tuned model as ONNX, with outputs that agree with PyTorch's on real images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprune.stages import compiling
from edgeprune.stages.base import Context, Judged, Output, Stage
from edgeprune.stages.parity import parity_facts, parity_gate
from edgeprune.workspace import Key, Record

TOLERANCE = 1e-3  # pixels of a decoded box and units of a score, fp32 against fp32


def _inputs(context: Context) -> Mapping[str, Any]:
    return {
        **context.source(("finetune", "model")),
        "params": {**compiling.export_inputs(context), "data": context.dataset.digest},
    }


def _run(context: Context, folder: Path, key: Key) -> Output:
    from edgeprune.export.onnx import onnx_from_checkpoint

    target = context.target
    model = context.records["finetune"].path("model")
    onnx = folder / "model.onnx"
    context.reporter.progress("exporting to ONNX")
    info = onnx_from_checkpoint(
        model,
        onnx,
        imgsz=target.imgsz,
        batch=target.batch,
        dynamic=target.export.dynamic,
        opset=target.export.opset,
        nms=target.export.nms,
        metadata={"edgeprune_signature": context.records["finetune"].facts["signature"]},
    )
    return Output(
        {"onnx": ("onnx", onnx)},
        {"opset": info.opset, "parity": parity_facts(context, model, onnx), "bytes": onnx.stat().st_size},
    )


def _judge(context: Context, record: Record) -> Judged:
    return Judged(parity_gate("export", record.facts["parity"], TOLERANCE, "against PyTorch"))


STAGE = Stage(
    name="export",
    version=1,
    inputs=_inputs,
    run=_run,
    judge=_judge,
    packages=("torch", "ultralytics", "onnx", "onnxruntime", "onnxruntime-gpu"),
)
