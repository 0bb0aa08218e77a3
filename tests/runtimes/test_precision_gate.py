"""The gate on an engine's number format, behind engines that keep what was asked and engines that do not."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeprune.errors import StageError
from edgeprune.export.precision import float_nodes, precision_of
from edgeprune.measure.layers import compare_layers
from edgeprune.records.gates import agreement_gate, gates_again, precision_gate
from edgeprune.runtimes import runtime
from edgeprune.runtimes.base import LayerTime
from edgeprune.runtimes.layer_info import Layer, layer_info_of
from edgeprune.runtimes.onnx_facts import require_precision
from edgeprune.runtimes.precision_truth import PrecisionShare, precision_share
from edgeprune.runtimes.trtexec_ import TrtExec
from edgeprune.samples.agreement import Counts, dice
from edgeprune.samples.gates import Verdict
from edgeprune.serial import from_json, to_json
from edgeprune.stages.precision import engine_precision
from tests.records.sample import PARITY, build_record
from tests.runtimes import fake_trtexec
from tests.runtimes.models import convolutions, quantised
from tests.runtimes.test_trtexec import Bench
from tests.runtimes.trtexec_samples import layers_json


def built(tmp_path: Path, version, really: str) -> tuple[TrtExec, Path]:
    program = fake_trtexec.install(tmp_path, version, precision=really)
    trtexec = TrtExec(Bench(), program=(str(program),), keep_timing_cache=False)
    trtexec.engine_from_onnx(convolutions(tmp_path / "m.onnx", half=True), tmp_path / "m.engine", precision="fp16")
    return trtexec, tmp_path / "m.engine"


@pytest.mark.parametrize("version", [(10, 3, 0), (11, 1, 0)], ids=str)
@pytest.mark.parametrize(("really", "verdict"), [("fp16", Verdict.PASS), ("fp32", Verdict.FAIL)])
def test_an_engine_must_hold_what_was_asked(tmp_path, version, really, verdict):
    trtexec, engine = built(tmp_path, version, really)
    share = engine_precision(trtexec, engine, compare_layers(trtexec, engine, engine).candidate, tmp_path / "m.onnx")
    assert share is not None
    gate = precision_gate("engine", share, "fp16")
    assert gate.verdict is verdict and gate.metric == "fp16 in the engine"
    if verdict is Verdict.FAIL:
        assert gate.value == 0 and "asked for fp16, the engine is fp32 100% of the time of 3 layers" in gate.reason


@pytest.mark.parametrize(
    ("asked", "really", "held"),
    [("fp32", "fp32", 1), ("fp32", "fp16", 0), ("int8", "int8", 1), ("int8", "fp16", 0), ("int8-fp16", "int8", 1),
     ("int8-fp16", "fp16", 0), ("int8-fp16", "fp32", 0), ("fp16", "int8", 0)],
)  # fmt: skip
def test_every_precision_has_its_share(asked, really, held):
    assert precision_share(layer_info_of(layers_json(11, really)).layers).held(asked) == held


def test_the_row_of_the_dla_is_made_again_from_a_record_and_not_asked_of_older_ones():
    record = build_record()
    device = record.target.device.model_copy(update={"dla_core": 0})
    record = replace(record, target=record.target.model_copy(update={"device": device}))

    def row(share):
        engine = replace(record.stages.engine, facts=replace(record.stages.engine.facts, precision=share))
        made = gates_again(replace(record, stages=replace(record.stages, engine=engine)))
        return [gate.verdict for gate in made if gate.metric == "on the DLA"]

    some, none = (layer_info_of(layers_json(11, "fp16", dla=dla)).layers for dla in (True, False))
    assert row(precision_share(some, dla_core=0)) == [Verdict.PASS]
    assert row(precision_share(none, dla_core=0)) == [Verdict.FAIL]
    assert row(precision_share(some)) == row(precision_share(none)) == []  # of a record from before the row was


def layer(number: int, precision: str, *, fused: bool = False, told: bool = False) -> Layer:
    """A convolution of an engine: of one node, fused with its activation, or known by the engine's metadata alone."""
    node = f"/model.{number}/conv/Conv"
    name = f"__myl_Conv_{number}" if told else f"{node} + PWN(/model.{number}/act/Mul)" if fused else node
    return Layer(name, "CaskConvolution", precision, "gpu", "multiplies", (node,) if told else ())


