"""simplify: onnxsim folds what is constant. When it fails or changes an output, the graph goes on as it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprune.export.result import SIMPLIFY_TOLERANCE
from edgeprune.records.facts import Change, ExportFacts, SimplifyFacts
from edgeprune.records.gates import nodes_gate, parity_gate
from edgeprune.stages.acceptance import acceptance_gates
from edgeprune.stages.base import Build, Judgement, Output, Stage
from edgeprune.stages.export import images_inputs
from edgeprune.workspace import Key, Record


def _inputs(build: Build) -> Mapping[str, Any]:
    return {
        **build.source((build.record(ExportFacts), "onnx")),
        "params": {"imgsz": build.target.imgsz, **images_inputs(build)},
    }


def _run(build: Build, folder: Path, key: Key) -> Output[SimplifyFacts]:
    from edgeprune.export.simplify import simplify_onnx
    from edgeprune.measure.accuracy import compare_outputs, compared_images

    source, onnx = build.record(ExportFacts).path("onnx"), folder / "model.onnx"
    build.reporter.progress("simplifying")
    images = compared_images(build.dataset, build.target.accuracy.split, build.site.seed)
    info = simplify_onnx(source, onnx, images=images)
    parity = compare_outputs(build.site, source, onnx, build.dataset)
    return Output({"onnx": onnx}, SimplifyFacts(Change(info.nodes_before, info.nodes_after), info.reason, parity))


def _judge(build: Build, record: Record[SimplifyFacts]) -> Judgement:
    against, imgsz = "against the exported graph", build.target.imgsz
    parity = parity_gate("simplify", record.facts.parity, SIMPLIFY_TOLERANCE, imgsz, against)
    rows = [parity, nodes_gate(record.facts)]
    if build.target.graph_precision == "fp32":  # else quantize makes the graph that is compiled
        rows += acceptance_gates("simplify", build.target, record.path("onnx"))
    return Judgement(rows)


STAGE = Stage(
    name="simplify",
    version=5,
    facts=SimplifyFacts,
    inputs=_inputs,
    run=_run,
    judge=_judge,
    packages=(
        "onnx",
        "onnxsim",
        "onnxruntime",
        "onnxruntime-gpu",
        "torch",
        "ultralytics",
    ),  # these two: NMS of what is compared
)
