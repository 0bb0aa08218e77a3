"""Whether TensorRT will take a graph, read from the graph: an acceptance check where TensorRT is not at hand.

Takes an ONNX file and what the target allows. Gives findings; an ``error`` is what the parser or the builder rejects, a
``warning`` what it accepts and a user regrets. Every rule is a function of its own with a test and an entry in
``docs/lint.md``. Sources: the support table of onnx-tensorrt (``docs/operators.md``, TensorRT 10.15), Ultralytics'
exporter for the JetPack 6 rule, and trials against a parser for Q/DQ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from edgeprune.errors import TargetError
from edgeprune.export.graph import inputs_of, load_graph, metadata_of, opset_of, outputs_of
from edgeprune.export.precision import PRECISIONS, precision_of

# (TensorRT release, newest opset its parser takes); between two releases the older one's figure holds
NEWEST_OPSETS = (((10, 0), 20), ((10, 15), 24))
OLDEST_OPSET = 9
OLDEST_TENSORRT = (10, 3)

UNSUPPORTED_OPS = frozenset(
    "AffineGrid Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor CenterCropPad Col2Im Compress "  # noqa: SIM905
    "ConcatFromSequence ConvInteger DFT Det DynamicQuantizeLinear ImageDecoder MatMulInteger MaxRoiPool MaxUnpool "
    "MelWeightMatrix Multinomial NegativeLogLikelihoodLoss Optional OptionalGetElement OptionalHasElement QLinearConv "
    "QLinearMatMul RegexFullMatch SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert "
    "SequenceLength SequenceMap SoftmaxCrossEntropyLoss SplitToSequence StringConcat StringNormalizer StringSplit "
    "TfIdfVectorizer Unique".split()
)
WEIGHT_TYPES = frozenset(
    getattr(TensorProto, name) for name in ("FLOAT", "FLOAT16", "BFLOAT16", "INT8", "INT32", "INT64", "BOOL", "DOUBLE")
) | {getattr(TensorProto, name) for name in ("FLOAT8E4M3FN", "INT4", "FLOAT4E2M1") if hasattr(TensorProto, name)}
QUANTIZED_TYPES = WEIGHT_TYPES - {
    getattr(TensorProto, name) for name in ("FLOAT", "FLOAT16", "BFLOAT16", "INT32", "INT64", "BOOL", "DOUBLE")
}
LARGEST_TOPK = 3840


@dataclass(frozen=True)
class Limits:
    """What a target allows.

    Attributes:
        tensorrt: release, for example ``10.3``.
        dynamic: whether free shapes are allowed.
        batch: images a run, None for any.
        imgsz: height and width in pixels, None for any.
        precision: fp32, fp16, int8 or int8-fp16, None for any.
    """

    tensorrt: str = "10.3"
    dynamic: bool = False
    batch: int | None = None
    imgsz: tuple[int, int] | None = None
    precision: str | None = None

    def __post_init__(self) -> None:
        if self.release < OLDEST_TENSORRT:
            oldest = ".".join(map(str, OLDEST_TENSORRT))
            raise TargetError(f"TensorRT {self.tensorrt} is too old; {oldest} (JetPack 6.1) or later is needed")
        if self.precision not in {None, *PRECISIONS}:
            raise TargetError(f"precision '{self.precision}' is unknown; {', '.join(PRECISIONS)} are allowed")

    @property
    def release(self) -> tuple[int, int]:
        """Major and minor release."""
        try:
            major, minor, *_ = (int(part) for part in f"{self.tensorrt}.0".split("."))
        except ValueError:
            raise TargetError(f"TensorRT release '{self.tensorrt}' is not readable; write it as 10.3") from None
        return major, minor

    @property
    def newest_opset(self) -> int:
        """Newest opset that the release's parser takes."""
        return max(opset for release, opset in NEWEST_OPSETS if release <= self.release)


