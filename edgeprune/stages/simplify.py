"""simplify: onnxsim folds what is constant. When it fails or changes an output, the graph goes on as it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprune.samples.gates import at_most
from edgeprune.stages.base import Context, Judged, Output, Stage
from edgeprune.stages.parity import parity_facts, parity_gate
from edgeprune.workspace import Key, Record

TOLERANCE = 1e-4  # simplification rearranges, it does not approximate


def _inputs(context: Context) -> Mapping[str, Any]:
    return {
        **context.source(("export", "onnx")),
        "params": {"imgsz": context.target.imgsz, "data": context.dataset.digest, "seed": context.seed},
    }


def _run(context: Context, folder: Path, key: Key) -> Output:
    from edgeprune.export.simplify import simplified_onnx

    source, onnx = context.records["export"].path("onnx"), folder / "model.onnx"
    context.reporter.progress("simplifying")
    info = simplified_onnx(source, onnx)
    return Output(
        {"onnx": ("onnx", onnx)},
        {
            "nodes": {"before": info.nodes_before, "after": info.nodes_after},
            "reason": info.reason,
            "parity": parity_facts(context, source, onnx),
        },
    )


def _judge(context: Context, record: Record) -> Judged:
    nodes = record.facts["nodes"]
    reason = record.facts["reason"] or f"{nodes['before']} nodes before"
    rows = parity_gate("simplify", record.facts["parity"], TOLERANCE, "against the exported graph")
    return Judged([*rows, at_most("simplify", "graph nodes", nodes["after"], nodes["before"], "nodes", reason)])


STAGE = Stage(
    name="simplify",
    version=1,
    inputs=_inputs,
    run=_run,
    judge=_judge,
    packages=("onnx", "onnxsim", "onnxruntime", "onnxruntime-gpu"),
)
