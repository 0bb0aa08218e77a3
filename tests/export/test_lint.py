from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeprune.errors import TargetError
from edgeprune.export.int8 import quantize_to_int8
from edgeprune.export.lint import RULES, UNSUPPORTED_OPS, Limits, lint
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.runtimes.jobs import ParserAnswer
from edgeprune.runtimes.nvidia_parser import ask_parser
from tests.command_lines import named_in, refused
from tests.export.helpers import TASKS, noise_images, pruned_forms, saved, stock_model

METADATA = {"names": "{0: 'a'}", "task": "detect", "stride": "32", "imgsz": "[64, 64]"}


@dataclass(frozen=True)
class Case:
    """A graph that breaks one rule, the same graph without that, and the severity.

    Both are valid ONNX but for the rule, so that whoever refuses the first and takes the second does so for the rule.
    """

    broken: onnx.ModelProto
    mended: onnx.ModelProto
    severity: str = "error"
    limits: Limits = field(default_factory=Limits)


def graph(nodes, weights=(), *, shape=(1, 3, 64, 64), opset=17, out=TensorProto.FLOAT, metadata=METADATA, domains=()):
    """A model from ``images`` to ``output0``."""
    model = helper.make_model(
        helper.make_graph(
            list(nodes),
            "g",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, list(shape))],
            [helper.make_tensor_value_info("output0", out, None)],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in dict(weights).items()],
        ),
        opset_imports=[helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)],
        ir_version=10,
    )
    helper.set_model_props(model, dict(metadata))
    return model


def node(op, *inputs, out="output0", **kwargs):
    return helper.make_node(op, list(inputs), [out], name=f"the-{op}", **kwargs)


RELU = node("Relu", "images")
SCALE = np.float32(0.1)
WEIGHT = np.ones((4, 3, 3, 3), np.float32)


def one(op, **kwargs):
    return graph([node(op, "images", **kwargs)], domains=[kwargs["domain"]] if "domain" in kwargs else [])


def constant(values):
    """The image plus a constant of any type."""
    return graph([node("Cast", "w", out="f", to=TensorProto.FLOAT), node("Add", "images", "f")], {"w": values})


def pair(zero_point, scale=None):
    """A quantiser of the image, and back."""
    nodes = [node("QuantizeLinear", "images", "s", "z", out="q"), node("DequantizeLinear", "q", "s", "z")]
    return graph(nodes, {"s": SCALE if scale is None else scale, "z": zero_point})


def biased(quantized):
    nodes = [node("Conv", "images", "w", "bias")]
    weights = {"w": WEIGHT, "bias": np.zeros(4, np.float32)}
    if quantized:
        nodes.insert(0, node("DequantizeLinear", "b", "s", out="bias"))
        weights = {"w": WEIGHT, "b": np.zeros(4, np.int32), "s": SCALE}
    return graph(nodes, weights)


def topk(count, quantized=False):
    """The largest values of the image, behind a quantiser and back where asked."""
    nodes = [node("Reshape", "d" if quantized else "images", "r", out="x")]
    nodes.append(helper.make_node("TopK", ["x", "k"], ["output0", "indices"], name="the-TopK"))
    weights = {"r": np.array([1, -1]), "k": np.array([count])}
    if not quantized:
        return graph(nodes, weights)
    quantizers = [node("QuantizeLinear", "images", "s", "z", out="q"), node("DequantizeLinear", "q", "s", "z", out="d")]
    return graph([*quantizers, *nodes], {**weights, "s": SCALE, "z": np.int8(0)})


