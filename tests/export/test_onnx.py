from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
import torch

from edgeprune import checkpoint
from edgeprune.artifact import sha256_of
from edgeprune.errors import DataError, StageError, TargetError
from edgeprune.export.detections import Layout
from edgeprune.export.graph import load_graph, metadata_of
from edgeprune.export.metadata import read_metadata
from edgeprune.export.onnx import describe_onnx, onnx_from_checkpoint
from edgeprune.export.parity import compare_arrays
from edgeprune.export.run import outputs_of_onnx
from edgeprune.pruning.pruner import Pruner
from edgeprune.search.diagnosis import _floors
from tests.export.helpers import saved, stock_model

IMAGES = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return saved(stock_model("yolov8", "detect"), tmp_path_factory.mktemp("pt") / "small.pt")


@pytest.fixture(scope="module")
def dual(tmp_path_factory):
    return saved(stock_model("yolo26", "detect"), tmp_path_factory.mktemp("pt") / "dual.pt")


@pytest.mark.parametrize(
    ("task", "outputs"),
    [
        ("detect", [(1, 7, 84)]),
        ("segment", [(1, 39, 84), (1, 32, 16, 16)]),
        ("pose", [(1, 19, 84)]),
        ("obb", [(1, 8, 84)]),
        ("classify", [(1, 3)]),
    ],
)
def test_every_task_exports_with_named_outputs_and_metadata(task, outputs, tmp_path):
    pt = saved(stock_model("yolov8", task), tmp_path / "m.pt")
    info = onnx_from_checkpoint(pt, tmp_path / "m.onnx", imgsz=64, metadata={"plan": "123"})
    assert [tensor.shape for tensor in info.outputs] == outputs
    assert [tensor.name for tensor in info.inputs] == ["images"]
    assert [tensor.name for tensor in info.outputs] == ["output0", "output1"][: len(outputs)]
    assert info.task == task
    assert info.head == "raw"
    entries = metadata_of(tmp_path / "m.onnx")
    told = read_metadata(entries)
    assert told.names == {0: "class0", 1: "class1", 2: "class2"}
    assert (told.task, told.imgsz, entries["plan"]) == (task, (64, 64), "123")


def test_a_file_below_a_tenth_of_a_megabyte_is_no_broken_one(tmp_path, caplog):
    """Ultralytics' own export refuses it; the floor of a search may be that narrow."""
    *_, floor = _floors(Pruner(stock_model("yolov8", "detect"), 64, align=4))
    tiny, onnx_file = saved(floor, tmp_path / "tiny.pt"), tmp_path / "tiny.onnx"
    assert onnx_from_checkpoint(tiny, onnx_file, imgsz=64).head == "raw"
    assert onnx_file.stat().st_size < 2**20 / 10 and "too small" not in caplog.text
    with torch.no_grad():
        expected = floor.eval()(torch.from_numpy(IMAGES))[0].numpy()
    assert np.allclose(outputs_of_onnx(onnx_file, IMAGES)[0], expected, atol=1e-3)


@pytest.mark.parametrize("names", [["boxes", "masks"], ["output1", "output0"], ["output1", "masks"]])
def test_outputs_get_the_names_that_are_asked(names, tmp_path):
    """Those of each other too."""
    pt = saved(stock_model("yolov8", "segment"), tmp_path / "m.pt")
    onnx_from_checkpoint(pt, tmp_path / "a.onnx", imgsz=64)
    info = onnx_from_checkpoint(pt, tmp_path / "b.onnx", imgsz=64, output_names=names)
    assert [tensor.name for tensor in info.outputs] == names
    found = compare_arrays(
        *(outputs_of_onnx(tmp_path / f"{name}.onnx", IMAGES) for name in "ab"), Layout("segment", "raw", 3)
    )
    assert found.max_abs == 0


