from __future__ import annotations

import onnx
import onnxsim
import pytest

from edgeprune.errors import DataError
from edgeprune.export.graph import load_graph, metadata_of
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.export.parity import parity
from edgeprune.export.regions import candidates_of
from edgeprune.export.simplify import simplify_onnx
from tests.export.helpers import saved, simplify_wrongly, stock_model


@pytest.mark.parametrize("family", ["yolov8", "yolo26"])
def test_fewer_nodes_say_the_same(family, exported, val_images, tmp_path):
    source = exported(family)
    info = simplify_onnx(source, tmp_path / "s.onnx", images=val_images)
    assert info.changed
    assert info.nodes_after < info.nodes_before
    assert info.max_abs is not None
    assert info.max_abs <= 1e-4
    assert len(load_graph(tmp_path / "s.onnx").graph.node) == info.nodes_after
    assert metadata_of(tmp_path / "s.onnx") == metadata_of(source)


@pytest.mark.parametrize("stated", [{}, {"batch": 2}, {"dynamic": True, "batch": 4}])
def test_a_trained_model_with_nms_inside_is_simplified_though_noise_shows_it_nothing(
    stated, weights, val_images, tmp_path
):
    onnx_from_checkpoint(weights("yolov8"), tmp_path / "m.onnx", imgsz=320, head="nms", **stated)
    by_noise = simplify_onnx(tmp_path / "m.onnx", tmp_path / "noise.onnx")
    assert by_noise.changed and by_noise.nodes_after < by_noise.nodes_before
    assert "candidates of NMS" in by_noise.reason
    by_images = simplify_onnx(tmp_path / "m.onnx", tmp_path / "images.onnx", images=val_images)
    assert "outputs within" in by_images.reason
    assert (tmp_path / "noise.onnx").read_bytes() == (tmp_path / "images.onnx").read_bytes()  # the same steps
    found = parity(tmp_path / "m.onnx", tmp_path / "noise.onnx", val_images)
    assert found.max_abs <= 1e-4 and found.detections_reference > 0


def test_candidates_of_every_task_with_nms_are_compared(tmp_path):
    for task in ("segment", "pose", "obb"):
        source = tmp_path / f"{task}.onnx"
        onnx_from_checkpoint(saved(stock_model("yolov8", task), tmp_path / "m.pt"), source, imgsz=64, head="nms")
        assert len(candidates_of(load_graph(source))) >= 3  # boxes, scores, and what else belongs to them
        assert simplify_onnx(source, tmp_path / "s.onnx").changed
    assert candidates_of(load_graph(tmp_path / "s.onnx"))


def test_the_same_source_gives_the_same_bytes(exported, tmp_path):
    for name in ("a", "b"):
        simplify_onnx(exported("yolo26"), tmp_path / f"{name}.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_without_images_noise_is_compared(exported, tmp_path):
    info = simplify_onnx(exported("yolov8"), tmp_path / "s.onnx")
    assert info.changed
    assert info.max_abs is not None


def test_when_onnxsim_fails_the_source_goes_on(exported, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no such op\nmore lines")

    monkeypatch.setattr(onnxsim, "simplify", broken)
    info = simplify_onnx(exported("yolov8"), tmp_path / "s.onnx")
    assert not info.changed
    assert info.nodes_after == info.nodes_before
    assert info.reason == "the unsimplified file goes on: onnxsim failed (no such op)"
    assert load_graph(tmp_path / "s.onnx") == load_graph(exported("yolov8"))


def test_when_onnxsim_changes_an_output_the_source_goes_on(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(onnxsim, "simplify", simplify_wrongly)
    info = simplify_onnx(exported("yolov8"), tmp_path / "s.onnx")
    assert not info.changed
    assert "changed an output by" in info.reason
    assert load_graph(tmp_path / "s.onnx") == load_graph(exported("yolov8"))


def test_when_onnxsims_file_does_not_run_the_source_goes_on(exported, tmp_path, monkeypatch):
    def wrong(model, **_):
        del model.graph.initializer[:]
        return model, True

    monkeypatch.setattr(onnxsim, "simplify", wrong)
    info = simplify_onnx(exported("yolov8"), tmp_path / "s.onnx")
    assert not info.changed
    assert "does not run" in info.reason


def test_only_arguments_that_both_ends_of_the_range_know_are_used(exported, tmp_path, monkeypatch):
    def oldest(model, check_n=0, perform_optimization=True):  # 0.4.36 and 0.8.1 both take these
        return model, True

    monkeypatch.setattr(onnxsim, "simplify", oldest)
    info = simplify_onnx(exported("yolov8"), tmp_path / "s.onnx")
    assert info.changed


def test_a_damaged_source_is_refused(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"\x08\x01nonsense")
    with pytest.raises(DataError):
        simplify_onnx(tmp_path / "m.onnx", tmp_path / "s.onnx")
    assert not (tmp_path / "s.onnx").exists()


def test_the_source_is_left_alone(exported, tmp_path):
    before = onnx.load(str(exported("yolov8"))).SerializeToString()
    simplify_onnx(exported("yolov8"), tmp_path / "s.onnx")
    assert onnx.load(str(exported("yolov8"))).SerializeToString() == before