@dataclass(frozen=True)
class Finding:
    """One thing that a rule found.

    Attributes:
        rule: the rule's name, an entry of ``docs/lint.md``.
        severity: ``error`` or ``warning``.
        node: the node, weight or input it is about; empty for the whole graph.
        message: what was seen.
        remedy: what to do.
        count: how many of the same kind there are; ``node`` is the first.
    """

    rule: str
    severity: str
    node: str
    message: str
    remedy: str
    count: int = 1

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Graph:
    """A model with what several rules look up."""

    model: onnx.ModelProto
    limits: Limits

    @cached_property
    def weights(self) -> dict[str, onnx.TensorProto]:
        """Constants by tensor name, initializers and Constant nodes alike."""
        found = {item.name: item for item in self.model.graph.initializer}
        for node in self.model.graph.node:
            if node.op_type == "Constant":
                found.update({node.output[0]: a.t for a in node.attribute if a.name == "value"})
        return found

    @cached_property
    def quantizers(self) -> list[onnx.NodeProto]:
        """Q and DQ nodes."""
        return [n for n in self.model.graph.node if n.op_type in {"QuantizeLinear", "DequantizeLinear"}]

    def zero_point(self, node: onnx.NodeProto) -> onnx.TensorProto | None:
        """The zero point of a Q or DQ node, where it has a constant one."""
        return self.weights.get(node.input[2]) if len(node.input) > 2 else None

    def quantized_type(self, node: onnx.NodeProto) -> int:
        """The quantised type of a Q or DQ node."""
        zero = self.zero_point(node)
        if zero is not None:
            return zero.data_type
        if node.op_type == "DequantizeLinear" and node.input[0] in self.weights:
            return self.weights[node.input[0]].data_type
        return TensorProto.UINT8 if node.op_type == "QuantizeLinear" else TensorProto.INT8  # ONNX's default, a guess


Rule = Callable[[Graph], Iterator[Finding]]
RULES: dict[str, Rule] = {}


def _rule(function: Rule) -> Rule:
    RULES[function.__name__.replace("_", "-")] = function
    return function


def lint(model: onnx.ModelProto | Path | str, limits: Limits | None = None) -> list[Finding]:
    """Apply every rule; findings of a rule about the same thing are one with a count, errors first.

    Args:
        model: a model or its file.
        limits: what the target allows; TensorRT 10.3 with static shapes when None.

    Raises:
        DataError: the file cannot be read.
    """
    graph = Graph(model if isinstance(model, onnx.ModelProto) else load_graph(model), limits or Limits())
    merged: dict[tuple[str, str], Finding] = {}
    for rule in RULES.values():
        for finding in rule(graph):
            key = finding.rule, finding.message
            seen = merged.get(key)
            merged[key] = finding if seen is None else Finding(**(asdict(seen) | {"count": seen.count + 1}))
    return sorted(merged.values(), key=lambda finding: finding.severity != "error")


@_rule
def opset_out_of_range(graph: Graph) -> Iterator[Finding]:
    """The parser of the target's TensorRT does not know the operator set."""
    opset, newest = opset_of(graph.model), graph.limits.newest_opset
    if not OLDEST_OPSET <= opset <= newest:
        yield Finding(
            "opset-out-of-range",
            "error",
            "",
            f"opset {opset}; TensorRT {graph.limits.tensorrt} parses {OLDEST_OPSET} to {newest}",
            f"export again with --opset {min(17, newest)}",
        )


@_rule
def unsupported_op(graph: Graph) -> Iterator[Finding]:
    """The parser has no such operator."""
    for node in graph.model.graph.node:
        if node.domain in {"", "ai.onnx"} and node.op_type in UNSUPPORTED_OPS:
            remedy = (
                "quantise with recipe tensorrt, which writes Q/DQ pairs"
                if node.op_type.startswith(("QLinear", "ConvInteger", "MatMulInteger", "Dynamic"))
                else "replace the block that exports it"
            )
            yield Finding("unsupported-op", "error", node.name, f"operator {node.op_type}", remedy)


