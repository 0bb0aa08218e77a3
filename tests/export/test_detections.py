from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ultralytics.utils.ops import process_mask

from edgeprune.errors import StageError
from edgeprune.export.detections import Layout, _mask_iou, detection_agreement, pair_rows
from edgeprune.export.parity import compare_arrays
from edgeprune.export.result import EXPORT_TOLERANCE, SIMPLIFY_TOLERANCE
from edgeprune.records.gates import agreement_gate, parity_gate
from edgeprune.samples.agreement import FIRST_LOOK, Counts, dice
from edgeprune.samples.gates import Gate, Verdict

END_TO_END = Layout("detect", "end-to-end", 3)
RAW = Layout("detect", "raw", 3)


def sorted_rows(rng: np.random.Generator, count: int) -> np.ndarray:
    corner = rng.uniform(0, 280, (count, 2))
    rows = np.column_stack(
        [corner, corner + rng.uniform(8, 40, (count, 2)), rng.random(count), rng.integers(0, 3, count)]
    )
    return rows[np.argsort(-rows[:, 4])]


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), count=st.integers(2, 60))
def test_rows_that_change_places_are_no_difference(seed, count):
    rng = np.random.default_rng(seed)
    rows = sorted_rows(rng, count)
    found = compare_arrays([rows[None]], [rows[None, rng.permutation(count)]], END_TO_END)
    assert found.max_abs == 0.0
    assert found.unpaired == 0
    assert found.detections_agreement == 1.0


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), shift=st.floats(1e-4, 0.9))
def test_a_moved_box_is_reported_whole(seed, shift):
    rows = sorted_rows(np.random.default_rng(seed), 20)
    moved = rows.copy()
    moved[7, 2] += shift
    found = compare_arrays([rows[None]], [moved[None]], END_TO_END)
    assert found.max_abs_box_px == pytest.approx(shift, rel=1e-6)
    assert found.max_abs_score == 0.0


def test_a_naive_comparison_would_have_been_wrong():
    rows = sorted_rows(np.random.default_rng(0), 30)
    rows[11, 4] = rows[10, 4]  # a tie: either order is right
    swapped = rows.copy()
    swapped[[10, 11]] = rows[[11, 10]]
    assert np.abs(rows - swapped).max() > 5
    found = compare_arrays([rows[None]], [swapped[None]], END_TO_END)
    assert (found.max_abs, found.reordered) == (0.0, 2)


def test_a_row_cut_off_at_the_end_costs_only_its_distance_to_the_cut():
    rows = sorted_rows(np.random.default_rng(1), 31)
    rows[29, 4], rows[30, 4] = 0.0100001, 0.0100000
    found = pair_rows(rows[:30], np.delete(rows, 29, axis=0))
    assert found.unpaired == 2
    assert found.missing_score == pytest.approx(1e-7, rel=1e-3)


def test_a_lost_detection_costs_its_score():
    rows = sorted_rows(np.random.default_rng(1), 31)
    rows[0, 4], rows[30, 4] = 0.9, 0.01
    found = compare_arrays([rows[None, :30]], [rows[None, 1:]], END_TO_END)
    assert found.unpaired == 2
    assert found.max_abs_score > 0.85
    assert found.detections_agreement < 1.0


def test_another_class_is_no_partner():
    rows = sorted_rows(np.random.default_rng(2), 12)
    other = rows.copy()
    other[0, 5] = (rows[0, 5] + 1) % 3
    assert pair_rows(rows, other).unpaired == 2


@pytest.mark.parametrize("head", ["end-to-end", "nms"])
@pytest.mark.parametrize("column", [0, 4, 5])
@pytest.mark.parametrize("where", [slice(0, 1), slice(None)])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_no_numbers_have_no_partner_and_never_pass(head, column, where, value):
    rows = sorted_rows(np.random.default_rng(4), 20)
    broken = rows.copy()
    broken[where, column] = value
    for pair in ((rows, broken), (broken, rows), (broken, broken)):
        found = compare_arrays([pair[0][None]], [pair[1][None]], Layout("detect", head, 3))
        assert found.max_abs == found.max_abs_score == np.inf
        assert found.unpaired == (1 if where.stop else 20) * 2
        assert parity_gate("export", found, EXPORT_TOLERANCE, 640, "").verdict is not Verdict.PASS


