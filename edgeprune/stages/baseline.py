"""baseline: the unpruned model, compiled and measured as the pruned one will be. Nothing can be compared without it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprune.input_size import Size, pixels
from edgeprune.measure import compiling
from edgeprune.measure.latency import latency_settings
from edgeprune.measure.per_image import order_of_images
from edgeprune.records.facts import BaselineFacts, PretrainFacts
from edgeprune.runtimes.engine_file import off_dla
from edgeprune.runtimes.precision_truth import LEAVE_DLA
from edgeprune.samples.gates import Gate, Verdict, info_gate, latency_gate, pending_gate, scope_words
from edgeprune.samples.measurement import Measurement
from edgeprune.samples.statistics import value_of
from edgeprune.stages.acceptance import acceptance_gates
from edgeprune.stages.base import Build, Judgement, Output, Stage, artifacts_of
from edgeprune.stages.export import agreement_inputs, judging_split_input
from edgeprune.stages.unpruned import accuracy_as_exported
from edgeprune.target import Target
from edgeprune.workspace import Key, Record


def source_checkpoint(build: Build) -> Path:
    """The trained model that the build starts from: the user's, or what pretrain made of a model YAML."""
    return build.weights.path if build.weights.trained else build.record(PretrainFacts).path("model")


def source_inputs(build: Build) -> dict[str, str]:
    """Key entry for :func:`source_checkpoint`."""
    if build.weights.trained:
        return {"source.weights": build.weights.sha256}
    return build.source((build.record(PretrainFacts), "model"))


def _inputs(build: Build) -> Mapping[str, Any]:
    return {
        **source_inputs(build),
        "params": {
            **compiling.graph_inputs(build.target, build.dataset, build.site.seed),
            **agreement_inputs(build),
            **compiling.engine_inputs(build.site),
            "data": build.dataset.digest,
            "split": judging_split_input(build),
            "trained_imgsz": _other_size(build),
            **order_of_images(build.weights.task),
        },
    }


def _other_size(build: Build) -> Size | None:
    """Size in pixels that the weights were trained at, where the build has another."""
    return build.size.trained if build.size is not None and build.size.differs else None


def _run(build: Build, folder: Path, key: Key) -> Output[BaselineFacts]:
    from edgeprune import checkpoint
    from edgeprune.measure.accuracy import measure_artifact

    source = checkpoint.load(source_checkpoint(build), trust=build.trust)
    # A copy of our own: the checkpoint in the key is then the checkpoint that later stages read, and it is stock.
    model = folder / "model.pt"
    checkpoint.save(source.model, model, like=source)
    build.reporter.progress("exporting and compiling the unpruned model")
    files = compiling.compile_checkpoint(build.site, model, folder, build.dataset, lambda onnx: _ask_first(build, onnx))
    build.reporter.progress("measuring its accuracy")
    low = files.onnx != files.onnx_fp32
    per_image, per_image_fp32 = folder / "per_image.npz", folder / "per_image_fp32.npz"
    accuracy = measure_artifact(build.site, files.onnx, files.engine, build.dataset, per_image)
    plain = measure_artifact(build.site, files.onnx_fp32, None, build.dataset, per_image_fp32) if low else None
    as_trained = None
    if (side := _other_size(build)) is not None:
        build.reporter.progress(f"measuring its accuracy at {pixels(side)} too, as it was trained")
        as_trained = accuracy_as_exported(build, model, build.dataset, side)
    reference = per_image if plain is None or plain.value <= accuracy.value else per_image_fp32
    return Output(
        {**artifacts_of(files), "per_image": reference},
        BaselineFacts(
            accuracy=accuracy,
            accuracy_fp32=plain,
            parameters=checkpoint.parameter_count(source.model),
            signature=checkpoint.shape_signature(source.model),
            onnx_bytes=files.onnx.stat().st_size,
            engine_bytes=None if files.engine is None else files.engine.stat().st_size,
            accuracy_as_trained=as_trained,
        ),
    )


def _ask_first(build: Build, onnx: Path) -> None:
    """Tell what NVIDIA's parser has against a graph before a device spends minutes on it; the device decides."""
    for gate in acceptance_gates("baseline", build.target, onnx):
        if gate.verdict is not Verdict.PASS:
            build.reporter.note(f"{gate.metric}: {gate.reason}")


def _judge(build: Build, record: Record[BaselineFacts]) -> Judgement:
    accuracy, plain = record.facts.accuracy, record.facts.accuracy_fp32
    rows: list[Gate] = [
        info_gate("baseline", accuracy.metric, accuracy.value, "", f"unpruned, by {accuracy.measured_on}")
    ]
    if (as_trained := record.facts.accuracy_as_trained) is not None and build.size is not None:
        metric = f"{as_trained.metric} at {pixels(build.size.trained or build.size.side)}"
        here = f"this build is at {pixels(build.size.side)}"
        reason = f"unpruned, at the size it was trained at, by {as_trained.measured_on}; {here}"
        rows.append(info_gate("baseline", metric, as_trained.value, "", reason))
    if plain is not None:
        reason = f"unpruned, before {build.target.precision}, by {plain.measured_on}"
        rows.append(info_gate("baseline", f"{plain.metric} in FP32", plain.value, "", reason))
    statistic = build.target.budget.judged_statistic
    if not build.site.usable:
        # known before hours of training; a usable TensorRT, before which it was asked, has built the graph by now
        rows += acceptance_gates("baseline", build.target, record.path("onnx"))
        return Judgement([*rows, pending_gate("baseline", f"latency {statistic}", None, "ms", build.next_command)])
    if fell_back := off_dla(record.path("engine")):
        build.reporter.note(f"warning: unpruned, {fell_back}; {LEAVE_DLA}")
    settings = latency_settings(build.site, build.dataset)
    [latency] = build.site.runtime.latency([record.path("engine")], settings, progress=build.reporter.progress)
    # a first look: what is held against the budget is measured again beside the candidate, and that is the figure
    metric = f"{scope_words(latency)}latency {statistic}, alone"
    reason = unpruned_words(build.target, latency, "unpruned, before the search; both are timed together below")
    rows.append(info_gate("baseline", metric, value_of(latency.values, statistic), "ms", reason))
    return Judgement(rows, [("baseline", latency)])


def unpruned_words(target: Target, latency: Measurement, otherwise: str) -> str:
    """Words for the unpruned model's latency: that it is within a budget in ms for sure, or ``otherwise``."""
    budget = target.budget
    if budget.kind == "latency_ms":
        alone = latency_gate("baseline", latency, budget.value, budget.statistic)
        if alone.verdict is Verdict.PASS:
            return f"unpruned, within the budget as it is: {alone.reason}"
    return otherwise


def within_budget_unpruned(build: Build) -> bool:
    """Whether the unpruned model meets a budget in ms for sure, as the look behind this stage saw it."""
    judged = build.judged.get(STAGE.name)
    looks = [measurement for _, measurement in judged.measurements] if judged is not None else []
    return bool(looks) and unpruned_words(build.target, looks[0], "") != ""


STAGE = Stage(
    name="baseline",
    version=9,
    facts=BaselineFacts,
    inputs=_inputs,
    run=_run,
    judge=_judge,
    packages=compiling.PACKAGES,
)
