"""Whether TensorRT will take a graph, read from the graph: an acceptance check where TensorRT is not at hand.

Takes an ONNX file and what the target allows. Gives findings; an ``error`` is what the parser or the builder rejects,
or makes another engine of than was asked; a ``warning`` is what it accepts and a user regrets. Every rule is a function
of its own with a test and an entry in ``docs/lint.md``, and is held against NVIDIA's own parser
(:mod:`edgeprune.runtimes.nvidia_parser`), which is one version. Sources of what others reject: the support table of
onnx-tensorrt (``docs/operators.md``, TensorRT 10.0 and 10.15; its release notes of 11.5), Ultralytics' exporter for the
JetPack 6 rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from packaging.version import InvalidVersion

from edgeprune.errors import TargetError
from edgeprune.export.graph import (
    PLUGIN_DOMAINS,
    STANDARD,
    inputs_of,
    load_graph,
    metadata_of,
    opset_of,
    outputs_of,
    tensorrt_plugins,
)
from edgeprune.export.metadata import REQUIRED
from edgeprune.export.precision import PRECISIONS, precision_of
from edgeprune.export.result import LintFinding
from edgeprune.options import named
from edgeprune.reading import shown
from edgeprune.runtimes.onnx_facts import constants_of
from edgeprune.target.releases import OLDEST_TENSORRT, Release, release_of, why_unknown

OLDEST_OPSET = 9

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

    tensorrt: str = OLDEST_TENSORRT
    dynamic: bool = False
    batch: int | None = None
    imgsz: tuple[int, int] | None = None
    precision: str | None = None

    def __post_init__(self) -> None:
        try:
            reason = why_unknown(self.tensorrt)
        except InvalidVersion:
            raise TargetError(
                f"TensorRT release {shown(self.tensorrt)} is not readable; write it as {OLDEST_TENSORRT}"
            ) from None
        if reason:
            raise TargetError(f"{reason}; next: {named('tensorrt')} with one of them, or update edgeprune")
        if self.precision not in {None, *PRECISIONS}:
            raise TargetError(f"precision '{self.precision}' is unknown; {', '.join(PRECISIONS)} are allowed")

    @property
    def release(self) -> Release:
        """What is known of the release."""
        known = release_of(self.tensorrt)
        assert known is not None  # __post_init__
        return known


@dataclass(frozen=True)
class LintedGraph:
    """A model with what several rules look up."""

    model: onnx.ModelProto
    limits: Limits

    @cached_property
    def weights(self) -> dict[str, onnx.TensorProto]:
        """Constants by tensor name."""
        return constants_of(self.model)

    @cached_property
    def quantizers(self) -> list[onnx.NodeProto]:
        """Q and DQ nodes."""
        return [node for node in self.model.graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]

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


@dataclass(frozen=True)
class Problem:
    """What a rule objects to; as in :class:`LintFinding`."""

    node: str
    message: str
    remedy: str


@dataclass(frozen=True)
class Rule:
    """One rule: an ``error`` gives no engine, or another than was asked; a ``warning`` is regretted by a user."""

    name: str
    severity: str
    problems: Callable[[LintedGraph], Iterator[Problem]]


RULES: dict[str, Rule] = {}


def _rule(severity: str) -> Callable[[Callable[[LintedGraph], Iterator[Problem]]], Rule]:
    """Register a function as the rule of its name; an entry of that name stands in ``docs/lint.md``."""

    def register(problems: Callable[[LintedGraph], Iterator[Problem]]) -> Rule:
        name = problems.__name__.replace("_", "-")
        RULES[name] = Rule(name, severity, problems)
        return RULES[name]

    return register


def lint(model: onnx.ModelProto | Path | str, limits: Limits | None = None) -> list[LintFinding]:
    """Apply every rule; findings of a rule about the same thing are one with a count, errors first.

    Args:
        model: a model or its file.
        limits: what the target allows; TensorRT 10.3 with static shapes when None.

    Raises:
        DataError: the file cannot be read.
    """
    graph = LintedGraph(model if isinstance(model, onnx.ModelProto) else load_graph(model), limits or Limits())
    findings: dict[tuple[str, str], LintFinding] = {}
    for rule in RULES.values():
        for problem in rule.problems(graph):
            key = rule.name, problem.message
            first = findings.get(key)
            findings[key] = (
                LintFinding(rule.name, rule.severity, problem.node, problem.message, problem.remedy)
                if first is None
                else replace(first, count=first.count + 1)
            )
    return sorted(findings.values(), key=lambda finding: finding.severity != "error")


def _from_fp32(precision: str) -> str:
    """What to type for a graph in a precision below FP32, which is made of the FP32 export and of no other graph."""
    calibrated = "" if precision == "fp16" else " --recipe tensorrt --data data.yaml"
    return f"from the FP32 export: edgeprune quantize FP32.onnx --precision {precision}{calibrated}"


@_rule("warning")
def opset_out_of_range(graph: LintedGraph) -> Iterator[Problem]:
    """The parser of the target's TensorRT does not know the operator set, and reads its nodes by an older one."""
    opset, newest = opset_of(graph.model), graph.limits.release.opset
    if not OLDEST_OPSET <= opset <= newest:
        message = f"opset {opset}; TensorRT {graph.limits.tensorrt} knows {OLDEST_OPSET} to {newest}"
        yield Problem("", message, f"export again with --opset {min(17, newest)}")


