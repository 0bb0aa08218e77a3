"""What the functions of this room give as plain data, without torch, for records and reports to keep."""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.input_size import DEFAULT_SIDE, Size, both_sides
from edgeprune.samples.agreement import Counts, dice

EXPORT_TOLERANCE = 1e-3  # pixels of a decoded box and units of a score, fp32 against fp32
SIMPLIFY_TOLERANCE = 1e-4  # simplification rearranges, it does not approximate


def box_tolerance_px(tolerance: float, imgsz: Size) -> float:
    """How far boxes may be apart where scores may be by ``tolerance``: as many pixels up to 640, beyond in proportion.

    What a coordinate is rounded by grows with it: a healthy YOLOv8n differs from PyTorch by 1.9e-4 pixels at 320,
    4.6e-4 at 640 and 1.1e-3 at 1280, and at 1024 one step of float32 is 1.2e-4.

    Args:
        tolerance: of a score, and of a pixel up to 640.
        imgsz: size of the model's input; its longest side counts.
    """
    return tolerance * max(1.0, max(both_sides(imgsz)) / DEFAULT_SIDE)


@dataclass(frozen=True)
class Excess:
    """A difference and the limit of its kind, in its unit."""

    difference: float
    limit: float


@dataclass(frozen=True)
class ParityInfo:
    """How far two forms of a model are apart.

    Attributes:
        images: images compared.
        task: detect, segment, pose, obb or classify.
        head: raw, end-to-end or nms.
        max_abs: largest difference of any two numbers that belong together, whatever their unit.
        mean_abs: mean of those differences.
        max_abs_box_px: largest difference of a box or keypoint coordinate, in pixels of the model's input.
        max_abs_score: largest difference of a class score or keypoint score, in [0, 1].
        max_abs_extra: largest difference of mask coefficients, prototypes or angles (radians).
        unpaired: rows of a sorted list without a partner in the other list; 0 for a raw head.
        reordered: rows of a sorted list whose partner has another rank; 0 for a raw head.
        detections_reference: detections of the reference with a score of 0.25 or more, after NMS.
        detections_candidate: those of the candidate.
        detections_agreement: 2 × common / (reference + candidate); 1.0 when neither has any. Common is what has the
            same class and box, and the same mask or keypoints where the task has them. For a classifier, the part of
            images with the same best class.
        rows: rows of the sorted lists of both forms together; 0 for a raw head, and in records from before it was kept.
        by_image: detections of the reference, of the candidate, and common, in each image; for a classifier one each.
            Empty in records from before they were kept.
    """

    images: int
    task: str
    head: str
    max_abs: float
    mean_abs: float
    max_abs_box_px: float
    max_abs_score: float
    max_abs_extra: float
    unpaired: int
    reordered: int
    detections_reference: int
    detections_candidate: int
    detections_agreement: float
    rows: int = 0
    by_image: tuple[Counts, ...] = ()

    def with_more(self, other: ParityInfo) -> ParityInfo:
        """This comparison and that of the same two forms on further images, as one of all of them."""
        images, by_image = self.images + other.images, (*self.by_image, *other.by_image)
        return ParityInfo(
            images=images,
            task=self.task,
            head=self.head,
            max_abs=max(self.max_abs, other.max_abs),
            mean_abs=(self.mean_abs * self.images + other.mean_abs * other.images) / images,
            max_abs_box_px=max(self.max_abs_box_px, other.max_abs_box_px),
            max_abs_score=max(self.max_abs_score, other.max_abs_score),
            max_abs_extra=max(self.max_abs_extra, other.max_abs_extra),
            unpaired=self.unpaired + other.unpaired,
            reordered=self.reordered + other.reordered,
            detections_reference=self.detections_reference + other.detections_reference,
            detections_candidate=self.detections_candidate + other.detections_candidate,
            detections_agreement=dice(by_image),
            rows=self.rows + other.rows,
            by_image=by_image,
        )

    def beyond(self, tolerance: float, imgsz: Size) -> Excess:
        """The difference that comes nearest to its limit, or is the farthest beyond it.

        Args:
            tolerance: of scores, angles and mask values; of pixels by :func:`box_tolerance_px`.
            imgsz: size of the model's input.
        """
        box = Excess(self.max_abs_box_px, box_tolerance_px(tolerance, imgsz))
        others = Excess(max(self.max_abs_score, self.max_abs_extra), tolerance)
        return max(others, box, key=lambda one: one.difference / one.limit if one.limit else one.difference)

    @property
    def nothing_agrees(self) -> bool:
        """Whether the two share nothing: no detection though either has some, or no row of two sorted lists."""
        apart = not self.found_nothing and self.detections_agreement == 0
        return apart or 0 < self.rows == self.unpaired

    @property
    def found_nothing(self) -> bool:
        """Whether neither form has a detection on any image, so that their agreement says nothing."""
        return not self.detections_reference and not self.detections_candidate

    @property
    def compared_nothing(self) -> bool:
        """Whether no number was held against another: NMS inside gives no rows where it finds nothing."""
        return self.head == "nms" and self.found_nothing

    @property
    def text(self) -> str:
        """How many detections agree, for people."""
        if self.found_nothing:
            return f"neither detects anything on {self.images} images"
        return (
            f"{self.detections_agreement:.1%} of {self.detections_reference} detections on {self.images} images agree"
        )