PLAIN = graph([RELU])
CASES = {
    "opset-out-of-range": Case(graph([RELU], opset=21), PLAIN, "warning"),
    "unsupported-op": Case(one("Det"), PLAIN),
    "foreign-domain": Case(one("QuickGelu", domain="com.microsoft"), PLAIN),
    "tensorrt-plugin": Case(one("EfficientNMS_TRT", domain="TRT"), PLAIN, "warning"),
    "quantized-bias": Case(biased(quantized=True), biased(quantized=False)),
    "asymmetric-quantization": Case(pair(np.int8(3)), pair(np.int8(0))),
    "quantized-type": Case(pair(np.uint8(0)), pair(np.int8(0))),
    "half-scales": Case(pair(np.int8(0), SCALE.astype(np.float16)), pair(np.int8(0)), limits=Limits(tensorrt="8.6")),
    "unsupported-type": Case(constant(np.ones(1, np.uint16)), constant(np.ones(1, np.float32))),
    "double-weights": Case(constant(np.ones(1, np.float64)), constant(np.ones(1, np.float32)), "warning"),
    "int64-weights": Case(constant(np.array([2**40])), constant(np.array([2**20])), "warning"),
    "dynamic-shape": Case(graph([RELU], shape=("batch", 3, 64, 64)), PLAIN),
    "other-shape": Case(graph([RELU], shape=(1, 3, 64, 32)), PLAIN, limits=Limits(imgsz=(64, 64))),
    "other-precision": Case(PLAIN, pair(np.int8(0)), limits=Limits(precision="int8")),
    "large-topk": Case(topk(3841), topk(3840)),
    "int8-sorted-head": Case(topk(300, quantized=True), topk(300)),
    "half-output-pixels": Case(
        graph([node("Cast", "images", to=TensorProto.FLOAT16)], out=TensorProto.FLOAT16), PLAIN, "warning"
    ),
    "missing-metadata": Case(graph([RELU], metadata={}), PLAIN, "warning"),
}


def test_every_rule_has_a_case():
    assert set(CASES) == set(RULES)