@_rule("error")
def unsupported_op(graph: LintedGraph) -> Iterator[Problem]:
    """The parser has no such operator."""
    for node in graph.model.graph.node:
        if node.domain in {"", "ai.onnx"} and node.op_type in UNSUPPORTED_OPS:
            quantized = node.op_type.startswith(("QLinear", "ConvInteger", "MatMulInteger", "Dynamic"))
            remedy = f"as Q/DQ pairs, {_from_fp32('int8')}" if quantized else "replace the block that exports it"
            yield Problem(node.name, f"operator {node.op_type}", remedy)


@_rule("error")
def foreign_domain(graph: LintedGraph) -> Iterator[Problem]:
    """Operators of another domain are one runtime's own."""
    for node in graph.model.graph.node:
        if node.domain not in {*STANDARD, *PLUGIN_DOMAINS}:
            remedy = "give the ONNX file from before ONNX Runtime optimised it"
            yield Problem(node.name, f"operator {node.domain}::{node.op_type}", remedy)


@_rule("warning")
def tensorrt_plugin(graph: LintedGraph) -> Iterator[Problem]:
    """TensorRT's own operators (NMS and the like): it builds them, and nothing else runs them."""
    for plugin in tensorrt_plugins(graph.model):
        message = f"{plugin} is a plugin that runs on TensorRT only; its outputs and accuracy cannot be checked here"
        yield Problem(plugin, message, "export with --head nms, whose NMS every runtime has, or with --head raw")


@_rule("error")
def quantized_bias(graph: LintedGraph) -> Iterator[Problem]:
    """A bias as int32 behind a DequantizeLinear: what ONNX Runtime quantises by default and the parser rejects."""
    for node in graph.quantizers:
        if node.op_type == "DequantizeLinear" and graph.quantized_type(node) == TensorProto.INT32:
            remedy = f"with biases in float (QuantizeBias=False), {_from_fp32('int8')}"
            yield Problem(node.name, "DequantizeLinear of an int32 bias", remedy)


@_rule("error")
def asymmetric_quantization(graph: LintedGraph) -> Iterator[Problem]:
    """A zero point other than zero; with uint8 activations it always is one."""
    for node in graph.quantizers:
        zero = graph.zero_point(node)
        if zero is not None and np.any(numpy_helper.to_array(zero).astype(np.int64)):
            remedy = f"as symmetric int8, {_from_fp32('int8')}"
            yield Problem(node.name, f"{node.op_type} with a zero point other than 0", remedy)


@_rule("error")
def quantized_type(graph: LintedGraph) -> Iterator[Problem]:
    """Quantised types that TensorRT does not have: 16 bit, which it rejects, and uint8, which it takes for int8."""
    for node in graph.quantizers:
        dtype = graph.quantized_type(node)
        if dtype not in QUANTIZED_TYPES and dtype != TensorProto.INT32:  # int32 has a rule of its own
            message = f"{node.op_type} to {TensorProto.DataType.Name(dtype).lower()}"
            yield Problem(node.name, message, f"as int8, {_from_fp32('int8')}")


@_rule("error")
def half_scales(graph: LintedGraph) -> Iterator[Problem]:
    """TensorRT 8.5 and 8.6 read scales of half precision as garbage."""
    if not graph.limits.release.weakly_typed:
        return
    for node in graph.quantizers:
        scale = graph.weights.get(node.input[1])
        if scale is not None and scale.data_type == TensorProto.FLOAT16:
            message = f"{node.op_type} with a float16 scale, which TensorRT {graph.limits.tensorrt} reads as garbage"
            yield Problem(node.name, message, f"in precision int8, whose scales are FP32, {_from_fp32('int8')}")


@_rule("error")
def unsupported_type(graph: LintedGraph) -> Iterator[Problem]:
    """Weights of a type that the parser rejects; constants that only Q and DQ nodes read have rules of their own."""
    for name, weight in graph.weights.items():
        if weight.data_type in WEIGHT_TYPES:
            continue
        readers = [node for node in graph.model.graph.node if name in node.input]
        if not all(node in graph.quantizers for node in readers):
            message = f"weights of type {TensorProto.DataType.Name(weight.data_type).lower()}"
            yield Problem(name, message, "export again in FP32")