def test_a_graph_that_is_broken_after_the_export_is_not_written(small, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["edgeprune.export.onnx"], "rename_tensors", lambda nodes, names: None)
    with pytest.raises(StageError, match=r"small\.pt became is not a valid ONNX model: .*'boxes' is not an output"):
        onnx_from_checkpoint(small, tmp_path / "m.onnx", imgsz=64, output_names=["boxes"])
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize(
    ("plan", "signature"),
    [
        ({"plan": {"dimensions": []}, "plan_digest": "the digest"}, "shape_signature"),
        ({"plan": "the digest"}, "signature"),
    ],
    ids=["now", "0.1"],
)
def test_a_pruned_checkpoint_says_by_which_plan(plan, signature, tmp_path):
    model = stock_model("yolov8", "detect")
    shapes = checkpoint.shape_signature(model)
    checkpoint.save(model, tmp_path / "m.pt", metadata={**plan, signature: shapes})
    onnx_from_checkpoint(tmp_path / "m.pt", tmp_path / "m.onnx", imgsz=64)
    told = metadata_of(tmp_path / "m.onnx")
    assert (told["edgeprune_plan"], told["edgeprune_signature"]) == ("the digest", shapes)


def test_the_head_without_nms_is_the_default_where_there_is_one(dual, tmp_path):
    assert onnx_from_checkpoint(dual, tmp_path / "m.onnx", imgsz=64).head == "end-to-end"
    assert describe_onnx(tmp_path / "m.onnx").outputs[0].shape == (1, 84, 6)
    raw = onnx_from_checkpoint(dual, tmp_path / "r.onnx", imgsz=64, head="raw")
    assert (raw.head, raw.outputs[0].shape) == ("raw", (1, 7, 84))


@pytest.mark.parametrize(("held", "rows"), [(301, 301), (7, 300), (10_000, 525)])
def test_a_model_of_crowded_images_is_exported_with_room_for_what_they_hold(held, rows, tmp_path):
    """Ultralytics' trainer writes the most objects of an image on the head; its exporter alone would keep 300. There
    are 525 places for an object in 160 pixels."""
    model = stock_model("yolo26", "detect")
    model.model[-1].max_det = held
    dual = saved(model, tmp_path / "dual.pt")
    assert onnx_from_checkpoint(dual, tmp_path / "m.onnx", imgsz=160).outputs[0].shape == (1, rows, 6)


@pytest.mark.parametrize(("task", "held", "rows"), [("detect", 301, 301), ("detect", 7, 300), ("obb", 1000, 768)])
def test_embedded_nms_has_room_for_them_too(task, held, rows, tmp_path):
    """For rotated boxes it sorts five candidates a row, of which TensorRT takes 3840."""
    model = stock_model("yolov8", task)
    model.model[-1].max_det = held
    info = onnx_from_checkpoint(saved(model, tmp_path / "m.pt"), tmp_path / "m.onnx", imgsz=64, head="nms")
    assert info.outputs[0].shape == (1, rows, 6 + (task == "obb"))


def test_nms_can_be_embedded(small, tmp_path):
    info = onnx_from_checkpoint(small, tmp_path / "m.onnx", imgsz=64, head="nms")
    assert info.head == "nms"
    assert info.ops["NonMaxSuppression"] == 1


def test_dynamic_leaves_batch_and_size_free_and_static_does_not(small, tmp_path):
    free = onnx_from_checkpoint(small, tmp_path / "d.onnx", imgsz=64, dynamic=True)
    assert free.dynamic
    assert free.inputs[0].shape == ("batch", 3, "height", "width")
    fixed = onnx_from_checkpoint(small, tmp_path / "s.onnx", imgsz=64, batch=2)
    assert not fixed.dynamic
    assert fixed.inputs[0].shape == (2, 3, 64, 64)
    assert fixed.batch == 2


def test_the_opset_is_the_one_that_was_asked(small, tmp_path):
    assert onnx_from_checkpoint(small, tmp_path / "a.onnx", imgsz=64).opset == 17
    assert onnx_from_checkpoint(small, tmp_path / "b.onnx", imgsz=64, opset=16).opset == 16


