from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeprune.errors import TargetError
from edgeprune.export.half import cast_to_fp16
from edgeprune.export.int8 import quantize_to_int8
from edgeprune.export.lint import RULES, Limits, lint
from edgeprune.export.onnx import onnx_from_checkpoint
from tests.export.helpers import saved, stock_model

METADATA = {"names": "{0: 'a'}", "task": "detect", "stride": "32", "imgsz": "[64, 64]"}


def graph(nodes, weights=(), *, shape=(1, 3, 64, 64), opset=17, out=TensorProto.FLOAT, metadata=METADATA, domains=()):
    """A model from ``images`` to ``output0``; its nodes need not make sense, a lint only reads them."""
    model = helper.make_model(
        helper.make_graph(
            list(nodes),
            "g",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, list(shape))],
            [helper.make_tensor_value_info("output0", out, None)],
            [numpy_helper.from_array(array, name) for name, array in dict(weights).items()],
        ),
        opset_imports=[helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)],
    )
    helper.set_model_props(model, dict(metadata))
    return model


def node(op, *inputs, out="output0", **kwargs):
    return helper.make_node(op, list(inputs), [out], name=f"the-{op}", **kwargs)


RELU = node("Relu", "images")
SCALE = np.float32(0.1)
CASES = {
    "opset-out-of-range": (graph([RELU], opset=21), Limits(), "error"),
    "unsupported-op": (graph([node("Det", "images")]), Limits(), "error"),
    "foreign-domain": (
        graph([node("QuickGelu", "images", domain="com.microsoft")], domains=["com.microsoft"]),
        Limits(),
        "error",
    ),
    "quantized-bias": (
        graph([node("DequantizeLinear", "b", "s")], {"b": np.zeros(4, np.int32), "s": SCALE}),
        Limits(),
        "error",
    ),
    "asymmetric-quantization": (
        graph([node("QuantizeLinear", "images", "s", "z")], {"s": SCALE, "z": np.int8(3)}),
        Limits(),
        "error",
    ),
    "quantized-type": (
        graph([node("QuantizeLinear", "images", "s", "z")], {"s": SCALE, "z": np.uint8(0)}),
        Limits(),
        "error",
    ),
    "unsupported-type": (graph([node("Add", "images", "w")], {"w": np.zeros(2, np.uint16)}), Limits(), "error"),
    "double-weights": (graph([node("Add", "images", "w")], {"w": np.zeros(2, np.float64)}), Limits(), "warning"),
    "int64-weights": (graph([node("Add", "images", "w")], {"w": np.array([2**40])}), Limits(), "error"),
    "dynamic-shape": (graph([RELU], shape=("batch", 3, 64, 64)), Limits(), "error"),
    "other-shape": (graph([RELU], shape=(1, 3, 64, 32)), Limits(imgsz=(64, 64)), "error"),
    "other-precision": (graph([RELU]), Limits(precision="fp16"), "error"),
    "large-topk": (graph([node("TopK", "images", "k")], {"k": np.array([4000])}), Limits(), "error"),
    "int8-sorted-head": (
        graph(
            [node("DequantizeLinear", "w", "s", out="x"), node("TopK", "x", "k")],
            {"w": np.zeros((2, 2), np.int8), "s": SCALE, "k": np.array([300])},
        ),
        Limits(),
        "error",
    ),
    "half-output-pixels": (graph([RELU], out=TensorProto.FLOAT16), Limits(), "warning"),
    "missing-metadata": (graph([RELU], metadata={}), Limits(), "warning"),
}


def test_every_rule_has_a_case():
    assert set(CASES) == set(RULES)


def test_every_rule_has_a_line_of_documentation():
    text = (Path(__file__).parents[2] / "docs" / "lint.md").read_text(encoding="utf-8")
    rows = {match[1]: match[0] for match in re.finditer(r"^\| `([a-z0-9-]+)` \|.*$", text, re.MULTILINE)}
    assert set(rows) == set(RULES)
    assert all(len(row.strip("| ").rsplit("|", 1)[1]) > 20 for row in rows.values())


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_sees_what_it_is_for_and_nothing_else(rule):
    model, limits, severity = CASES[rule]
    findings = lint(model, limits)
    assert [(finding.rule, finding.severity) for finding in findings] == [(rule, severity)]
    assert findings[0].remedy


@pytest.mark.parametrize(
    ("model", "limits"),
    [
        (graph([RELU]), Limits()),
        (graph([RELU], opset=21), Limits(tensorrt="10.15")),
        (graph([RELU], opset=24), Limits(tensorrt="11.1")),
        (graph([RELU], shape=("batch", 3, "h", "w")), Limits(dynamic=True)),
        (graph([RELU]), Limits(precision="fp32", batch=1, imgsz=(64, 64))),
        (CASES["int8-sorted-head"][0], Limits(tensorrt="10.16")),
        (graph([node("Slice", "images", "e")], {"e": np.array([2**63 - 1])}), Limits()),  # "to the end"
        (graph([node("TopK", "images", "k")], {"k": np.array([3840])}), Limits()),
        (graph([node("QuantizeLinear", "images", "s", "z")], {"s": SCALE, "z": np.int8(0)}), Limits()),
    ],
)
def test_what_is_fine_is_left_alone(model, limits):
    assert lint(model, limits) == []


@pytest.fixture(scope="module")
def forms(tmp_path_factory, shared):
    """A small model in the forms that were tried against a TensorRT parser."""
    folder = tmp_path_factory.mktemp("forms")
    images = sorted((shared / "data" / "bccd" / "images" / "train").glob("*.jpg"))[:16]
    plain = folder / "fp32.onnx"
    onnx_from_checkpoint(saved(stock_model("yolov8", "detect"), folder / "m.pt"), plain, imgsz=64)
    cast_to_fp16(plain, folder / "fp16.onnx")
    quantize_to_int8(plain, folder / "int8.onnx", images, method="minmax")
    quantize_to_int8(plain, folder / "int8-fp16.onnx", images, method="minmax", half=True)
    quantize_to_int8(plain, folder / "cpu.onnx", images, method="minmax", recipe="cpu")
    return folder


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int8-fp16"])
def test_the_forms_that_the_parser_takes_are_accepted(precision, forms):
    assert lint(forms / f"{precision}.onnx", Limits(precision=precision)) == []


def test_onnx_runtimes_defaults_are_rejected_as_the_parser_does(forms):
    rules = {finding.rule for finding in lint(forms / "cpu.onnx") if finding.severity == "error"}
    assert rules == {"quantized-bias", "asymmetric-quantization", "quantized-type"}


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


@pytest.mark.parametrize("release", ["8.6", "10.0", "ten", "10.2"])
def test_a_release_that_is_too_old_or_unreadable_is_refused(release):
    with pytest.raises(TargetError, match="TensorRT"):
        Limits(tensorrt=release)


def test_equal_findings_are_counted(forms):
    found = next(finding for finding in lint(forms / "cpu.onnx") if finding.rule == "quantized-bias")
    assert found.count > 20
