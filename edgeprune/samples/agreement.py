"""How sure a share of detections that two forms of a model have in common is.

A share over a few images is no more than an estimate: an engine that keeps nine tenths of its graph's detections
is seen above nine tenths in every second sample. So the share gets bounds, and more images are looked at only where the
first do not decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from edgeprune.samples.statistics import scipy

MIN_AGREEMENT = 0.9
"""Of an engine's detections with its ONNX's: other kernels round otherwise, which moves a few across the threshold."""
LOOKS = {32: 0.035, 64: 0.010, 128: 0.005}
"""Images after which an engine is looked at, to the chance of a wrong verdict at that look; 5 % of all together.
The first look has most of it, since nearly every engine is decided there, and no fewer images can: of a classifier that
keeps nine tenths of the answers, 32 images are all answered alike with 3.4 %."""
FIRST_LOOK, MOST_IMAGES = min(LOOKS), max(LOOKS)


@dataclass(frozen=True)
class Counts:
    """Detections in one image.

    Attributes:
        reference: of the one form.
        candidate: of the other.
        common: of both.
    """

    reference: int
    candidate: int
    common: int


def dice(counts: Iterable[Counts]) -> float:
    """2 × common / (reference + candidate) over all images; 1.0 where neither form has a detection."""
    seen = [(one.reference + one.candidate, one.common) for one in counts]
    detections = sum(count for count, _ in seen)
    return 2 * sum(common for _, common in seen) / detections if detections else 1.0


class AgreementBounds(NamedTuple):
    """One-sided bounds of the share on other images, each at ``confidence``."""

    low: float
    high: float
    confidence: float

    @property
    def decided(self) -> bool:
        """Whether the share is surely on one side of :data:`MIN_AGREEMENT`."""
        return self.low >= MIN_AGREEMENT or self.high < MIN_AGREEMENT


def agreement_bounds(counts: Sequence[Counts]) -> AgreementBounds:
    """Bounds of Dice's coefficient, 2 × common / (reference + candidate), from the images that it was counted on.

    Of each side the wider of two: the ratio estimator with images as clusters and Student's t (Cochran, *Sampling
    Techniques*, 3rd ed., 6.3), since detections of one image go wrong together; and Clopper and Pearson's over the
    detections, since images that are all alike have no variance.

    Args:
        counts: of each image; those without any detection tell nothing.
    """
    chance = next((chance for images, chance in LOOKS.items() if len(counts) <= images), min(LOOKS.values()))
    seen = [one for one in counts if one.reference + one.candidate]
    images = len(seen)
    if not images:
        return AgreementBounds(0.0, 1.0, 1 - chance)
    sizes = np.array([(one.reference + one.candidate) / 2 for one in seen])
    common = np.array([one.common for one in seen], float)
    detections, agreeing = float(sizes.sum()), float(common.sum())
    share, stats = agreeing / detections, scipy("stats")
    low = float(stats.beta.ppf(chance, agreeing, detections - agreeing + 1)) if agreeing > 0 else 0.0
    high = float(stats.beta.ppf(1 - chance, agreeing + 1, detections - agreeing)) if agreeing < detections else 1.0
    if images == 1:  # one image has no spread, and stands for no other
        return AgreementBounds(min(low, chance), max(high, 1 - chance), 1 - chance)
    residuals = common - share * sizes
    error = math.sqrt(images / (images - 1) * float((residuals**2).sum())) / detections
    reach = float(stats.t.ppf(1 - chance, images - 1)) * error
    return AgreementBounds(max(min(low, share - reach), 0.0), min(max(high, share + reach), 1.0), 1 - chance)
