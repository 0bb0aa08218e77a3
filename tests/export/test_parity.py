from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeprune.devices.fake import fake_device
from edgeprune.errors import DataError, StageError, TargetError
from edgeprune.export.graph import load_graph, metadata_of, save_graph
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.export.parity import parity
from edgeprune.runtimes.base import FreeAxes
from edgeprune.runtimes.onnxruntime_ import OnnxRuntime
from edgeprune.runtimes.trtexec_ import TrtExec
from tests.export.helpers import noise_images, saved, stock_model

LIMIT = 1e-3  # pixels and scores


@pytest.mark.parametrize("family", ["yolov8", "yolo11", "yolo26"])
def test_trained_weights_keep_parity(family, weights, exported, val_images):
    found = parity(weights(family), exported(family), val_images, imgsz=320)
    assert found.max_abs_box_px <= LIMIT
    assert found.max_abs_score <= LIMIT
    assert found.detections_agreement == 1.0
    assert found.detections_reference > 20
    assert found.head == ("end-to-end" if family == "yolo26" else "raw")


@pytest.mark.parametrize("head", ["raw", "nms"])
def test_the_other_heads_keep_parity(head, weights, exported, val_images):
    found = parity(weights("yolo26"), exported("yolo26", head), val_images, imgsz=320)
    assert (found.head, found.unpaired) == (head, 0)
    assert max(found.max_abs_box_px, found.max_abs_score) <= LIMIT


@pytest.mark.parametrize(
    ("family", "head", "batch"),
    [
        ("yolov8", "raw", 1),
        ("yolov8", "nms", 4),
        ("yolo26", "end-to-end", 1),
        pytest.param("yolo26", "raw", 1, marks=pytest.mark.slow),
        pytest.param("yolo26", "nms", 4, marks=pytest.mark.slow),
    ],
)
def test_every_head_keeps_parity_in_a_graph_of_free_size(family, head, batch, weights, val_images, tmp_path):
    free = tmp_path / "free.onnx"
    info = onnx_from_checkpoint(weights(family), free, imgsz=320, head=head, dynamic=True, batch=batch)
    assert (info.dynamic, info.head) == (True, head)
    for imgsz, count in ((320, 3), (256, 1)):
        found = parity(weights(family), free, val_images[:count], imgsz=imgsz)
        assert max(found.max_abs_box_px, found.max_abs_score) <= LIMIT
        assert found.detections_reference > 5 * count
        assert found.detections_agreement == 1.0


@pytest.mark.parametrize("family", ["yolov8", "yolo26"])
@pytest.mark.parametrize("task", ["segment", "pose", "obb", "classify"])
def test_every_task_keeps_parity(family, task, tmp_path, val_images):
    pt = saved(stock_model(family, task), tmp_path / "m.pt")
    onnx_from_checkpoint(pt, tmp_path / "m.onnx", imgsz=64)
    found = parity(pt, tmp_path / "m.onnx", val_images[:2])
    assert found.task == task
    assert found.max_abs_box_px <= LIMIT
    assert found.max_abs_score <= LIMIT
    assert found.max_abs_extra <= LIMIT


@pytest.mark.parametrize("held", [301, 7])
@pytest.mark.parametrize("head", ["auto", "nms"])
def test_what_a_training_left_on_the_head_parts_no_model_from_its_export(held, head, val_images, tmp_path):
    """How many detections are kept, and whether classes compete: what validation writes there, the exporter resets."""
    model = stock_model("yolo26", "detect")
    pt = saved(model, tmp_path / "m.pt")
    onnx_from_checkpoint(pt, tmp_path / "before.onnx", imgsz=160, head=head)
    model.model[-1].max_det, model.model[-1].agnostic_nms = held, True
    onnx_from_checkpoint(saved(model, pt), tmp_path / "m.onnx", imgsz=160, head=head)
    for candidate in ("m.onnx", "before.onnx"):  # as many rows as the candidate was exported with
        found = parity(pt, tmp_path / candidate, val_images[:2])
        assert found.max_abs <= LIMIT and found.rows > 100 and found.detections_reference > 0
    assert parity(model, tmp_path / "m.onnx", val_images[:1]).max_abs <= LIMIT
    assert (model.model[-1].max_det, model.model[-1].agnostic_nms) == (held, True)


def test_a_changed_weight_is_found(weights, exported, val_images, tmp_path):
    model = load_graph(exported("yolov8"))
    weight = max(model.graph.initializer, key=lambda item: len(item.raw_data))
    changed = numpy_helper.to_array(weight) * np.float32(1.05)
    weight.CopyFrom(numpy_helper.from_array(changed, weight.name))
    save_graph(model, tmp_path / "m.onnx")
    found = parity(weights("yolov8"), tmp_path / "m.onnx", val_images)
    assert found.max_abs_box_px > 100 * LIMIT


def test_an_engine_is_compared_by_its_own_runtime(exported, val_images, tmp_path):
    OnnxRuntime().engine_from_onnx(exported("yolov8"), tmp_path / "engine.onnx")
    found = parity(exported("yolov8"), tmp_path / "engine.onnx", val_images, runtime=OnnxRuntime())
    assert found.max_abs <= LIMIT


@pytest.mark.parametrize("head", ["raw", "nms"])
def test_an_engine_of_a_graph_of_free_batch_is_given_what_it_was_built_for(head, tmp_path):
    free = tmp_path / "free.onnx"
    onnx_from_checkpoint(
        saved(stock_model("yolov8", "detect"), tmp_path / "m.pt"), free, imgsz=64, batch=2, head=head, dynamic=True
    )
    with fake_device("orin-nano") as device:  # refuses an input of another number of bytes, as trtexec does
        trtexec = TrtExec(device, keep_timing_cache=False)
        trtexec.engine_from_onnx(free, tmp_path / "m.engine", free=FreeAxes(2, (64, 64)))
        found = parity(
            free,
            tmp_path / "m.engine",
            noise_images(tmp_path, 3),
            imgsz=64,
            runtime=trtexec,
            metadata=metadata_of(free),
        )
    assert (found.images, found.detections_agreement) == (3, 1.0)
    assert found.max_abs <= LIMIT


def test_a_fixed_batch_is_filled_up(weights, val_images, tmp_path):
    onnx_from_checkpoint(weights("yolov8"), tmp_path / "m.onnx", imgsz=320, batch=3)
    found = parity(weights("yolov8"), tmp_path / "m.onnx", val_images)
    assert found.images == 4
    assert found.max_abs_box_px <= LIMIT


def test_two_heads_cannot_be_compared(exported, val_images):
    with pytest.raises(StageError, match="cannot be compared"):
        parity(exported("yolo26", "raw"), exported("yolo26"), val_images)


def test_no_images_is_one_line(exported):
    with pytest.raises(DataError, match="no images"):
        parity(exported("yolov8"), exported("yolov8"), [])


def test_an_image_that_cannot_be_read_is_named(exported, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"broken\.jpg"):
        parity(exported("yolov8"), exported("yolov8"), [tmp_path / "broken.jpg"])


def test_a_foreign_onnx_must_be_told_its_size(val_images, tmp_path):
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [value("x", 1, [1, 3, "h", "w"])],
        [value("y", 1, [1, 3, "h", "w"])],
    )
    save_graph(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), tmp_path / "m.onnx")
    with pytest.raises(TargetError, match="imgsz"):
        parity(tmp_path / "m.onnx", tmp_path / "m.onnx", val_images)