def documented() -> dict[str, list[str]]:
    """Rule to the cells of its row in docs/lint.md: severity, what it sees, what NVIDIA's parser does, how to mend."""
    text = (Path(__file__).parents[2] / "docs" / "lint.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row[1:] for row in rows}


def test_every_rule_has_a_row_of_documentation():
    rows = documented()
    assert set(rows) == set(RULES)
    for rule, (severity, *cells) in rows.items():
        assert severity == RULES[rule].severity
        assert len(cells) == 3 and all(len(cell) > 20 for cell in (cells[0], cells[2])), rule


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_sees_what_it_is_for_and_nothing_else(rule):
    case = CASES[rule]
    findings = lint(case.broken, case.limits)
    assert {(finding.rule, finding.severity) for finding in findings} == {(rule, case.severity)}
    assert findings[0].remedy
    assert lint(case.mended, case.limits) == []


def commands_named() -> Iterator[tuple[str, str]]:
    """Rule, and each command that its remedy says, on the page or by itself."""
    for precision in PRECISIONS:
        graphs = {"fp32": PLAIN, "int8": pair(np.int8(0))}
        for given in (graph for held, graph in graphs.items() if held != precision):
            [finding] = lint(given, Limits(precision=precision))
            yield finding.rule, finding.remedy
    yield from ((finding.rule, finding.remedy) for finding in lint(one("ConvInteger")))
    for rule, case in CASES.items():
        yield from ((rule, finding.remedy) for finding in lint(case.broken, case.limits))
    yield from ((rule, cells[3]) for rule, cells in documented().items())


def test_what_a_remedy_says_to_type_is_taken():
    """``quantize`` makes no FP32, takes no graph but an FP32 one, and calibrates INT8 on images alone."""
    said = list(commands_named())
    commands = [(rule, named) for rule, remedy in said for named in named_in(remedy)]
    assert {rule for rule, _ in commands} >= {"other-precision", "half-scales", "quantized-bias", "unsupported-op"}
    assert [(rule, named.line, why) for rule, named in commands if (why := refused(named))] == []
    assert all("FP32.onnx" in named.words for _, named in commands if named.words[0] == "quantize")
    assert [remedy for rule, remedy in said if rule == "other-precision" and "edgeprune" not in remedy]


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """What the parser says of a model; it is asked once of each."""
    path = tmp_path_factory.mktemp("asked") / "m.onnx"

    @cache
    def answer(content: bytes) -> ParserAnswer:
        path.write_bytes(content)
        return ask_parser(path)

    return lambda model: answer(model.SerializeToString())


@pytest.mark.parametrize("rule", CASES)
def test_the_page_says_of_a_rule_what_nvidias_parser_does(rule, nvidia_parser, asked):
    """Refused for the rule alone; a rule that it does not refuse has the reason why it is one all the same."""
    case, said = CASES[rule], documented()[rule][2]
    broken, mended = asked(case.broken), asked(case.mended)
    assert not mended.refusals and not mended.lacking
    if broken.refusals or broken.lacking:
        assert said.startswith("refuses")
    else:
        assert said.startswith("takes") and len(said) > 25


def test_every_operator_of_the_list_is_refused(nvidia_parser, asked):
    operators = sorted(UNSUPPORTED_OPS)
    nodes = [helper.make_node(op, ["images"], [f"x{number}"], name=op) for number, op in enumerate(operators)]
    answer = asked(graph([*nodes, RELU]))
    assert {refusal.split()[0] for refusal in answer.refusals} | set(answer.lacking) == set(operators)


@pytest.mark.parametrize(
    ("model", "limits"),
    [
        (graph([RELU], opset=21), Limits(tensorrt="10.15")),
        (graph([RELU], opset=24), Limits(tensorrt="11.1")),
        (graph([RELU], opset=25), Limits(tensorrt="11.5")),
        (graph([RELU], shape=("batch", 3, "h", "w")), Limits(dynamic=True)),
        (PLAIN, Limits(precision="fp32", batch=1, imgsz=(64, 64))),
        (CASES["int8-sorted-head"].broken, Limits(tensorrt="10.16")),
        (constant(np.array([2**63 - 1])), Limits()),  # "to the end" of Slice
    ],
)
def test_what_is_fine_is_left_alone(model, limits):
    assert lint(model, limits) == []


FAST = [("yolov8", "detect"), ("yolo26", "pose")]  # a raw head, an end-to-end one
MODELS = [
    pytest.param((family, task), id=f"{family}-{task}", marks=() if (family, task) in FAST else pytest.mark.slow)
    for family in ("yolov8", "yolo11", "yolo26")
    for task in TASKS
]


@pytest.fixture(scope="module", params=MODELS)
def every_form(request, tmp_path_factory):
    """A small pruned model in every precision that ships for TensorRT."""
    return pruned_forms(*request.param, tmp_path_factory.mktemp("forms"))


PRECISIONS = ["fp32", "fp16", "int8", "int8-fp16"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_form_is_taken_by_nvidias_parser(precision, every_form, nvidia_parser):
    answer = ask_parser(every_form[precision])
    assert (answer.refusals, answer.lacking) == ((), ())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_form_says_the_types_and_shapes_that_it_has(precision, every_form):
    model = onnx.load(every_form[precision])
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_form_is_fine_by_the_lint(precision, every_form):
    assert lint(every_form[precision], Limits(tensorrt="10.16", precision=precision)) == []


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """A small model in INT8, for TensorRT and as ONNX Runtime quantises by default."""
    folder = tmp_path_factory.mktemp("forms")
    images, plain = noise_images(folder), folder / "fp32.onnx"
    onnx_from_checkpoint(saved(stock_model("yolov8", "detect"), folder / "m.pt"), plain, imgsz=64)
    quantize_to_int8(plain, folder / "int8.onnx", images, method="minmax")
    quantize_to_int8(plain, folder / "cpu.onnx", images, method="minmax", recipe="cpu")
    return folder


def test_onnx_runtimes_defaults_are_rejected_as_the_parser_does(forms, nvidia_parser):
    rules = {finding.rule for finding in lint(forms / "cpu.onnx") if finding.severity == "error"}
    assert rules == {"quantized-bias", "asymmetric-quantization", "quantized-type"}
    assert ask_parser(forms / "cpu.onnx").refusals


@pytest.mark.parametrize(("option", "rule"), [("bias", "quantized-bias"), ("uint8", "quantized-type")])
def test_each_rejected_row_alone_is_rejected(option, rule, forms):
    """The accepted INT8 form with one property changed to the one that the parser was seen to reject."""
    model = onnx.load(str(forms / "int8.onnx"))
    quantizer = next(n for n in model.graph.node if n.op_type == "DequantizeLinear")
    if option == "bias":
        bias = numpy_helper.from_array(np.zeros(16, np.int32), "bias_int32")
        model.graph.initializer.append(bias)
        model.graph.node.append(
            helper.make_node("DequantizeLinear", ["bias_int32", quantizer.input[1]], ["bias_float"])
        )
    else:
        zero = next(item for item in model.graph.initializer if item.name == quantizer.input[2])
        zero.CopyFrom(numpy_helper.from_array(np.uint8(0), zero.name))
    assert {finding.rule for finding in lint(model)} == {rule}


@pytest.mark.parametrize("release", ["8.4", "8.7", "10.0", "ten", "10.2"])
def test_a_release_that_is_too_old_or_unreadable_is_refused(release):
    with pytest.raises(TargetError, match="TensorRT"):
        Limits(tensorrt=release)


def test_equal_findings_are_counted(forms):
    found = next(finding for finding in lint(forms / "cpu.onnx") if finding.rule == "quantized-bias")
    assert found.count > 20
