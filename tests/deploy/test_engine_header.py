"""Ultralytics' header on a plan: written, read back by Ultralytics itself, taken off to the same bytes."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner
from ultralytics.nn.backends.base import BaseBackend

from edgeprune.cli import app
from edgeprune.deploy.engine_header import add_header, read_header, split_header, strip_header
from edgeprune.errors import DataError
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.runtimes.base import FreeAxes
from edgeprune.runtimes.engine_file import EngineFacts, facts_path, write_facts
from edgeprune.runtimes.layer_info import Layer
from edgeprune.runtimes.onnx_facts import onnx_facts
from tests.export.helpers import saved, stock_model
from tests.situations.graphs import with_metadata

PLAN = b"ftrt" + bytes(range(256)) * 40


class Loaded(BaseBackend):
    """What a backend of Ultralytics knows after it has read a header."""

    def load_model(self, weight):
        offset, header = self.engine_header(weight)
        self.behind_header = Path(weight).read_bytes()[offset:]
        self.apply_metadata(header)

    def forward(self, im):
        raise NotImplementedError


@pytest.mark.shared
def test_ultralytics_reads_the_header_as_it_reads_the_graph(exported, tmp_path):
    onnx = exported("yolov8", "raw")
    plan, model = tmp_path / "engine.engine", tmp_path / "model.engine"
    plan.write_bytes(PLAN)
    add_header(plan, onnx, model)
    loaded, graph = Loaded(str(model), "cpu"), BaseBackend.read_metadata(onnx)
    assert loaded.behind_header == PLAN
    assert loaded.task == "detect" and loaded.stride == 32 and list(loaded.imgsz) == [320, 320]
    assert {int(index): name for index, name in loaded.names.items()} == {0: "RBC", 1: "WBC", 2: "Platelets"}
    assert loaded.batch == 1 and loaded.channels == 3 and loaded.args["batch"] == 1
    assert set(BaseBackend.read_metadata(model)) == set(graph)
    assert read_header(model) == json.loads(json.dumps(BaseBackend.read_metadata(model)))

    bare = tmp_path / "bare.engine"
    assert strip_header(model, bare) == model.stat().st_size - len(PLAN)
    assert bare.read_bytes() == PLAN
    add_header(model, onnx, tmp_path / "twice.engine")
    assert (tmp_path / "twice.engine").read_bytes() == model.read_bytes()


@given(st.binary(max_size=64))
def test_a_plan_without_a_header_stays_as_it_is(data):
    header, plan = split_header(data)
    assert (header, plan) == ({}, data)


@given(st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=8), max_size=4), st.binary(max_size=64))
def test_every_header_comes_off_again(header, plan):
    text = json.dumps(header).encode()
    assert split_header(len(text).to_bytes(4, "little") + text + plan) == (header, plan)


def test_nonsense_is_refused_in_one_line(tmp_path):
    empty = tmp_path / "empty.engine"
    empty.write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.engine")  # which nobody writes to: reading it would never end
    for path, words in (
        (empty, "is empty"),
        (tmp_path, "is a folder"),
        (tmp_path / "none.engine", "does not exist"),
        (tmp_path / "pipe.engine", "is a pipe or a device"),
    ):
        with pytest.raises(DataError, match=words):
            read_header(path)
        with pytest.raises(DataError, match=words):
            strip_header(path, tmp_path / "bare.engine")
    assert not (tmp_path / "bare.engine").exists()


@pytest.mark.parametrize("text", ["{1, 2}", "b'abc'", "1+2j", "{(1, 2): 3}", "hello", "[1, 2"])
def test_what_json_cannot_hold_stays_text(tmp_path, text):
    onnx, plan = tmp_path / "model.onnx", tmp_path / "engine.engine"
    onnx_from_checkpoint(saved(stock_model("yolov8", "detect"), tmp_path / "m.pt"), onnx, imgsz=64)
    with_metadata(onnx, onnx, note=text)
    plan.write_bytes(PLAN)
    add_header(plan, onnx, tmp_path / "model.engine")
    assert read_header(tmp_path / "model.engine")["note"] == text


@pytest.mark.shared
def test_the_commands(exported, tmp_path):
    runner = CliRunner()
    plan, model, bare = (tmp_path / name for name in ("engine.engine", "model.engine", "bare.engine"))
    plan.write_bytes(PLAN)
    onnx = str(exported("yolov8", "raw"))
    assert runner.invoke(app, ["engine-header", "add", str(plan), "--onnx", onnx, "-o", str(model)]).exit_code == 0
    assert json.loads(runner.invoke(app, ["engine-header", "show", str(model)]).stdout)["task"] == "detect"
    assert "it had no header" in runner.invoke(app, ["engine-header", "strip", str(plan), "-o", str(bare)]).stdout
    assert runner.invoke(app, ["engine-header", "strip", str(model), "-o", str(bare)]).exit_code == 0
    assert bare.read_bytes() == PLAN


def test_the_header_names_the_core_and_an_engine_of_another_graph_gets_none(tmp_path):
    onnx, plan, model = (tmp_path / name for name in ("model.onnx", "plan.engine", "model.engine"))
    onnx_from_checkpoint(saved(stock_model("yolov8", "detect"), tmp_path / "m.pt"), onnx, imgsz=64)
    plan.write_bytes(PLAN)
    graph = onnx_facts(onnx)
    facts = EngineFacts("trtexec 10.3.0", {}, "fp16", graph.inputs, graph.outputs, graph.metadata, (), dla_core=1)
    write_facts(plan, facts)
    add_header(plan, onnx, model)
    assert read_header(model)["dla"] == 1
    write_facts(
        plan, replace(facts, layers=(Layer("/model.0/conv/Conv", "CaskConvolution", "fp16", "gpu", "multiplies"),))
    )
    add_header(plan, onnx, model)
    assert "dla" not in read_header(model)  # all of it fell back to the GPU
    write_facts(plan, replace(facts, outputs=("another",)))
    model.unlink()
    with pytest.raises(DataError, match=r"plan\.engine was built from another graph than"):
        add_header(plan, onnx, model)
    assert not model.exists()


def test_the_header_of_a_free_graph_is_of_the_one_shape_that_its_engine_takes(tmp_path):
    onnx, plan, model = (tmp_path / name for name in ("model.onnx", "plan.engine", "model.engine"))
    weights = saved(stock_model("yolov8", "detect"), tmp_path / "m.pt")
    onnx_from_checkpoint(weights, onnx, imgsz=64, dynamic=True)
    plan.write_bytes(PLAN)
    graph, shape = onnx_facts(onnx, free=FreeAxes(4, (96, 64))), (4, 3, 96, 64)
    facts = EngineFacts("trtexec 10.3.0", {}, "fp16", graph.inputs, graph.outputs, graph.metadata, ())
    for built, batch, size in ((replace(facts, shapes={"images": shape}), 4, [96, 64]), (None, 1, [64, 64])):
        if built is None:
            facts_path(plan).unlink()
        else:
            write_facts(plan, built)
        add_header(plan, onnx, model)
        loaded = Loaded(str(model), "cpu")
        assert (loaded.dynamic, loaded.batch, list(loaded.imgsz)) == (False, batch, size)
        assert loaded.args["dynamic"] is False and loaded.args["batch"] == batch
