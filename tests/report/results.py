"""Results of every kind with names that would break a page which does not escape them; nothing in them was measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from edgeprune.measure.bench import BenchResult, ModelBench
from edgeprune.measure.compare import Compared, Comparison
from edgeprune.measure.graphs import Counts
from edgeprune.measure.layers import BEHIND_THE_LAYERS, LayerCost, LayerCosts
from edgeprune.measure.predictions import Detection
from edgeprune.measure.result import Accuracy, LayerComparison, LayerMs
from edgeprune.measure.scenes import Scene, SceneResult
from edgeprune.pruning.plan import Plan, PlannedDimension, PlanSettings, SourceDigests
from edgeprune.pruning.sensitivity import Point as SensitivityPoint
from edgeprune.pruning.sensitivity import Sensitivity
from edgeprune.records.build import BuildRecord
from edgeprune.records.frontier import Form, Frontier, Recommendation, Row
from edgeprune.records.history import BuildSummary, Figure, History
from edgeprune.records.sweep import Point, Sweep
from edgeprune.runtimes.base import LayerTime
from edgeprune.samples.gates import Verdict
from edgeprune.samples.measurement import speed_up_of, summary
from edgeprune.settings import SparsitySettings
from edgeprune.training.result import ScaleHistogram, ScaleReport, SparsityReport
from tests.records.sample import build_record
from tests.samples.made import latency

HOSTILE = "<b>&\"'"
"""A name that shows in every result made here."""


def scene(name: str = HOSTILE) -> Scene:
    """Two models on one small image; a class, the image and a model are called ``name``."""

    def detection(left: float, top: float, label: int = 0, score: float | None = 0.9) -> Detection:
        return Detection(label, score, (left, top, left + 10, top + 10))

    jpeg = cv2.imencode(".jpg", np.full((60, 80, 3), 128, np.uint8))[1].tobytes()
    first = SceneResult(
        "base", (detection(5, 5), detection(40, 30)), (True, False), (True, True), (detection(60, 40),), (), ()
    )
    second = SceneResult(
        name, (detection(5, 5), detection(20, 45, 1)), (True, False), (True, False), (), (), (detection(40, 30),)
    )
    truth = (detection(5, 5, score=None), detection(60, 40, score=None))
    return Scene(f"{name}.jpg", 60, 80, jpeg, "detect", {0: "cell", 1: name}, truth, (first, second))


def benches(*names: str) -> list[ModelBench]:
    """Benchmarks of models of these names, each a little faster than the one before it."""
    generator = np.random.default_rng(0)
    times = [latency(generator.normal(20 - 4 * number, 0.2, 300)) for number in range(len(names))]
    return [
        ModelBench(
            model=Path(name),
            size_bytes=3_000_000,
            latency=taken,
            summary=summary(taken),
            speed_up=speed_up_of(times[0], taken) if number else None,
            cpu_speed_up=None,
            energy=replace(taken, name="energy", unit="mJ", values=(5.0, 6.0, 5.5, 5.2, 5.8, 5.1)) if number else None,
            memory=None,
            layers=(LayerTime(name, name, 1.0),),
            end_to_end=None,
            gate=None,
        )
        for number, (name, taken) in enumerate(zip(names, times, strict=True))
    ]


def bench_result(name: str = HOSTILE) -> BenchResult:
    """A benchmark of two models."""
    return BenchResult("onnxruntime", tuple(benches("base.onnx", name)), 1, None)


def comparison(name: str = HOSTILE) -> Comparison:
    """Three models, one of which is called ``name`` like one of the classes."""
    names = ("base.pt", name, "tuned.pt")
    models = [
        Compared(
            name=model,
            path=Path(model),
            size_bytes=bench.size_bytes,
            counts=Counts(3_000_000, 1_000_000_000),
            latency=bench,
            accuracy=Accuracy(level, level, {"cell": level, name: level / 2}, 87, "detect", "val", "mAP50-95"),
            imgsz=(320, 320),
        )
        for model, bench, level in zip(names, benches(*names), (0.55, 0.4, 0.53), strict=True)
    ]
    return Comparison(
        models=tuple(models),
        scenes=(scene(name),),
        looked_at=24,
        task="detect",
        metric="mAP50-95",
        split="val",
        data=f"data-{name}.yaml",
        runtime="onnxruntime",
        statistic="p50",
        command=("edgeprune", "compare", *names, "--data", f"data-{name}.yaml"),
    )


def layer_costs(name: str = HOSTILE) -> LayerCosts:
    """Thirty layers and what lies behind them."""
    layers = [LayerCost(f"model.{i}.{name}", 1 / (i + 1), 1 / (i + 1), 0.4 / (i + 1), 16, 32) for i in range(30)]
    layers.append(LayerCost(BEHIND_THE_LAYERS, 0.3, 0.3, 0.3, 0, 0))
    layers.sort(key=lambda layer: -layer.ms)
    return LayerCosts(tuple(layers), sum(layer.ms for layer in layers), 120, 8, (0.02, -0.01))


def build(name: str = HOSTILE) -> BuildRecord:
    """A build that failed, with ``name`` wherever a user or a device names something."""
    record = build_record(Verdict.FAIL)
    gates = [replace(gate, reason=f"{gate.reason} {name}") for gate in record.gates]
    layers = LayerComparison((LayerMs(f"/{name}/Conv", name, 1.0),), (LayerMs(f"/{name}/Conv", name, 0.5),))
    engine = replace(record.stages.engine, facts=replace(record.stages.engine.facts, layers=layers))
    return replace(
        record,
        command=("edgeprune", "build", "--weights", name),
        gates=tuple(gates),
        target=record.target.model_copy(update={"name": name, "description": f"A board {name}"}),
        plan=plan(name),
        stages=replace(record.stages, engine=engine),
        versions={name: name},
        next_command=f"ssh {name}",
    )


@dataclass(frozen=True)
class FinishedBuild:
    """As much of :class:`edgeprune.pipeline.BuildResult` as a notebook shows."""

    record: BuildRecord


def finished_build(name: str = HOSTILE) -> FinishedBuild:
    """What ``edgeprune.build`` gives, of :func:`build`."""
    return FinishedBuild(build(name))


def history(name: str = HOSTILE) -> History:
    """Three builds: the second is held against the first, the third was taken under other conditions."""
    first = BuildSummary(
        path=Path(f"a-{name}"),
        created="2026-01-01T00:00:00+00:00",
        verdict=Verdict.PASS,
        statistic="p50",
        latency_ms=Figure(12.0, 11.9, 12.1),
        speed_up=Figure(1.6, 1.58, 1.62),
        accuracy=0.54,
        metric="mAP50-95",
        size_mib=4.8,
        max_map_drop=0.02,
        baseline="0" * 64,
        dataset="1" * 64,
        form="640 px, fp32",
        device=f"Made-up CPU {name}",
    )
    slower = replace(
        first,
        path=Path("b"),
        latency_ms=Figure(14.0, 13.9, 14.1),
        compared_with=dict.fromkeys(("latency", "speed-up", "accuracy"), first.path),
        regressions=(f"latency 12.000 → 14.000 ms {name}",),
    )
    other = replace(first, path=Path("c"), latency_ms=Figure(9.0, 8.9, 9.1), dataset="2" * 64)
    return History("cpu", (first, slower, other))


def plan(name: str = HOSTILE) -> Plan:
    """One dimension that shrinks, one that stays."""
    return Plan(
        versions={},
        source=SourceDigests("0" * 64, "1" * 64),
        settings=PlanSettings(320, "lamp", None, "global", 0, 8, 8, (), {}, 1, {"macs_speed_up": 2.0}),
        macs=(1_000_000_000, 500_000_000),
        params=(3_000_000, 1_200_000),
        result_shapes="2" * 64,
        removed=(name,),
        dimensions=(PlannedDimension(name, 64, 32, None), PlannedDimension("input", 3, 3, f"the input {name}")),
    )


def sensitivity(name: str = HOSTILE) -> Sensitivity:
    """Twelve dimensions, of which the most sensitive one is called ``name``."""
    points = [
        SensitivityPoint(name if number == 0 else f"model.{number}", ratio, 64, round(64 * (1 - ratio)), loss, 10)
        for number in range(12)
        for ratio, loss in ((0.25, 1.0 + 0.2 / (number + 1)), (0.5, 1.0 + 0.9 / (number + 1)))
    ]
    return Sensitivity(1.0, "taylor", tuple(points))


def sparsity(name: str = HOSTILE) -> SparsityReport:
    """Scales of one layer before and after."""
    edges = (0.0, 1e-3, 1e-2, 0.1, 1.0)
    before = ScaleHistogram(60, 0.0, (0, 0, 0, 0, 60), (60, 0, 0, 0, 0))
    after = ScaleHistogram(60, 0.5, (30, 0, 0, 0, 30), (60, 0, 0, 0, 0))
    reports = [ScaleReport(edges, histogram, {name: histogram}) for histogram in (before, after)]
    return SparsityReport(f"half are off {name}", SparsitySettings(), *reports)


def frontier(name: str = HOSTILE) -> Frontier:
    """The model as it is, a form of it that is recommended, one that failed and one that was not tried."""
    forms = [
        Form(f"{words} {name}", name, keys, tuple(keys))
        for words, keys in (("int8", {"precision": "int8"}), ("64 px", {"imgsz": 64}))
    ]
    measured = [
        Row("as it is", Form("as it is", name, {}, ()), "", 1.0, 0.55, point=Point("as it is", "", 10.0, 1.0, 0.55)),
        Row(
            forms[0].name,
            forms[0],
            "",
            2.0,
            0.54,
            point=Point(forms[0].name, "", 5.0, 2.0, 0.54, accuracy_error=0.01, inconclusive=f"it drifts {name}"),
            undominated=True,
        ),
    ]
    failed = Row(f"to ×9 {name}", forms[1], "×9", 1.0, 0.5, point=Point("x", "×9", failed=f"out of reach: {name}"))
    dropped = Row(f"64 px {name}", forms[1], "", 3.0, 0.1, dropped=f"it loses too much {name}")
    sentence = f"For ×1.8 take {forms[0].name}."
    command = ("edgeprune", "build", "--weights", name)
    recommended = Recommendation("×1.8", forms[0].name, sentence, forms[0].keys, name, command)
    none = Recommendation("×50", None, f"For ×50 nothing that was measured meets it {name}.", {})
    rows = (*measured, failed, dropped)
    return Frontier(name, "speed_up", (1.8, 50.0), "p50", "mAP50-95", 3, rows, (recommended, none), 12.4)


def sweep(name: str = HOSTILE) -> Sweep:
    """One unpruned model, a point and one that failed because of ``name``."""
    unpruned = (Point("base", "", 10.0, 1.0, 0.5, 1.0, 3_000_000, "unpruned"),)
    points = (
        Point(name, "×2", 5.0, 2.0, 0.45, 2.5, 1_000_000, "probes: 1"),
        Point("base-9", "×9", failed=f"out of reach: {name}"),
    )
    return Sweep(unpruned, points, "p50", "mAP50-95")