def test_one_score_that_is_no_number_leaves_the_other_rows_their_partners():
    rows = sorted_rows(np.random.default_rng(5), 20)
    broken, moved = rows.copy(), rows.copy()
    broken[3, 4] = np.nan
    moved[7, 2] += 0.5
    found = pair_rows(broken, moved)
    assert (found.unpaired, len(found.differences)) == (2, 19)
    assert found.differences.max() == pytest.approx(0.5)


def test_lists_that_share_nothing_fail_whatever_the_cut_explains():
    rows = sorted_rows(np.random.default_rng(6), 20)
    for score in (0.9, 0.1):  # seen by a user, and not
        rows[:, 4] = score
        elsewhere = rows.copy()
        elsewhere[:, :4] += 400
        found = compare_arrays([rows[None]], [elsewhere[None]], END_TO_END)
        assert found.max_abs == 0.0  # every row may have fallen off at the cut
        assert found.rows == found.unpaired == 40
        gate = parity_gate("export", found, EXPORT_TOLERANCE, 640, "against PyTorch")
        assert gate.verdict is Verdict.FAIL and "nothing in common" in gate.reason


def test_a_classifier_of_nans_does_not_agree_with_the_first_class():
    scores = np.tile([0.8, 0.1, 0.1], (4, 1))
    found = compare_arrays([scores], [np.full_like(scores, np.nan)], Layout("classify", "raw", 3))
    assert agreement_gate("engine", found).verdict is Verdict.FAIL


@pytest.mark.parametrize(("tolerance", "px"), [(EXPORT_TOLERANCE, 1.13e-3), (SIMPLIFY_TOLERANCE, 1.23e-4)])
def test_what_pixels_may_differ_by_grows_with_the_input_and_what_scores_may_does_not(tolerance, px):
    raw = np.full((1, 7, 8), 0.5)

    def gate(row: int, difference: float, imgsz: int | tuple[int, int]) -> Gate:
        other = raw.copy()
        other[0, row, 0] += difference
        return parity_gate("export", compare_arrays([raw], [other], RAW), tolerance, imgsz, "against PyTorch")

    for imgsz in (1280, (384, 1280)):  # a healthy model's; one step of float32 beyond 1024
        passed = gate(0, px, imgsz)
        assert passed.verdict is Verdict.PASS
        assert passed.limit == pytest.approx(2 * tolerance)
        assert f"within {2 * tolerance:g} px at 1280" in passed.reason
    assert gate(0, px, 640).verdict is Verdict.FAIL
    assert gate(0, 3 * tolerance, 1280).verdict is Verdict.FAIL
    beyond = gate(4, px, 1280)
    assert beyond.verdict is Verdict.FAIL
    assert (beyond.value, beyond.limit) == (pytest.approx(px), tolerance)


def test_rows_of_zeros_from_embedded_nms_are_left_out():
    rows = sorted_rows(np.random.default_rng(3), 10)
    padded = np.vstack([rows, np.zeros((290, 6))])
    found = compare_arrays([padded[None]], [padded[None]], Layout("detect", "nms", 3))
    assert (found.max_abs, found.unpaired) == (0.0, 0)


def test_a_raw_head_is_compared_number_by_number():
    raw = np.random.default_rng(0).random((2, 7, 84))
    other = raw.copy()
    other[1, 2, 5] += 0.5
    other[0, 6, 3] -= 0.25
    found = compare_arrays([raw], [other], RAW)
    assert (found.max_abs_box_px, found.max_abs_score) == (pytest.approx(0.5), pytest.approx(0.25))
    assert found.mean_abs == pytest.approx(0.75 / raw.size)


def test_keypoints_are_pixels_and_their_visibility_is_a_score():
    columns = Layout("pose", "raw", 1, (2, 3)).columns(11)
    assert list(columns) == ["box"] * 4 + ["score"] + ["box", "box", "score"] * 2


def test_an_angle_and_mask_coefficients_are_neither():
    assert list(Layout("obb", "raw", 2).columns(7))[-1] == "extra"
    assert list(Layout("segment", "end-to-end", 2).row_columns(38))[6:] == ["extra"] * 32


