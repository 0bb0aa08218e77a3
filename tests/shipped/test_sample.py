"""The sample of a bundle gives Ultralytics' answers on the same file, and needs nothing of the house."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms
from ultralytics import YOLO
from ultralytics.utils.metrics import batch_probiou, box_iou

from edgeprune.export.graph import load_graph
from edgeprune.export.half import cast_to_fp16
from edgeprune.export.images import batch_from_images
from edgeprune.export.int8 import quantize_to_int8
from edgeprune.export.onnx import onnx_from_checkpoint
from edgeprune.shipped import sample
from tests.export.helpers import saved, stock_model, with_channels
from tests.measure.self_labelled import answering
from tests.runtimes.models import quantised

BUNDLED = Path(sample.__file__)
DATA = {"segment": "coco8-seg", "pose": "coco8-pose", "obb": "dota8"}
IMGSZ = {"segment": 320, "pose": 320, "obb": 160}
ALONE = """
import runpy, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("edgeprune", "ultralytics", "torch", "torchvision", "onnx"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def bccd_images(shared: Path, split: str = "val") -> list[Path]:
    return sorted((shared / "data" / "bccd" / "images" / split).glob("*.jpg"))


@pytest.fixture(scope="module")
def graph(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str], tuple[Path, list[Path]]]:
    """A model that finds something, by task, family and head, and real images to run it on."""

    def made(task: str, family: str, head: str) -> tuple[Path, list[Path]]:
        root = tmp_path_factory.mktemp(f"{family}-{task}")
        images = sorted((shared / "data" / DATA[task] / "images").rglob("*.jpg"))
        inputs = [root / f"{image.stem}.png" for image in images]
        for image, path in zip(images, inputs, strict=True):
            cv2.imwrite(str(path), sample.letterbox(cv2.imread(str(image)), IMGSZ[task], IMGSZ[task])[0])
        path = saved(answering(stock_model(family, task, random_norms=True), inputs), root / "m.pt")
        onnx_from_checkpoint(path, root / "model.onnx", imgsz=IMGSZ[task], head=head)
        return root / "model.onnx", images

    return made


def agree(model: Path, images: Sequence[Path], task: str, *, least: float = 0.99) -> int:
    """Hold the sample's detections against Ultralytics' of the same file, one by one; gives how many there were."""
    ours = sample.Model(model)
    theirs = YOLO(model, task=task).predict(
        [str(image) for image in images],
        imgsz=(ours.height, ours.width),
        rect=False,
        conf=0.25,
        iou=0.7,
        verbose=False,
        device="cpu",
    )
    total = 0
    for image, result in zip(images, theirs, strict=True):
        frame = cv2.imread(str(image))
        found = ours(frame)
        rows = result.obb if task == "obb" else result.boxes
        if task != "obb":  # what lies in the grey margin alone has no place in the image
            found = [one for one in found if inside(one.box)]
            result = result[[inside(box) for box in rows.xyxy.tolist()]]
            rows = result.boxes
        assert len(found) == len(rows), image.name
        if not found:
            continue
        overlap = overlaps(found, rows, task)
        same = np.array([one.label for one in found])[:, None] == rows.cls.numpy()
        pairs = np.where(same, overlap, 0).argmax(axis=1)
        assert sorted(pairs) == list(range(len(found))), image.name
        assert overlap[np.arange(len(found)), pairs].min() >= least, image.name
        assert [one.score for one in found] == pytest.approx(rows.conf.numpy()[pairs], abs=1e-3)
        for one, index in zip(found, pairs, strict=True):
            if task == "segment":
                their_mask = in_image(result.masks.data[index].numpy(), frame, ours)
                assert one.mask is not None and one.mask.shape == frame.shape[:2]
                assert (one.mask & their_mask).sum() >= 0.99 * (one.mask | their_mask).sum()
            if task == "pose":
                assert one.keypoints == pytest.approx(result.keypoints.data[index].numpy(), abs=0.05)
            if task == "obb":
                assert one.corners == pytest.approx(result.obb.xyxyxyxy[index].numpy(), abs=0.5)
        total += len(found)
    return total


def inside(box: Any) -> bool:
    return box[2] - box[0] > 1 and box[3] - box[1] > 1


