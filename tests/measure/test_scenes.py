"""The same images through several models: labels read for every task, pairs, marks, and what is drawn of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from ultralytics.data.utils import verify_image_label

from edgeprune.dataset import Dataset
from edgeprune.errors import DataError
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.measure.predictions import Detection, most_objects, predict, read_objects
from edgeprune.measure.scenes import (
    Scene,
    SceneModel,
    SceneResult,
    _result,
    choose_scenes,
    match_labels,
    pair_detections,
)
from edgeprune.report.scenes import draw_scene, scenes_html, summary_of
from tests.export.helpers import linked_copy, saved, stock_model

NAMES = {0: "cell", 1: "<other>"}


def box(left: float, top: float, side: float = 10, label: int = 0, score: float | None = 0.9) -> Detection:
    return Detection(label, score, (left, top, left + side, top + side))


def rotated(centre: float, angle: float) -> Detection:
    corners = cv2.boxPoints(((centre, centre), (40.0, 10.0), angle))
    return Detection(0, 0.5, (0, 0, 100, 100), (tuple((float(x), float(y)) for x, y in corners),))


@pytest.mark.parametrize(
    ("task", "line", "box_px", "outline", "keypoints"),
    [
        ("detect", "1 0.5 0.5 0.2 0.4", (80, 30, 120, 70), 0, 0),
        ("detect", "1 0.4 0.3 0.6 0.3 0.6 0.7 0.4 0.7", (80, 30, 120, 70), 0, 0),
        ("segment", "1 0.4 0.3 0.6 0.3 0.6 0.7", (80, 30, 120, 70), 3, 0),
        ("obb", "1 0.5 0.3 0.6 0.5 0.5 0.7 0.4 0.5", (80, 30, 120, 70), 4, 0),
        ("pose", "1 0.5 0.5 0.2 0.4 0.5 0.5 2 0 0 0", (80, 30, 120, 70), 0, 2),
    ],
)
def test_labels_of_every_task(tmp_path, task, line, box_px, outline, keypoints):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text(line + "\n\n")
    [found] = read_objects(tmp_path / "images" / "a.jpg", (100, 200), task, NAMES, (2, 3) if task == "pose" else None)
    assert found.label == 1 and found.score is None
    assert found.box == pytest.approx(box_px)
    assert sum(map(len, found.outlines)) == outline
    assert len(found.keypoints) == keypoints
    if keypoints:
        assert found.keypoints == ((100.0, 50.0, 2.0), (0.0, 0.0, 0.0))


def test_a_broken_label_is_named_and_a_missing_one_is_no_object(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 x 0.2 0.4\n")
    with pytest.raises(DataError, match="line 1"):
        read_objects(tmp_path / "images" / "a.jpg", (100, 200), "detect", NAMES, None)
    assert read_objects(tmp_path / "images" / "b.jpg", (100, 200), "detect", NAMES, None) == ()


@pytest.mark.parametrize(
    ("task", "lines", "objects"),
    [
        ("detect", ["1 0.5 0.5 0.2 0.4", "1.0  0.50 0.5 0.20000000001 0.4", "0 0.5 0.5 0.2 0.4"], 2),
        ("segment", ["1 0.4 0.3 0.6 0.3 0.6 0.7"] * 3 + ["1 0.4 0.3 0.4 0.7 0.6 0.7"], 2),  # of one box
        ("pose", ["1 0.5 0.5 0.2 0.4 0.5 0.5 2", "1 0.5 0.5 0.2 0.4 0.4 0.5 2"], 2),
        ("detect", ["1 0.5 0.5 0.2 0.4 0.5 0.5 2", "1 0.5 0.5 0.2 0.4 0.4 0.5 2"], 1),  # without keypoints
    ],
    ids=["detect", "segment", "pose", "no-pose"],
)
def test_a_line_that_stands_twice_is_one_object_as_for_ultralytics(tmp_path, task, lines, objects):
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((100, 200, 3), np.uint8))
    (tmp_path / "a.txt").write_text("\n".join(lines))
    shape = (1, 3) if len(lines[0].split()) == 8 else None
    keypoints = (task == "pose", 2, *(shape or (0, 0)), False)
    theirs = verify_image_label((str(tmp_path / "a.jpg"), str(tmp_path / "a.txt"), "", *keypoints))
    ours = read_objects(tmp_path / "a.jpg", (100, 200), task, NAMES, shape)
    assert len(ours) == len(theirs[1]) == objects


@pytest.mark.parametrize("form", ["checkpoint", "graph"])
def test_a_crowd_of_more_than_300_is_seen_as_mean_average_precision_sees_it(form, tmp_path):
    (tmp_path / "d" / "images").mkdir(parents=True)
    (tmp_path / "d" / "labels").mkdir()
    cv2.imwrite(str(tmp_path / "d/images/a.png"), np.zeros((256, 256, 3), np.uint8))
    corners = [f"0 {x / 256} {y / 256} 0.03 0.03" for x in range(4, 256, 12) for y in range(4, 256, 12)]
    (tmp_path / "d" / "labels" / "a.txt").write_text("\n".join([*corners, *corners[:9]]))
    (tmp_path / "d" / "data.yaml").write_text("train: images\nval: images\nnames: [cell]\n")
    dataset = Dataset.load(tmp_path / "d" / "data.yaml", task="detect")
    model = stock_model("yolov8", "detect", nc=1)
    for layers in model.model[-1].cv3:  # it is sure of an object everywhere, and of boxes that do not overlap
        torch.nn.init.constant_(layers[-1].bias, 3.0)
    for layers in model.model[-1].cv2:
        torch.nn.init.zeros_(layers[-1].weight)
        layers[-1].bias.data = torch.tensor([20.0] + [0.0] * 15).repeat(4)
    path = saved(model, tmp_path / "m.pt")
    if form == "graph":
        onnx_from_checkpoint(path, tmp_path / "m.onnx", imgsz=256)
        path = tmp_path / "m.onnx"
    [made] = choose_scenes([SceneModel(name, path, imgsz=256) for name in "ab"], dataset, "detect", count=1)
    assert len(made.truth) == len(corners) == 441
    assert [len(result.detections) for result in made.results] == [441, 441]


def test_a_crowd_whose_labels_are_none_does_not_count_as_mean_average_precision_leaves_it_out(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    lines = [f"0 0.5 0.5 0.2 {n / 1000}" for n in range(1, 402)]
    (tmp_path / "labels" / "a.txt").write_text("\n".join([*lines, "0 0.5 x 0.2 0.4"]))
    (tmp_path / "labels" / "b.txt").write_bytes(b"0 0.5 0.5 0.2 0.4 \xff\n" * 500)
    (tmp_path / "labels" / "c.txt").write_text("\n".join(lines[:350]))
    images = [tmp_path / "images" / f"{name}.jpg" for name in "abc"]
    assert most_objects(images[:2], "detect", None) == 300
    assert most_objects(images, "detect", None) == 350


@pytest.mark.parametrize("kpt_shape", [(2, 3), (2, 2), (3, 2)])
def test_a_model_of_another_task_sees_the_boxes_of_a_pose_dataset(tmp_path, kpt_shape):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    line = ["1", "0.5", "0.5", "0.2", "0.4", *["0.9"] * (kpt_shape[0] * kpt_shape[1])]
    (tmp_path / "labels" / "a.txt").write_text(" ".join(line))
    [found] = read_objects(tmp_path / "images" / "a.jpg", (100, 200), "detect", NAMES, kpt_shape)
    assert found.box == pytest.approx((80, 30, 120, 70))


def test_pairs_are_of_one_class_one_to_one_and_by_the_greatest_overlap():
    found = [box(0, 0), box(1, 0), box(50, 50), box(80, 80, label=1)]
    others = [box(0, 0), box(50, 53), box(80, 80)]
    assert pair_detections(found, others) == {0: 0, 2: 1}
    assert pair_detections(found, []) == {} and pair_detections([], others) == {}


def test_the_surest_detection_of_an_object_gets_the_credit():
    found = [box(2, 0, score=0.8), box(0, 0, score=0.3), box(50, 50, score=0.2)]
    assert match_labels(found, [box(0, 0, score=None)]) == {0: 0}
    assert match_labels(found, [box(0, 0, score=None), box(4, 0, score=None)]) == {0: 0}
    assert pair_detections(found, [box(0, 0)]) == {1: 0}


def test_rotated_boxes_are_compared_as_they_lie():
    assert pair_detections([rotated(50, 0)], [rotated(50, 90)], rotated=True) == {}
    assert pair_detections([rotated(50, 0)], [rotated(51, 3)], rotated=True) == {0: 0}
    assert pair_detections([rotated(50, 0)], [rotated(50, 90)]) == {0: 0}  # their upright boxes are the same


def test_what_was_wrong_is_not_lost():
    truth, first = (box(5, 5, score=None), box(60, 40, score=None)), (box(5, 5), box(30, 20), box(60, 40))
    found = _result("pruned", (box(5, 5), box(90, 50)), truth, first, "detect")
    assert (found.lost, found.gone, found.new) == ((first[2],), (first[1],), 1) and found.difference == 3
    said = Detection(0, 0.9, None)
    other = Detection(1, 0.9, None)
    right = _result("pruned", (other,), (replace(said, score=None),), (said,), "classify")
    assert (right.lost, right.gone) == ((said,), ())
    wrong = _result("pruned", (said,), (replace(said, score=None),), (other,), "classify")
    assert (wrong.lost, wrong.gone) == ((), (other,))


def scene(task: str = "detect") -> Scene:
    jpeg = cv2.imencode(".jpg", np.full((60, 80, 3), 128, np.uint8))[1].tobytes()
    first = SceneResult("base", (box(5, 5), box(40, 30)), (True, False), (True, True), (box(60, 40),), (), ())
    other = SceneResult(
        "pruned", (box(5, 5), box(20, 45, label=1)), (True, False), (True, False), (), (), (box(40, 30),)
    )
    return Scene("a<b.jpg", 60, 80, jpeg, task, NAMES, (box(5, 5, score=None), box(60, 40, score=None)), (first, other))


def test_marks_are_told_in_words_and_in_the_table():
    made = scene()
    assert summary_of(made, made.results[0]) == "2 found: 1 right, 1 wrong, 1 missed"
    assert (
        summary_of(made, made.results[1]) == "2 found: 1 right, 1 wrong, 0 missed; against base: 0 lost, 1 gone, 1 new"
    )
    page = scenes_html([made])
    assert page.count("data:image/jpeg;base64,") == 1  # once, however many panels there are
    assert page.count("<use href=") == 2 and page.count('role="img"') == 3
    assert "a&lt;b.jpg" in page and "a<b" not in page and "✗ + &lt;other&gt; 0.90" in page
    assert all(f"<span>{word}</span></td>" in page for word in ("gone", "missed", "new"))
    assert made.difference == 2
    assert len(draw_scene(made).axes) == 3


@pytest.fixture(scope="module")
def coco(shared, tmp_path_factory):
    def of(name: str) -> Path:
        return linked_copy(shared / "data" / name, tmp_path_factory.mktemp(name)) / f"{name}.yaml"

    return of


@pytest.mark.parametrize(("task", "data"), [("segment", "coco8-seg"), ("pose", "coco8-pose"), ("obb", "dota8")])
def test_scenes_of_other_tasks_are_drawn(task, data, coco, tmp_path):
    dataset = Dataset.load(coco(data), task=task, need=("val",))
    path = saved(stock_model("yolov8", task, nc=dataset.nc, kpt_shape=dataset.kpt_shape), tmp_path / "m.pt")
    made = choose_scenes([SceneModel("a", path, imgsz=96), SceneModel("b", path, imgsz=96)], dataset, task, count=1)
    [one] = made
    assert one.truth and one.difference == 0
    assert all(found.outlines for found in one.truth) == (task in ("segment", "obb"))
    assert any(found.keypoints for found in one.truth) == (task == "pose")
    assert "<use href=" in scenes_html(made)


def test_a_classifier_answers_with_its_likeliest_classes(tmp_path):
    for name in ("cat", "dog"):
        for split in ("train", "val"):
            folder = tmp_path / "data" / split / name / ("of one day" if name == "dog" else "")
            folder.mkdir(parents=True)
            cv2.imwrite(str(folder / "a.jpg"), np.full((40, 50, 3), 90, np.uint8))
    dataset = Dataset.load(tmp_path / "data", task="classify")
    path = saved(stock_model("yolov8", "classify", nc=2), tmp_path / "m.pt")
    made = choose_scenes(
        [SceneModel("a", path, imgsz=64), SceneModel("b", path, imgsz=64)], dataset, "classify", count=2
    )
    assert {one.truth[0].label for one in made} == {0, 1}
    assert sum(any(one.results[0].right) for one in made) == 1  # the same grey image cannot be both
    assert summary_of(made[0], made[0].results[1]).split(":")[0] in ("right", "wrong")
    assert "data:image/jpeg" in scenes_html(made)


def test_what_a_model_finds_is_what_ultralytics_shows(shared):
    from ultralytics import YOLO

    weights = shared / "weights" / "bccd-yolov8n-320.pt"
    image = sorted((shared / "data" / "bccd" / "images" / "val").iterdir())[0]
    [ours] = predict(weights, [image])
    [theirs] = YOLO(weights).predict(str(image), imgsz=320, rect=False, verbose=False)
    assert len(ours) == len(theirs.boxes) > 5
    assert [found.score for found in ours] == pytest.approx(sorted(theirs.boxes.conf.tolist(), reverse=True), abs=1e-4)