@_rule("warning")
def double_weights(graph: LintedGraph) -> Iterator[Problem]:
    """TensorRT has no double precision: it clamps to float."""
    for name, weight in graph.weights.items():
        if weight.data_type == TensorProto.DOUBLE:
            yield Problem(name, "weights in double precision", "export again from an FP32 checkpoint")


@_rule("warning")
def int64_weights(graph: LintedGraph) -> Iterator[Problem]:
    """INT64 that does not fit INT32, for which there are only slow kernels."""
    limit, widest = np.iinfo(np.int32), np.iinfo(np.int64)
    for name, weight in graph.weights.items():
        if weight.data_type != TensorProto.INT64:
            continue
        values = numpy_helper.to_array(weight)
        # the largest and least INT64 mean "to the end" in Slice and survive clamping
        ends = np.isin(values, [widest.max, widest.min, -widest.max])
        if not np.all(ends | ((values <= limit.max) & (values >= limit.min))):
            remedy = "simplify the graph, or replace the block that exports them"
            yield Problem(name, "INT64 constants beyond the range of INT32", remedy)
        if values.size > 1024:
            yield Problem(name, "a table of INT64 constants", "simplify the graph, which folds most")


@_rule("error")
def dynamic_shape(graph: LintedGraph) -> Iterator[Problem]:
    """A free size where the target is static."""
    for value in inputs_of(graph.model):
        free = [str(size) for size in value.shape if not isinstance(size, int)]
        if free and not graph.limits.dynamic:
            message = f"input '{value.name}' has free sizes ({', '.join(free)}) and the target is static"
            yield Problem(value.name, message, "export without --dynamic")


@_rule("error")
def other_shape(graph: LintedGraph) -> Iterator[Problem]:
    """A fixed size that is not the target's."""
    height, width = graph.limits.imgsz or (None, None)
    limits = {"batch": graph.limits.batch, "channels": None, "height": height, "width": width}
    for value in inputs_of(graph.model):
        if len(value.shape) != 4:
            continue
        for size, (axis, limit) in zip(value.shape, limits.items(), strict=True):
            if limit is not None and isinstance(size, int) and size != limit:
                message = f"{axis} is {size} and the target's is {limit}"
                yield Problem(value.name, message, f"export again for {axis} {limit}")


@_rule("error")
def other_precision(graph: LintedGraph) -> Iterator[Problem]:
    """The graph does not hold the precision that was asked: a strongly typed engine would not either."""
    limit, precision = graph.limits.precision, precision_of(graph.model)
    if limit is not None and limit != precision:
        message = f"the graph is {precision} and the target asks for {limit}"
        remedy = "give the FP32 export: no other graph is made FP32 again" if limit == "fp32" else _from_fp32(limit)
        yield Problem("", message, remedy)


@_rule("error")
def large_topk(graph: LintedGraph) -> Iterator[Problem]:
    """TensorRT's TopK takes at most 3840."""
    for node in graph.model.graph.node:
        count = graph.weights.get(node.input[1]) if node.op_type == "TopK" and len(node.input) > 1 else None
        if count is not None and int(numpy_helper.to_array(count).reshape(-1)[0]) > LARGEST_TOPK:
            yield Problem(node.name, f"TopK of more than {LARGEST_TOPK}", "export with a smaller max_det")


@_rule("error")
def int8_sorted_head(graph: LintedGraph) -> Iterator[Problem]:
    """TensorRT 10.3 (JetPack 6.1, 6.2) cannot build INT8 graphs that end in top-k or NMS."""
    if graph.limits.release.builds_int8_top_k or not precision_of(graph.model).startswith("int8"):
        return
    for node in graph.model.graph.node:
        if node.op_type in {"TopK", "NonMaxSuppression"}:
            message = f"INT8 with {node.op_type} inside, which TensorRT 10.3 on JetPack 6 cannot build"
            yield Problem(node.name, message, "export with --head raw and run NMS outside, or use fp16")
            return


@_rule("warning")
def half_output_pixels(graph: LintedGraph) -> Iterator[Problem]:
    """Outputs in half precision hold pixels in steps of 0.5 above 512."""
    for value in outputs_of(graph.model):
        if value.dtype == "float16":
            message = f"output '{value.name}' is float16: coordinates above 512 pixels come in steps of 0.5"
            yield Problem(value.name, message, "leave inputs and outputs in FP32")


@_rule("warning")
def missing_metadata(graph: LintedGraph) -> Iterator[Problem]:
    """Without names, task, stride and size the engine cannot be validated."""
    entries = metadata_of(graph.model)
    missing = [key for key in REQUIRED if key not in entries]
    if missing:
        message = f"no {', '.join(missing)} in the file"
        yield Problem("", message, "export the checkpoint with edgeprune or Ultralytics")
