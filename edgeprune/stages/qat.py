"""qat: train INT8 after fine-tuning, where the profile asks for it; the float graph stays for other number formats.

On TensorRT the graph is exported with the trained ranges in it, as Q/DQ pairs. A CPU's integer kernels need other pairs
than those that can be trained (:mod:`edgeprune.export.int8`): there the trained weights are calibrated.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprune.measure import compiling
from edgeprune.records.facts import BaselineFacts, PruneFacts, QatFacts
from edgeprune.settings import TrainSettings
from edgeprune.stages.base import Build, Judgement, Output, Stage
from edgeprune.stages.finetune import record_to_ship, teacher_inputs, teacher_of
from edgeprune.stages.pretrain import accuracy_row, run_of, train_inputs
from edgeprune.workspace import Key, Record


def _inputs(build: Build) -> Mapping[str, Any]:
    assert build.target.qat is not None  # the stage is not needed without it
    return {
        **build.source((record_to_ship(build), "model"), (build.record(BaselineFacts), "model")),
        **teacher_inputs(build),
        "params": {
            **train_inputs(build, build.target.qat),
            **compiling.graph_inputs(build.target, build.dataset, build.site.seed),
            "distill": build.target.finetune.distill,
        },
    }


def _run(build: Build, folder: Path, key: Key) -> Output[QatFacts]:
    from edgeprune import checkpoint
    from edgeprune.training.finetune import finetune
    from edgeprune.training.result_from_run import QUANTIZED

    section, given, pruned = build.target.qat, record_to_ship(build).path("model"), build.facts(PruneFacts)
    assert section is not None
    teacher = teacher_of(build) if section.teaches() else None  # qat: {response: 0} is how a profile asks for none
    settings = TrainSettings.of(section, **run_of(build), teacher=teacher)
    result = finetune(
        given,
        data=build.dataset.source,
        out=folder,
        settings=settings.for_int8(),
        work=build.workspace.scratch(key),
        metadata=checkpoint.load(given).edgeprune,
        trust=build.trust,
        teacher_is_named=False,  # one that is was told of before anything began
        label="INT8",
    )
    trained = checkpoint.load(result.best)
    checkpoint.require_shapes(trained.model, pruned.signature, "training INT8")
    onnx = folder / "model.onnx"
    build.reporter.progress("exporting INT8")
    metadata = {"edgeprune_signature": pruned.signature, "edgeprune_plan": pruned.plan}
    compiling.export_trained_int8(
        build.target, result.best, folder / QUANTIZED, onnx, build.dataset, build.site.seed, metadata
    )
    facts = QatFacts(result.summary, pruned.signature, checkpoint.parameter_count(trained.model), onnx.stat().st_size)
    return Output({"model": result.best, "onnx": onnx}, facts)


def _judge(build: Build, record: Record[QatFacts]) -> Judgement:
    training = record.facts.training
    kept = training.kept_given and not training.found_nothing
    reason = "epoch 0: no epoch was better on split val than ranges alone" if kept else training.which_epoch
    return Judgement([accuracy_row(build, "qat", training, reason, "PyTorch, INT8")])


STAGE = Stage(
    name="qat",
    version=6,
    facts=QatFacts,
    inputs=_inputs,
    run=_run,
    judge=_judge,
    packages=(*compiling.PACKAGES, "nvidia-modelopt"),
    needed=lambda build: build.target.qat is not None,
    shows_output=True,
)
