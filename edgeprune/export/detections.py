"""Arithmetic on decoded outputs: which columns are pixels, which row belongs to which, which detections agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from edgeprune.export.metadata import ModelMetadata
from edgeprune.samples.agreement import Counts

CONFIDENCE = 0.25  # what Ultralytics' predictor shows a user, and what its embedded NMS keeps
NMS_IOU = 0.7  # the exporter's and the predictor's default
AGREEMENT_IOU = 0.7  # two detections of a class are the same object when their boxes overlap this much
AGREEMENT_MASK_IOU = 0.7  # so do their masks, where there are
# So do their keypoints: the mean likeness of COCO's evaluation, with one tolerance for every keypoint (COCO's own are
# 0.05 to 0.21 of the object's size). A keypoint that moved by as much as the corner of a box that just agrees (0.13 of
# its side) has just this likeness.
# By these bounds the lowest agreement of a sound INT8 engine for pose or segmentation with its own graph was 0.969
# (YOLOv8n adapted to the blood cells, 16 images), where the gate asks for 0.9.
AGREEMENT_LIKENESS = 0.7
KEYPOINT_TOLERANCE = 0.15
MASK_STRIDE = 4  # pixels of the input for one of the prototypes, in every family
MAX_ROWS = 300  # detections an image, as Ultralytics exports and predicts unless told otherwise
MAX_CANDIDATES = 3000  # before NMS: an untrained rotated head would else compare every anchor with every other
# Rows of a sorted list are taken for the same candidate when no side of the box moved by more than this part of its
# size (plus a pixel): far beyond rounding, far below the distance of two objects.
SAME_BOX = 0.25
PIXELS_PER_SCORE = 100.0  # a change of 0.01 of a score weighs as much as one of a pixel
SAME_ROW_PX = 0.01  # rows this close are the same, however near to the cut they are


@dataclass(frozen=True)
class Layout:
    """How a model's first output is laid out: enough to tell boxes, scores and the rest apart.

    Attributes:
        task: detect, segment, pose, obb or classify.
        head: raw, end-to-end or nms.
        nc: number of classes; 0 when it is not known, which makes every column "extra".
        kpt_shape: keypoints and numbers a keypoint.
    """

    task: str
    head: str
    nc: int
    kpt_shape: tuple[int, ...] = ()

    @classmethod
    def of(cls, metadata: ModelMetadata) -> Layout:
        """The layout of an exported model."""
        return cls(metadata.task or "detect", metadata.head, len(metadata.names), metadata.kpt_shape)

    def columns(self, width: int) -> np.ndarray:
        """Kind of each of the ``width`` channels of a raw output: ``box``, ``score`` or ``extra``."""
        if self.task == "classify":
            return np.full(width, "score")
        if not self.nc or width < 4 + self.nc:
            return np.full(width, "extra")
        return np.array(["box"] * 4 + ["score"] * self.nc + self._extra(width - 4 - self.nc))

    def row_columns(self, width: int) -> np.ndarray:
        """Kind of each column of a sorted row [box, score, class, extra...]; pairing makes the class exact."""
        return np.array(["box"] * 4 + ["score"] + ["class"] + self._extra(width - 6))

    def _extra(self, count: int) -> list[str]:
        if self.task == "pose" and self.kpt_shape and count == int(np.prod(self.kpt_shape)):
            numbers = self.kpt_shape[1]
            return (["box", "box", "score"][:numbers] + ["extra"] * max(0, numbers - 3)) * self.kpt_shape[0]
        return ["extra"] * count


@dataclass
class Differences:
    """Running maxima and mean of absolute differences, by kind of number."""

    largest: float = 0.0
    total: float = 0.0
    count: int = 0
    box: float = 0.0
    score: float = 0.0
    extra: float = 0.0

    def add(self, difference: np.ndarray, *, columns: np.ndarray, axis: int) -> None:
        """Take in absolute differences whose ``axis`` holds the named columns; a NaN counts as infinite."""
        difference = np.where(np.isnan(difference), np.inf, difference)
        for kind in ("box", "score", "extra"):
            part = np.compress(columns == kind, difference, axis=axis)
            if part.size:
                setattr(self, kind, max(getattr(self, kind), float(part.max())))
                self.largest = max(self.largest, float(part.max()))
                self.total += float(part.sum())
                self.count += part.size


@dataclass(frozen=True)
class Pairing:
    """Rows of two sorted lists that belong together.

    Attributes:
        differences: absolute differences of the pairs, shape (pairs, columns).
        unpaired: rows of either list without a partner.
        reordered: pairs whose ranks differ.
        rows: rows of both lists together.
        missing_score: least change of a score that explains the unpaired rows; infinite where one of them holds
            what is no finite number, which no change explains.
    """

    differences: np.ndarray
    rows: int
    unpaired: int
    reordered: int
    missing_score: float


def pair_rows(rows: np.ndarray, others: np.ndarray, *, rotated: bool = False) -> Pairing:
    """Pair the rows of two lists sorted by score: within a class, the assignment of least total difference.

    Args:
        rows: shape (k, 6 + extra), [box, score, class, extra...]; rows of zeros, with which embedded NMS fills its
            output, are left out.
        others: the other list, of the same shape.
        rotated: boxes are centre, width and height instead of two corners.
    """
    length = len(rows)
    filled = [np.flatnonzero(np.any(table != 0, axis=1)) for table in (rows, others)]
    a, b = rows[filled[0]], others[filled[1]]
    finite_a, finite_b = (np.isfinite(table).all(axis=1) for table in (a, b))  # a row that is not has no partner
    # a list that is not full cut nothing off
    floors = [
        float(table[finite, 4].min()) if len(table) == length and finite.any() else 0.0
        for table, finite in ((a, finite_a), (b, finite_b))
    ]
    pairs: list[tuple[int, int]] = []
    for label in np.union1d(a[finite_a, 5], b[finite_b, 5]):
        in_a, in_b = np.flatnonzero(finite_a & (a[:, 5] == label)), np.flatnonzero(finite_b & (b[:, 5] == label))
        if not len(in_a) or not len(in_b):
            continue
        moved = np.abs(a[in_a, None, :4] - b[None, in_b, :4]).max(axis=2)
        sides = a[in_a, 2:4] if rotated else a[in_a, 2:4] - a[in_a, :2]
        size = np.abs(sides).max(axis=1)
        allowed = moved <= 1.0 + SAME_BOX * size[:, None]
        score = np.abs(a[in_a, None, 4] - b[None, in_b, 4])
        cost = moved + PIXELS_PER_SCORE * score
        # both rows may instead have lost their partners at the cut; the lesser change is the explanation
        above_cut = np.maximum(a[in_a, None, 4] - floors[1], b[None, in_b, 4] - floors[0])
        allowed &= cost <= PIXELS_PER_SCORE * np.maximum(above_cut, 0.0) + SAME_ROW_PX
        cost = np.where(allowed, cost, 1e9)
        for i, j in zip(*linear_sum_assignment(cost), strict=True):
            if allowed[i, j]:
                pairs.append((int(in_a[i]), int(in_b[j])))
    paired_a, paired_b = np.array([i for i, _ in pairs], int), np.array([j for _, j in pairs], int)
    missing = 0.0
    for table, finite, paired, floor in ((a, finite_a, paired_a, floors[1]), (b, finite_b, paired_b, floors[0])):
        if not finite.all():
            missing = np.inf
        unpaired = np.setdiff1d(np.flatnonzero(finite), paired)
        if len(unpaired):
            missing = max(missing, float(table[unpaired, 4].max()) - floor)
    return Pairing(
        differences=np.abs(a[paired_a] - b[paired_b]),
        rows=len(a) + len(b),
        unpaired=len(a) + len(b) - 2 * len(pairs),
        reordered=int((filled[0][paired_a] != filled[1][paired_b]).sum()),
        missing_score=max(missing, 0.0),
    )


def apply_nms(raw: np.ndarray, *, nc: int, task: str, rows: int = MAX_ROWS) -> np.ndarray:
    """A raw output, shape (images, 4 + nc + extra, anchors), as NMS embedded with room for so many rows gives it:
    (images, rows, 6 + extra)."""
    filled = np.zeros((len(raw), rows, 6 + raw.shape[1] - 4 - nc))
    for index, detections in enumerate(_detections_after_nms(raw, nc=nc, task=task, rows=rows)):
        filled[index, : len(detections)] = detections
    return filled


def detection_agreement(
    reference: Sequence[np.ndarray], candidate: Sequence[np.ndarray], layout: Layout
) -> tuple[Counts, ...]:
    """In each image the detections of both with a score of 0.25 or more, and those that both have: of a class, with the
    same box, and with the same mask or keypoints where the task has them. For a classifier one each, in common where
    the best class is the same. Of outputs that are no detections, none.

    Args:
        reference: outputs with the images on the first axis; for segmentation the prototypes are the second.
        candidate: the same of the candidate.
        layout: how the first output is laid out.
    """
    if layout.task == "classify":
        same = reference[0].argmax(axis=1) == candidate[0].argmax(axis=1)
        same &= np.isfinite(candidate[0]).all(axis=1)  # the largest of scores that are none is the first class's
        return tuple(Counts(1, 1, int(one)) for one in same)
    if reference[0].ndim != 3 or not layout.nc:
        return (Counts(0, 0, 0),) * len(reference[0])
    ours, theirs = (_detections(outputs[0], layout) for outputs in (reference, candidate))
    counts = []
    for image, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        prototypes = [outputs[1][image] for outputs in (reference, candidate) if len(outputs) > 1]
        counts.append(Counts(len(a), len(b), _count_common(a, b, layout, prototypes)))
    return tuple(counts)


def _detections(output: np.ndarray, layout: Layout) -> list[np.ndarray]:
    if layout.head == "raw":
        return _detections_after_nms(output, nc=layout.nc, task=layout.task)
    return [rows[rows[:, 4] >= CONFIDENCE] for rows in output]


def _detections_after_nms(raw: np.ndarray, *, nc: int, task: str, rows: int = MAX_ROWS) -> list[np.ndarray]:
    import torch
    from ultralytics.utils.nms import non_max_suppression

    images: Any = non_max_suppression(
        torch.from_numpy(np.array(raw, dtype=np.float32)),
        CONFIDENCE,
        NMS_IOU,
        nc=nc,
        max_det=rows,
        rotated=task == "obb",
        max_nms=MAX_CANDIDATES,
    )
    return [detections.numpy() for detections in images]


def _count_common(a: np.ndarray, b: np.ndarray, layout: Layout, prototypes: Sequence[np.ndarray]) -> int:
    """Number of pairs of the same class that overlap and have the same mask or keypoints, one to one."""
    rotated = layout.task == "obb"
    if not len(a) or not len(b):
        return 0
    import torch
    from ultralytics.utils.metrics import batch_probiou, box_iou

    def boxes(rows: np.ndarray) -> torch.Tensor:
        columns = [0, 1, 2, 3, rows.shape[1] - 1] if rotated else [0, 1, 2, 3]
        return torch.from_numpy(rows[:, columns].astype(np.float32))

    overlap = (batch_probiou if rotated else box_iou)(boxes(a), boxes(b)).numpy()
    same = (a[:, None, 5] == b[None, :, 5]) & (overlap >= AGREEMENT_IOU)
    for i, j in np.argwhere(same):
        if layout.task == "segment" and len(prototypes) == 2:
            same[i, j] = _mask_iou(a[i], b[j], *prototypes) >= AGREEMENT_MASK_IOU
        elif layout.task == "pose" and layout.kpt_shape and a.shape[1] == 6 + int(np.prod(layout.kpt_shape)):
            same[i, j] = _keypoint_likeness(a[i], b[j], layout.kpt_shape) >= AGREEMENT_LIKENESS
    i, j = linear_sum_assignment(-np.where(same, overlap, 0.0))
    return int(same[i, j].sum())


def _mask_iou(row: np.ndarray, other: np.ndarray, prototypes: np.ndarray, others: np.ndarray) -> float:
    """Overlap of the masks of two detections as Ultralytics draws them: coefficients times prototypes, enlarged to
    pixels, cut off at the box. Two empty masks are the same."""
    import torch

    height, width = (MASK_STRIDE * side for side in prototypes.shape[1:])
    lows = np.minimum(row[:2], other[:2]) // MASK_STRIDE - 1  # what lies around both boxes, a prototype's pixel more
    highs = np.maximum(row[2:4], other[2:4]) // MASK_STRIDE + 2
    left, top = (int(side) for side in np.clip(lows, 0, [width // MASK_STRIDE - 1, height // MASK_STRIDE - 1]))
    right, bottom = (int(side) for side in np.clip(highs, [left + 1, top + 1], prototypes.shape[:0:-1]))
    masks: list[np.ndarray] = []
    for detection, planes in ((row, prototypes), (other, others)):
        part = planes[:, top:bottom, left:right].astype(np.float32)
        logits = np.tensordot(detection[6:].astype(np.float32), part, axes=1)
        scale = {"scale_factor": MASK_STRIDE, "mode": "bilinear"}
        enlarged: Any = torch.nn.functional.interpolate(torch.from_numpy(logits)[None, None], **scale)
        across, down = (
            np.arange(start * MASK_STRIDE, end * MASK_STRIDE) for start, end in ((left, right), (top, bottom))
        )
        inside_x = (across >= detection[0]) & (across < detection[2])
        inside_y = (down >= detection[1]) & (down < detection[3])
        masks.append((enlarged[0, 0].numpy() > 0) & inside_y[:, None] & inside_x)
    union = (masks[0] | masks[1]).sum()
    return float((masks[0] & masks[1]).sum() / union) if union else 1.0


def _keypoint_likeness(row: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """Mean likeness of the keypoints of two detections, in [0, 1]: by their distance in units of the box's size, and
    by how visible either says that they are. Those that neither sees do not count."""
    ours, theirs = (np.nan_to_num(rows[6:].astype(np.float64), nan=np.inf).reshape(shape) for rows in (row, other))
    area = max(float((row[2] - row[0]) * (row[3] - row[1])), 1.0)
    with np.errstate(invalid="ignore"):
        squared = np.nan_to_num(((ours[:, :2] - theirs[:, :2]) ** 2).sum(axis=1), nan=np.inf)
    likeness = np.exp(-squared / (2 * area * KEYPOINT_TOLERANCE**2))
    if shape[1] < 3:
        return float(likeness.mean())
    seen, seen_too = (np.clip(points[:, 2], 0.0, 1.0) for points in (ours, theirs))
    weight = np.maximum(seen, seen_too)
    return float((likeness * (1 - np.abs(seen - seen_too)) * weight).sum() / weight.sum()) if weight.any() else 1.0