@dataclass(frozen=True)
class SimplifyInfo:
    """What simplifying did.

    Attributes:
        nodes_before: nodes of the source.
        nodes_after: nodes of the file that was written.
        changed: whether that file is the simplified one; False when the source went on.
        max_abs: largest difference of any output to the source's; None when nothing was compared.
        reason: one line.
    """

    nodes_before: int
    nodes_after: int
    changed: bool
    max_abs: float | None
    reason: str


@dataclass(frozen=True)
class PrecisionInfo:
    """What a precision transform did.

    Attributes:
        precision: fp16, int8 or int8-fp16.
        recipe: tensorrt or cpu for INT8, else empty.
        quantized_layers: convolutions that run in INT8.
        float_layers: convolutions that stay in float, by name.
        images: calibration images used; 0 for fp16.
        method: entropy, percentile or minmax for INT8, else empty.
        size_before: bytes of the source.
        size_after: bytes of the file that was written.
        warnings: one line each.
        reduced_range: whether the weights of INT8 are of 7 bits, for an x86 CPU without VNNI.
    """

    precision: str
    recipe: str
    quantized_layers: int
    float_layers: tuple[str, ...]
    images: int
    method: str
    size_before: int
    size_after: int
    warnings: tuple[str, ...] = ()
    reduced_range: bool = False


@dataclass(frozen=True)
class MixedInfo:
    """What the fallback found.

    Attributes:
        layers: convolutions that went back to float, the most sensitive first.
        layers_low: convolutions that were in low precision before.
        sensitivity: for each convolution, the part of the head's error that its return alone takes away (INT8), or that
            it alone causes (FP16).
        accuracy_before: accuracy of the low-precision graph, by the given function.
        accuracy_after: accuracy of the file that was written.
        floor: the accuracy that was asked.
        reached: whether ``accuracy_after`` is at least ``floor``.
        trials: (layers in float, accuracy) in the order they were measured.
        latency_before_ms: median latency of the low-precision graph, None when latency was not measured.
        latency_after_ms: median latency of the written file, measured beside it.
        reason: one line.
    """

    layers: tuple[str, ...]
    layers_low: int
    sensitivity: dict[str, float]
    accuracy_before: float
    accuracy_after: float
    floor: float
    reached: bool
    trials: tuple[tuple[int, float], ...]
    latency_before_ms: float | None
    latency_after_ms: float | None
    reason: str


@dataclass(frozen=True)
class LintFinding:
    """One thing that a rule found.

    Attributes:
        rule: the rule's name, an entry of ``docs/lint.md``.
        severity: ``error`` or ``warning``.
        node: the node, weight or input it is about; empty for the whole graph.
        message: what was seen.
        remedy: what to do.
        count: how many of the same kind there are; ``node`` is the first.
    """

    rule: str
    severity: str
    node: str
    message: str
    remedy: str
    count: int = 1
