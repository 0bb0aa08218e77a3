"""Run this model on an image and draw what it finds: ``python sample.py image.jpg`` writes ``image-found.png``.

It needs NumPy, OpenCV and ONNX Runtime (``pip install numpy opencv-python onnxruntime``), for a classifier Pillow too.
Task, class names and size are read from the model's own metadata. To use it in a program of your own:

    model = Model("model.onnx")
    for found in model(cv2.imread("image.jpg")):
        print(found.name, found.score, found.box)

An image goes through: prepare (letterbox, of a classifier the middle; RGB, 0 to 1) -> the graph -> candidates ->
suppress (where the graph has not done it) -> back to the image's own pixels. The steps are those of Ultralytics'
predictor, whose answers these are.
"""

from __future__ import annotations

import argparse
import ast
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

TASKS = ("detect", "segment", "pose", "obb", "classify")
NUMBER_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
GREY = 114  # what a letterbox is filled with in training
MIN_SCORE = 0.25  # least score of a detection
MAX_OVERLAP = 0.7  # of two boxes of one class that overlap more than this, the surer one stays
MAX_FOUND = 300  # detections an image
TOP_CLASSES = 5  # of a classifier
BILINEAR = 2  # Pillow's Image.Resampling.BILINEAR, which that of JetPack 6 (9.0) calls otherwise


@dataclass
class Detection:
    """One object; coordinates in pixels of the image that was given.

    Attributes:
        label, name: its class, by index and in words.
        score: 0 to 1.
        box: left, top, right, bottom; of a rotated box the upright one around it. None from a classifier.
        corners: of a rotated box (task obb), shape (4, 2).
        mask: its pixels (task segment), shape of the image, bool.
        keypoints: x, y and, where the model gives one, a score (task pose), shape (keypoints, 2 or 3).
    """

    label: int
    name: str
    score: float
    box: np.ndarray | None = None
    corners: np.ndarray | None = None
    mask: np.ndarray | None = None
    keypoints: np.ndarray | None = None


