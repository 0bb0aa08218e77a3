"""The process that times a detector from a frame in memory to boxes in the frame's pixels, each part for itself.

``python -m edgeprune.runtimes.end_to_end_worker`` speaks the protocol of :mod:`edgeprune.runtimes.bench_worker`.
What stands before and after the model is the sample's that ships (:mod:`edgeprune.shipped.sample`): letterbox, RGB, to
[0, 1]; then confidence, non-maximum suppression per class, back to the frame. By OpenCV and NumPy, without torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np

from edgeprune.runtimes.bench_worker import (
    NUMPY_TYPES,
    JobError,
    SessionTimer,
    from_host,
    report_missing,
    serve,
    take_turns,
    worker_state,
)
from edgeprune.runtimes.jobs import EndToEndJob, EndToEndLatencyJob, EndToEndTimes, OrtJob, TimedModel, TimedModels

try:
    import cv2

    from edgeprune.shipped.sample import MAX_FOUND, MIN_SCORE, Placement, candidates, letterbox, suppress
except ImportError as error:  # a board may have ONNX Runtime and no OpenCV
    if __name__ == "__main__":
        report_missing(error, "opencv-python")
        sys.exit(0)
    raise

FLOATS = {name: kind for name, kind in NUMPY_TYPES.items() if issubclass(kind, np.floating)}
NOISE_FRAME = (720, 1280)
PARTS = ("pre", "model", "post")


def prepared(frame: np.ndarray, height: int, width: int, kind: Any) -> tuple[np.ndarray, Placement]:
    """A BGR frame (h, w, 3) as an input (1, 3, height, width), and where it lies there."""
    pixels, placement = letterbox(frame, height, width)
    return np.ascontiguousarray(pixels[..., ::-1].transpose(2, 0, 1)[None], dtype=kind) / kind(255), placement


def boxes_of(output: np.ndarray, placement: Placement) -> np.ndarray:
    """Detections [x1, y1, x2, y2, score, class] in the frame's pixels, shape (n, 6).

    Takes a raw head (1, 4 + classes, candidates) or rows that are suppressed already (1, n, 6).
    """
    head = output[0].astype(np.float32, copy=False)
    if head.shape[1] == 6:
        rows = head[head[:, 4] > MIN_SCORE]
    else:
        rows = suppress(candidates(head, len(head) - 4, rotated=False), rotated=False)
    rows = rows[:MAX_FOUND].copy()
    rows[:, :4] = placement.to_image(rows[:, :4].reshape(-1, 2)).reshape(-1, 4)
    return rows


class EndToEndTimer(SessionTimer):
    """One detector under the clock from a frame in memory to its boxes; every model sees the same frames in turn.

    Args:
        path: of the model.
        job: provider and threads.
        frames: images as BGR pixels.
        inputs: as for :class:`SessionTimer`.
    """

    def __init__(
        self,
        path: str,
        job: OrtJob,
        frames: Sequence[np.ndarray],
        **inputs: Any,
    ) -> None:
        self.frames = frames
        self.stand_ins: list[np.ndarray] = []
        """Outputs by frame that go through the post-processing instead of this model's own."""
        self.parts_ms: dict[str, list[float]] = {part: [] for part in PARTS}
        self.boxes, self.turn, self.block = 0, 0, -1
        super().__init__(path, job, **inputs)

    def prepare(self, copies: bool, seed: int) -> Callable[[], Any]:
        """Before the model, the model, after the model; the parts of each timed run are kept."""
        self.name, self.kind, (self.height, self.width) = image_input(self.session, self.shapes)
        self.model = from_host(self.session, {self.name: np.zeros(self.shapes[self.name], self.kind)})
        return self.frame_to_boxes

    def output_of(self, frame: np.ndarray) -> np.ndarray:
        """What the model gives for a frame."""
        values, _ = prepared(frame, self.height, self.width, self.kind)
        return self.model({self.name: values})[0]

    def begin_block(self) -> None:
        """Every block begins with the same frame for every model; blocks go on through the frames."""
        self.block += 1
        self.turn = self.block

    def frame_to_boxes(self) -> None:
        """One frame to boxes."""
        number = self.turn % len(self.frames)
        self.turn += 1
        started = perf_counter()
        values, placement = prepared(self.frames[number], self.height, self.width, self.kind)
        ready = perf_counter()
        output = self.model({self.name: values})[0]
        ran = perf_counter()
        if self.stand_ins:
            output = self.stand_ins[number]
        self.boxes = len(boxes_of(output, placement))
        self.latest_s = (ready - started, ran - ready, perf_counter() - ran)

    def keep(self, ms: float) -> None:
        """Keep a sample that counts, its parts beside it."""
        super().keep(ms)
        for part, seconds in zip(PARTS, self.latest_s):  # noqa: B905  Python 3.8 knows no strict
            self.parts_ms[part].append(seconds * 1e3)

    def timed_model(self) -> TimedModel:
        """What was measured, with the medians of the parts."""
        return replace(
            super().timed_model(),
            parts_ms={part: float(np.median(ms)) for part, ms in self.parts_ms.items()},
            boxes=self.boxes,
            frames=tuple(frame.shape[:2] for frame in self.frames),
        )


