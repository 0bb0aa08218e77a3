"""The process that times a detector from a frame in memory to boxes in the frame's pixels, each part for itself.

``python -m edgeprune.runtimes.end_to_end_worker`` speaks the protocol of :mod:`edgeprune.runtimes.bench_worker`.
Before the model: letterbox as Ultralytics' predictor does it (keep the aspect, pad with grey 114), BGR to RGB, to
[0, 1]. After it: confidence, non-maximum suppression per class, back to the frame. By OpenCV and NumPy, without torch.

Job: ``{"task": "end_to_end", "models": [path], "image": path or null, "provider": name, "threads": n, "runs": n}``, or
``latency`` as in the bench worker, of as many models, with ``"frames": [path], "stand_in": bool``.
"""

from __future__ import annotations

import sys
from time import perf_counter

import cv2
import numpy as np

from edgeprune.runtimes.bench_worker import TYPES, JobError, Timed, latency, serve

FRAME = (720, 1280)
CONFIDENCE, OVERLAP, MOST = 0.25, 0.7, 300  # what Ultralytics' predictor keeps by default
GREY = 114


def letterboxed(frame, height, width, kind):
    """A BGR frame (h, w, 3) as an input (1, 3, height, width), with the scale and the padding that were used."""
    scale = min(height / frame.shape[0], width / frame.shape[1])
    inner = round(frame.shape[1] * scale), round(frame.shape[0] * scale)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    canvas = np.full((height, width, 3), GREY, np.uint8)
    canvas[top : top + inner[1], left : left + inner[0]] = cv2.resize(frame, inner, interpolation=cv2.INTER_LINEAR)
    values = canvas[..., ::-1].transpose(2, 0, 1)[None]
    return np.ascontiguousarray(values, dtype=kind) / kind(255), scale, (left, top)


def boxes_of(output, scale, padding):
    """Detections [x1, y1, x2, y2, score, class] in the frame's pixels, shape (n, 6).

    Takes a raw head (1, 4 + classes, candidates) or rows that are suppressed already (1, n, 6).
    """
    found = output[0].astype(np.float32, copy=False)
    if found.shape[1] == 6:
        rows = found[found[:, 4] >= CONFIDENCE]
    else:
        scores = found[4:].max(axis=0)
        kept = np.flatnonzero(scores >= CONFIDENCE)
        labels = found[4:, kept].argmax(axis=0)
        centre, size = found[:2, kept].T, found[2:4, kept].T
        corner = centre - size / 2
        chosen = cv2.dnn.NMSBoxesBatched(
            np.hstack((corner, size)).tolist(), scores[kept].tolist(), labels.tolist(), CONFIDENCE, OVERLAP
        )
        chosen = np.asarray(chosen, int).reshape(-1)[:MOST]
        rows = np.hstack((corner, corner + size, scores[kept, None], labels[:, None]))[chosen]
    rows = rows.copy()
    rows[:, :4] = (rows[:, :4] - np.tile(padding, 2)) / scale
    return rows


class EndToEnd(Timed):
    """One detector under the clock from a frame in memory to its boxes; every model sees the same frames in turn."""

    first = None  # the model whose outputs stand in for the others', where they are asked to

    def prepared(self, session, device, job):
        """Before the model, the model, after the model; the parts of each timed run are kept."""
        self.session, self.device = session, device
        self.name, self.kind, (self.height, self.width) = image_input(session, self.shapes)
        self.frames = [frame_of(path) for path in job.get("frames") or [None]]
        self.parts = {"pre": [], "model": [], "post": []}
        self.boxes, self.turn, self.block, self.outputs = 0, 0, -1, {}
        self.stands_in = None
        if job.get("stand_in"):
            EndToEnd.first = EndToEnd.first or self
            self.stands_in = EndToEnd.first
            for number, frame in enumerate(self.frames):
                values, _, _ = letterboxed(frame, self.height, self.width, self.kind)
                self.outputs[number] = session.run(None, {self.name: values})[0]
        return self.once

    def begin(self):
        """Every block begins with the same frame for every model; blocks go on through the frames."""
        self.block += 1
        self.turn = self.block

    def once(self):
        """One frame to boxes."""
        number = self.turn % len(self.frames)
        self.turn += 1
        started = perf_counter()
        values, scale, padding = letterboxed(self.frames[number], self.height, self.width, self.kind)
        prepared = perf_counter()
        output = self.session.run(None, {self.name: values})[0]
        ran = perf_counter()
        if self.stands_in is not None:
            output = self.stands_in.outputs[number]
        self.boxes = len(boxes_of(output, scale, padding))
        ended = perf_counter()
        self.latest = {"pre": prepared - started, "model": ran - prepared, "post": ended - ran}

    def sample(self):
        """One timed run, its parts kept beside it."""
        took = super().sample()
        for part, seconds in self.latest.items():
            self.parts[part].append(seconds * 1e3)
        return took


def image_input(session, shapes):
    """Name, type and (height, width) of a detector's one image input; anything else is refused."""
    task = session.get_modelmeta().custom_metadata_map.get("task", "detect")
    inputs = session.get_inputs()
    if task != "detect" or len(inputs) != 1 or inputs[0].type not in TYPES:
        raise JobError("data", f"end-to-end time is known for detectors with one image input, this is {task}")
    shape = shapes[inputs[0].name]
    if len(shape) != 4 or shape[:2] != [1, 3]:
        raise JobError("data", f"input {shape} is not one RGB image")
    return inputs[0].name, TYPES[inputs[0].type], shape[2:]


def end_to_end_latency(job):
    """Interleaved samples of every model from frame to boxes, with the medians of their parts."""
    kept = []

    def timed(path, job):
        kept.append(EndToEnd(path, job))
        return kept[-1]

    result = latency(job, timed)
    for row, model in zip(result["models"], kept):  # noqa: B905  Python 3.8 knows no strict
        taken = len(model.values)
        row["parts_ms"] = {part: float(np.median(values[-taken:])) for part, values in model.parts.items()}
        row["boxes"] = model.boxes
        row["frames"] = [list(frame.shape[:2]) for frame in model.frames]
    return result


def end_to_end(job):
    """Milliseconds of every part in every run, and how many boxes the frame gave."""
    (path,) = job["models"]
    model = EndToEnd(path, {**job, "frames": [job.get("image")], "stand_in": False})
    warm = max(3, job["runs"] // 5)  # the first runs are the warm-up
    for _ in range(job["runs"] + warm):
        model.sample()
    times = {part: values[-job["runs"] :] for part, values in model.parts.items()}
    return {"ms": times, "boxes": model.boxes, "frame": list(model.frames[0].shape[:2])}


def frame_of(image):
    """The image file as BGR pixels, or seeded noise of 1280 x 720 (which gives a detector little to suppress)."""
    if image is None:
        return np.random.default_rng(0).integers(0, 256, (*FRAME, 3), dtype=np.uint8)
    frame = cv2.imread(image, cv2.IMREAD_COLOR)
    if frame is None:
        raise JobError("data", f"{image}: is not an image that OpenCV reads")
    return frame


if __name__ == "__main__":
    cv2.setNumThreads(1)
    sys.exit(serve({"end_to_end": end_to_end, "latency": end_to_end_latency}))
