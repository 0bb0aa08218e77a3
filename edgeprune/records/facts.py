"""What each stage of a build came to: one class a stage, kept in its ``record.json`` and in ``build.json``.

They are made of what the rooms below give; gates and reports read nothing else of a stage but its files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeprune.export.result import LintFinding, MixedInfo, ParityInfo, PrecisionInfo
from edgeprune.measure.result import ArtifactAccuracy, LayerComparison
from edgeprune.runtimes.precision_truth import PrecisionShare
from edgeprune.samples.average_precision import DropInterval
from edgeprune.samples.gates import Gate
from edgeprune.settings import AccuracyGoal
from edgeprune.target import Budget, Target
from edgeprune.target.schema import Precision
from edgeprune.training.result import SparsityReport, TrainSummary

DEAR = 2.5
"""A budget is dear where the ratio of the MACs is at least the speed-up to this power. YOLOv8n: 1.4 on one thread of a
CPU (MACs ×2.1 for ×1.67), 4.2 on an H100 through ONNX Runtime at batch 1 (×3.5 for ×1.35)."""


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
        accuracy_as_trained: of the checkpoint, or its graph, at the size that it was trained at, where the build has
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
    def reference(self) -> ArtifactAccuracy:
        """What later artifacts are held against: the artifact's accuracy, or its FP32 graph's if that is more."""
        plain = self.accuracy_fp32
        return self.accuracy if plain is None or plain.value <= self.accuracy.value else plain

    @property
    def reference_accuracy(self) -> float:
        """Its figure."""
        return self.reference.value


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
class Alternative:
    """Another way to make the unpruned model faster on the same target.

    Attributes:
        name: in words: ``precision int8``, ``CUDA graph``, ``batch 4``.
        keys: of a profile, with the values that ask for it; empty where the target's runtime does not offer it.
        speed_up: latency of the unpruned model over its latency this way, a frame; None where it was not measured.
        reason: why it was not measured; empty where it was.
    """

    name: str
    keys: Mapping[str, str | int | bool]
    speed_up: float | None
    reason: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What pruning can take from a latency, what a budget costs, and what else would be faster.

    The three shares of the unpruned model's latency add up to 1. They were measured side by side with the model at its
    least widths, and with that model without the blocks that can go.

    Attributes:
        width_share: what narrower layers can take.
        depth_share: what fewer blocks can take besides.
        fixed_share: what is left: launches, copies, post-processing, and layers at their least width.
        decoding_share: of that, what lies behind the layers (softmax, decoding, sorting); None where the runtime does
            not name the layers that it times.
        speed_up: latency of the unpruned model (of the search's reference, where it has one) over the plan's, as the
            search measured it.
        macs_share: MACs that the plan gives up, over those of the unpruned model.
        parameters_share: the same of the parameters.
        alternatives: looked at where the budget is dear.
    """

    width_share: float
    depth_share: float
    fixed_share: float
    decoding_share: float | None
    speed_up: float
    macs_share: float
    parameters_share: float
    alternatives: tuple[Alternative, ...] = ()

    @property
    def dear(self) -> bool:
        """Whether the ratio of the plan's MACs is at least its speed-up to the power of :data:`DEAR`."""
        return 1 - self.macs_share <= self.speed_up**-DEAR if self.speed_up > 1 else True


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
        diagnosis: what the budget costs; None where no search was needed or possible, and in older records.
        search: what the search itself said of the budget; None where there was none, and in older records.
        undiagnosed: why what the budget costs could not be measured of a finished plan either, so that it is not tried
            again; empty where it was, or was not tried, and in older records.
    """

    probes: tuple[ProbeFacts, ...]
    macs: Change
    parameters: Change
    signature: str
    plan: str
    importance: str
    removed: tuple[str, ...]
    unpruned: bool = False
    diagnosis: Diagnosis | None = None
    search: Gate | None = None
    undiagnosed: str = ""

    def stand_in(self, budget: Budget) -> str:
        """Words for a row about a latency that nothing could measure while the plan was made; empty where it was."""
        if budget.kind == "macs_speed_up" or self.probes or self.macs.ratio <= 1:
            return ""
        asked = f"{budget.value:g} ms" if budget.kind == "latency_ms" else f"×{budget.value:g}"
        return f"pruned to the planning ratio, {self.price}, whatever {asked} means on the device"

    @property
    def price(self) -> str:
        """What a plan that no latency led to gives up, in words: few MACs may lie in many parameters."""
        gone = 1 - self.parameters.after / self.parameters.before
        return f"×{self.macs.ratio:.2f} fewer MACs, which costs {gone:.0%} of the parameters"


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
class QatFacts:
    """INT8 that was trained, after fine-tuning.

    Attributes:
        training: epochs, and accuracy with INT8 simulated by PyTorch.
        signature: of the model's shapes, as pruning left them.
        parameters: of the model.
        onnx_bytes: size of the INT8 graph.
    """

    training: TrainSummary
    signature: str
    parameters: int
    onnx_bytes: int


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
        judging: whether the images judge the build too, because the splits hold too few others.
    """

    accuracy: float
    metric: str
    floor: float
    mixed: MixedInfo | None
    reason: str
    judging: bool = False


