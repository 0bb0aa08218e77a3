"""engine: what ships, compiled for the target; the gates on latency, accuracy and size stand behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeprune.artifact import Role
from edgeprune.export.result import LintFinding
from edgeprune.input_size import both_sides
from edgeprune.measure import compiling, latency
from edgeprune.measure.layers import compare_layers
from edgeprune.measure.per_image import order_of_images
from edgeprune.records.facts import (
    BaselineFacts,
    EngineFacts,
    PruneFacts,
    QuantizeFacts,
    SimplifyFacts,
)
from edgeprune.records.gates import agreement_gate, drop_gate, lint_gate, precision_gates, size_gate
from edgeprune.runtimes.base import NO_LAYER_TIMES
from edgeprune.samples.average_precision import drop_interval
from edgeprune.samples.gates import Gate, info_gate, pending_gate, simulated_gate, unpruned_gate
from edgeprune.stages.base import Build, Judgement, Output, Stage, judgement_of
from edgeprune.stages.energy import by_role, energy_gates, measure_energy
from edgeprune.stages.export import agreement_inputs, images_inputs
from edgeprune.stages.precision import engine_precision
from edgeprune.stages.prune import met_unpruned
from edgeprune.stages.unpruned import compile_unpruned, shipped_site, unpruned_engine, unpruned_inputs
from edgeprune.target import Target
from edgeprune.workspace import Key, Record


def final_onnx(build: Build) -> Path:
    """The graph that is compiled: quantised where the target asks for it, else simplified."""
    return _final_graph(build).path("onnx")


def _final_graph(build: Build) -> Record[QuantizeFacts] | Record[SimplifyFacts]:
    return build.finished(QuantizeFacts) or build.record(SimplifyFacts)


def target_to_ship(build: Build) -> Target:
    """The build's target, in the number format of what ships."""
    return shipped_site(build).target


def _lint(build: Build, onnx: Path) -> tuple[LintFinding, ...] | None:
    """Findings about what TensorRT's parser will refuse, for a target that has one; asked before any device is."""
    target = build.target
    oldest = target.oldest_tensorrt
    if oldest is None:
        return None
    from edgeprune.export.lint import Limits, lint

    limits = Limits(
        tensorrt=oldest,
        dynamic=target.export.dynamic,
        batch=target.batch,
        imgsz=both_sides(target.imgsz),
        precision=shipped_site(build).target.graph_precision,
    )
    return tuple(lint(onnx, limits))


def _lint_inputs(build: Build) -> dict[str, object]:
    """What the findings depend on besides the graph, its size and its number format."""
    target = build.target
    if target.oldest_tensorrt is None:
        return {}
    return {"lint": {"tensorrt": target.oldest_tensorrt, "dynamic": target.export.dynamic}}


def _inputs(build: Build) -> Mapping[str, Any]:
    return {
        **build.source(
            (_final_graph(build), "onnx"),
            (build.record(BaselineFacts), "onnx"),
            (build.record(BaselineFacts), "per_image"),
        ),
        "params": {
            **compiling.engine_inputs(build.site),
            "precision": shipped_site(build).target.precision,
            "threads": build.target.measure.threads,
            "imgsz": build.target.imgsz,
            "batch": build.target.batch,
            **images_inputs(build),
            **agreement_inputs(build),
            **_lint_inputs(build),
            **order_of_images(build.weights.task),
        },
        **unpruned_inputs(build),
    }


def _run(build: Build, folder: Path, key: Key) -> Output[EngineFacts]:
    from edgeprune.measure.accuracy import measure_artifact
    from edgeprune.measure.per_image import load_per_image

    onnx = final_onnx(build)
    lint = _lint(build, onnx)
    engine = None
    if build.site.usable:
        build.reporter.progress(f"compiling for {build.target.runtime}")
        engine = compiling.compile_engine(shipped_site(build), onnx, folder)
    build.reporter.progress("measuring the accuracy of the artifact")
    per_image = folder / "per_image.npz"
    accuracy = measure_artifact(build.site, onnx, engine, build.dataset, per_image)
    baseline = build.record(BaselineFacts)
    drop = drop_interval(
        load_per_image(baseline.path("per_image")),
        load_per_image(per_image),
        baseline.facts.reference_accuracy - accuracy.value,
        seed=build.site.seed,
    )
    artifacts: dict[Role, Path] = {"per_image": per_image}
    unpruned, form = None if engine is None else baseline.path("engine"), None
    if (made := compile_unpruned(build, folder / "unpruned")) is not None:
        files, form = made
        artifacts["unpruned_onnx"] = files.onnx
        if engine is not None:
            unpruned = artifacts["unpruned_engine"] = files.required_engine
    if engine is None or unpruned is None:
        return Output(artifacts, EngineFacts(accuracy, onnx.stat().st_size, lint, None, None, drop, form))
    build.reporter.progress("timing layers")
    layers = compare_layers(
        build.site.runtime,
        unpruned,
        engine,
        threads=build.target.measure.threads,
        free=compiling.free_axes(build.target),
    )
    if not layers.candidate:
        build.reporter.note(f"the layers are not timed: {NO_LAYER_TIMES}")
    core = build.target.device.dla_core
    precision = engine_precision(build.site.runtime, engine, layers.candidate, onnx, core)
    artifacts["engine"] = engine
    return Output(artifacts, EngineFacts(accuracy, engine.stat().st_size, lint, layers, precision, drop, form))


