"""engine: what ships, compiled for the target; the gates on latency, accuracy and size stand behind it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprune.gate import Gate, accuracy_gate, at_most, informs, pending
from edgeprune.stages import compiling, timing
from edgeprune.stages.base import Context, Judged, Output, Stage
from edgeprune.workspace import Key, Record


def final_onnx(context: Context) -> Path:
    """The graph that is compiled: quantised where the target asks for it, else simplified."""
    return context.records["quantize" if "quantize" in context.records else "simplify"].path("onnx")


def _inputs(context: Context) -> Mapping[str, Any]:
    stage = "quantize" if "quantize" in context.records else "simplify"
    return {
        **context.source((stage, "onnx"), ("baseline", "onnx")),
        "params": {
            **compiling.engine_inputs(context),
            "precision": context.target.precision,
            "threads": context.target.measure.threads,
            "imgsz": context.target.imgsz,
            "batch": context.target.batch,
            "split": context.target.accuracy.split,
            "data": context.dataset.digest,
        },
    }


def _run(context: Context, folder: Path, key: Key) -> Output:
    onnx = final_onnx(context)
    files: dict[str, tuple[str, Path]] = {}
    if context.usable:
        context.reporter.progress(f"compiling for {context.target.runtime}")
        engine = folder / "engine.onnx"
        context.runtime.engine_from_onnx(onnx, engine, precision=context.target.precision)
        files["engine"] = ("engine", engine)
    context.reporter.progress("measuring the accuracy of the artifact")
    accuracy = compiling.measured_accuracy(context, files or {"onnx": ("onnx", onnx)})
    facts: dict[str, Any] = {"accuracy": accuracy, "bytes": (files["engine"][1] if files else onnx).stat().st_size}
    if files:
        from edgeprune.measure.layers import layers_side_by_side

        context.reporter.progress("timing layers")
        facts["layers"] = layers_side_by_side(
            context.runtime,
            context.records["baseline"].path("engine"),
            files["engine"][1],
            threads=context.target.measure.threads,
        )
    return Output(files, facts)


def _judge(context: Context, record: Record) -> Judged:
    accuracy = _accuracy(context, record)
    baseline = context.records["baseline"]
    size = at_most(
        "engine",
        "size" if context.usable else "ONNX size",
        record.facts["bytes"] / 2**20,
        baseline.facts["bytes"]["engine" if context.usable else "onnx"] / 2**20,
        "MiB",
        "not larger than the unpruned one",
    )
    budget = context.target.budget
    if not context.usable:
        latency = pending("engine", f"latency {budget.statistic}", _limit_ms(context), "ms", context.next_command)
        return Judged([latency, *accuracy, size])
    if budget.kind == "macs_speed_up":
        before, after = timing.raced(context, baseline.path("engine"), record.path("engine"))
        from edgeprune.measure.statistics import value_of

        value = value_of(after.values, budget.statistic)
        row = informs(
            "engine", f"latency {budget.statistic}", value, "ms", "the budget speaks of MACs; measured all the same"
        )
        return Judged([row, *accuracy, size], [("baseline", before), ("candidate", after)])
    judged = timing.judged(context, "engine", baseline.path("engine"), record.path("engine"))
    return Judged([*judged.gates, *accuracy, size], judged.measurements)


def _limit_ms(context: Context) -> float | None:
    budget = context.target.budget
    return budget.value if budget.kind == "latency_ms" else None


def _accuracy(context: Context, record: Record) -> list[Gate]:
    before, after = context.records["baseline"].facts["accuracy"], record.facts["accuracy"]
    floor = context.target.accuracy.max_map_drop
    gate = accuracy_gate("engine", before["value"], after["value"], floor, metric=after["metric"])
    if context.usable:
        return [gate]
    # The graph was judged by another runtime: worth knowing, but not a verdict on an engine that nobody has built yet.
    proxy = informs(
        "engine", f"{after['metric']} of the ONNX", after["value"], "", f"by {after['measured_on']}: {gate.reason}"
    )
    return [proxy, pending("engine", gate.metric, gate.limit, gate.unit, context.next_command)]


STAGE = Stage(
    name="engine",
    version=1,
    inputs=_inputs,
    run=_run,
    judge=_judge,
    packages=("onnx", "onnxruntime", "onnxruntime-gpu", "ultralytics"),
)
