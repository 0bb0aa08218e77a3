"""Mean average precision of one set of detections under many resamplings of its images, and the interval of a drop.

An mAP has no spread of its own: it is one figure for a whole split. How far it would move on other images of the same
kind is told by the bootstrap (Efron 1979): images are drawn again with replacement, and the figure is formed anew from
the very same detections. Two models that saw the same images are resampled together, so what makes an image hard for
both cancels in their difference. NumPy only.

The average precision is the one that Ultralytics computes (101 recall points, precision envelope, trapezoids): at
recall x the envelope is the largest precision at any true positive whose recall is above x, so only true positives need
to be looked at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from edgeprune.samples.statistics import INTERVAL_END_CONFIDENCE, scipy

RECALL_STEPS = 100  # recall is read at 0, 0.01, …, 1
DRAWS = 200  # resamplings; a standard error from so many is known to 5 %
MIN_IMAGES = 20  # with objects; below this a spread over images says nothing
NO_SPREAD = 1e-9  # a standard deviation of figures between 0 and 1 that is nothing but rounding
DRAWS_AT_ONCE = 50  # bounds the memory: draws × detections of one class, 4 bytes each

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ImageScores:
    """One figure an image, where accuracy is their mean (top-1 of a classifier: 0 or 1).

    Attributes:
        scores: shape (images,).
        confidence: probabilities of the surest classes of every image, which tell one model from another that is as
            often right; shape (images, guesses), no guesses where they were not kept.
    """

    scores: Floats
    confidence: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    @property
    def images(self) -> int:
        """Images in the split."""
        return len(self.scores)

    @property
    def labelled(self) -> int:
        """Images that tell of accuracy: every one has a class."""
        return self.images

    @property
    def is_share(self) -> bool:
        """Whether every image is right or wrong, so that accuracy is the share of the right ones."""
        return bool(np.isin(self.scores, (0.0, 1.0)).all())

    def resampled(self, weights: NDArray[np.float32]) -> Floats:
        """The mean under every row of ``weights``, shape (draws, images) to (draws,)."""
        return (weights @ self.scores.astype(np.float32)).astype(np.float64) / weights.sum(axis=1)


@dataclass(frozen=True, eq=False)
class Detections:
    """What a model found in every image of a split, matched with the labels.

    Attributes:
        images: images in the split, also those without labels or detections.
        image: of every detection, 0 to ``images - 1``; shape (detections,).
        confidence: shape (detections,).
        category: class index of every detection; shape (detections,).
        correct: whether a detection matches a label, at every IoU threshold; shape (detections, thresholds).
        label_image: image of every label; shape (labels,).
        label_category: class index of every label; shape (labels,).
    """

    images: int
    image: NDArray[np.int32]
    confidence: NDArray[np.float32]
    category: NDArray[np.int32]
    correct: NDArray[np.bool_]
    label_image: NDArray[np.int32]
    label_category: NDArray[np.int32]

    @property
    def labelled(self) -> int:
        """Images with objects. A mean of precision over recall is of those: an image without any can only add false
        positives, and a split of many such images and few others tells as little as the few."""
        return len(np.unique(self.label_image))

    def resampled(self, weights: NDArray[np.float32]) -> Floats:
        """Mean average precision over classes and thresholds under every row of ``weights``.

        Args:
            weights: how often each image counts, shape (draws, images).

        Returns:
            Shape (draws,). A class without labels in a draw is left out of its mean, as Ultralytics leaves it out.
        """
        total = np.zeros(len(weights))
        classes = np.zeros(len(weights))
        order = np.argsort(-self.confidence, kind="stable")
        for category in np.unique(self.label_category):
            labels = weights[:, self.label_image[self.label_category == category]].sum(axis=1, dtype=np.float64)
            of_class = order[self.category[order] == category]
            precision = _average_precision(weights, self.image[of_class], self.correct[of_class], labels)
            total += np.where(labels > 0, precision, 0.0)
            classes += labels > 0
        return total / np.maximum(classes, 1)


def _average_precision(
    weights: NDArray[np.float32], image: NDArray[np.int32], correct: NDArray[np.bool_], labels: Floats
) -> Floats:
    """Average precision of one class, mean over thresholds; detections in falling order of confidence.

    Args:
        weights: shape (draws, images).
        image: of every detection, shape (detections,).
        correct: shape (detections, thresholds).
        labels: weight of the labels in every draw, shape (draws,).
    """
    result = np.zeros(len(weights))
    hit_anywhere = np.flatnonzero(correct.any(axis=1))
    if not len(hit_anywhere):
        return result
    used = hit_anywhere[-1] + 1  # what comes after the last true positive changes nothing
    image, correct = image[:used], correct[:used]
    starts = np.concatenate(([0], hit_anywhere[:-1] + 1))
    for begin in range(0, len(weights), DRAWS_AT_ONCE):
        rows = slice(begin, begin + DRAWS_AT_ONCE)
        weight = weights[rows][:, image]
        count = np.add.reduceat(weight, starts, axis=1).cumsum(axis=1, dtype=np.float64)
        weight = weight[:, hit_anywhere]
        all_labels = np.maximum(labels[rows], 1)[:, None]
        for threshold in range(correct.shape[1]):
            columns = np.flatnonzero(correct[hit_anywhere, threshold])
            if not len(columns):
                continue
            hits = weight[:, columns].cumsum(axis=1, dtype=np.float64)
            precision = hits / np.maximum(count[:, columns], 1)
            envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            points = np.ceil(hits / all_labels * RECALL_STEPS - 1e-9)  # recall points below this true positive's recall
            width = np.where(points > 0, (points - 0.5) / RECALL_STEPS, 0.0)
            result[rows] += envelope[:, 0] * width[:, 0] + (envelope[:, 1:] * np.diff(width, axis=1)).sum(axis=1)
    return result / correct.shape[1]


@dataclass(frozen=True)
class DropInterval:
    """Loss of accuracy from baseline to candidate, with the spread that other images would bring.

    Where every image is right or wrong (a classifier's top-1) the ends come from the images on which the two models
    differ: a bootstrap of images that are all right knows no other ones, however few they are. Each kind of difference
    has its exact bound (Clopper and Pearson 1934: none in n images leaves about 3/n), and where both kinds were seen
    their distances are squared and added (Newcombe 1998).

    Attributes:
        drop: baseline minus candidate, in the metric's own scale (0 to 1).
        standard_error: of ``drop``, from the paired bootstrap or, with ``lost`` and ``gained``, from those; None where
            the images do not tell it.
        images: images that both models saw.
        draws: resamplings behind ``standard_error``.
        lost: images that only the baseline has right; None where accuracy is no share of images.
        gained: images that only the candidate has right.
        labelled: of the images those that the spread is of, with objects or a class; None in records from before they
            were counted, which are judged by all their images as they were.
    """

    drop: float
    standard_error: float | None
    images: int
    draws: int
    lost: int | None = None
    gained: int | None = None
    labelled: int | None = None

    @property
    def telling(self) -> int:
        """Images that the spread is of."""
        return self.images if self.labelled is None else self.labelled

    @property
    def why_unknown(self) -> str:
        """Why its images do not tell the spread; empty where they do."""
        if self.standard_error is not None:
            return ""
        if self.telling < MIN_IMAGES:
            few = "are" if self.telling == self.images else f"hold {self.telling} images with objects, which are"
            return f"{few} too few to tell, {MIN_IMAGES} are the least"
        return "give one figure however they are drawn, though the outputs differ: they do not tell what others give"

    def upper(self, confidence: float) -> float:
        """The true drop is at most this, with ``confidence``; infinite where the spread is unknown."""
        return self.drop + self._distance(confidence, self.lost, self.gained)

    def lower(self, confidence: float) -> float:
        """The true drop is at least this, with ``confidence``; minus infinity where the spread is unknown."""
        return self.drop - self._distance(confidence, self.gained, self.lost)

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the greatest true drop, as an interval that is told to people."""
        return self.lower(INTERVAL_END_CONFIDENCE), self.upper(INTERVAL_END_CONFIDENCE)

    def images_to_settle(self, limit: float, confidence: float) -> int | None:
        """How many images would bring the interval off ``limit``, of which as many have objects as of these; None where
        that cannot be told."""
        away = abs(limit - self.drop)
        if self.standard_error is None or away == 0:
            return None
        if self.lost == self.gained == 0:  # and none in those that are added either
            return math.ceil(math.log(1 - confidence) / math.log1p(-away)) if away < 1 else self.images
        towards = (self.lost, self.gained) if limit > self.drop else (self.gained, self.lost)
        return math.ceil(self.images * (self._distance(confidence, *towards) / away) ** 2)

    def _distance(self, confidence: float, against: int | None, back: int | None) -> float:
        """From ``drop`` to an end; ``against`` counts the images that speak for that end, ``back`` the others."""
        if self.standard_error is None:
            return math.inf
        if against is None or back is None:
            return self._quantile(confidence) * self.standard_error
        beta, images = scipy("stats").beta, self.images
        most = 1.0 if against == images else float(beta.ppf(confidence, against + 1, images - against))
        least = 0.0 if back == 0 else float(beta.ppf(1 - confidence, back, images - back + 1))
        return math.hypot(most - against / images, back / images - least)

    def _quantile(self, confidence: float) -> float:
        return float(scipy("stats").t.ppf(confidence, max(self.telling - 1, 1)))


def standard_error(found: Detections | ImageScores, *, draws: int = DRAWS, seed: int = 0) -> float | None:
    """Spread that other images would bring to one model's accuracy; None where the images do not tell it.

    Of a share of images it is that of Agresti and Coull (1998), which a model that is right on all of them has too.
    """
    if found.labelled < MIN_IMAGES:
        return None
    if isinstance(found, ImageScores) and found.is_share:
        share, images = (found.scores.sum() + 2) / (found.images + 4), found.images + 4
        return math.sqrt(share * (1 - share) / images)
    return _known(found.resampled(_drawn(found.images, draws, seed)), found.labelled)


def _known(figures: Floats, images: int) -> float | None:
    """The standard deviation of figures drawn from so many images, of which a bootstrap sees 1/n too little; None where
    every draw gives the same: that is no knowledge of other images."""
    spread = float(figures.std(ddof=1))
    return spread * math.sqrt(images / (images - 1)) if spread > NO_SPREAD else None


def _drawn(images: int, draws: int, seed: int) -> NDArray[np.float32]:
    """How often each image counts, shape (draws, images)."""
    weights = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=draws)
    return weights.astype(np.float32)


