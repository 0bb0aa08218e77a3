from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeprune.errors import DataError, StageError, TargetError
from edgeprune.export import graph
from edgeprune.export.graph import load_graph, metadata_of, save_graph, set_metadata
from edgeprune.export.metadata import read_metadata
from edgeprune.runtimes.onnx_facts import read_model


def relu_model() -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", "y")]
    weight = numpy_helper.from_array(np.ones((2,), np.float32), "w")
    nodes = [helper.make_node("Add", ["x", "w"], ["z"]), helper.make_node("Relu", ["z"], ["y"])]
    return helper.make_model(
        helper.make_graph(nodes, "g", values[:1], values[1:], [weight]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )


def test_what_is_saved_is_read_back(tmp_path):
    model = relu_model()
    set_metadata(model, {"names": "{0: 'a'}", "n": "1"})
    set_metadata(model, {"n": "2"})
    save_graph(model, tmp_path / "new" / "m.onnx")
    assert metadata_of(tmp_path / "new" / "m.onnx") == {"names": "{0: 'a'}", "n": "2"}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["m.onnx"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("empty", b""), ("text", b"hello, this is no model"), ("zip", b"PK\x03\x04" + bytes(100)), ("zeros", bytes(64))],
)
def test_a_file_that_is_no_onnx_is_one_line(name, content, tmp_path):
    path = tmp_path / f"{name}.onnx"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        load_graph(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("keep", [0.25, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(keep, tmp_path):
    data = relu_model().SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(DataError):
        load_graph(tmp_path / "m.onnx")


def test_a_graph_that_names_a_missing_tensor_is_refused(tmp_path):
    model = relu_model()
    model.graph.node[1].input[0] = "nowhere"
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(DataError, match="not a valid ONNX model"):
        load_graph(tmp_path / "m.onnx")


def test_missing_external_data_is_refused(tmp_path):
    model = relu_model()
    onnx.external_data_helper.convert_model_to_external_data(model, location="w.bin", size_threshold=0)
    onnx.save(model, str(tmp_path / "m.onnx"))
    load_graph(tmp_path / "m.onnx")
    (tmp_path / "w.bin").unlink()
    with pytest.raises(DataError):
        load_graph(tmp_path / "m.onnx")


def test_weights_in_a_file_that_no_system_can_name_are_refused(tmp_path):
    model = relu_model()
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "n" * 5000)
    model.graph.initializer[0].ClearField("raw_data")
    (tmp_path / "long.onnx").write_bytes(model.SerializeToString())
    for read in (load_graph, read_model):
        with pytest.raises(DataError, match=r"long\.onnx"):
            read(tmp_path / "long.onnx")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load_graph(tmp_path / "m.onnx")


def test_over_two_gigabytes_is_refused_both_ways(tmp_path, monkeypatch):
    huge = tmp_path / "huge.onnx"
    with huge.open("wb") as file:
        file.truncate(2**31)  # sparse: takes no room
    with pytest.raises(DataError, match="2 GB"):
        load_graph(huge)
    monkeypatch.setattr(graph, "MAX_BYTES", 10)
    with pytest.raises(DataError, match="2 GB"):
        save_graph(relu_model(), tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_an_unwritable_place_is_one_line_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "file" / "m.onnx", Path("/proc/nowhere/m.onnx")):
        with pytest.raises(TargetError, match="choose another output"):
            save_graph(relu_model(), place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    save_graph(relu_model(), tmp_path / "m.onnx")
    before = (tmp_path / "m.onnx").read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgeprune.artifact.os.fsync", full)
    with pytest.raises(StageError, match="No space left on device; free some space and give the same command again"):
        save_graph(relu_model(), tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_refused_by_name(tmp_path, value):
    weight = np.ones((2, 3, 1, 1), np.float32)
    weight[1, 2] = value
    shapes = {"images": [1, 3, 4, 4], "output0": [1, 2, 4, 4]}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    node = helper.make_node("Conv", ["images", "cv1.weight"], ["output0"])
    constants = [numpy_helper.from_array(weight, "cv1.weight")]
    bounds = numpy_helper.from_array(np.array(np.inf, np.float32), "bound")  # no weight: a bound may be infinite
    model = helper.make_model(
        helper.make_graph([node], "g", values[:1], values[1:], [*constants, bounds]),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    onnx.save(model, str(tmp_path / "m.onnx"))
    with pytest.raises(DataError, match=r"weight cv1\.weight has (NaN|infinity)"):
        load_graph(tmp_path / "m.onnx")
    weight[1, 2] = 1
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "cv1.weight"))
    onnx.save(model, str(tmp_path / "m.onnx"))
    assert load_graph(tmp_path / "m.onnx").graph.node


def test_metadata_that_is_no_literal_is_refused_and_never_evaluated():
    with pytest.raises(DataError, match="names"):
        read_metadata({"names": "__import__('os').getcwd()"})
