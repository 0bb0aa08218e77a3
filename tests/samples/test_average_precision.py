"""mAP under resampled images is Ultralytics' own mAP of the resampled detections; a drop's interval holds the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from benchmarks import accuracy_gate as accuracy_gate_benchmark
from benchmarks.accuracy_gate import mean_average_precision
from edgeprune.samples.average_precision import (
    MIN_IMAGES,
    Detections,
    DropInterval,
    ImageScores,
    drop_interval,
    standard_error,
)
from edgeprune.samples.gates import Verdict, accuracy_gate
from edgeprune.serial import from_json

THRESHOLDS = 10


def random_detections(rng: np.random.Generator, images: int, classes: int, quality: float = 0.7) -> Detections:
    """A detector that finds a label with probability ``quality``, less at higher IoU, and invents some boxes."""
    per_image = rng.poisson(3, images)
    label_image = np.repeat(np.arange(images), per_image)
    label_category = rng.integers(0, classes, len(label_image))
    difficulty = rng.random(len(label_image)) + 0.3 * rng.standard_normal(images)[label_image]
    found = difficulty < quality + 0.2
    looseness = np.clip(rng.normal(1 - quality, 0.2, found.sum()), 0, 1)
    correct = looseness[:, None] < 1 - np.arange(THRESHOLDS) / THRESHOLDS
    invented = rng.poisson(2 * images)
    image = np.concatenate((label_image[found], rng.integers(0, images, invented)))
    confidence = np.concatenate((rng.beta(4, 2, found.sum()), rng.beta(2, 4, invented)))
    category = np.concatenate((label_category[found], rng.integers(0, classes, invented)))
    correct = np.concatenate((correct, np.zeros((invented, THRESHOLDS), bool)))
    return Detections(
        images,
        image.astype(np.int32),
        confidence.astype(np.float32),
        category.astype(np.int32),
        correct,
        label_image.astype(np.int32),
        label_category.astype(np.int32),
    )


def ultralytics_map(table: Detections, weights: np.ndarray) -> float:
    """mAP by Ultralytics of the images repeated as often as their weight says."""
    from ultralytics.utils.metrics import ap_per_class

    repeat = weights[table.image].astype(int)
    labels = weights[table.label_image].astype(int)
    ap = ap_per_class(
        np.repeat(table.correct, repeat, axis=0).astype(float),
        np.repeat(table.confidence, repeat),
        np.repeat(table.category, repeat).astype(float),
        np.repeat(table.label_category, labels).astype(float),
    )[5]
    return float(ap.mean())


@pytest.mark.parametrize("seed", range(3))
def test_a_resampled_map_is_what_ultralytics_gives_for_the_repeated_images(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = random_detections(rng, images=60, classes=4)
    weights = np.concatenate((np.ones((1, 60)), rng.multinomial(60, np.full(60, 1 / 60), size=6))).astype(np.float32)
    seen = table.resampled(weights)
    assert seen == pytest.approx([ultralytics_map(table, row) for row in weights], abs=2e-3)
    assert mean_average_precision([table])[0] == pytest.approx(ultralytics_map(table, weights[0]), abs=1e-9)


def test_a_model_without_detections_has_zero() -> None:
    none = np.zeros(0, np.int32)
    labels = np.arange(30, dtype=np.int32)
    table = Detections(30, none, none.astype(np.float32), none, np.zeros((0, 10), bool), labels, labels * 0)
    assert mean_average_precision([table]) == [0.0]


def test_pairing_takes_away_what_both_models_share() -> None:
    table = random_detections(np.random.default_rng(0), images=100, classes=3)
    correct = table.correct.copy()
    correct[np.flatnonzero(correct[:, 0])[0]] = False
    together = drop_interval(table, replace(table, correct=correct), 0.0).standard_error
    alone = standard_error(table)
    assert together is not None and alone is not None and 0 < together < alone / 3


def test_other_outputs_that_every_draw_gives_the_same_figure_of_tell_nothing_of_other_images() -> None:
    table = random_detections(np.random.default_rng(0), images=100, classes=3)
    surer = replace(table, confidence=table.confidence * np.float32(1.5))
    interval = drop_interval(table, surer, 0.0)
    assert (interval.standard_error, interval.images) == (None, 100)
    judged = accuracy_gate("engine", 0.5, 0.5, 0.01, interval=interval)
    assert judged.verdict is Verdict.INCONCLUSIVE and "though the outputs differ" in judged.reason
    assert "too few" not in judged.reason
    same = accuracy_gate("engine", 0.5, 0.5, 0.01, interval=drop_interval(table, replace(table), 0.0))
    assert same.verdict is Verdict.PASS, "bit for bit the same"


def test_one_model_whose_figure_no_draw_moves_has_no_error() -> None:
    images = np.arange(30, dtype=np.int32)
    found = Detections(30, images, np.ones(30, np.float32), images * 0, np.ones((30, 10), bool), images, images * 0)
    assert standard_error(found) is None
    assert standard_error(ImageScores(np.ones(30))) == pytest.approx(np.sqrt(32 * 2 / 34**3)), "right on all of them"


def classifiers(rng: np.random.Generator, images: int, lost: float, gained: float) -> tuple[ImageScores, ImageScores]:
    """Two that differ on images drawn with these chances: only the first is right, only the second is."""
    drawn, shared = rng.random(images), rng.random(images) < 0.9
    only_first, only_second = drawn < lost, (lost <= drawn) & (drawn < lost + gained)
    first, second = np.where(only_second, 0.0, only_first | shared), np.where(only_first, 0.0, only_second | shared)
    return (
        ImageScores(first, rng.random((images, 5)).astype(np.float32)),
        ImageScores(second, rng.random((images, 5)).astype(np.float32)),
    )


@pytest.mark.parametrize("images", [20, 50, 300])
@pytest.mark.parametrize(("lost", "gained"), [(0.02, 0.0), (0.0101, 0.0), (0.0301, 0.02), (0.1101, 0.1)])
def test_a_classifier_that_lost_more_than_the_floor_passes_in_at_most_5_per_cent(
    images: int, lost: float, gained: float
) -> None:
    rng, runs, passed = np.random.default_rng(0), 400, 0
    for _ in range(runs):
        pair = classifiers(rng, images, lost, gained)
        before, after = (float(one.scores.mean()) for one in pair)
        interval = drop_interval(*pair, before - after)
        passed += accuracy_gate("engine", before, after, 0.01, interval=interval).verdict is Verdict.PASS
    assert passed / runs <= 0.05 + 0.02, "2 % of noise in 400 runs"


@pytest.mark.parametrize(("images", "verdict"), [(20, Verdict.INCONCLUSIVE), (400, Verdict.PASS)])
def test_no_image_that_differs_leaves_three_in_all_of_them(images: int, verdict: Verdict) -> None:
    right = np.ones(images)
    other = ImageScores(right, np.full((images, 1), 0.9, np.float32))
    interval = drop_interval(ImageScores(right, np.ones((images, 1), np.float32)), other, 0.0)
    assert interval.upper(0.95) == pytest.approx(3 / images, rel=0.08)
    assert (interval.lost, interval.gained) == (0, 0)
    judged = accuracy_gate("engine", 1.0, 1.0, 0.01, interval=interval)
    assert judged.verdict is verdict, judged.reason
    needed = interval.images_to_settle(0.01, 0.95)
    assert needed == 299
    enough = [DropInterval(0.0, 0.01, count, 0, 0, 0).upper(0.95) <= 0.01 for count in (needed - 1, needed)]
    assert enough == [False, True]


def test_both_ends_speak_of_the_images_that_differ() -> None:
    before, after = np.ones(200), np.ones(200)
    after[:12], before[12:14] = 0, 0
    interval = drop_interval(ImageScores(before), ImageScores(after), 0.05)
    assert (interval.lost, interval.gained) == (12, 2)
    back = drop_interval(ImageScores(after), ImageScores(before), -0.05)
    assert interval.upper(0.95) == pytest.approx(-back.lower(0.95)) and interval.lower(0.95) < 0.05
    assert interval.standard_error == pytest.approx(np.sqrt(15 - 100 / 202) / 202)


def test_too_few_images_have_no_interval() -> None:
    scores = ImageScores(np.ones(MIN_IMAGES - 1))
    interval = drop_interval(scores, scores, 0.0)
    assert interval.standard_error is None
    assert interval.upper(0.95) == np.inf
    assert interval.lower(0.95) == -np.inf
    assert interval.images_to_settle(0.02, 0.95) is None


def with_background(table: Detections, images: int) -> Detections:
    """The same with images that have no objects, to so many in all."""
    return replace(table, images=images)


def pair_of(images: int) -> tuple[Detections, Detections]:
    """A detector and one that loses some objects; every image has one."""
    table = random_detections(np.random.default_rng(0), images=images, classes=2)
    has = np.arange(images, dtype=np.int32)
    table = replace(
        table,
        label_image=np.concatenate((table.label_image, has)),
        label_category=np.concatenate((table.label_category, has % 2)),
    )
    correct = table.correct.copy()
    correct[::7] = False
    return table, replace(table, correct=correct)


@pytest.mark.parametrize("objects_in", [2, MIN_IMAGES - 1])
def test_images_without_objects_are_no_evidence(objects_in: int) -> None:
    pair = [with_background(table, 100) for table in pair_of(objects_in)]
    interval = drop_interval(*pair, 0.0)
    assert (interval.standard_error, interval.images, interval.labelled) == (None, 100, objects_in)
    gate = accuracy_gate("engine", 0.5, 0.5, 0.4, interval=interval, split="val")
    assert gate.verdict is Verdict.INCONCLUSIVE
    said = f"100 images of val hold {objects_in} images with objects, which are too few to tell, 20 are the least"
    assert said in gate.reason
    assert standard_error(pair[0]) is None


def test_an_interval_has_the_freedom_of_the_images_with_objects() -> None:
    pair = [with_background(table, 1000) for table in pair_of(MIN_IMAGES)]
    interval = drop_interval(*pair, 0.1)
    assert interval.standard_error is not None and interval.labelled == MIN_IMAGES
    away = float(stats.t.ppf(0.95, MIN_IMAGES - 1)) * interval.standard_error
    assert interval.upper(0.95) == pytest.approx(0.1 + away)
    assert interval.lower(0.95) == pytest.approx(0.1 - away)


def test_the_spread_of_a_bootstrap_is_not_the_smaller_one_of_its_images() -> None:
    images, draws = 25, 4000
    scores = np.random.default_rng(0).random(images)  # no share: a mean, whose error is known
    found = standard_error(ImageScores(scores), draws=draws)
    assert found == pytest.approx(scores.std(ddof=1) / np.sqrt(images), rel=0.015), "2 % more than the bootstrap's own"


def test_a_record_from_before_objects_were_counted_is_judged_as_it_was() -> None:
    data = {"drop": 0.01, "standard_error": 0.005, "images": 100, "draws": 200, "lost": None, "gained": None}
    old = from_json(DropInterval, data, "a record")
    assert old.upper(0.95) == pytest.approx(0.01 + float(stats.t.ppf(0.95, 99)) * 0.005)
    few = from_json(DropInterval, {**data, "standard_error": None, "images": 8}, "a record")
    assert few.why_unknown == "are too few to tell, 20 are the least"


def test_a_model_against_itself_loses_nothing_on_however_few_images() -> None:
    few = random_detections(np.random.default_rng(0), images=5, classes=2)
    assert drop_interval(few, few, 0.0).upper(0.95) == 0.0
    other = replace(few, confidence=few.confidence * np.float32(0.999))
    assert drop_interval(few, other, 0.0).standard_error is None


def test_a_classifier_against_itself_loses_nothing_and_one_that_is_as_often_right_is_another() -> None:
    right = ImageScores(np.ones(5), np.array([[1.0, 1e-9]] * 5, np.float32))
    assert drop_interval(right, right, 0.0).upper(0.95) == 0.0
    other = replace(right, confidence=right.confidence * np.array([1.0, 1.5], np.float32))
    for one in (other, ImageScores(right.scores), random_detections(np.random.default_rng(0), images=5, classes=2)):
        assert drop_interval(right, one, 0.0).standard_error is None


def test_different_splits_are_not_paired() -> None:
    with pytest.raises(ValueError, match="20 and 30 images"):
        drop_interval(ImageScores(np.ones(20)), ImageScores(np.ones(30)), 0.0)


def test_the_error_of_a_share_is_that_of_the_binomial() -> None:
    rng = np.random.default_rng(0)
    scores = (rng.random(400) < 0.3).astype(float)
    interval = drop_interval(ImageScores(scores), ImageScores(np.zeros(400)), 0.3, draws=2000)
    assert interval.standard_error == pytest.approx(np.sqrt(0.3 * 0.7 / 400), rel=0.1)
    assert interval.upper(0.95) == pytest.approx(0.3 + 1.65 * 0.0229, abs=0.006)
    assert interval.lower(0.95) == pytest.approx(0.3 - 1.65 * 0.0229, abs=0.006)
    assert interval.images_to_settle(0.29, 0.95) == pytest.approx(400 * (1.65 * 0.0229 / 0.01) ** 2, rel=0.25)


@pytest.mark.parametrize("images", [40, 100])
def test_the_accuracy_gate_keeps_its_promise(images: int) -> None:
    lost = 0.35
    floor = accuracy_gate_benchmark.true_drop(1.0, lost, images=4000) / 2
    equal = accuracy_gate_benchmark.verdicts(60, images, 0.0, floor)
    worse = accuracy_gate_benchmark.verdicts(60, images, lost, floor)
    assert equal[Verdict.FAIL] <= 3 and worse[Verdict.PASS] <= 3, (equal, worse)
    assert equal[Verdict.PASS] > worse[Verdict.PASS] and worse[Verdict.FAIL] > equal[Verdict.FAIL]


def test_the_table_of_the_accuracy_gate_has_losses_on_either_side_of_the_floor(
    capsys: pytest.CaptureFixture[str],
) -> None:
    accuracy_gate_benchmark.print_table(1, drawn=4000)
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]
    assert [row[0] for row in rows[::3]] == ["| none", "| 0.9 × the floor", "| 1.1 × the floor", "| twice the floor"]
    for share in (0.9, 1.1):
        lost = accuracy_gate_benchmark.lost_for(share * 0.0172, images=4000)
        assert accuracy_gate_benchmark.true_drop(1.0, lost, images=4000) == pytest.approx(share * 0.0172, rel=0.05)
