"""Contours, hulls and areas equal OpenCV's point by point; simplified polygons stay within the tolerance."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.anatomy.measure.contours import (
    all_contours,
    convex_hull,
    first_contour,
    polygon_area,
    simplify,
)


def opencv(mask, mode):
    found, _ = cv2.findContours(mask.astype(np.uint8), mode, cv2.CHAIN_APPROX_NONE)
    return [points[:, 0].tolist() for points in found]


def as_lists(contours):
    return [points.tolist() for points in contours]


@st.composite
def random_masks(draw):
    height, width = draw(st.integers(1, 16)), draw(st.integers(1, 16))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.random((height, width)) < draw(st.floats(0.02, 0.98))


def rings():
    """Returns a mask with regions inside holes of regions, one of them at the border, and thin parts."""
    y, x = np.mgrid[:60, :70]
    distance = np.hypot(y - 30, x - 33)
    mask = (distance // 5 % 2 == 0) & (distance < 32)
    mask[57, 2:68] = True
    mask[2, 69] = mask[5, 5] = True
    return mask


@settings(max_examples=400, deadline=None)
@given(random_masks())
def test_contours_of_random_masks_equal_opencv_in_the_same_order(mask):
    outer = opencv(mask, cv2.RETR_EXTERNAL)
    assert first_contour(mask).tolist() == (outer[0] if outer else [])
    assert as_lists(all_contours(mask)) == opencv(mask, cv2.RETR_LIST)


def test_contours_of_nested_rings_equal_opencv():
    mask = rings()
    assert first_contour(mask).tolist() == opencv(mask, cv2.RETR_EXTERNAL)[0]
    assert as_lists(all_contours(mask)) == opencv(mask, cv2.RETR_LIST)
    assert len(all_contours(mask)) > len(opencv(mask, cv2.RETR_EXTERNAL)) + 4
    assert first_contour(mask.T).tolist() == opencv(mask.T.copy(), cv2.RETR_EXTERNAL)[0]


def test_contours_of_a_large_noisy_mask_equal_opencv():
    mask = np.random.default_rng(3).random((200, 300)) < 0.45
    assert first_contour(mask).tolist() == opencv(mask, cv2.RETR_EXTERNAL)[0]
    assert as_lists(all_contours(mask)) == opencv(mask, cv2.RETR_LIST)


def test_contours_of_empty_and_full_masks():
    assert all_contours(np.zeros((5, 4), bool)) == all_contours(np.zeros((0, 4), bool)) == []
    assert first_contour(np.zeros((5, 4), bool)).shape == (0, 2)
    assert first_contour(np.ones((1, 1), bool)).tolist() == [[0, 0]]
    full = np.ones((5, 4), bool)
    assert [first_contour(full).tolist()] == opencv(full, cv2.RETR_EXTERNAL)


@pytest.mark.parametrize("mask", [np.zeros((3, 3)), np.zeros((1, 3, 3), bool), np.zeros(3, bool)])
def test_arrays_that_are_not_masks_are_refused(mask):
    with pytest.raises(ValueError, match=r"must be \(H, W\) bool"):
        first_contour(mask)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(-20, 20), st.integers(-20, 20)), min_size=1, max_size=40))
def test_hulls_have_the_same_corners_and_area_as_opencv(points):
    points = np.array(points, np.int32)
    hull = convex_hull(points)
    want = cv2.convexHull(points[:, None])[:, 0]
    assert set(map(tuple, hull.tolist())) == set(map(tuple, want.tolist()))
    assert polygon_area(hull) == cv2.contourArea(want)
    assert len(hull) == len({tuple(point) for point in hull.tolist()})


def test_hull_and_area_of_no_points():
    assert convex_hull(np.zeros((0, 2), int)).shape == (0, 2)
    assert polygon_area(np.zeros((0, 2))) == polygon_area([[1, 2], [5, 9]]) == 0


@settings(max_examples=150, deadline=None)
@given(random_masks(), st.sampled_from([0.0, 0.5, 1.0, 3.0, 100.0]))
def test_simplified_contours_stay_within_the_tolerance(mask, tolerance):
    for contour in all_contours(mask):
        simple = simplify(contour, tolerance)
        assert min(3, len(contour)) <= len(simple) <= len(contour)
        places = iter(contour.tolist())
        assert all(point in places for point in simple.tolist()), "the order has changed"
        start = simple.astype(float)
        along = np.roll(start, -1, axis=0) - start
        length = np.maximum((along**2).sum(1), 1e-12)
        share = np.clip(((contour[:, None] - start) * along).sum(2) / length, 0, 1)
        apart = np.linalg.norm(contour[:, None] - start - share[..., None] * along, axis=2).min(1)
        assert apart.max() <= tolerance + 1e-9


def test_a_simplified_square_has_four_corners_and_the_same_area():
    contour = first_contour(np.ones((20, 30), bool))
    assert sorted(simplify(contour, 0).tolist()) == [[0, 0], [0, 19], [29, 0], [29, 19]]
    assert polygon_area(simplify(contour, 0.5)) == polygon_area(contour) == 19 * 29


@pytest.mark.parametrize("tolerance", [-1, float("nan"), float("inf")])
def test_an_invalid_tolerance_is_refused(tolerance):
    with pytest.raises(ValueError, match="tolerance must be at least 0"):
        simplify(np.zeros((5, 2)), tolerance)
