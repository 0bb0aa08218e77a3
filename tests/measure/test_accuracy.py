from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from edgeprune.dataset import Dataset
from edgeprune.errors import DataError, TargetError
from edgeprune.export.detections import CONFIDENCE
from edgeprune.export.graph import load_graph, metadata_of, save_graph
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.measure.accuracy import accuracy
from edgeprune.measure.per_image import load_per_image
from edgeprune.measure.predictions import predict
from edgeprune.measure.result import distinct_names
from edgeprune.runtimes.base import AS_EXPORTED
from edgeprune.runtimes.onnx_facts import onnx_facts
from edgeprune.runtimes.onnxruntime_ import OnnxRuntime
from edgeprune.samples.average_precision import drop_interval
from edgeprune.settings import TrainSettings
from edgeprune.training.run import validation_accuracy
from tests.export.helpers import linked_copy, saved, stock_model


@pytest.fixture(scope="module")
def bccd(shared, tmp_path_factory) -> Path:
    """BCCD with 16 validation images."""
    root = linked_copy(shared / "data" / "bccd", tmp_path_factory.mktemp("bccd"))
    for image in sorted((root / "images" / "val").iterdir())[16:]:
        image.unlink()
    return root / "data.yaml"


@pytest.fixture(scope="module")
def v8(shared, tmp_path_factory):
    """The BCCD checkpoint of YOLOv8n and its export."""
    pt = shared / "weights" / "bccd-yolov8n-320.pt"
    onnx = tmp_path_factory.mktemp("v8") / "v8.onnx"
    onnx_from_checkpoint(pt, onnx, imgsz=320)
    return pt, onnx


def test_a_checkpoint_and_its_export_score_the_same(v8, bccd):
    ours = [accuracy(path, data=bccd, imgsz=320, batch=8) for path in v8]
    assert ours[0].map50_95 == pytest.approx(ours[1].map50_95, abs=1e-4)
    assert ours[0].per_class == pytest.approx(ours[1].per_class, abs=1e-3)
    assert ours[0].map50_95 > 0.4
    assert ours[0].images == 16
    assert set(ours[0].per_class) == {"RBC", "WBC", "Platelets"}
    assert np.mean(list(ours[0].per_class.values())) == pytest.approx(ours[0].map50_95, abs=1e-6)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["crane", "crane", "hen"], ["crane (0)", "crane (1)", "hen"]),
        (["crane", "crane", "crane (1)"], ["crane (0)", "crane (1)", "crane (1) (2)"]),
        (["cat", "dog"], ["cat", "dog"]),
    ],
)
def test_classes_that_share_a_name_are_told_apart(names, told):
    assert distinct_names(dict(enumerate(names))) == dict(enumerate(told))


def test_every_class_has_its_accuracy_where_two_share_a_name(v8, bccd, tmp_path):
    kept = torch.load(v8[0], weights_only=False)
    kept["model"].names = {0: "cell", 1: "cell", 2: "Platelets"}
    torch.save(kept, tmp_path / "m.pt")
    root = bccd.resolve().parent
    content = {**yaml.safe_load(bccd.read_text()), "names": ["cell", "cell", "Platelets"], "path": str(root)}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(content))
    found = accuracy(tmp_path / "m.pt", data=tmp_path / "data.yaml", imgsz=320, batch=8)
    assert set(found.per_class) == {"cell (0)", "cell (1)", "Platelets"}
    assert np.mean(list(found.per_class.values())) == pytest.approx(found.map50_95, abs=1e-6)


def test_the_figure_is_ultralytics_own(v8, bccd, tmp_path, monkeypatch):
    from ultralytics import YOLO

    monkeypatch.chdir(tmp_path)
    theirs = YOLO(v8[0]).val(data=str(bccd), imgsz=320, rect=False, plots=False, verbose=False, batch=8)
    ours = accuracy(v8[0], data=bccd, imgsz=320, batch=8)
    assert ours.map50_95 == pytest.approx(theirs.box.map, abs=1e-6)
    assert ours.map50 == pytest.approx(theirs.box.map50, abs=1e-6)


