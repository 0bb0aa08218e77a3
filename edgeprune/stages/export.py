"""export: the fine-tuned model as ONNX, with outputs that agree with PyTorch's on real images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprune.export.result import EXPORT_TOLERANCE
from edgeprune.measure import compiling
from edgeprune.records.facts import ExportFacts, PruneFacts
from edgeprune.records.gates import parity_gate
from edgeprune.samples.agreement import MOST_IMAGES
from edgeprune.stages.base import Build, Judgement, Output, Stage
from edgeprune.stages.finetune import record_to_ship
from edgeprune.workspace import Key, Record


def images_inputs(build: Build) -> dict[str, object]:
    """Key entries of the images that two forms of a model are compared on."""
    return {"data": build.dataset.digest, "split": judging_split_input(build), "seed": build.site.seed}


def agreement_inputs(build: Build) -> dict[str, object]:
    """Key entries of the images that an engine is compared with its graph on, where its own accuracy is not told."""
    compared = build.site.usable and not build.site.runtime.fit_for_dataset
    return {"seed": build.site.seed, "compared": MOST_IMAGES} if compared else {}


def judging_split_input(build: Build) -> str:
    """Key entry of the split that judges, with the other splits that hold images of it."""
    split = build.dataset.judging_split(build.target.accuracy.split)
    return " ".join((split, *sorted(build.dataset.also_in(split))))


def _inputs(build: Build) -> Mapping[str, Any]:
    return {
        **build.source((record_to_ship(build), "model")),
        "params": {**compiling.graph_inputs(build.target, build.dataset, build.site.seed), **images_inputs(build)},
    }


def _run(build: Build, folder: Path, key: Key) -> Output[ExportFacts]:
    from edgeprune import checkpoint
    from edgeprune.measure.accuracy import compare_outputs

    model, pruned = record_to_ship(build).path("model"), build.facts(PruneFacts)
    checkpoint.require_shapes(checkpoint.load(model).model, pruned.signature, "fine-tuning")
    onnx = folder / "model.onnx"
    build.reporter.progress("exporting to ONNX")
    metadata = {"edgeprune_signature": pruned.signature, "edgeprune_plan": pruned.plan}
    info = compiling.export_onnx(build.target, model, onnx, metadata)
    parity = compare_outputs(build.site, model, onnx, build.dataset)
    return Output({"onnx": onnx}, ExportFacts(info.opset, info.head, parity, onnx.stat().st_size))


def _judge(build: Build, record: Record[ExportFacts]) -> Judgement:
    facts = record.facts
    against = f"{facts.head} head, against PyTorch"
    return Judgement([parity_gate("export", facts.parity, EXPORT_TOLERANCE, build.target.imgsz, against)])


STAGE = Stage(
    name="export",
    version=5,
    facts=ExportFacts,
    inputs=_inputs,
    run=_run,
    judge=_judge,
    packages=("torch", "ultralytics", "onnx", "onnxruntime", "onnxruntime-gpu"),
)