def test_a_nan_is_an_infinite_difference():
    raw = np.zeros((1, 7, 4))
    other = raw.copy()
    other[0, 5, 1] = np.nan
    assert compare_arrays([raw], [other], RAW).max_abs_score == np.inf


def test_other_shapes_are_no_other_form_of_the_model():
    with pytest.raises(StageError, match="shapes"):
        compare_arrays([np.zeros((1, 7, 84))], [np.zeros((1, 7, 21))], RAW)


def test_agreement_counts_common_detections_both_ways():
    rows = np.zeros((1, 300, 6))
    rows[0, :4] = [[0, 0, 10, 10, 0.9, 0], [50, 50, 90, 90, 0.8, 1], [5, 60, 30, 90, 0.6, 2], [0, 0, 5, 5, 0.1, 0]]
    other = rows.copy()
    other[0, 1, :4] += 40  # far away now
    nothing = np.zeros_like(rows)
    for ours, theirs, counts, share in (
        (rows, other, Counts(3, 3, 2), 4 / 6),
        (rows, nothing, Counts(3, 0, 0), 0.0),
        (nothing, nothing, Counts(0, 0, 0), 1.0),
    ):
        found = detection_agreement([ours], [theirs], END_TO_END)
        assert found == (counts,) and dice(found) == pytest.approx(share)


def test_images_that_are_compared_later_count_as_if_they_had_been_compared_at_once():
    rng = np.random.default_rng(5)
    ours = np.concatenate([sorted_rows(rng, 20)[None] for _ in range(5)])
    theirs = ours + rng.normal(0, 0.01, ours.shape) * (np.arange(6) < 5)
    apart = [compare_arrays([ours[part]], [theirs[part]], END_TO_END) for part in (slice(0, 2), slice(2, 5))]
    whole = compare_arrays([ours], [theirs], END_TO_END)
    merged = apart[0].with_more(apart[1])
    assert replace(merged, mean_abs=0.0) == replace(whole, mean_abs=0.0)
    assert merged.mean_abs == pytest.approx(whole.mean_abs, rel=0.05) and len(merged.by_image) == 5


def test_a_classifier_agrees_where_the_best_class_is_the_same():
    ours = np.array([[0.9, 0.1], [0.4, 0.6]])
    theirs = np.array([[0.8, 0.2], [0.7, 0.3]])
    found = compare_arrays([ours], [theirs], Layout("classify", "raw", 2))
    assert found.detections_agreement == 0.5
    assert found.max_abs_score == pytest.approx(0.3)


SEGMENT, POSE = Layout("segment", "end-to-end", 3), Layout("pose", "end-to-end", 3, (4, 3))


def found_objects(extra: int) -> np.ndarray:
    """Three detections of an image of 64 px and rows of nothing, with so many further columns."""
    rows = np.zeros((1, 20, 6 + extra))
    rows[0, :3, :6] = [[4, 4, 36, 28, 0.9, 0], [30, 30, 62, 62, 0.8, 1], [8, 34, 28, 60, 0.6, 2]]
    return rows


def with_masks() -> list[np.ndarray]:
    """Three detections whose masks are ellipses: a prototype for each."""
    rows = found_objects(3)
    down, across = np.mgrid[2:64:4, 2:64:4]
    prototypes = np.zeros((1, 3, 16, 16))
    for index, (left, top, right, bottom) in enumerate(rows[0, :3, :4]):
        rows[0, index, 6 + index] = 2.0
        x, y = (across - (left + right) / 2) / (right - left) * 2, (down - (top + bottom) / 2) / (bottom - top) * 2
        prototypes[0, index] = 1 - x**2 - y**2
    return [rows, prototypes]


def with_keypoints() -> list[np.ndarray]:
    """Three detections with a keypoint in the middle of every side; the last of every one is not seen."""
    rows = found_objects(12)
    for row in rows[0, :3]:
        left, top, right, bottom = row[:4]
        x, y = (left + right) / 2, (top + bottom) / 2
        row[6:] = [x, top, 0.99, right, y, 0.97, x, bottom, 0.95, left, y, 0.01]
    return [rows]


def agreement_of(outputs: list[np.ndarray], layout: Layout, change: Callable[[list[np.ndarray]], None]) -> float:
    """With the same outputs after a change; their boxes and scores agree."""
    changed = [output.copy() for output in outputs]
    change(changed)
    found = compare_arrays(outputs, changed, layout)
    assert (found.max_abs_score if layout.task == "segment" else 0.0) == 0.0
    return found.detections_agreement


