"""INT8 ships only where it is faster on the target and holds the accuracy; else the plainer format does, with words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from edgeprune.artifact import Artifact
from edgeprune.dataset import Dataset
from edgeprune.export.result import PrecisionInfo
from edgeprune.records.facts import FallbackFacts, shipped_precision
from edgeprune.records.gates import gates_again
from edgeprune.runtimes.precision_truth import PrecisionShare
from edgeprune.samples.gates import Verdict
from edgeprune.stages import precision_choice, quantize
from edgeprune.stages.base import Build, SilentBuild, Weights
from edgeprune.stages.precision_choice import choose_precision
from edgeprune.target import load_target
from edgeprune.workspace import Key, Record, Workspace
from tests.records.sample import build_record, row
from tests.search.devices import StandIn, stand_in_site

FLOOR = 0.5


def graph(path: Path, *, quantized: bool) -> Path:
    """One convolution, with a quantised input or without."""
    weights = helper.make_tensor("w", TensorProto.FLOAT, [4, 3, 1, 1], [0.1] * 12)
    nodes = [helper.make_node("Conv", ["images", "w"], ["out"], name="conv")]
    tensors = [weights]
    if quantized:
        tensors += [
            helper.make_tensor("s", TensorProto.FLOAT, [], [1.0]),
            helper.make_tensor("z", TensorProto.INT8, [], [0]),
        ]
        nodes.insert(0, helper.make_node("QuantizeLinear", ["images", "s", "z"], ["q"], name="q"))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, c, 32, 32])
        for name, c in (("images", 3), ("out", 4))
    ]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)), str(path))
    return path


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What is chosen on a made-up CPU, for a speed-up of INT8, its accuracy and that of FP32."""

    def chosen(gain: float, int8: float, fp32: float, **keys: Any) -> tuple[Any, Path, Build]:
        monkeypatch.setattr(precision_choice, "graph_accuracy", lambda *_: type("A", (), {"value": fp32})())
        target = load_target("cpu").changed({"precision": "int8", **keys})
        runtime = StandIn(2.0, 0.0, half=gain**-0.5)
        site = stand_in_site(target, runtime)
        data = Dataset(tmp_path / "data.yaml", tmp_path, "detect", {0: "a"}, {})
        build = Build(site, Weights(tmp_path / "m.pt", "", "detect"), data, False, Workspace(tmp_path), SilentBuild())
        source, low = graph(tmp_path / "source.onnx", quantized=False), graph(tmp_path / "low.onnx", quantized=True)
        facts = FallbackFacts(int8, "mAP50-95", FLOOR, None, "it reaches the floor")
        return choose_precision(build, source, low, facts), low, build

    return chosen


@pytest.mark.parametrize(
    ("gain", "int8", "fp32", "ships"),
    [
        (1.5, 0.55, 0.56, "int8"),
        (1.0, 0.55, 0.56, "fp32"),  # not faster
        (0.8, 0.55, 0.56, "fp32"),  # slower
        (1.5, 0.45, 0.56, "fp32"),  # faster, but only FP32 holds the floor
        (0.8, 0.55, 0.45, "int8"),  # slower, but only INT8 holds the floor
        (1.5, 0.45, 0.46, "int8"),  # neither holds it: the faster one
        (0.8, 0.45, 0.46, "fp32"),
    ],
)
def test_the_faster_one_that_holds_the_accuracy_ships(
    case: Any, gain: float, int8: float, fp32: float, ships: str
) -> None:
    choice, low, _ = case(gain, int8, fp32)
    assert choice.shipped == ships
    assert choice.gain == pytest.approx(gain, rel=0.01)
    quantized = any(node.op_type == "QuantizeLinear" for node in onnx.load(str(low)).graph.node)
    assert quantized is (ships == "int8")
    assert not list(low.parent.glob(".plainer-*"))
    assert f"×{choice.gain:.3f}" in choice.reason