def image_input(session: Any, shapes: Mapping[str, Sequence[int]]) -> tuple[str, Any, tuple[int, int]]:
    """Name, type and (height, width) of a detector's one image input; anything else is refused."""
    task = session.get_modelmeta().custom_metadata_map.get("task", "detect")
    inputs = session.get_inputs()
    if task != "detect" or len(inputs) != 1:
        raise JobError(
            "data", f"end-to-end time is of detectors with one image input, this is {task} with {len(inputs)}"
        )
    if inputs[0].type not in FLOATS:
        raise JobError(
            "data",
            f"end-to-end time is of images as floats from 0 to 1, and input {inputs[0].name} is {inputs[0].type}",
        )
    shape = tuple(shapes[inputs[0].name])
    if len(shape) != 4 or shape[:2] != (1, 3):
        raise JobError("data", f"input {list(shape)} is not one RGB image")
    return inputs[0].name, FLOATS[inputs[0].type], (shape[2], shape[3])


def time_frames_to_boxes(job: EndToEndLatencyJob) -> TimedModels:
    """Interleaved samples of every model from frame to boxes, with the medians of their parts."""
    options = {"batch": job.batch, "imgsz": job.imgsz, "copies": job.copies, "seed": job.seed}
    frames = [frame_of(path) for path in job.frames or (None,)]
    timers = [EndToEndTimer(path, job, frames, **options) for path in job.models]
    if job.stand_in:
        outputs = [timers[0].output_of(frame) for frame in frames]
        for timer in timers:
            timer.stand_ins = outputs
    return take_turns(job, timers, worker_state)


def time_parts(job: EndToEndJob) -> EndToEndTimes:
    """Milliseconds of every part in every run, and how many boxes the frame gave."""
    (path,) = job.models
    model = EndToEndTimer(path, job, [frame_of(job.image)], batch=job.batch, imgsz=job.imgsz)
    warmups = max(3, job.runs // 5)
    for _ in range(warmups):
        model.sample()
    for _ in range(job.runs):
        model.keep(model.sample())
    pre, inference, post = (tuple(model.parts_ms[part]) for part in PARTS)
    height, width = model.frames[0].shape[:2]
    return EndToEndTimes(pre, inference, post, model.boxes, (height, width))


def frame_of(image: str | None) -> np.ndarray:
    """The image file as BGR pixels, or seeded noise of 1280 x 720 (which gives a detector little to suppress)."""
    if image is None:
        return np.random.default_rng(0).integers(0, 256, (*NOISE_FRAME, 3), dtype=np.uint8)
    frame = cv2.imread(image, cv2.IMREAD_COLOR)
    if frame is None:
        raise JobError("data", f"{image}: is not an image that OpenCV reads")
    return frame


if __name__ == "__main__":
    cv2.setNumThreads(1)
    sys.exit(serve({EndToEndJob: time_parts, EndToEndLatencyJob: time_frames_to_boxes}))