def overlaps(found: list[sample.Detection], rows: Any, task: str) -> np.ndarray:
    """Intersection over union of ours with theirs; of rotated boxes by Ultralytics' measure."""
    if task == "obb":
        rectangles = [cv2.minAreaRect(one.corners.astype(np.float32)) for one in found]  # type: ignore[union-attr]
        ours = torch.tensor([[*centre, *size, np.deg2rad(angle)] for centre, size, angle in rectangles])
        return batch_probiou(ours.float(), rows.xywhr).numpy()
    return box_iou(torch.from_numpy(np.array([one.box for one in found], np.float32)), rows.xyxy).numpy()


def in_image(mask: np.ndarray, frame: np.ndarray, model: sample.Model) -> np.ndarray:
    """Ultralytics' mask, which has the size of the input, in the image's pixels."""
    scale = min(model.height / frame.shape[0], model.width / frame.shape[1])
    height, width = (round(side * scale) for side in frame.shape[:2])
    top, left = (model.height - height) // 2, (model.width - width) // 2
    inner = mask[top : top + height, left : left + width].astype(np.uint8)
    return cv2.resize(inner, frame.shape[1::-1], interpolation=cv2.INTER_NEAREST).astype(bool)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("family", "head", "count"),
    [
        ("yolov8", "raw", 12),
        ("yolo26", "end-to-end", 12),
        ("yolo11", "nms", 12),
        pytest.param("yolov8", "raw", 87, marks=pytest.mark.slow),
        pytest.param("yolo26", "end-to-end", 87, marks=pytest.mark.slow),
        pytest.param("yolo11", "nms", 87, marks=pytest.mark.slow),
    ],
)
def test_it_finds_what_ultralytics_finds(family: str, head: str, count: int, shared: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    onnx_from_checkpoint(shared / "weights" / f"bccd-{family}n-320.pt", model, imgsz=320, head=head)
    images = bccd_images(shared)[:count]
    assert len(images) == count
    assert agree(model, images, "detect") > 5 * len(images)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("task", "head"),
    [
        *(("segment", "raw"), ("pose", "end-to-end"), ("obb", "nms")),
        *(
            pytest.param(task, head, marks=pytest.mark.slow)
            for task, head in (("segment", "end-to-end"), ("pose", "raw"), ("obb", "raw"), ("obb", "end-to-end"))
        ),
    ],
)
def test_other_tasks(task: str, head: str, graph: Callable[..., Any]) -> None:
    assert agree(*graph(task, "yolo26" if head == "end-to-end" else "yolov8", head), task) > 20


@pytest.mark.shared
def test_graphs_with_half_inputs_int8_and_several_images(shared: Path, tmp_path: Path) -> None:
    weights, images = shared / "weights" / "bccd-yolov8n-320.pt", bccd_images(shared)[:8]
    onnx_from_checkpoint(weights, tmp_path / "model.onnx", imgsz=320)
    cast_to_fp16(tmp_path / "model.onnx", tmp_path / "half.onnx", half_inputs=True)
    quantize_to_int8(
        tmp_path / "model.onnx", tmp_path / "int8.onnx", bccd_images(shared, "train")[:16], method="minmax"
    )
    assert load_graph(tmp_path / "half.onnx").graph.input[0].type.tensor_type.elem_type == 10
    onnx_from_checkpoint(weights, tmp_path / "several.onnx", imgsz=320, batch=4)
    onnx_from_checkpoint(weights, tmp_path / "free.onnx", imgsz=320, dynamic=True)
    for name, least in (("half", 0.98), ("int8", 0.99), ("free", 0.99)):  # Ultralytics computes corners in half too
        assert agree(tmp_path / f"{name}.onnx", images, "detect", least=least) > 40
    one, several = (sample.Model(tmp_path / f"{name}.onnx") for name in ("model", "several"))
    frame = cv2.imread(str(images[0]))
    assert [found.score for found in several(frame)] == pytest.approx([found.score for found in one(frame)], abs=1e-4)