@pytest.mark.parametrize(("moved", "looks", "ships"), [(0, 1, "fp32"), (1, 2, "fp32"), (9, 3, "int8")])
def test_a_run_that_other_work_moved_is_measured_again_and_decides_nothing(
    case: Any, monkeypatch: pytest.MonkeyPatch, moved: int, looks: int, ships: str
) -> None:
    """Here INT8 is slower, so that a quiet run ships FP32."""
    efforts: list[float] = []
    pair = precision_choice.latency.measure_pair

    def measured(*given: Any, effort: float, **named: Any) -> Any:
        efforts.append(effort)
        return pair(*given, effort=effort, **named)

    monkeypatch.setattr(precision_choice.latency, "measure_pair", measured)
    monkeypatch.setattr(precision_choice.latency, "wait_before_again", lambda site, before, after: None)
    words = "other work ran on the machine"
    monkeypatch.setattr(precision_choice, "moved_reason", lambda *_: words if len(efforts) <= moved else "")
    choice, _, build = case(0.8, 0.55, 0.56, **{"measure.retries": 2})
    assert choice.shipped == ships and efforts == [1.0, 2.0, 4.0][:looks]
    assert (words in choice.reason) is (choice.doubt == words) is (ships == "int8")
    facts = quantize.QuantizeFacts(PrecisionInfo("int8", "cpu", 60, (), 64, "entropy", 1, 1), None, 1, choice)  # pyright: ignore[reportArgumentType]
    record = Record(Key("quantize", {}), Path(), {}, facts, 0.0, "")
    assert (words in quantize.STAGE.unsure(build, record)) is bool(choice.doubt)


def test_a_doubt_that_decided_nothing_is_none(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one of the two holds the accuracy, or neither does."""
    monkeypatch.setattr(precision_choice.latency, "wait_before_again", lambda site, before, after: None)
    monkeypatch.setattr(precision_choice, "moved_reason", lambda *_: "it moved")
    doubts = [case(0.8, int8, fp32)[0].doubt for int8, fp32 in ((0.55, 0.45), (0.45, 0.55), (0.45, 0.46))]
    assert doubts == ["it moved", "", "it moved"]


def test_a_profile_may_keep_its_precision_and_others_are_not_asked(case: Any) -> None:
    assert case(0.8, 0.55, 0.56, keep_precision=True)[0] is None
    assert case(0.8, 0.55, 0.56, precision="fp32")[0] is None
    assert load_target("desktop-cuda").changed({"precision": "int8-fp16"}).plainer_precision == "fp16"


def test_the_plainer_format_of_int8_that_is_trained_trains_nothing(case: Any) -> None:
    choice, _, build = case(0.8, 0.55, 0.56, **{"qat.epochs": 2})
    assert choice.shipped == "fp32" and build.target.qat is not None
    assert build.target.in_precision("fp32").qat is None and build.target.in_precision("int8") is build.target


def test_what_ships_is_what_the_record_and_its_gates_speak_of(case: Any) -> None:
    choice, *_ = case(0.8, 0.55, 0.56)
    record = build_record()
    facts = quantize.QuantizeFacts(
        conversion=PrecisionInfo("int8", "cpu", 60, (), 64, "entropy", 1, 1),
        fallback=FallbackFacts(0.55, "mAP50-95", FLOOR, None, ""),
        onnx_bytes=1,
        choice=choice,
    )
    target = record.target.changed({"precision": "int8"})
    share = PrecisionShare({"fp32": 1.0}, {}, {"fp32": 9}, None, 0, ())
    engine = replace(record.stages.engine.facts, precision=share)
    stages = replace(record.stages, quantize=row(facts), engine=row(engine))
    record = replace(record, target=target, stages=stages)
    assert record.precision == "fp32" == shipped_precision(target, facts)
    [gate] = [gate for gate in gates_again(record) if gate.metric.endswith("in the engine")]
    assert gate.metric == "fp32 in the engine" and gate.verdict is Verdict.PASS
    table = quantize.STAGE.judge(
        _state(record), Record(Key("quantize", {}), Path(), {"onnx": Artifact(Path(), "")}, facts, 0.0, "")
    ).gates
    [against] = [gate for gate in table if gate.metric == "int8 against fp32"]
    assert against.reason.startswith("fp32 ships: int8 is ×0.8")


def _state(record: Any) -> Any:
    return type("State", (), {"target": record.target})()