def zero_everything(outputs: list[np.ndarray]) -> None:
    outputs[0][..., 6:] = 0.0
    outputs[1][:] = 0.0


def zero_coefficients(outputs: list[np.ndarray]) -> None:
    outputs[0][..., 6:] = 0.0


def zero_prototypes(outputs: list[np.ndarray]) -> None:
    outputs[1][:] = 0.0


def exchange_prototypes(outputs: list[np.ndarray]) -> None:
    outputs[1][:] = outputs[1][:, ::-1]


def invert_prototypes(outputs: list[np.ndarray]) -> None:
    outputs[1][:] *= -1


@pytest.mark.parametrize(
    ("change", "agree"),
    [
        (zero_everything, 0.0),
        (zero_coefficients, 0.0),
        (zero_prototypes, 0.0),
        (exchange_prototypes, 1 / 3),
        (invert_prototypes, 0.0),
        (lambda outputs: None, 1.0),
        (lambda outputs: np.multiply(outputs[1], 0.3, out=outputs[1]), 1.0),  # another contrast is the same mask
        (lambda outputs: np.add(outputs[1], 0.05, out=outputs[1]), 1.0),  # rounding
    ],
)
def test_a_segmentation_agrees_only_where_its_masks_do(change, agree):
    assert agreement_of(with_masks(), SEGMENT, change) == pytest.approx(agree)


@pytest.mark.parametrize(
    ("change", "agree"),
    [
        ((0, 1, 2136.0), 0.0),
        ((0, 1, 30.0), 0.0),
        ((0, 1, np.nan), 0.0),
        ((0, 1, 1.0), 1.0),
        ((2, 3, -1.0), 0.0),  # seen by one alone
        ((2, 3, -0.05), 1.0),
    ],
)
def test_a_pose_agrees_only_where_its_keypoints_do(change, agree):
    place, step, by = change

    def moved(outputs: list[np.ndarray]) -> None:
        places = slice(6 + place, None, 3) if step == 3 else [6 + 3 * k + axis for k in range(4) for axis in (0, 1)]
        outputs[0][0, :3, places] += by

    assert agreement_of(with_keypoints(), POSE, moved) == pytest.approx(agree)


def test_a_keypoint_that_neither_sees_may_lie_anywhere():
    def moved(outputs: list[np.ndarray]) -> None:
        outputs[0][0, :3, 15:17] += 500.0

    assert agreement_of(with_keypoints(), POSE, moved) == 1.0


def test_two_empty_masks_are_the_same():
    empty = with_masks()
    empty[1][:] = -1.0
    assert agreement_of(empty, SEGMENT, lambda outputs: None) == 1.0


def test_the_masks_are_ultralytics_own():
    rows, prototypes = with_masks()
    kept = torch.from_numpy(rows[0, :3].astype(np.float32))
    planes = torch.from_numpy(prototypes[0].astype(np.float32))
    masks = process_mask(planes, kept[:, 6:], kept[:, :4], (64, 64), upsample=True).bool().numpy()
    for (i, a), (j, b) in itertools.product(enumerate(rows[0, :3]), repeat=2):
        expected = (masks[i] & masks[j]).sum() / (masks[i] | masks[j]).sum()
        assert _mask_iou(a, b, prototypes[0], prototypes[0]) == pytest.approx(expected, abs=0.02)


def test_the_gate_of_an_engine_fails_where_masks_or_keypoints_are_lost():
    outputs = [np.concatenate([output] * FIRST_LOOK) for output in with_masks()]
    broken = [output.copy() for output in outputs]
    zero_everything(broken)
    assert agreement_gate("engine", compare_arrays(outputs, outputs, SEGMENT)).verdict is Verdict.PASS
    assert agreement_gate("engine", compare_arrays(outputs, broken, SEGMENT)).verdict is Verdict.FAIL
    pose = with_keypoints()
    far = [pose[0].copy()]
    far[0][0, :3, 6::3] += 2136.0
    assert agreement_gate("engine", compare_arrays(pose, far, POSE)).verdict is Verdict.FAIL