@pytest.mark.parametrize("how", [{}, {"fused": True}, {"told": True}], ids=str)
@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize(("asked", "rest"), [("int8", "fp32"), ("int8-fp16", "fp16"), ("fp16", "fp32")])
def test_layers_that_the_graph_has_in_float_are_not_asked_of_the_builder(how, measured, asked, rest):
    low = asked.partition("-")[0]
    layers = [layer(number, rest if number < 3 else low, **how) for number in range(5)]
    spent = [LayerTime(one.name, "", 3.0 if number < 3 else 1.0) for number, one in enumerate(layers)]
    times, kept = spent if measured else (), [f"/model.{number}/conv/Conv" for number in range(3)]
    assert precision_gate("engine", precision_share(layers, times), asked).verdict is Verdict.FAIL
    gate = precision_gate("engine", precision_share(layers, times, kept), asked)
    assert gate.verdict is Verdict.PASS and gate.value == pytest.approx(1.0)
    part = "82% of the time" if measured else "60% of the layers"
    words = f"of the layers that the graph asks for in {low}; 3 layers, {part}, are float in the graph"
    assert gate.reason.endswith(f"5 layers that multiply; {words}")
    # and what it was asked for counts as before
    ignored = [*layers[:3], layer(3, rest, **how), layer(4, rest, **how)]
    assert precision_gate("engine", precision_share(ignored, times, kept), asked).verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("asked", "kept", "rest", "float_ms", "verdict"),
    [
        ("int8", "fp32", "int8", 95.0, Verdict.INCONCLUSIVE),
        ("int8", "fp32", "fp32", 95.0, Verdict.INCONCLUSIVE),
        ("int8", "fp32", "int8", 85.0, Verdict.PASS),
        ("int8", "fp32", "fp32", 85.0, Verdict.FAIL),
        ("int8-fp16", "fp16", "int8", 95.0, Verdict.INCONCLUSIVE),
        ("int8-fp16", "fp16", "fp16", 95.0, Verdict.INCONCLUSIVE),
        ("int8-fp16", "fp32", "int8", 95.0, Verdict.FAIL),  # what is not INT8 was asked for in FP16
        ("int8-fp16", "fp16", "int8", 85.0, Verdict.PASS),
    ],
)
def test_a_rest_that_is_too_small_tells_nothing_of_the_engine(asked, kept, rest, float_ms, verdict):
    layers = [layer(0, kept), layer(1, rest)]
    times = [LayerTime(layers[0].name, "", float_ms), LayerTime(layers[1].name, "", 100 - float_ms)]
    gate = precision_gate("engine", precision_share(layers, times, [layers[0].name]), asked)
    assert gate.verdict is verdict
    told = f"of the layers that the graph asks for in int8; 1 layer, {float_ms:.0f}% of the time, is float in the graph"
    assert told in gate.reason
    assert ("too little to tell" in gate.reason) == (verdict is Verdict.INCONCLUSIVE)


def test_the_row_that_is_made_again_is_as_unsure():
    record = build_record()
    layers = [layer(0, "fp32"), layer(1, "int8")]
    times = [LayerTime(one.name, "", ms) for one, ms in zip(layers, (95.0, 5.0), strict=True)]
    share = precision_share(layers, times, [layers[0].name])
    engine = replace(record.stages.engine, facts=replace(record.stages.engine.facts, precision=share))
    target = record.target.changed({"precision": "int8"})
    record = replace(record, target=target, stages=replace(record.stages, engine=engine))
    [again] = [gate for gate in gates_again(record) if gate.metric == "int8 in the engine"]
    assert again == precision_gate("engine", share, "int8") and again.verdict is Verdict.INCONCLUSIVE


def test_a_graph_that_has_nothing_in_float_names_nothing(tmp_path):
    assert float_nodes(convolutions(tmp_path / "half.onnx", half=True)) == ()
    assert float_nodes(convolutions(tmp_path / "plain.onnx", half=False)) == ()


