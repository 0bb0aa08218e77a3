"""engine: what ships, compiled for the target; the gates on latency, accuracy and size stand behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from edgeprune.samples.gates import Gate, accuracy_gate, at_most, informs, not_real, pending, speed_up_gate
from edgeprune.stages import compiling, timing
from edgeprune.stages.base import Context, Judged, Output, Stage
from edgeprune.stages.energy import energy_row
from edgeprune.stages.parity import agreement_gate
from edgeprune.stages.precision import precision_facts, precision_gate
from edgeprune.workspace import Key, Record


def final_onnx(context: Context) -> Path:
    """The graph that is compiled: quantised where the target asks for it, else simplified."""
    return context.records["quantize" if "quantize" in context.records else "simplify"].path("onnx")


def _lint(context: Context, onnx: Path) -> list[dict[str, Any]] | None:
    """Findings about what TensorRT's parser will refuse, for a target that has one; asked before any device is."""
    target = context.target
    oldest = target.oldest_tensorrt
    if oldest is None:
        return None
    from edgeprune.export.lint import Limits, lint

    limits = Limits(
        tensorrt=oldest,
        dynamic=target.export.dynamic,
        batch=target.batch,
        imgsz=(target.imgsz, target.imgsz),
        precision=target.precision,
    )
    return [asdict(finding) for finding in lint(onnx, limits)]


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
    lint = _lint(context, onnx)
    if context.usable:
        context.reporter.progress(f"compiling for {context.target.runtime}")
        files["engine"] = ("engine", compiling.engine_of(context, onnx, folder))
    context.reporter.progress("measuring the accuracy of the artifact")
    accuracy = compiling.measured_accuracy(context, {**files, "onnx": ("onnx", onnx)})
    facts: dict[str, Any] = {
        "lint": lint,
        "accuracy": accuracy,
        "bytes": (files["engine"][1] if files else onnx).stat().st_size,
    }
    if files:
        from edgeprune.measure.layers import layers_side_by_side

        context.reporter.progress("timing layers")
        facts["layers"] = layers_side_by_side(
            context.runtime,
            context.records["baseline"].path("engine"),
            files["engine"][1],
            threads=context.target.measure.threads,
        )
        facts["precision"] = precision_facts(
            context.runtime, files["engine"][1], context.target.precision, facts["layers"]["candidate"]
        )
    return Output(files, facts)


def _judge(context: Context, record: Record) -> Judged:
    baseline = context.records["baseline"]
    size = at_most(
        "engine",
        "size" if context.usable else "ONNX size",
        record.facts["bytes"] / 2**20,
        baseline.facts["bytes"]["engine" if context.usable else "onnx"] / 2**20,
        "MiB",
        "not larger than the unpruned one",
    )
    others = [*_accuracy(context, record), size]
    if held := record.facts.get("precision"):
        others.insert(0, precision_gate("engine", held, context.target.precision))
    if context.runtime.simulated:
        others = [not_real(gate) for gate in others]
    if record.facts["lint"] is not None:
        errors = [finding for finding in record.facts["lint"] if finding["severity"] == "error"]
        reason = f"{len(record.facts['lint'])} findings, none of them an error; docs/lint.md"
        gate = at_most("engine", "graph lint for TensorRT", float(len(errors)), 0.0, "errors", reason)
        if errors:
            gate = replace(gate, reason=f"{errors[0]['rule']}: {errors[0]['message']}; {errors[0]['remedy']}")
        others.insert(0, gate)
    budget = context.target.budget
    if not context.usable:
        latency = pending("engine", f"latency {budget.statistic}", _limit_ms(context), "ms", context.next_command)
        return Judged([latency, *others])
    if budget.kind == "macs_speed_up":
        before, after = timing.raced(context, baseline.path("engine"), record.path("engine"), trained=True)
        row = speed_up_gate("engine", before, after, 1.0)  # fewer MACs alone are no reason to ship a model
        return Judged([row, *energy_row("engine", after), *others], [("baseline", before), ("candidate", after)])
    judged = timing.judged(context, "engine", baseline.path("engine"), record.path("engine"), trained=True)
    energy = [row for role, taken in judged.measurements if role == "candidate" for row in energy_row("engine", taken)]
    return Judged([*judged.gates, *energy, *others], judged.measurements)


def _limit_ms(context: Context) -> float | None:
    budget = context.target.budget
    return budget.value if budget.kind == "latency_ms" else None


def _accuracy(context: Context, record: Record) -> list[Gate]:
    before, after = compiling.unpruned_accuracy(context), record.facts["accuracy"]
    floor = context.target.accuracy.max_map_drop
    gate = accuracy_gate("engine", before, after["value"], floor, metric=after["metric"])
    if context.usable and "agreement" in after:
        return [gate, agreement_gate("engine", after["agreement"])]
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