def _judge(build: Build, record: Record[EngineFacts]) -> Judgement:
    baseline, facts = build.record(BaselineFacts), record.facts
    others = [*_accuracy(build, facts), size_gate(baseline.facts, facts)]
    unpruned = build.facts(PruneFacts).unpruned
    if facts.precision is not None:
        shipped = shipped_site(build).target
        others = [*precision_gates("engine", facts.precision, shipped.precision, shipped.device.dla_core), *others]
    if build.site.runtime.simulated:
        others = [simulated_gate(gate) for gate in others]
    if facts.lint is not None:
        others.insert(0, lint_gate(facts.lint))
    budget = build.target.budget
    if not build.site.usable:
        metric, stand_in = f"latency {budget.statistic}", build.facts(PruneFacts).stand_in(budget)
        unmeasured = pending_gate("engine", metric, _limit_ms(build), "ms", build.next_command, but=stand_in)
        return Judgement([unmeasured, *others])
    engines = unpruned_engine(build, record), record.path("engine")
    if unpruned and budget.kind == "speed_up":
        return Judgement([unpruned_gate("engine", budget.value), *others])
    return _with_energy(build, record, _timed(build, *engines), others)


def _timed(build: Build, baseline: Path, candidate: Path) -> Judgement:
    """Latency of the engine that ships beside the unpruned one's, undecided again as often as the target says."""
    unpruned = build.facts(PruneFacts).unpruned
    if unpruned and build.target.budget.kind == "macs_speed_up":  # as fast as itself; the times are for the record
        before, after = latency.measure_pair(build.site, baseline, candidate, build.dataset, trained=True)
        return Judgement([unpruned_gate("engine", 1.0)], [("baseline", before), ("candidate", after)])
    timed = latency.judge_latency(build.site, "engine", baseline, candidate, build.dataset, trained=True)
    return judgement_of(met_unpruned(timed) if unpruned else timed)


def _with_energy(build: Build, record: Record[EngineFacts], timed: Judgement, others: list[Gate]) -> Judgement:
    """The rows of a latency with those of energy and the rest behind them."""
    settings = latency.latency_settings(build.site, build.dataset)
    energies = measure_energy(build.site, settings, unpruned_engine(build, record), record.path("engine"))
    gates = [*(_with_format(row, record.facts) for row in timed.gates), *energy_gates("engine", energies), *others]
    return Judgement(gates, [*timed.measurements, *by_role(energies)])


def _with_format(row: Gate, facts: EngineFacts) -> Gate:
    """A ratio says which number format both models have, where the baseline has another."""
    if facts.unpruned is None or row.unit != "×":
        return row
    return replace(row, reason=f"{row.reason}; the unpruned model in {facts.unpruned.text} too")


def _limit_ms(build: Build) -> float | None:
    budget = build.target.budget
    return budget.value if budget.kind == "latency_ms" else None


def _accuracy(build: Build, facts: EngineFacts) -> list[Gate]:
    after, gate = facts.accuracy, drop_gate(target_to_ship(build), build.facts(BaselineFacts), facts)
    if build.site.usable:
        return [gate] if after.agreement is None else [gate, agreement_gate("engine", after.agreement)]
    # The graph was judged by another runtime: worth knowing, but not a verdict on an engine that nobody has built yet.
    proxy = info_gate("engine", f"{after.metric} of the ONNX", after.value, "", gate.reason)
    return [proxy, pending_gate("engine", gate.metric, gate.limit, gate.unit, build.next_command)]


STAGE = Stage(
    name="engine",
    version=12,
    facts=EngineFacts,
    inputs=_inputs,
    run=_run,
    judge=_judge,
    packages=compiling.PACKAGES,
)