@_rule
def foreign_domain(graph: Graph) -> Iterator[Finding]:
    """Operators of another domain are one runtime's own."""
    for node in graph.model.graph.node:
        if node.domain not in {"", "ai.onnx"}:
            yield Finding(
                "foreign-domain",
                "error",
                node.name,
                f"operator {node.domain}::{node.op_type}",
                "give the ONNX file from before ONNX Runtime optimised it",
            )


@_rule
def quantized_bias(graph: Graph) -> Iterator[Finding]:
    """A bias as int32 behind a DequantizeLinear: what ONNX Runtime quantises by default and the parser rejects."""
    for node in graph.quantizers:
        if node.op_type == "DequantizeLinear" and graph.quantized_type(node) == TensorProto.INT32:
            yield Finding(
                "quantized-bias",
                "error",
                node.name,
                "DequantizeLinear of an int32 bias",
                "quantise with recipe tensorrt (QuantizeBias=False)",
            )


@_rule
def asymmetric_quantization(graph: Graph) -> Iterator[Finding]:
    """A zero point other than zero; with uint8 activations it always is one."""
    for node in graph.quantizers:
        zero = graph.zero_point(node)
        if zero is not None and np.any(numpy_helper.to_array(zero).astype(np.int64)):
            yield Finding(
                "asymmetric-quantization",
                "error",
                node.name,
                f"{node.op_type} with a zero point other than 0",
                "quantise with recipe tensorrt (symmetric int8)",
            )


@_rule
def quantized_type(graph: Graph) -> Iterator[Finding]:
    """Quantised types that TensorRT does not have: uint8, and 16 bit."""
    for node in graph.quantizers:
        dtype = graph.quantized_type(node)
        if dtype not in QUANTIZED_TYPES and dtype != TensorProto.INT32:  # int32 has a rule of its own
            yield Finding(
                "quantized-type",
                "error",
                node.name,
                f"{node.op_type} to {TensorProto.DataType.Name(dtype).lower()}",
                "quantise with recipe tensorrt (int8)",
            )


@_rule
def unsupported_type(graph: Graph) -> Iterator[Finding]:
    """Weights of a type that the parser rejects."""
    for name, weight in graph.weights.items():
        if weight.data_type not in WEIGHT_TYPES and not _only_quantized(graph, name):
            yield Finding(
                "unsupported-type",
                "error",
                name,
                f"weights of type {TensorProto.DataType.Name(weight.data_type).lower()}",
                "export again in FP32",
            )


def _only_quantized(graph: Graph, name: str) -> bool:
    """Whether a constant is only read by Q and DQ nodes, for which there are rules of their own."""
    return all(n in graph.quantizers for n in graph.model.graph.node if name in n.input)


@_rule
def double_weights(graph: Graph) -> Iterator[Finding]:
    """TensorRT has no double precision: it clamps to float."""
    for name, weight in graph.weights.items():
        if weight.data_type == TensorProto.DOUBLE:
            yield Finding(
                "double-weights", "warning", name, "weights in double precision", "export again from an FP32 checkpoint"
            )


@_rule
def int64_weights(graph: Graph) -> Iterator[Finding]:
    """INT64 that does not fit INT32: older parsers clamp it, later ones run slow kernels."""
    limit = np.iinfo(np.int32)
    for name, weight in graph.weights.items():
        if weight.data_type != TensorProto.INT64:
            continue
        values = numpy_helper.to_array(weight)
        if values.size and (values.max() > limit.max or values.min() < limit.min):
            # the largest and least INT64 mean "to the end" in Slice and survive clamping
            ends = np.isin(values, [np.iinfo(np.int64).max, np.iinfo(np.int64).min, -np.iinfo(np.int64).max])
            inside = (values <= limit.max) & (values >= limit.min)
            severe = not np.all(ends | inside)
            if severe:
                yield Finding(
                    "int64-weights",
                    "error",
                    name,
                    "INT64 constants beyond the range of INT32",
                    "simplify the graph, or replace the block that exports them",
                )
        if values.size > 1024:
            yield Finding(
                "int64-weights", "warning", name, "a table of INT64 constants", "simplify the graph, which folds most"
            )


