"""What each stage of a build came to: one class a stage, kept in its ``record.json`` and in ``build.json``.

They are made of what the rooms below give; gates and reports read nothing else of a stage but its files.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.export.result import LintFinding, MixedInfo, ParityInfo, PrecisionInfo
from edgeprune.measure.result import ArtifactAccuracy, LayerComparison
from edgeprune.runtimes.precision_truth import PrecisionShare
from edgeprune.samples.average_precision import DropInterval
from edgeprune.settings import AccuracyGoal
from edgeprune.target import Budget
from edgeprune.training.result import SparsityReport, TrainSummary


@dataclass(frozen=True)
class Change:
    """A count in the unpruned model and in the pruned one, or in a graph before and after a transform."""

    before: int
    after: int

    @property
    def ratio(self) -> float:
        """Before over after."""
        return self.before / self.after


@dataclass(frozen=True)
class PretrainFacts:
    """Ordinary training of a model description."""

    training: TrainSummary


@dataclass(frozen=True)
class BaselineFacts:
    """The unpruned model, as the target would run it.

    Attributes:
        accuracy: of the artifact.
        accuracy_fp32: of its graph before the number format was changed; None for an fp32 target.
        parameters: of the model.
        signature: of its shapes.
        accuracy_as_trained: of the checkpoint at the size that it was trained at, by PyTorch, where the build has
            another; None where it has not, and in older records.
        onnx_bytes: size of the graph.
        engine_bytes: size of the engine; None where the target's runtime is not.
    """

    accuracy: ArtifactAccuracy
    accuracy_fp32: ArtifactAccuracy | None
    parameters: int
    signature: str
    onnx_bytes: int
    engine_bytes: int | None
    accuracy_as_trained: ArtifactAccuracy | None = None

    @property
    def reference_accuracy(self) -> float:
        """What the accuracy of later artifacts is held against: the artifact's, or its FP32 graph's if that is more."""
        plain = self.accuracy_fp32
        return self.accuracy.value if plain is None else max(self.accuracy.value, plain.value)


@dataclass(frozen=True)
class SparsifyFacts:
    """Training with a penalty on the scales of batch normalisation."""

    training: TrainSummary
    scales: SparsityReport


@dataclass(frozen=True)
class ProbeLatency:
    """Latency of a candidate next to the unpruned model's.

    Attributes:
        baseline_ms: of the unpruned model, in the budget's statistic.
        candidate_ms: of the candidate.
        statistic: which percentile both are.
        speed_up: latency of the unpruned model over the candidate's.
        drift: level of this measurement's baseline over the level seen most; None for a budget that is a ratio.
    """

    baseline_ms: float
    candidate_ms: float
    statistic: str
    speed_up: float
    drift: float | None = None


@dataclass(frozen=True)
class ProbeFacts:
    """One candidate of the budget search.

    Attributes:
        macs_ratio: MACs of the unpruned model over the candidate's.
        parameters: of the candidate.
        removed: whole blocks that it lacks.
        latency: as it was measured.
        budget_share: share of the budget that its latency takes; at most 1 meets it.
        budget_share_high: upper confidence bound of that share; None where there were too few samples for one.
        predicted_share: the share that the corrected cost model expected.
        uncorrected_share: the share that the cost model expected before any correction.
        kept: whether this candidate went on.
        budget_share_low: lower confidence bound of the share; None in older records.
    """

    macs_ratio: float
    parameters: int
    removed: tuple[str, ...]
    latency: ProbeLatency
    budget_share: float
    budget_share_high: float | None
    predicted_share: float
    uncorrected_share: float
    kept: bool
    budget_share_low: float | None = None

    @property
    def error(self) -> float:
        """Predicted over measured latency, minus 1."""
        return self.predicted_share / self.budget_share - 1


@dataclass(frozen=True)
class PruneFacts:
    """The plan that was applied, and the search that led to it.

    Attributes:
        probes: in the order they were measured; empty for a budget of MACs.
        macs: multiply-accumulates of one image.
        parameters: of the model.
        signature: of the pruned model's shapes.
        plan: digest of the plan.
        importance: criterion that ranked the channels.
        removed: whole blocks that were dropped.
        unpruned: the budget was met without pruning: the plan keeps every channel, and the model ships as it was given.
    """

    probes: tuple[ProbeFacts, ...]
    macs: Change
    parameters: Change
    signature: str
    plan: str
    importance: str
    removed: tuple[str, ...]
    unpruned: bool = False

    def stand_in(self, budget: Budget) -> str:
        """Words for a row about a latency that nothing could measure while the plan was made; empty where it was."""
        if budget.kind == "macs_speed_up" or self.probes or self.macs.ratio <= 1:
            return ""
        asked = f"{budget.value:g} ms" if budget.kind == "latency_ms" else f"×{budget.value:g}"
        return f"pruned to a stand-in, ×{self.macs.ratio:.2f} fewer MACs, whatever {asked} means on the device"


@dataclass(frozen=True)
class FinetuneFacts:
    """Fine-tuning of the pruned model.

    Attributes:
        training: epochs and accuracy.
        signature: of the model's shapes, as pruning left them.
        parameters: of the model.
        goal: the accuracy at which training was to end; None where it ran all its epochs.
    """

    training: TrainSummary
    signature: str
    parameters: int
    goal: AccuracyGoal | None


@dataclass(frozen=True)
class ExportFacts:
    """The fine-tuned model as ONNX.

    Attributes:
        opset: of the graph.
        head: ``raw``, ``end-to-end`` or ``nms``.
        parity: against PyTorch.
        onnx_bytes: size of the file.
    """

    opset: int
    head: str
    parity: ParityInfo
    onnx_bytes: int


@dataclass(frozen=True)
class SimplifyFacts:
    """The simplified graph.

    Attributes:
        nodes: of the graph.
        reason: what was done, or why not; one line.
        parity: against the exported graph.
    """

    nodes: Change
    reason: str
    parity: ParityInfo


@dataclass(frozen=True)
class FallbackFacts:
    """What was done about a low precision that costs accuracy.

    Attributes:
        accuracy: of the graph as it was converted.
        metric: name of that accuracy.
        floor: the least that is allowed.
        mixed: the search for layers to return to float; None where there was none.
        reason: why there was none; empty where there was one.
    """

    accuracy: float
    metric: str
    floor: float
    mixed: MixedInfo | None
    reason: str


@dataclass(frozen=True)
class QuantizeFacts:
    """The graph in the target's number format.

    Attributes:
        conversion: what the transform did.
        fallback: which layers went back to float.
        onnx_bytes: size of the file.
    """

    conversion: PrecisionInfo
    fallback: FallbackFacts
    onnx_bytes: int


@dataclass(frozen=True)
class EngineFacts:
    """What ships.

    Attributes:
        accuracy: of the artifact.
        size_bytes: of the engine; of the graph where the target's runtime is not.
        lint: what TensorRT's parser would refuse; None for a target without TensorRT.
        layers: times of the unpruned engine's layers and of this one's; None without an engine.
        precision: number formats that the engine computes in; None where the runtime does not tell.
        accuracy_drop: loss of accuracy against the unpruned model with its spread over images; None in older records.
    """

    accuracy: ArtifactAccuracy
    size_bytes: int
    lint: tuple[LintFinding, ...] | None
    layers: LayerComparison | None
    precision: PrecisionShare | None
    accuracy_drop: DropInterval | None = None
