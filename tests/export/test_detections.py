from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.errors import StageError
from edgeprune.export.detections import Layout, detection_agreement, pair_rows
from edgeprune.export.parity import compare_arrays

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
    assert detection_agreement(rows, other, END_TO_END) == (3, 3, pytest.approx(4 / 6))
    assert detection_agreement(rows, np.zeros_like(rows), END_TO_END) == (3, 0, 0.0)
    assert detection_agreement(np.zeros_like(rows), np.zeros_like(rows), END_TO_END) == (0, 0, 1.0)


def test_a_classifier_agrees_where_the_best_class_is_the_same():
    ours = np.array([[0.9, 0.1], [0.4, 0.6]])
    theirs = np.array([[0.8, 0.2], [0.7, 0.3]])
    found = compare_arrays([ours], [theirs], Layout("classify", "raw", 2))
    assert found.detections_agreement == 0.5
    assert found.max_abs_score == pytest.approx(0.3)