@_rule
def dynamic_shape(graph: Graph) -> Iterator[Finding]:
    """A free size where the target is static."""
    if graph.limits.dynamic:
        return
    for value in inputs_of(graph.model):
        free = [str(size) for size in value.shape if not isinstance(size, int)]
        if free:
            yield Finding(
                "dynamic-shape",
                "error",
                value.name,
                f"input '{value.name}' has free sizes ({', '.join(free)}) and the target is static",
                "export without --dynamic",
            )


@_rule
def other_shape(graph: Graph) -> Iterator[Finding]:
    """A fixed size that is not the target's."""
    for value in inputs_of(graph.model):
        if len(value.shape) != 4:
            continue
        wanted = (graph.limits.batch, None, *(graph.limits.imgsz or (None, None)))
        for seen, want, what in zip(value.shape, wanted, ("batch", "channels", "height", "width"), strict=True):
            if want is not None and isinstance(seen, int) and seen != want:
                yield Finding(
                    "other-shape",
                    "error",
                    value.name,
                    f"{what} is {seen} and the target's is {want}",
                    f"export again for {what} {want}",
                )


@_rule
def other_precision(graph: Graph) -> Iterator[Finding]:
    """The graph does not hold the precision that was asked: a strongly typed engine would not either."""
    wanted, found = graph.limits.precision, precision_of(graph.model)
    if wanted is not None and wanted != found:
        yield Finding(
            "other-precision",
            "error",
            "",
            f"the graph is {found} and the target asks for {wanted}",
            f"edgeprune quantize MODEL.onnx --precision {wanted}",
        )


@_rule
def large_topk(graph: Graph) -> Iterator[Finding]:
    """TensorRT's TopK takes at most 3840."""
    for node in graph.model.graph.node:
        count = graph.weights.get(node.input[1]) if node.op_type == "TopK" and len(node.input) > 1 else None
        if count is not None and int(numpy_helper.to_array(count).reshape(-1)[0]) > LARGEST_TOPK:
            yield Finding(
                "large-topk",
                "error",
                node.name,
                f"TopK of more than {LARGEST_TOPK}",
                "export with a smaller max_det",
            )


@_rule
def int8_sorted_head(graph: Graph) -> Iterator[Finding]:
    """TensorRT 10.3 (JetPack 6.1, 6.2) cannot build INT8 graphs that end in top-k or NMS."""
    if graph.limits.release != (10, 3) or not precision_of(graph.model).startswith("int8"):
        return
    for node in graph.model.graph.node:
        if node.op_type in {"TopK", "NonMaxSuppression"}:
            yield Finding(
                "int8-sorted-head",
                "error",
                node.name,
                f"INT8 with {node.op_type} inside, which TensorRT 10.3 on JetPack 6 cannot build",
                "export with --head raw and run NMS outside, or use fp16",
            )
            return


@_rule
def half_output_pixels(graph: Graph) -> Iterator[Finding]:
    """Outputs in half precision hold pixels in steps of 0.5 above 512."""
    for value in outputs_of(graph.model):
        if value.dtype == "float16":
            yield Finding(
                "half-output-pixels",
                "warning",
                value.name,
                f"output '{value.name}' is float16: coordinates above 512 pixels come in steps of 0.5",
                "leave inputs and outputs in FP32",
            )


@_rule
def missing_metadata(graph: Graph) -> Iterator[Finding]:
    """Without names, task, stride and size the engine cannot be validated."""
    missing = [key for key in ("names", "task", "stride", "imgsz") if key not in metadata_of(graph.model)]
    if missing:
        yield Finding(
            "missing-metadata",
            "warning",
            "",
            f"no {', '.join(missing)} in the file",
            "export the checkpoint with edgeprune or Ultralytics",
        )
