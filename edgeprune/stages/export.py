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
    from edgeprune import checkpoint

    model, signature = context.records["finetune"].path("model"), context.records["prune"].facts["signature"]
    checkpoint.require_shapes(checkpoint.load(model).model, signature, "fine-tuning")
    onnx = folder / "model.onnx"
    context.reporter.progress("exporting to ONNX")
    plan = context.records["prune"].facts["plan"]
    info = compiling.onnx_of(context, model, onnx, {"edgeprune_signature": signature, "edgeprune_plan": plan})
    return Output(
        {"onnx": ("onnx", onnx)},
        {
            "opset": info.opset,
            "head": info.head,
            "parity": parity_facts(context, model, onnx),
            "bytes": onnx.stat().st_size,
        },
    )


def _judge(context: Context, record: Record) -> Judged:
    return Judged(
        parity_gate("export", record.facts["parity"], TOLERANCE, f"{record.facts['head']} head, against PyTorch")
    )


STAGE = Stage(
    name="export",
    version=2,
    inputs=_inputs,
    run=_run,
    judge=_judge,
    packages=("torch", "ultralytics", "onnx", "onnxruntime", "onnxruntime-gpu"),
)
