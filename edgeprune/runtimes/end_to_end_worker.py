"""The process that times a detector from a frame in memory to boxes in the frame's pixels, each part for itself.

``python -m edgeprune.runtimes.end_to_end_worker`` speaks the protocol of :mod:`edgeprune.runtimes.bench_worker`.
Before the model: letterbox as Ultralytics' predictor does it (keep the aspect, pad with grey 114), BGR to RGB, to
[0, 1]. After it: confidence, non-maximum suppression per class, back to the frame. By OpenCV and NumPy, without torch.

Job: ``{"task": "end_to_end", "models": [path], "image": path or null, "provider": name, "threads": n, "runs": n}``.
"""

from __future__ import annotations

import sys
from time import perf_counter

import cv2
import numpy as np

from edgeprune.runtimes.bench_worker import TYPES, JobError, input_shapes, open_session, serve

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


def end_to_end(job):
    """Milliseconds of every part in every run, and how many boxes the frame gave."""
    (path,) = job["models"]
    session = open_session(path, job["provider"], job["threads"])
    task = session.get_modelmeta().custom_metadata_map.get("task", "detect")
    inputs = session.get_inputs()
    if task != "detect" or len(inputs) != 1 or inputs[0].type not in TYPES:
        raise JobError("data", f"{path}: end-to-end time is known for detectors with one image input, this is {task}")
    shape = input_shapes(session, 1)[inputs[0].name]
    if len(shape) != 4 or shape[:2] != [1, 3]:
        raise JobError("data", f"{path}: input {shape} is not one RGB image")
    kind, name = TYPES[inputs[0].type], inputs[0].name
    frame = frame_of(job.get("image"))
    times = {"pre": [], "model": [], "post": []}
    found = []
    for number in range(job["runs"] + max(3, job["runs"] // 5)):
        started = perf_counter()
        values, scale, padding = letterboxed(frame, shape[2], shape[3], kind)
        prepared = perf_counter()
        outputs = session.run(None, {name: values})
        ran = perf_counter()
        found = boxes_of(outputs[0], scale, padding)
        ended = perf_counter()
        if number >= max(3, job["runs"] // 5):  # the first runs are the warm-up
            for part, time in (("pre", prepared - started), ("model", ran - prepared), ("post", ended - ran)):
                times[part].append(time * 1e3)
    return {"ms": times, "boxes": len(found), "frame": list(frame.shape[:2])}


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
    sys.exit(serve({"end_to_end": end_to_end}))