@pytest.mark.parametrize("head", ["auto", "raw"])
def test_a_model_with_two_heads_is_measured_on_the_one_that_is_exported(head, shared, bccd, tmp_path):
    pt = shared / "weights" / "bccd-yolo26n-320.pt"
    onnx_from_checkpoint(pt, tmp_path / "m.onnx", imgsz=320, head=head)
    exported = accuracy(tmp_path / "m.onnx", data=bccd)
    assert accuracy(pt, data=bccd, imgsz=320, head=head).map50_95 == pytest.approx(exported.map50_95, abs=1e-4)
    assert exported.map50_95 > 0.35


def test_an_engine_of_its_own_runtime_is_measured(v8, bccd, tmp_path):
    runtime = OnnxRuntime()
    runtime.engine_from_onnx(v8[1], tmp_path / "engine.onnx")
    found = accuracy(tmp_path / "engine.onnx", data=bccd, imgsz=320, runtime=runtime)
    assert found.map50_95 == pytest.approx(accuracy(v8[1], data=bccd).map50_95, abs=1e-3)


def test_a_fixed_batch_and_a_free_one_score_the_same(v8, bccd, tmp_path):
    onnx_from_checkpoint(v8[0], tmp_path / "five.onnx", imgsz=320, batch=5)
    onnx_from_checkpoint(v8[0], tmp_path / "free.onnx", imgsz=320, dynamic=True)
    alone = accuracy(v8[1], data=bccd).map50_95
    assert accuracy(tmp_path / "five.onnx", data=bccd).map50_95 == pytest.approx(alone, abs=1e-4)
    assert accuracy(tmp_path / "free.onnx", data=bccd, imgsz=320, batch=4).map50_95 == pytest.approx(alone, abs=1e-4)


class BuildsFirst(OnnxRuntime):
    """Builds an engine of one shape, as TensorRT does, and takes no other."""

    suffix = ".engine"

    def engine_from_onnx(self, onnx, engine, *, precision="fp32", keep_float=(), free=AS_EXPORTED):
        self.shape = onnx_facts(onnx, free=free).inputs[0].shape
        engine.write_bytes(onnx.read_bytes())

    @contextmanager
    def session(self, model, *, threads=0):
        with super().session(model, threads=threads) as session:
            run = session.run

            def strict(inputs):
                assert [array.shape for array in inputs.values()] == [self.shape]
                return run(inputs)

            session.run = strict
            yield session


@pytest.mark.parametrize(
    ("exported", "batch", "imgsz", "shape"),
    [
        ({"dynamic": True}, 1, None, (1, 3, 64, 64)),
        ({"dynamic": True}, 5, (64, 96), (5, 3, 64, 96)),
        ({"dynamic": True, "head": "nms", "batch": 2}, 5, 96, (2, 3, 96, 96)),  # it leaves more than two empty
        ({"batch": 3}, 5, None, (3, 3, 64, 64)),
        ({"batch": 3}, 1, 64, (3, 3, 64, 64)),
    ],
)
def test_an_engine_that_is_built_on_the_way_has_the_batch_and_the_size_that_are_asked(
    exported, batch, imgsz, shape, v8, bccd, tmp_path
):
    model, runtime = tmp_path / "m.onnx", BuildsFirst()
    onnx_from_checkpoint(v8[0], model, imgsz=64, **exported)
    built = accuracy(model, data=bccd, imgsz=imgsz, batch=batch, runtime=runtime)
    assert runtime.shape == shape and built.imgsz == shape[2:] and built.images == 16
    assert built.map50_95 == pytest.approx(accuracy(model, data=bccd, imgsz=imgsz, batch=batch).map50_95, abs=1e-6)


