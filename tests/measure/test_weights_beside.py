"""A graph whose weights lie in another file is measured as what it is with them, and built from one file."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from edgeprune.errors import DataError
from edgeprune.export.graph import load_graph
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.export.simplify import simplify_onnx
from edgeprune.measure.bench import bench_graphs
from edgeprune.measure.compiling import compile_once
from edgeprune.runtimes.base import BenchSettings
from edgeprune.runtimes.onnx_facts import model_bytes, require_single_file, weight_files
from edgeprune.runtimes.onnxruntime_ import OnnxRuntime
from edgeprune.runtimes.tensorrt_ import TensorRt
from edgeprune.runtimes.trtexec_ import TrtExec
from tests.export.helpers import saved, stock_model

QUICK = BenchSettings(warmup_s=0.01, rounds=4, per_round=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("beside")
    path = folder / "model.onnx"
    onnx_from_checkpoint(saved(stock_model("yolov8", "detect"), folder / "m.pt"), path, imgsz=32)
    return path


@pytest.fixture(scope="module")
def stub(whole: Path) -> Path:
    path = whole.parent / "stub" / "stub.onnx"
    path.parent.mkdir()
    onnx.save(onnx.load(str(whole)), str(path), save_as_external_data=True, location="stub.data", size_threshold=0)
    return path


def test_its_size_is_that_of_both_files(whole: Path, stub: Path) -> None:
    assert weight_files(stub) == (stub.parent / "stub.data",) and weight_files(whole) == ()
    assert stub.stat().st_size < whole.stat().st_size / 2
    found = bench_graphs([whole, stub], OnnxRuntime(), QUICK, details=False)
    first, second = (model.size_bytes for model in found.models)
    assert first == whole.stat().st_size
    assert second == model_bytes(stub) == pytest.approx(first, rel=0.1)
    assert [model.model for model in found.models] == [whole, stub]


class Builder(OnnxRuntime):
    """Loads no graphs, and keeps what it built from."""

    suffix = ".engine"

    def engine_from_onnx(self, onnx, engine, **_):
        require_single_file(onnx)
        self.built = onnx
        engine.write_bytes(b"plan")


def test_what_is_built_or_sent_is_one_file_with_all_weights(whole: Path, stub: Path, tmp_path: Path) -> None:
    builder = Builder()
    compile_once(builder, stub, tmp_path / "built")
    for single in (builder.built, compile_once(OnnxRuntime(), stub, tmp_path / "sent")):
        assert single != stub and single.name == stub.name
        assert weight_files(single) == ()
        here, there = (load_graph(path).graph.initializer for path in (single, whole))
        assert [item.raw_data for item in here] == [item.raw_data for item in there]
    assert compile_once(OnnxRuntime(), whole, tmp_path / "same") == whole


@pytest.mark.parametrize("runtime", [OnnxRuntime(), TensorRt(), TrtExec()], ids=lambda runtime: runtime.name)
def test_a_builder_refuses_it_in_a_line_whose_command_helps(runtime, stub: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(runtime, "_require", lambda: None)
    monkeypatch.setattr(runtime, "find_program", lambda: ("trtexec", (10, 3, 0)), raising=False)
    with pytest.raises(DataError, match=r"its weights lie in stub\.data, and one file was expected") as refused:
        runtime.engine_from_onnx(stub, tmp_path / "e.engine")
    assert f"edgeprune simplify {stub} -o single.onnx" in str(refused.value)
    simplify_onnx(stub, tmp_path / "single.onnx")
    require_single_file(tmp_path / "single.onnx")
