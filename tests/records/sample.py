"""A build's record made of plausible parts; tests take away or replace what they are about."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeVar

import numpy as np

from edgeprune.agent.facts import DeviceFacts
from edgeprune.export.result import ParityInfo
from edgeprune.measure.result import Accuracy, ArtifactAccuracy, LayerComparison, LayerMs
from edgeprune.pruning.plan import Plan, PlannedDimension, PlanSettings, SourceDigests
from edgeprune.records.build import BuildRecord, MeasurementRow, SourceRow, StageRow, StageRows
from edgeprune.records.facts import (
    BaselineFacts,
    Change,
    EngineFacts,
    ExportFacts,
    FinetuneFacts,
    ProbeFacts,
    ProbeLatency,
    PruneFacts,
    SimplifyFacts,
)
from edgeprune.samples.conditions import Conditions, CoreState, HostState
from edgeprune.samples.gates import Gate, Verdict
from edgeprune.samples.measurement import Measurement
from edgeprune.target import Budget, load_target
from edgeprune.training.result import Epoch, TrainSummary

Facts = TypeVar("Facts")
CONDITIONS = Conditions(
    identity={"cpu": "Made-up CPU", "isa": "avx2", "runtime": "onnxruntime 0"},
    runtime="onnxruntime",
    provider="CPUExecutionProvider",
    threads=1,
    batch=1,
    shapes={"images": (1, 3, 320, 320)},
    scope="model",
    copies=True,
    cuda_graph=False,
    samples_per_block=5,
    launches=(300,),
    models_in_run=2,
    core=CoreState(share=0.97),
    host=HostState(
        load_average=(0.1, 0.2, 0.3), load_average_after=(0.4, 0.2, 0.3), governor="performance", temperature_c=41.5
    ),
)
PARITY = ParityInfo(16, "detect", "raw", 1e-4, 1e-6, 1e-4, 1e-6, 0.0, 0, 0, 20, 20, 1.0)


def samples(
    role: Literal["baseline", "candidate"],
    level_ms: float,
    generator: np.random.Generator,
    conditions: Conditions = CONDITIONS,
) -> MeasurementRow:
    """300 seeded samples around a level."""
    values = generator.normal(level_ms, level_ms / 50, 300).tolist()
    return MeasurementRow("engine", role, Measurement("latency", "ms", tuple(values), conditions))


def accuracy(value: float) -> ArtifactAccuracy:
    """Of two classes, one with a name that has to be escaped."""
    per_class = {"cell": value, "<b>bold</b>": value / 2}
    figures = Accuracy(value, value, per_class, 16, "detect", "val", "metrics/mAP50-95(B)")
    return ArtifactAccuracy(figures, "onnxruntime")


def build_record(verdict: Verdict | str = Verdict.PASS) -> BuildRecord:
    """A record with data for every figure but that of sparsity training; nothing in it was measured."""
    generator = np.random.default_rng(0)
    verdict = Verdict(verdict)

    def gate(stage: str, metric: str, value: float | None, limit: float | None, unit: str, outcome: Verdict) -> Gate:
        return Gate(stage, metric, value, limit, unit, outcome, f"because of {metric} <&>")

    def probe(macs_ratio: float, candidate_ms: float, baseline_ms: float, share: float, predicted: float) -> ProbeFacts:
        return ProbeFacts(
            macs_ratio=macs_ratio,
            parameters=1_200_000,
            removed=(),
            latency=ProbeLatency(baseline_ms, candidate_ms, "p50", baseline_ms / candidate_ms),
            budget_share=share,
            budget_share_high=share + 0.02,
            predicted_share=predicted,
            uncorrected_share=predicted,
            kept=share > 0.9,
        )

    layers = tuple(LayerMs(f"/model.{i}/conv/Conv", "Conv", 1 / (i + 1)) for i in range(20))
    epochs = tuple(
        Epoch(number, float(number), {"metrics/mAP50(B)": 0.6 + number / 20, "metrics/mAP50-95(B)": 0.4 + number / 30})
        for number in range(5)
    )
    training = TrainSummary(4, 3, epochs[1:], 0.53, 12.0, epochs[0])
    dimensions = (
        PlannedDimension("input", 3, 3, "the input image"),
        *(PlannedDimension(f"model.{i}", 64, 64 - 4 * i, None) for i in range(12)),
    )
    plan = Plan(
        versions={},
        source=SourceDigests("w", "s"),
        settings=PlanSettings(320, "taylor", None, "global", 0, 8, 8, (), {}, 1, {"macs_speed_up": 2.0}),
        macs=(10**9, 5 * 10**8),
        params=(3_000_000, 1_200_000),
        result_shapes="r",
        dimensions=dimensions,
    )
    target = load_target("cpu")
    return BuildRecord(
        edgeprune="0.1.0",
        created="2026-01-01T00:00:00+00:00",
        command=("edgeprune", "build", "--weights", "a b.pt"),
        verdict=verdict,
        gates=(
            gate("baseline", "mAP50-95", 0.55, None, "", Verdict.PASS),
            gate("engine", "speed-up", 1.6, 1.5, "×", verdict),
            gate("engine", "power", None, 10.0, "W", Verdict.PENDING),
        ),
        target=target.model_copy(
            update={
                "budget": Budget(speed_up=1.5, statistic="p50"),
                "accuracy": target.accuracy.model_copy(update={"max_map_drop": 0.02}),
            }
        ),
        weights=SourceRow("a b.pt", "0" * 64),
        dataset=SourceRow("data.yaml", "1" * 64),
        task="detect",
        names={0: "cell", 1: "<b>bold</b>"},
        seed=0,
        plan=plan,
        stages=StageRows(
            pretrain=None,
            baseline=row(BaselineFacts(accuracy(0.55), None, 3_000_000, "s", 12_000_000, 12_500_000)),
            sparsify=None,
            prune=row(
                PruneFacts(
                    probes=(probe(2.5, 10.6, 20.0, 0.8, 0.9), probe(1.9, 12.7, 20.1, 1 / 1.05, 1 / 1.02)),
                    macs=Change(10**9, 5 * 10**8),
                    parameters=Change(3_000_000, 1_200_000),
                    signature="r",
                    plan="p",
                    importance="taylor",
                    removed=(),
                )
            ),
            finetune=row(FinetuneFacts(training, "r", 1_200_000, None)),
            export=row(ExportFacts(17, "raw", PARITY, 5_000_000)),
            simplify=row(SimplifyFacts(Change(264, 237), "264 → 237 nodes", PARITY)),
            quantize=None,
            engine=row(
                EngineFacts(
                    accuracy=accuracy(0.54),
                    size_bytes=5_000_000,
                    lint=None,
                    layers=LayerComparison(layers, tuple(replace(layer, ms=layer.ms / 2) for layer in layers[:18])),
                    precision=None,
                )
            ),
        ),
        artifacts=(),
        bundle={},
        measurements=(samples("baseline", 20.0, generator), samples("candidate", 12.5, generator)),
        versions={"onnxruntime": "0"},
        host=DeviceFacts("x86_64", "Linux", "6.1.0", "3.11.0", "Made-up CPU", "avx2", 2, 8 << 30, (0.1, 0.2, 0.3)),
    )


def row(facts: Facts) -> StageRow[Facts]:
    """A stage that ran for a second."""
    return StageRow("0" * 64, False, 1.0, facts)