def test_a_free_batch_with_nms_inside_leaves_no_image_out(v8, bccd, tmp_path):
    onnx_from_checkpoint(v8[0], tmp_path / "nms.onnx", imgsz=320, dynamic=True, head="nms", batch=2)
    pair, more = (accuracy(tmp_path / "nms.onnx", data=bccd, imgsz=320, batch=batch).map50_95 for batch in (2, 5))
    assert pair == pytest.approx(more, abs=1e-4)
    assert pair > 0.35  # detections under a score of 0.25 are not in it


def test_an_engine_takes_its_metadata_from_the_onnx_file_beside_it(v8, bccd, tmp_path):
    (tmp_path / "model.engine").write_bytes(v8[1].read_bytes())
    with pytest.raises(DataError, match="give metadata"):
        accuracy(tmp_path / "model.engine", data=bccd, runtime=OnnxRuntime())
    (tmp_path / "model.onnx").write_bytes(v8[1].read_bytes())
    assert accuracy(tmp_path / "model.engine", data=bccd, runtime=OnnxRuntime()).map50_95 > 0.4


def test_nothing_is_written_where_the_user_works(v8, bccd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    accuracy(v8[1], data=bccd)
    assert not list(tmp_path.iterdir())


def test_progress_reaches_the_end(v8, bccd):
    seen = []
    accuracy(v8[1], data=bccd, progress=lambda text, *, done=0, total=0: seen.append((done, total)))
    assert seen[-1] == (16, 16)


@pytest.mark.parametrize("family", ["yolov8", "yolo26"])
def test_a_classifier_has_top1_and_top5(family, tmp_path, shared):
    images = sorted((shared / "data" / "bccd" / "images" / "val").glob("*.jpg"))
    for split in ("train", "val"):
        for index in range(3):
            (tmp_path / "d" / split / f"class{index}").mkdir(parents=True)
            for image in images[index * 2 : index * 2 + 2]:
                (tmp_path / "d" / split / f"class{index}" / image.name).symlink_to(image)
    pt = saved(stock_model(family, "classify"), tmp_path / "m.pt")
    onnx_from_checkpoint(pt, tmp_path / "m.onnx", imgsz=64)
    kept = tmp_path / "kept.npz"
    ours = [accuracy(path, data=tmp_path / "d", imgsz=64, per_image=kept) for path in (pt, tmp_path / "m.onnx")]
    assert ours[0] == ours[1]
    itself = drop_interval(load_per_image(kept), load_per_image(kept), 0.0)
    assert (itself.images, itself.standard_error) == (6, 0.0), "unchanged, however few images tell so"
    assert ours[0].map50 == 1.0  # top 5 of 3 classes
    assert ours[0].fitness_key == "metrics/accuracy_top1"
    assert np.mean(list(ours[0].per_class.values())) == pytest.approx(ours[0].map50_95)


@pytest.fixture
def folders(tmp_path) -> Path:
    """Twenty images in classes that a model may write otherwise."""
    drawn = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("Cat", "dog"):
            (tmp_path / "d" / split / name).mkdir(parents=True)
            for index in range(10):
                pixels = drawn.integers(0, 256, 3, np.uint8) * np.ones((64, 64, 1), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "d" / split / name / f"{index}.png")
    return tmp_path / "d"


@pytest.fixture
def classifier(tmp_path) -> Path:
    model = stock_model("yolov8", "classify", nc=2)
    model.names = {0: "cat", 1: "dog"}
    with torch.no_grad():  # normalised by what it sees, it answers each image otherwise
        for _ in range(20):
            model.train()(torch.rand(8, 3, 1, 1).expand(-1, -1, 64, 64) + 0.1 * torch.rand(8, 3, 64, 64))
    return saved(model, tmp_path / "m.pt")


def test_folders_that_a_classifier_writes_otherwise_are_judged_all(folders, classifier, tmp_path):
    """By the names of the model, Ultralytics takes the images of 'dog' and leaves those of 'Cat' out."""
    onnx_from_checkpoint(classifier, tmp_path / "m.onnx", imgsz=64)
    settings = TrainSettings(imgsz=64, device="cpu", quiet=True)
    for path in (classifier, tmp_path / "m.onnx"):
        found = accuracy(path, data=folders, imgsz=64)
        assert found.images == 20 and set(found.per_class) == {"cat", "dog"}
    figure = validation_accuracy(classifier, data=folders, settings=settings, work=tmp_path / "w")
    assert figure == pytest.approx(found.map50_95) != found.per_class["dog"]


def test_results_of_a_classifier_are_in_the_order_of_the_images(folders, classifier, tmp_path):
    kept = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        accuracy(classifier, data=folders, imgsz=64, per_image=tmp_path / "kept.npz")
        kept.append(load_per_image(tmp_path / "kept.npz"))
    assert drop_interval(*kept, 0.0).standard_error == 0.0, "the same model, whatever torch was seeded with"
    images = Dataset.load(folders, task="classify").images("val")
    alone = [answers[0].score for answers in predict(classifier, images, imgsz=64)]
    assert kept[0].confidence[:, 0] == pytest.approx(alone, abs=1e-6)
    assert np.ptp(alone) > 1e-4, "and images are told from each other"


def test_a_missing_model_is_one_line(bccd, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        accuracy(tmp_path / "m.onnx", data=bccd)


def test_a_missing_split_is_named(v8, shared):
    with pytest.raises(DataError, match="no split 'test'"):
        accuracy(v8[1], data=shared / "data" / "coco8" / "coco8.yaml", split="test")


def test_the_split_that_judges_needs_labels_as_a_named_one_does(tmp_path):
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(tmp_path / "images" / split / "0.png")
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [a, b]\n")
    model = saved(stock_model("yolov8", "detect", nc=2), tmp_path / "m.pt")
    for split in ("val", "auto"):
        with pytest.raises(DataError, match="none of the 1 images of split 'val' has a label"):
            accuracy(model, data=tmp_path / "data.yaml", imgsz=64, split=split)


def test_other_classes_are_refused(v8, shared):
    with pytest.raises(DataError, match=r"80 classes .* has 3"):
        accuracy(v8[1], data=shared / "data" / "coco8" / "coco8.yaml")


def test_a_size_that_a_fixed_export_cannot_take_is_refused(v8, bccd):
    with pytest.raises(TargetError, match="320 × 320, not of 640"):
        accuracy(v8[1], data=bccd, imgsz=640)


def test_a_size_that_is_no_multiple_of_the_stride_is_refused_in_every_form(v8, bccd, tmp_path):
    free = tmp_path / "free.onnx"
    onnx_from_checkpoint(v8[0], free, imgsz=320, dynamic=True)
    for model in (v8[0], free):
        with pytest.raises(TargetError, match="imgsz 100 is no multiple of the model's stride 32; use 96"):
            accuracy(model, data=bccd, imgsz=100)
    assert accuracy(free, data=bccd, imgsz=(96, 64)).imgsz == (96, 64)


def test_an_export_without_metadata_must_be_told(v8, bccd, tmp_path):
    model = load_graph(v8[1])
    told = metadata_of(model)
    del model.metadata_props[:]
    save_graph(model, tmp_path / "bare.onnx")
    with pytest.raises(DataError, match="names, task, stride; give metadata"):
        accuracy(tmp_path / "bare.onnx", data=bccd)
    assert accuracy(tmp_path / "bare.onnx", data=bccd, metadata=told).map50_95 > 0.4


def test_nms_inside_loses_nothing_of_what_scores_as_much_as_it_asks_for(v8, bccd, tmp_path):
    """By all detections it seems to: a graph with NMS inside gives none below its own confidence."""
    inside = tmp_path / "nms.onnx"
    onnx_from_checkpoint(v8[0], inside, imgsz=320, head="nms")
    every, shown = (
        [accuracy(path, data=bccd, confidence=confidence).map50_95 for path in (v8[1], inside)]
        for confidence in (None, CONFIDENCE)
    )
    assert every[0] - every[1] > 0.005
    assert shown[0] == pytest.approx(shown[1], abs=0.002) and shown[1] == pytest.approx(every[1], abs=1e-6)
