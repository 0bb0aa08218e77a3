"""quantize: the target's number format as a transform of the graph (DESIGN: precision is not a build flag).

Where the transformed graph misses the accuracy floor, the few layers go back to float that win most of it back. Where
INT8 is then not faster on the target than a plainer number format, that one goes on in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeprune.artifact import write_atomically
from edgeprune.measure import compiling
from edgeprune.measure.latency import timing_inputs
from edgeprune.measure.per_image import order_of_images
from edgeprune.records.facts import (
    BaselineFacts,
    FallbackFacts,
    QatFacts,
    QuantizeFacts,
    SimplifyFacts,
    TrainedInt8,
    shipped_precision,
    ships_trained_int8,
)
from edgeprune.samples.gates import info_gate
from edgeprune.stages.acceptance import acceptance_gates
from edgeprune.stages.base import Build, Judgement, Output, Stage
from edgeprune.stages.export import judging_split_input
from edgeprune.stages.finetune import record_to_ship
from edgeprune.stages.mixed_precision import fallback_gates, graph_accuracy, meet_floor
from edgeprune.stages.precision_choice import choose_precision
from edgeprune.workspace import Key, Record


def shipped_model(build: Build) -> Path:
    """The checkpoint of what ships: the fine-tuned one, or that of trained INT8 where that is what ships."""
    facts, trained = build.finished(QuantizeFacts), build.finished(QatFacts)
    if facts is None or trained is None or not ships_trained_int8(build.target, facts.facts):
        return record_to_ship(build).path("model")
    return trained.path("model")


def _inputs(build: Build) -> Mapping[str, Any]:
    trained = build.finished(QatFacts)
    return {
        **build.source((build.record(SimplifyFacts), "onnx")),
        **({} if trained is None else build.source((trained, "onnx"))),
        "params": {
            "calibration": {"images": build.target.calibration.images},  # of FP16 too: as many it is tried on
            **compiling.graph_inputs(build.target, build.dataset, build.site.seed),
            **compiling.engine_inputs(build.site),
            "data": build.dataset.digest,
            "seed": build.site.seed,
            "unpruned": build.record(BaselineFacts).artifacts["model"].sha256,
            "max_map_drop": build.target.accuracy.max_map_drop,
            "split": judging_split_input(build),
            "mixed_precision": build.target.mixed_precision,
            "keep_precision": build.target.keep_precision,
            "timing": timing_inputs(build.target, build.dataset),
            **order_of_images(build.weights.task),
        },
    }


def _run(build: Build, folder: Path, key: Key) -> Output[QuantizeFacts]:
    source, onnx = build.record(SimplifyFacts).path("onnx"), folder / "model.onnx"
    build.reporter.progress(f"transforming to {build.target.graph_precision}")
    conversion = compiling.convert_precision(build.target, source, onnx, build.dataset, build.site.seed)
    for line in conversion.warnings:
        build.reporter.note(f"warning: {line}")
    build.reporter.progress("measuring what the precision costs")
    fallback, trained = _choose_int8(build, source, onnx)
    choice = choose_precision(build, source, onnx, fallback)
    return Output({"onnx": onnx}, QuantizeFacts(conversion, fallback, onnx.stat().st_size, choice, trained))


def _choose_int8(build: Build, source: Path, low: Path) -> tuple[FallbackFacts, TrainedInt8 | None]:
    """What the calibrated graph came to; the trained one replaces it where it is at least as accurate, or where it
    reaches the floor with no layer in float."""
    fallback, record = meet_floor(build, source, low), build.finished(QatFacts)
    if record is None:
        return fallback, None
    mixed = fallback.mixed
    calibrated = fallback.accuracy if mixed is None else mixed.accuracy_after
    trained = graph_accuracy(build, record.path("onnx")).value
    ships = trained >= calibrated or (mixed is not None and trained >= fallback.floor)
    if ships:
        write_atomically(low, record.path("onnx").read_bytes())
        fallback = replace(fallback, accuracy=trained, mixed=None, reason="trained")
    return fallback, TrainedInt8(trained, calibrated, ships)


def _judge(build: Build, record: Record[QuantizeFacts]) -> Judgement:
    conversion, choice = record.facts.conversion, record.facts.choice
    reason = f"{shipped_precision(build.target, record.facts)} graph; its accuracy is judged at the engine stage"
    rows = [info_gate("quantize", "ONNX size", record.facts.onnx_bytes / 2**20, "MiB", reason)]
    if conversion.images:
        reason = "; ".join(f"warning: {line}" for line in conversion.warnings) or f"{conversion.method}, train split"
        reason += "; weights of 7 bits (reduce_range)" if conversion.reduced_range else ""
        rows.append(info_gate("quantize", "calibration images", float(conversion.images), "images", reason))
    if (trained := record.facts.trained) is not None:
        which = "trained" if trained.ships else "calibrated"
        outcome = f"the {which} graph goes on"
        if choice is not None and choice.shipped != choice.asked:  # the row below says why
            outcome = f"the {which} graph was tried, and {choice.shipped} ships"
        reason = f"{trained.trained:.4f} trained, {trained.calibrated:.4f} calibrated: {outcome}"
        gain = trained.trained - trained.calibrated
        rows.append(info_gate("quantize", "trained against calibrated INT8", gain, "", reason))
    if choice is not None:
        metric = f"{choice.asked} against {choice.plainer}"
        rows.append(info_gate("quantize", metric, choice.gain, "×", f"{choice.shipped} ships: {choice.reason}"))
    accepted = acceptance_gates("quantize", build.target, record.path("onnx"))
    return Judgement([*rows, *fallback_gates(record.facts.fallback, conversion.precision), *accepted])


def _unsure(build: Build, record: Record[QuantizeFacts]) -> str:
    choice = record.facts.choice
    if choice is None or not choice.doubt:
        return ""
    return f"{choice.asked} against {choice.plainer} was not decided, as {choice.doubt}, and the budget was not held"


STAGE = Stage(
    name="quantize",
    version=13,
    facts=QuantizeFacts,
    inputs=_inputs,
    run=_run,
    judge=_judge,
    packages=compiling.PACKAGES,
    needed=lambda build: build.target.graph_precision != "fp32",
    unsure=_unsure,
)