@pytest.mark.shared
@pytest.mark.parametrize(("family", "head"), [("yolov8", "raw"), ("yolo26", "end-to-end")])
def test_what_is_no_number_is_no_box(
    family: str, head: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx_from_checkpoint(shared / "weights" / f"bccd-{family}n-320.pt", tmp_path / "model.onnx", imgsz=320, head=head)
    model, frame = sample.Model(tmp_path / "model.onnx"), cv2.imread(str(bccd_images(shared)[0]))
    [answer] = model.run(sample.letterbox(frame, 320, 320)[0])
    whole = model(frame)
    surest = answer[4:].max(axis=0).argmax() if head == "raw" else answer[:, 4].argmax()
    answer[(0, surest) if head == "raw" else (surest, 0)] = np.nan
    monkeypatch.setattr(model, "run", lambda pixels: [answer])
    found = model(frame)
    assert len(found) > 0 and found[0].score <= whole[0].score
    assert all(np.isfinite(one.box).all() for one in found)
    sample.draw(frame, found)


def test_a_classifier(tmp_path: Path) -> None:
    path = saved(stock_model("yolov8", "classify", nc=7), tmp_path / "m.pt")
    onnx_from_checkpoint(path, tmp_path / "model.onnx", imgsz=64)
    random, model = np.random.default_rng(0), sample.Model(tmp_path / "model.onnx")
    for shape in ((48, 200, 3), (333, 100, 3), (64, 64, 3)):
        frame = cv2.resize(random.integers(0, 256, (8, 8, 3), dtype=np.uint8), shape[1::-1])
        found = model(frame)
        [result] = YOLO(tmp_path / "model.onnx", task="classify").predict(frame, verbose=False, device="cpu")
        assert result.probs is not None
        assert [one.label for one in found] == result.probs.top5
        assert [one.score for one in found] == pytest.approx(result.probs.top5conf.tolist(), abs=1e-3)


@pytest.mark.parametrize("task", ["detect", "segment", "pose", "obb", "classify"])
def test_it_runs_where_the_house_cannot_be_imported(task: str, tmp_path: Path) -> None:
    onnx_from_checkpoint(saved(stock_model("yolov8", task), tmp_path / "m.pt"), tmp_path / "model.onnx", imgsz=64)
    shutil.copy(BUNDLED, tmp_path / "sample.py")
    image = cv2.resize(np.random.default_rng(0).integers(0, 256, (9, 16, 3), dtype=np.uint8), (160, 90))
    cv2.imwrite(str(tmp_path / "image.png"), image)
    ended = subprocess.run(
        [sys.executable, "-c", ALONE, "sample.py", "image.png"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stderr
    found = sample.Model(tmp_path / "model.onnx")(image)
    *lines, last = ended.stdout.splitlines()
    assert len(lines) == len(found) > 0 and last == f"{len(found)} found, drawn in image-found.png"
    assert lines[0].startswith(f"{found[0].name} {found[0].score:.3f}")
    picture = cv2.imread(str(tmp_path / "image-found.png"))
    assert picture.shape == image.shape and (picture != image).any()


@pytest.mark.parametrize(("channels", "suffix"), [(1, "png"), (4, "png")])
def test_images_of_other_than_three_channels(
    channels: int, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are read and placed as the house and Ultralytics do it, found alike, and drawn in colour."""
    onnx_from_checkpoint(saved(with_channels(channels), tmp_path / "m.pt"), tmp_path / "model.onnx", imgsz=64)
    pixels = cv2.resize(np.random.default_rng(0).integers(0, 256, (9, 16, channels), dtype=np.uint8), (160, 90))
    path = tmp_path / f"image.{suffix}"
    cv2.imwrite(str(path), pixels)
    model, frame = sample.Model(tmp_path / "model.onnx"), sample.read(path, channels)
    assert frame is not None and frame.shape == (90, 160, channels)
    seen: list[np.ndarray] = []
    monkeypatch.setattr(model, "run", lambda pixels: (seen.append(pixels), sample.Model.run(model, pixels))[1])
    found = model(frame)
    house = batch_from_images([path], imgsz=(64, 64), channels=channels)[0]
    np.testing.assert_array_equal(seen[0].transpose(2, 0, 1).astype(np.float32) / np.float32(255), house)
    [result] = YOLO(tmp_path / "model.onnx", task="detect").predict(frame, imgsz=64, verbose=False, device="cpu")
    assert len(found) == len(result) > 0
    assert [one.score for one in found] == pytest.approx(result.boxes.conf.tolist(), abs=1e-3)
    order = np.argsort([one.score for one in found])
    assert np.array([one.box for one in found]) == pytest.approx(result.boxes.xyxy.numpy(), abs=0.1), order

    argv = ["sample.py", str(path), "--model", str(tmp_path / "model.onnx"), "--output", str(tmp_path / "found.png")]
    monkeypatch.setattr(sys, "argv", argv)
    sample.main()
    assert f"{len(found)} found" in capsys.readouterr().out
    assert cv2.imread(str(tmp_path / "found.png"), cv2.IMREAD_UNCHANGED).shape == (90, 160, 3)
    if channels == 4:
        cv2.imwrite(str(path), pixels[..., :3])
        with pytest.raises(SystemExit):
            sample.main()
        assert "has 3 channels, and the model takes 4" in capsys.readouterr().err


def test_a_file_that_does_not_say_its_task_is_refused(tmp_path: Path) -> None:
    quantised(tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=r"names the task ''; this runs detect, segment"):
        sample.Model(tmp_path / "model.onnx")


def test_an_image_that_cannot_be_read_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sample.py", str(tmp_path / "no.jpg")])
        sample.main()
    assert "no.jpg: there is no image that OpenCV reads" in capsys.readouterr().err


def test_the_middle_of_an_image_is_cut_by_the_pillow_of_a_jetpack_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import PIL
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    now = sample.middle_of(image, 32, 32)
    assert sample.BILINEAR == Image.Resampling.BILINEAR
    # Image.Resampling came with Pillow 9.1, JetPack 6 has 9.0.1
    monkeypatch.setattr(PIL, "Image", SimpleNamespace(fromarray=Image.fromarray))
    assert np.array_equal(sample.middle_of(image, 32, 32), now)


@pytest.mark.parametrize("name", ["none/x.png", "x.unknown"])
def test_a_picture_that_cannot_be_written_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "image.png"), np.zeros((8, 8, 3), np.uint8))

    class Finds:
        channels = 3

        def __init__(self, *_: object) -> None: ...

        def __call__(self, image: np.ndarray) -> list[sample.Detection]:
            return []

    monkeypatch.setattr(sample, "Model", Finds)
    monkeypatch.setattr(sys, "argv", ["sample.py", str(tmp_path / "image.png"), "--output", str(tmp_path / name)])
    with pytest.raises(SystemExit) as ended:
        sample.main()
    told = capsys.readouterr()
    assert ended.value.code == 2 and f"{name}: cannot be written; name a .png or .jpg" in told.err
    assert "drawn" not in told.out


@pytest.mark.parametrize("number", [0, 1, 400])
def test_boxes_are_suppressed_by_class_by_an_opencv_of_a_jetpack_too(monkeypatch, number: int) -> None:
    monkeypatch.delattr(cv2.dnn, "NMSBoxesBatched")  # came with OpenCV 4.7, JetPack 5.1 and Ubuntu 22.04 have 4.5
    generator = np.random.default_rng(0)
    corners = generator.uniform(-50, 250, (number, 2))
    boxes = np.hstack([corners, corners + generator.uniform(5, 120, (number, 2))])
    scores, labels = -np.sort(-generator.uniform(0.3, 1, (number, 1)), axis=0), generator.integers(0, 3, (number, 1))
    rows = np.hstack([boxes, scores, labels]).astype(np.float32)
    kept = batched_nms(*map(torch.from_numpy, (rows[:, :4], rows[:, 4], rows[:, 5])), sample.MAX_OVERLAP)
    assert np.array_equal(sample.suppress(rows, rotated=False), rows[kept.numpy()])
    assert number < 2 or 1 < len(kept) < number


def test_the_picture_is_drawn_for_a_reader_who_wants_one_line_alone(tmp_path: Path) -> None:
    image = np.full((64, 64, 3), 200, np.uint8)
    cv2.imwrite(str(tmp_path / "image.png"), image)
    path = saved(stock_model("yolov8", "classify"), tmp_path / "m.pt")
    onnx_from_checkpoint(path, tmp_path / "model.onnx", imgsz=64)
    script = shlex.join([sys.executable, sample.__file__, "image.png", "--model", "model.onnx"])
    done = subprocess.run(
        ["sh", "-c", f"{script} | true"], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60
    )
    assert done.stderr == "" and (tmp_path / "image-found.png").is_file()