@dataclass(frozen=True)
class PrecisionChoice:
    """INT8 against the next plainer number format, both compiled and timed side by side on the target.

    Attributes:
        asked: the target's number format.
        plainer: the other one: FP16 on a GPU, FP32 on a CPU.
        gain: latency in ``plainer`` over that in ``asked``.
        accuracy: of the graph in ``asked``.
        plainer_accuracy: of the other; None where it was not needed to decide.
        shipped: the number format of the graph that goes on.
        reason: why.
        doubt: why the gain decided nothing; empty where it did, and in older records.
    """

    asked: Precision
    plainer: Precision
    gain: float
    accuracy: float
    plainer_accuracy: float | None
    shipped: Precision
    reason: str
    doubt: str = ""


@dataclass(frozen=True)
class TrainedInt8:
    """INT8 that was trained against INT8 that was calibrated alone, on the same images.

    Attributes:
        trained: accuracy of the trained graph.
        calibrated: of the calibrated one, with what went back to float where layers had to.
        ships: whether the trained one goes on.
    """

    trained: float
    calibrated: float
    ships: bool


@dataclass(frozen=True)
class QuantizeFacts:
    """The graph in the target's number format, or in a plainer one that is as fast.

    Attributes:
        conversion: what the transform did.
        fallback: which layers went back to float.
        onnx_bytes: size of the file.
        choice: INT8 against a plainer format; None where it was not asked, could not be timed, and in older records.
        trained: against calibrated INT8; None where none was trained.
    """

    conversion: PrecisionInfo
    fallback: FallbackFacts
    onnx_bytes: int
    choice: PrecisionChoice | None = None
    trained: TrainedInt8 | None = None

    @property
    def float_layers(self) -> tuple[str, ...]:
        """Convolutions that the graph which goes on has in float since its accuracy asked for it."""
        plainer = self.choice is not None and self.choice.shipped != self.choice.asked
        return () if plainer or self.fallback.mixed is None else self.fallback.mixed.layers


def shipped_precision(target: Target, quantize: QuantizeFacts | None) -> Precision:
    """Number format of what ships: the target's, or a plainer one that was as fast."""
    return target.precision if quantize is None or quantize.choice is None else quantize.choice.shipped


def ships_trained_int8(target: Target, quantize: QuantizeFacts | None) -> bool:
    """Whether what ships is the graph whose weights were trained in INT8: it went on, and no plainer number format took
    its place."""
    if quantize is None or quantize.trained is None or not quantize.trained.ships:
        return False
    return shipped_precision(target, quantize).startswith("int8")


@dataclass(frozen=True)
class UnprunedFormat:
    """The unpruned model in the number format of what ships, where that is another than the baseline's: what is held
    against it then speaks of the pruning alone.

    Attributes:
        precision: of both.
        float_layers: convolutions of both that went back to float.
        size_bytes: of its engine; of its graph where the target's runtime is not.
    """

    precision: Precision
    float_layers: tuple[str, ...]
    size_bytes: int

    @property
    def text(self) -> str:
        """``fp32``, or ``int8 with 3 layers in float``."""
        count = len(self.float_layers)
        return f"{self.precision} with {count} layer{'s' * (count != 1)} in float" if count else self.precision


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
        unpruned: the unpruned model in the same number format, which latency, layers, energy and size are held against;
            None where the baseline has that format, and in older records.
    """

    accuracy: ArtifactAccuracy
    size_bytes: int
    lint: tuple[LintFinding, ...] | None
    layers: LayerComparison | None
    precision: PrecisionShare | None
    accuracy_drop: DropInterval | None = None
    unpruned: UnprunedFormat | None = None

    def unpruned_bytes(self, baseline: BaselineFacts) -> int:
        """Size of the unpruned model in the number format of what ships; of its graph where there is no engine."""
        if self.unpruned is not None:
            return self.unpruned.size_bytes
        return baseline.onnx_bytes if baseline.engine_bytes is None else baseline.engine_bytes