@dataclass
class Placement:
    """Where an image of ``size`` (width, height) lies in the input: ``input = image * scale + offset``, as (x, y)."""

    size: tuple[int, int]
    scale: np.ndarray
    offset: np.ndarray

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 2) of the input as points of the image; they may lie outside it."""
        return (points - self.offset) / self.scale


class Model:
    """An ONNX file that edgeprune or Ultralytics exported: ``model.onnx``, on the machine of its build also
    ``engine.onnx``."""

    def __init__(self, path: str | Path, provider: str = "CPUExecutionProvider") -> None:
        self.session = onnxruntime.InferenceSession(str(path), providers=[provider])
        said = self.session.get_modelmeta().custom_metadata_map
        self.task = said.get("task", "")
        if self.task not in TASKS:
            raise ValueError(f"{path}: its metadata names the task '{self.task}'; this runs {', '.join(TASKS)}")
        self.names: dict[int, str] = ast.literal_eval(said["names"])
        self.kpt_shape: tuple[int, int] = ast.literal_eval(said.get("kpt_shape", "(0, 0)"))
        nms_inside = ast.literal_eval(said.get("args", "{}")).get("nms")
        self.suppressed = bool(nms_inside) or said.get("end2end") == "True"  # rows of detections, not candidates
        self.input = self.session.get_inputs()[0]
        if self.input.type not in NUMBER_TYPES:
            raise ValueError(f"{path}: takes {self.input.type}; this gives images as floats from 0 to 1")
        self.number_type = NUMBER_TYPES[self.input.type]
        batch, channels, height, width = self.input.shape  # numbers, or names where a graph takes any
        self.channels: int = channels if isinstance(channels, int) else ast.literal_eval(said.get("channels", "3"))
        self.batch: int = batch if isinstance(batch, int) else 1
        self.height, self.width = [height, width] if isinstance(height, int) else ast.literal_eval(said["imgsz"])

    def __call__(self, image: np.ndarray) -> list[Detection]:
        """What is in an image (height, width, channels), BGR as OpenCV reads it where there are three; surest first."""
        if image.ndim != 3 or image.shape[2] != self.channels:
            raise ValueError(f"an image of {self.channels} channels is taken, and this one is {image.shape}")
        if self.task == "classify":
            [scores] = self.run(middle_of(image, self.height, self.width))
            best = np.argsort(-scores, kind="stable")[:TOP_CLASSES].tolist()
            return [Detection(label, self.names[label], float(scores[label])) for label in best]
        pixels, placement = letterbox(image, self.height, self.width)
        output, *prototypes = self.run(pixels)
        rotated = self.task == "obb"
        if self.suppressed:
            rows = output[output[:, 4] > MIN_SCORE]
        else:
            rows = candidates(output, len(self.names), rotated=rotated)
        rows = rows[np.isfinite(rows).all(axis=1)]  # a graph in half precision may overflow: no number is no box
        if not self.suppressed:
            rows = suppress(rows, rotated=rotated)
        found = (self.detection(row, placement, *prototypes) for row in rows[:MAX_FOUND])
        return [one for one in found if one is not None]

    def run(self, pixels: np.ndarray) -> list[np.ndarray]:
        """The graph's outputs for one image of its size; a graph of several images a run gets it several times."""
        planes = (pixels[..., ::-1] if self.channels == 3 else pixels).transpose(2, 0, 1)  # BGR to RGB
        values = np.ascontiguousarray(planes, self.number_type) / self.number_type(255)
        outputs = self.session.run(None, {self.input.name: np.repeat(values[None], self.batch, axis=0)})
        return [np.asarray(output)[0].astype(np.float32) for output in outputs]

    def detection(self, row: np.ndarray, placement: Placement, *prototypes: np.ndarray) -> Detection | None:
        """A row [box, score, class, extra...] as an object of the image; None for one with an empty mask."""
        box, score, label, extra = row[:4], float(row[4]), int(row[5]), row[6:]
        found = Detection(label, self.names[label], score)
        if self.task == "obb":
            found.corners = placement.to_image(corners_of(box, extra[-1]))
            found.box = np.concatenate([found.corners.min(axis=0), found.corners.max(axis=0)])
            return found
        found.box = placement.to_image(box.reshape(2, 2)).clip(0, placement.size).reshape(4)
        if self.task == "pose":
            points = extra.reshape(self.kpt_shape)
            found.keypoints = np.hstack([placement.to_image(points[:, :2]).clip(0, placement.size), points[:, 2:]])
        if self.task == "segment":
            mask = mask_of(extra, prototypes[0], box, (self.width, self.height))
            if not mask.any():
                return None
            (left, top), (width, height) = placement.offset, np.rint(placement.scale * placement.size).astype(int)
            inner = mask[top : top + height, left : left + width].astype(np.uint8)
            found.mask = cv2.resize(inner, placement.size, interpolation=cv2.INTER_NEAREST).astype(bool)
        return found


# ------------------------------------------------------------ before the graph


def letterbox(image: np.ndarray, height: int, width: int) -> tuple[np.ndarray, Placement]:
    """An image at the size of the input, its aspect kept and the rest grey, and where it lies there."""
    size: tuple[int, int] = (image.shape[1], image.shape[0])
    scale = min(width / size[0], height / size[1])
    inner = max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    canvas = np.full((height, width, image.shape[2]), GREY, np.uint8)
    resized = cv2.resize(image, inner, interpolation=cv2.INTER_LINEAR)  # which drops the axis of a single channel
    canvas[top : top + inner[1], left : left + inner[0]] = np.atleast_3d(resized)
    return canvas, Placement(size, np.array(inner) / size, np.array([left, top]))


