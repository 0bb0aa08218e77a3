"""The baseline stage asks NVIDIA's parser before a board compiles anything."""

from __future__ import annotations

import pytest

from edgeprune.errors import StageError
from edgeprune.export.metadata import facts_of
from edgeprune.measure import compiling
from edgeprune.measure.result import GRAPH_RUNTIME
from edgeprune.runtimes.base import Availability
from edgeprune.runtimes.jobs import ParserAnswer
from edgeprune.stages import acceptance, baseline
from edgeprune.stages.unpruned import accuracy_as_exported
from edgeprune.workspace import Key
from tests.export.helpers import saved, stock_model

BOARD = "extends: jetson-orin-nano\ndescription: a stand-in\nimgsz: 64\ndevice: {host: 'fake:orin-nano'}\n"


def test_what_the_parser_refuses_is_told_before_the_board_is_asked(build_at, tmp_path, monkeypatch):
    build, order = build_at(BOARD), []
    saved(stock_model("yolov8", "detect"), tmp_path / "model.pt")

    def ask(onnx):
        assert onnx.is_file()
        order.append("parser")
        return ParserAnswer("1.7", ("Det 'a': false",), (), 1.0)

    def compile_engine(*_):
        order.append("board")
        raise StageError("the board refuses it too")

    monkeypatch.setattr(acceptance, "ask_parser", ask)
    monkeypatch.setattr(acceptance, "parser_availability", lambda: Availability(True, ""))
    monkeypatch.setattr(compiling, "compile_engine", compile_engine)
    folder = tmp_path / "stage"
    folder.mkdir()
    with pytest.raises(StageError, match="refuses it too"):
        baseline.STAGE.run(build, folder, Key("baseline", {}))
    assert order == ["parser", "board"]
    assert any(
        "NVIDIA's parser: TensorRT for RTX 1.7 refuses the graph: Det 'a'" in one for one in build.reporter.lines
    )


@pytest.mark.parametrize(("export", "head"), [("{nms: true}", "nms"), ("{head: raw}", "raw"), ("{}", "auto")])
def test_accuracy_at_the_trained_size_is_through_the_head_that_is_exported(
    build_at, tmp_path, monkeypatch, export, head
):
    build = build_at(f"extends: cpu\ndescription: a head\nimgsz: 64\nexport: {export}\n")
    model = saved(stock_model("yolo26", "detect"), tmp_path / "two.pt")
    asked = []

    def accuracy(measured, **given):
        facts = facts_of(measured) if measured.suffix == ".onnx" else None
        asked.append((given["imgsz"], given["head"], facts and (facts.imgsz, facts.head)))

    monkeypatch.setattr("edgeprune.measure.accuracy.accuracy", accuracy)
    by = accuracy_as_exported(build, model, build.dataset, 96).measured_on
    # a graph has its head inside and is asked for none
    assert asked == [(96, "auto", ((96, 96), "nms")) if head == "nms" else (96, head, None)]
    assert by == (GRAPH_RUNTIME if head == "nms" else "PyTorch")