def drop_interval(
    baseline: Detections | ImageScores,
    candidate: Detections | ImageScores,
    drop: float,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> DropInterval:
    """The spread of a loss of accuracy over images, by a paired bootstrap; of shares of images by their counts.

    Args:
        baseline: per-image results of the unpruned model.
        candidate: of the pruned one, on the same images in the same order.
        drop: the loss as the validator gives it; the bootstrap gives only its spread.
        draws: resamplings.
        seed: of the resampling.

    Raises:
        ValueError: the two saw different numbers of images.
    """
    if baseline.images != candidate.images:
        raise ValueError(f"{baseline.images} and {candidate.images} images cannot be paired")
    images, labelled = baseline.images, baseline.labelled
    if _same(baseline, candidate):  # a model against itself loses nothing, on however few images
        return DropInterval(drop, 0.0, images, 0, labelled=labelled)
    if labelled < MIN_IMAGES:
        return DropInterval(drop, None, images, 0, labelled=labelled)
    if isinstance(baseline, ImageScores) and isinstance(candidate, ImageScores) and _are_shares(baseline, candidate):
        lost = int((baseline.scores > candidate.scores).sum())
        gained = int((baseline.scores < candidate.scores).sum())
        # half an image of each kind is added (Agresti and Min 2005), so that none seen is not no spread
        variance = lost + gained + 1 - (lost - gained) ** 2 / (images + 2)
        return DropInterval(drop, math.sqrt(variance) / (images + 2), images, 0, lost, gained, labelled)
    weights = _drawn(images, draws, seed)
    difference = baseline.resampled(weights) - candidate.resampled(weights)
    return DropInterval(drop, _known(difference, labelled), images, draws, labelled=labelled)


def _are_shares(*found: ImageScores) -> bool:
    return all(scores.is_share for scores in found)


def _same(first: Detections | ImageScores, second: Detections | ImageScores) -> bool:
    """Whether two models found the very same, to the last digit of every confidence: they are one model."""
    if type(first) is not type(second) or not first.confidence.size:
        return False
    return all(np.array_equal(getattr(first, entry.name), getattr(second, entry.name)) for entry in fields(first))