def read(path: Path, channels: int) -> np.ndarray | None:
    """An image as a model of so many channels was trained on it: grey, colour (BGR), or as the file has them."""
    flags = {1: cv2.IMREAD_GRAYSCALE, 3: cv2.IMREAD_COLOR}.get(channels, cv2.IMREAD_UNCHANGED)
    image = cv2.imread(str(path), flags)
    return None if image is None else np.atleast_3d(image)


def middle_of(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of an image, for a classifier; Pillow's resize, which is the one of its training."""
    from PIL import Image

    size = width, height
    if width == height:  # the shorter side fits, the longer one is cut
        shorter = min(image.shape[:2])
        size = int(width * image.shape[1] / shorter), int(height * image.shape[0] / shorter)
    resized = np.asarray(Image.fromarray(image).resize(size, BILINEAR))
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    return resized[top : top + height, left : left + width]


# ------------------------------------------------------------ after the graph


def candidates(output: np.ndarray, classes: int, *, rotated: bool) -> np.ndarray:
    """A raw head (4 + classes + extra, candidates) as rows [box, score, class, extra...] above the least score.

    Boxes come as centre, width and height; rotated ones stay so, others become two corners. Surest first.
    """
    boxes, scores, extra = np.split(output.T, [4, 4 + classes], axis=1)
    score, label = scores.max(axis=1), scores.argmax(axis=1)
    if not rotated:
        boxes = np.hstack([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2])
    rows = np.hstack([boxes, score[:, None], label[:, None].astype(np.float32), extra])[score > MIN_SCORE]
    return rows[np.argsort(-rows[:, 4], kind="stable")]


def suppress(rows: np.ndarray, *, rotated: bool) -> np.ndarray:
    """Rows, surest first, without those that overlap a surer one of their class: non-maximum suppression."""
    if not len(rows):
        return rows
    if not rotated:
        # Classes lie beside each other, where none touches another: NMSBoxesBatched is not in the OpenCV of a JetPack.
        corners = rows[:, :4].astype(np.float64)
        start = corners[:, :2] + rows[:, 5:6] * (np.ptp(corners) + 1)
        boxes = np.hstack([start, corners[:, 2:] - corners[:, :2]])
        kept = cv2.dnn.NMSBoxes(boxes.tolist(), rows[:, 4].tolist(), MIN_SCORE, MAX_OVERLAP)
        return rows[np.sort(np.asarray(kept, int).reshape(-1))]
    dropped = np.zeros(len(rows), bool)
    for index, row in enumerate(rows):  # one that is dropped itself drops others too, as Ultralytics does it
        others = rows[index + 1 :]
        dropped[index + 1 :] |= (others[:, 5] == row[5]) & (rotated_overlap(row, others) > MAX_OVERLAP)
    return rows[~dropped]


def rotated_overlap(row: np.ndarray, others: np.ndarray) -> np.ndarray:
    """ProbIoU of one rotated box with others: of Gaussian distributions in their place (arXiv:2106.06072)."""
    boxes = np.vstack([row, others]).astype(np.float64)
    w, h, cos, sin = boxes[:, 2] ** 2 / 12, boxes[:, 3] ** 2 / 12, np.cos(boxes[:, -1]), np.sin(boxes[:, -1])
    covariance = np.array([w * cos**2 + h * sin**2, w * sin**2 + h * cos**2, (w - h) * cos * sin])
    a, b, c = covariance[:, :1] + covariance[:, 1:]
    x, y = (boxes[1:, :2] - boxes[0, :2]).T
    determinant, areas = a * b - c**2, np.sqrt(w[0] * h[0] * w[1:] * h[1:])
    distance = (a * y**2 + b * x**2 - 2 * c * x * y) / (4 * determinant + 1e-7)
    distance += np.log(determinant / (4 * areas + 1e-7) + 1e-7) / 2
    return 1 - np.sqrt(1 - np.exp(-distance.clip(0, 100)))


def corners_of(box: np.ndarray, angle: float) -> np.ndarray:
    """Corners (4, 2) of a box [x, y, w, h] that is turned by an angle in radians."""
    along = box[2] / 2 * np.array([np.cos(angle), np.sin(angle)])
    across = box[3] / 2 * np.array([-np.sin(angle), np.cos(angle)])
    return box[:2] + np.array([along + across, along - across, -along - across, across - along])


def mask_of(coefficients: np.ndarray, prototypes: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels of one object in the input of ``size`` (width, height): a mixture of the prototypes, inside its box."""
    mixture = cv2.resize(np.tensordot(coefficients, prototypes, 1), size, interpolation=cv2.INTER_LINEAR)
    x, y = np.arange(size[0]), np.arange(size[1])[:, None]
    return (mixture > 0) & (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])


# ------------------------------------------------------------ for people


def draw(image: np.ndarray, detections: list[Detection]) -> np.ndarray:
    """A copy of an image, in colour, with what was found in it."""
    colours = image[..., :3] if image.shape[2] > 2 else np.repeat(image[..., :1], 3, axis=2)
    canvas, line = np.ascontiguousarray(colours).copy(), max(round(sum(image.shape[:2]) / 800), 1)
    for number, found in enumerate(detections):
        hue = np.array([[[found.label * 47 % 180, 220, 230]]], np.uint8)
        colour = tuple(map(int, cv2.cvtColor(hue, cv2.COLOR_HSV2BGR)[0, 0]))
        if found.mask is not None:
            canvas[found.mask] = (0.6 * canvas[found.mask] + 0.4 * np.array(colour)).astype(np.uint8)
        if found.corners is not None:
            cv2.polylines(canvas, [np.rint(found.corners).astype(np.int32)], True, colour, line, cv2.LINE_AA)
        elif found.box is not None:
            left, top, right, bottom = map(round, found.box.tolist())
            cv2.rectangle(canvas, (left, top), (right, bottom), colour, line)
        for point in [] if found.keypoints is None else found.keypoints.tolist():
            if len(point) < 3 or point[2] > 0.5:
                cv2.circle(canvas, (round(point[0]), round(point[1])), 2 * line, colour, -1, cv2.LINE_AA)
        x, y = (4, 16 * line * (number + 1)) if found.box is None else map(int, found.box[:2])
        cv2.putText(canvas, f"{found.name} {found.score:.2f}", (x, max(y, 14 * line)), 0, 0.5 * line, colour, line)
    return canvas


def main() -> None:
    """Run the model on an image, print what was found and draw it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("image", type=Path)
    parser.add_argument("--model", type=Path, default=Path(__file__).with_name("model.onnx"))
    parser.add_argument("--output", type=Path, help="picture to write; IMAGE-found.png in this folder when not given")
    parser.add_argument("--provider", default="CPUExecutionProvider", help="of ONNX Runtime (%(default)s)")
    options = parser.parse_args()
    if not cv2.haveImageReader(str(options.image)):
        parser.error(f"{options.image}: there is no image that OpenCV reads")
    model = Model(options.model, options.provider)
    image = read(options.image, model.channels)
    if image is None:
        parser.error(f"{options.image}: cannot be decoded")
    if image.shape[2] != model.channels:
        parser.error(f"{options.image}: has {image.shape[2]} channels, and the model takes {model.channels}")
    detections = model(image)
    output = options.output or Path(f"{options.image.stem}-found.png")
    try:
        written = cv2.imwrite(str(output), draw(image, detections))
    except cv2.error:  # of an ending that it knows no format for
        written = False
    if not written:
        parser.error(f"{output}: cannot be written; name a .png or .jpg in a folder that is there: --output")
    for found in detections:
        place = "" if found.box is None else " ".join(f"{side:.1f}" for side in found.box)
        print(f"{found.name} {found.score:.3f} {place}".rstrip())
    print(f"{len(detections)} found, drawn in {output}")


if __name__ == "__main__":
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the lines had enough of them
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still flushes as it ends
        sys.exit(141)