def test_the_checkpoints_folder_and_the_working_directory_stay_as_they_are(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, digest = sorted(small.parent.iterdir()), sha256_of(small)
    (tmp_path / "out").mkdir()
    onnx_from_checkpoint(small, tmp_path / "out" / "m.onnx", imgsz=64)
    assert sorted(small.parent.iterdir()) == before
    assert sha256_of(small) == digest
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["m.onnx"]


def test_the_same_checkpoint_gives_the_same_bytes(small, tmp_path):
    for name in ("a", "b"):
        onnx_from_checkpoint(small, tmp_path / f"{name}.onnx", imgsz=64)
    assert sha256_of(tmp_path / "a.onnx") == sha256_of(tmp_path / "b.onnx")


def test_the_export_is_fp32(small, tmp_path):
    onnx_from_checkpoint(small, tmp_path / "m.onnx", imgsz=64)
    types = {item.data_type for item in load_graph(tmp_path / "m.onnx").graph.initializer}
    assert onnx.TensorProto.FLOAT in types
    assert onnx.TensorProto.FLOAT16 not in types


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"imgsz": 70}, "use 64"),
        ({"imgsz": 64, "opset": 21}, "12 to 20"),
        ({"imgsz": 64, "batch": 0}, "greater than or equal to 1"),
        ({"imgsz": 64, "head": "best"}, "auto, end-to-end, raw, nms"),
        ({"imgsz": 64, "head": "end-to-end"}, "no end-to-end head"),
        ({"imgsz": 64, "head": "nms", "dynamic": True}, "give --batch N"),
        ({"imgsz": 64, "output_names": ["boxes", "masks"]}, "has 1 outputs"),
        ({"imgsz": 64, "output_names": ["images"]}, "a name of its own"),
    ],
)
def test_arguments_the_exporter_would_bend_are_refused(small, tmp_path, arguments, says):
    with pytest.raises(TargetError, match=says):
        onnx_from_checkpoint(small, tmp_path / "m.onnx", **arguments)
    assert not (tmp_path / "m.onnx").exists()


def test_a_classifier_has_no_nms(tmp_path):
    pt = saved(stock_model("yolov8", "classify"), tmp_path / "m.pt")
    with pytest.raises(TargetError, match="classifier"):
        onnx_from_checkpoint(pt, tmp_path / "m.onnx", imgsz=64, head="nms")


@pytest.mark.parametrize("content", [None, b"", b"not a checkpoint", b"PK\x03\x04 half a zip"])
def test_a_checkpoint_that_cannot_be_read_is_one_line(content, tmp_path):
    pt = tmp_path / "m.pt"
    if content is not None:
        pt.write_bytes(content)
    with pytest.raises(DataError) as error:
        onnx_from_checkpoint(pt, tmp_path / "m.onnx", imgsz=64)
    assert str(pt) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_pickle_that_would_run_code_is_refused(tmp_path, capsys):
    import torch

    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"model": Evil()}, tmp_path / "m.pt")
    with pytest.raises(DataError):
        onnx_from_checkpoint(tmp_path / "m.pt", tmp_path / "m.onnx", imgsz=64)
    assert "ran" not in capsys.readouterr().out.split()


def test_an_output_that_cannot_be_written_is_one_line(small):
    from pathlib import Path

    with pytest.raises(TargetError, match=r"choose another output|not writable; give another"):  # root, or others
        onnx_from_checkpoint(small, Path("/proc/nowhere/m.onnx"), imgsz=64)


def test_a_failing_exporter_is_a_stage_error_and_leaves_nothing(small, tmp_path, monkeypatch):
    from ultralytics.engine.exporter import Exporter

    def broken(self, model):
        raise RuntimeError("an operator\nhas no symbol")

    monkeypatch.setattr(Exporter, "__call__", broken)
    with pytest.raises(StageError, match="an operator"):
        onnx_from_checkpoint(small, tmp_path / "m.onnx", imgsz=64)
    assert not list(tmp_path.iterdir())


def test_weights_over_two_gigabytes_are_refused_before_the_export(tmp_path, monkeypatch):
    pt = saved(stock_model("yolov8", "detect"), tmp_path / "m.pt")
    monkeypatch.setattr(sys.modules["edgeprune.export.onnx"], "MAX_BYTES", 1000)
    with pytest.raises(DataError, match="2 GB"):
        onnx_from_checkpoint(pt, tmp_path / "m.onnx", imgsz=64)
    assert not (tmp_path / "m.onnx").exists()