def test_all_in_float_is_no_low_precision():
    layers = [layer(number, "fp32") for number in range(2)]
    share = precision_share(layers, (), [one.name for one in layers])
    assert precision_gate("engine", share, "int8").verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("kernels", "told"),
    [
        (("f32f32_tf32f32_f32", "f32f32_f32f32_f32"), "fp32 100% (75% of it by TF32 products) of the time of 2 layers"),
        (("f32f32_f32f32_f32", "f32f32_f32f32_f32"), "fp32 100% of the time of 2 layers"),
        (
            ("tf32tf32_tf32tf32_tf32", "f16f16_f16f16_f16"),
            "fp32 75% (100% of it by TF32 products), fp16 25% of the time",
        ),
    ],
)
def test_fp32_says_what_of_it_multiplies_in_tf32(kernels, told):
    """TensorRT's own choice for FP32 from Ampere on: such an engine is FP32 as asked, and its row says what that is."""
    entries = [
        {
            "Name": f"/model.{number}/conv/Conv",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Format/Datatype": "Row major linear " + ("FP16" if kernel.startswith("f16") else "FP32")}],
            "TacticName": f"sm80_xmma_fprop_implicit_gemm_{kernel}_nhwckrsc_nhwc",
        }
        for number, kernel in enumerate(kernels)
    ]
    info = layer_info_of(json.dumps({"Layers": entries, "Bindings": ["images"]}))
    times = [LayerTime(one.name, "", ms) for one, ms in zip(info.layers, (3.0, 1.0), strict=True)]
    share = precision_share(info.layers, times)
    assert told in share.text()
    assert precision_gate("engine", share, "fp32").verdict is Verdict.PASS
    assert from_json(PrecisionShare, to_json(share), "a share") == share


def test_a_runtime_that_cannot_tell_has_no_gate(tmp_path):
    assert engine_precision(runtime("onnxruntime"), tmp_path / "m.onnx", [], tmp_path / "m.onnx") is None


@pytest.mark.parametrize(
    ("agreement", "seen", "verdict", "words"),
    [
        (0.97, 40, Verdict.PASS, "40 detections of the ONNX, 39 of the engine on 16 images"),
        (0.2, 40, Verdict.FAIL, "0.2 is less than 0.9"),
        (1.0, 0, Verdict.INCONCLUSIVE, "finds nothing on 16 images"),
    ],
)
def test_an_engine_must_find_what_its_onnx_finds(agreement, seen, verdict, words):
    parity = replace(
        PARITY, detections_agreement=agreement, detections_reference=seen, detections_candidate=max(seen - 1, 0)
    )
    gate = agreement_gate("engine", parity)  # of a record from before images were counted one by one
    assert gate.verdict is verdict and words in gate.reason


@pytest.mark.parametrize(
    ("images", "detections", "common", "more", "verdict", "words"),
    [
        (32, 20, 19, "", Verdict.PASS, "at least 0.9"),
        (32, 20, 17, "", Verdict.FAIL, "at most 0.8"),
        (32, 1, 1, "", Verdict.PASS, "with 96.5% confidence; 32 detections of the ONNX, 32 of the engine on 32 images"),
        (16, 1, 1, "", Verdict.INCONCLUSIVE, "a split with more images would tell (accuracy.split)"),
        (16, 1, 1, "over SSH more", Verdict.INCONCLUSIVE, "; over SSH more"),
        (128, 10, 9, "over SSH more", Verdict.INCONCLUSIVE, "too near to the limit to tell"),
        (1, 3, 0, "", Verdict.FAIL, "0 is less than 0.9"),
    ],
)
def test_a_share_is_held_by_its_bounds(images, detections, common, more, verdict, words):
    counts = (Counts(detections, detections, common),) * images
    found = replace(
        PARITY,
        images=images,
        detections_reference=images * detections,
        detections_candidate=images * detections,
        detections_agreement=dice(counts),
        by_image=counts,
    )
    gate = agreement_gate("engine", found, more)
    assert gate.verdict is verdict and words in gate.reason


@pytest.mark.parametrize("fused", ["{}", "fusion({})", "{},{} + PWN(PWN({}), {})"])
def test_a_node_without_a_name_is_in_no_layer(fused, tmp_path):
    layers = [replace(layer(number, "fp32"), name=fused.replace("{}", f"/{number}/Conv")) for number in range(2)]
    share = precision_share(layers, (), ["", "/0/Conv"])
    assert share.float_layers == 1
    graph = onnx.load(str(quantised(tmp_path / "m.onnx")))
    graph.graph.node[-1].op_type = "MatMul"
    graph.graph.node.append(onnx.helper.make_node("MatMul", ["y", "y"], ["z"]))
    assert float_nodes(graph) == ()
    graph.graph.node[-1].name = "last"
    assert float_nodes(graph) == ("last",)


@pytest.mark.parametrize(("shape", "held"), [((), False), ((8,), False), ((2, 4), True)], ids=str)
def test_what_holds_fp16_is_told_by_one_rule(shape, held, tmp_path):
    """A scale or a bound in half precision makes no graph of half precision."""
    model = onnx.load(str(convolutions(tmp_path / "m.onnx")))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float16), "other"))
    assert (precision_of(model) == "fp16") == held
    with contextlib.nullcontext() if held else pytest.raises(StageError, match="holds no fp16"):
        require_precision(model, "fp16", tmp_path / "m.onnx")
