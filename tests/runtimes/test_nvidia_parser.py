"""NVIDIA's own parser in a process of its own: what it says, and what becomes of a process that says nothing."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeprune import version
from edgeprune.errors import DataError, ToolError
from edgeprune.runtimes import nvidia_parser as parser_module
from edgeprune.runtimes.jobs import ParserJob
from edgeprune.runtimes.nvidia_parser import ask_parser, parser_availability
from tests.runtimes.models import convolutions, quantised


def one_node(path, op, *, domain="", shape=(1, 3, 8, 8)):
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"], name="the-node", domain=domain)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    domains = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=9), str(path))
    return path


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), ("batch", 3, "height", "width")])
@pytest.mark.parametrize("half", [False, True])
def test_a_good_graph_is_parsed_and_built(nvidia_parser, tmp_path, shape, half):
    answer = ask_parser(convolutions(tmp_path / "m.onnx", shape=shape, half=half))
    assert (answer.refusals, answer.lacking) == ((), ())
    assert answer.version == parser_availability().detail.split()[-1]
    assert not [name for name in sys.modules if name.startswith("tensorrt_rtx")]  # a crash of it stays outside


def test_a_refusal_is_in_its_own_words_and_names_the_node(nvidia_parser, tmp_path):
    [refusal] = ask_parser(one_node(tmp_path / "m.onnx", "Det")).refusals
    assert "Det 'the-node'" in refusal and "UNSUPPORTED_NODE" in refusal


def test_the_cause_is_told_and_not_the_missing_gpu(nvidia_parser, tmp_path):
    model = onnx.load(quantised(tmp_path / "m.onnx"))
    zero = next(item for item in model.graph.initializer if item.name == "zero")
    zero.CopyFrom(numpy_helper.from_array(np.array(7, np.int8), "zero"))
    onnx.save(model, tmp_path / "m.onnx")
    [refusal] = ask_parser(tmp_path / "m.onnx").refusals
    assert "zero point is not supported" in refusal
    assert "CUDA driver" not in refusal and "\n" not in refusal


@pytest.mark.parametrize(("op", "domain"), [("NonZero", ""), ("EfficientNMS_TRT", "trt.plugins")])
def test_of_a_missing_plugin_it_cannot_tell(nvidia_parser, tmp_path, op, domain):
    answer = ask_parser(one_node(tmp_path / "m.onnx", op, domain=domain))
    assert (answer.refusals, answer.lacking) == ((), (op,))


def test_a_crash_is_no_answer(monkeypatch, tmp_path):
    monkeypatch.setattr(ParserJob, "module", "tests.runtimes.crashing_worker")  # dies of a job that it does not know
    with pytest.raises(ToolError, match=r"NVIDIA's parser exited with 1: KeyError"):
        ask_parser(convolutions(tmp_path / "m.onnx"))


def test_what_is_no_graph_does_not_reach_it(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"no graph")
    with pytest.raises(DataError):
        ask_parser(tmp_path / "m.onnx")


def test_where_it_is_absent_the_command_that_gets_it_is_named(monkeypatch):
    monkeypatch.setattr(version, "installed", lambda package: "absent")
    monkeypatch.setattr(parser_module, "PLATFORM", (sys.platform, parser_module.platform.machine()))
    found = parser_availability()
    assert not found.ok and " -m pip install tensorrt-rtx-cu13-libs==" in found.remedy
    monkeypatch.setattr(parser_module, "PLATFORM", ("linux", "another machine"))
    assert "Linux on x86-64" in parser_availability().detail
