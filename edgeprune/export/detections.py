"""Arithmetic on decoded outputs: which columns are pixels, which row belongs to which, which detections agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from edgeprune.export.metadata import ModelMetadata

CONFIDENCE = 0.25  # what Ultralytics' predictor shows a user, and what its embedded NMS keeps
NMS_IOU = 0.7  # the exporter's and the predictor's default
AGREEMENT_IOU = 0.7  # two detections of a class are the same object when their boxes overlap this much
MAX_ROWS = 300
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
        missing_score: least change of a score that explains the unpaired rows.
    """

    differences: np.ndarray
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
    # a list that is not full cut nothing off
    floors = [float(table[:, 4].min()) if len(table) == length else 0.0 for table in (a, b)]
    pairs: list[tuple[int, int]] = []
    for label in np.union1d(a[:, 5], b[:, 5]):
        in_a, in_b = np.flatnonzero(a[:, 5] == label), np.flatnonzero(b[:, 5] == label)
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
    for table, paired, floor in ((a, paired_a, floors[1]), (b, paired_b, floors[0])):
        unpaired = np.setdiff1d(np.arange(len(table)), paired)
        if len(unpaired):
            missing = max(missing, float(table[unpaired, 4].max()) - floor)
    return Pairing(
        differences=np.abs(a[paired_a] - b[paired_b]),
        unpaired=len(a) + len(b) - 2 * len(pairs),
        reordered=int((filled[0][paired_a] != filled[1][paired_b]).sum()),
        missing_score=max(missing, 0.0),
    )


def apply_nms(raw: np.ndarray, *, nc: int, task: str) -> np.ndarray:
    """A raw output, shape (images, 4 + nc + extra, anchors), as embedded NMS gives it: (images, 300, 6 + extra)."""
    rows = np.zeros((len(raw), MAX_ROWS, 6 + raw.shape[1] - 4 - nc))
    for index, detections in enumerate(_detections_after_nms(raw, nc=nc, task=task)):
        rows[index, : len(detections)] = detections
    return rows


def detection_agreement(reference: np.ndarray, candidate: np.ndarray, layout: Layout) -> tuple[int, int, float]:
    """Detections of both with a score of 0.25 or more, and the part of them that both have (Dice's coefficient)."""
    if layout.task == "classify":
        same = (reference.argmax(axis=1) == candidate.argmax(axis=1)).mean()
        return len(reference), len(candidate), float(same)
    if reference.ndim != 3 or not layout.nc:
        return 0, 0, 1.0
    ours, theirs = (_detections(output, layout) for output in (reference, candidate))
    common = sum(_count_common(a, b, rotated=layout.task == "obb") for a, b in zip(ours, theirs, strict=True))
    counts = sum(map(len, ours)), sum(map(len, theirs))
    return counts[0], counts[1], 1.0 if not sum(counts) else 2 * common / sum(counts)


def _detections(output: np.ndarray, layout: Layout) -> list[np.ndarray]:
    if layout.head == "raw":
        return _detections_after_nms(output, nc=layout.nc, task=layout.task)
    return [rows[rows[:, 4] >= CONFIDENCE] for rows in output]


def _detections_after_nms(raw: np.ndarray, *, nc: int, task: str) -> list[np.ndarray]:
    import torch
    from ultralytics.utils.nms import non_max_suppression

    images: Any = non_max_suppression(
        torch.from_numpy(np.array(raw, dtype=np.float32)),
        CONFIDENCE,
        NMS_IOU,
        nc=nc,
        rotated=task == "obb",
        max_nms=MAX_CANDIDATES,
    )
    return [detections.numpy() for detections in images]


def _count_common(a: np.ndarray, b: np.ndarray, *, rotated: bool) -> int:
    """Number of pairs of the same class that overlap, one to one."""
    if not len(a) or not len(b):
        return 0
    import torch
    from ultralytics.utils.metrics import batch_probiou, box_iou

    def boxes(rows: np.ndarray) -> torch.Tensor:
        columns = [0, 1, 2, 3, rows.shape[1] - 1] if rotated else [0, 1, 2, 3]
        return torch.from_numpy(rows[:, columns].astype(np.float32))

    overlap = (batch_probiou if rotated else box_iou)(boxes(a), boxes(b)).numpy()
    same = (a[:, None, 5] == b[None, :, 5]) & (overlap >= AGREEMENT_IOU)
    i, j = linear_sum_assignment(-np.where(same, overlap, 0.0))
    return int(same[i, j].sum())
