"""Shapes follow the definitions of CXAS, on masks small enough to measure by hand, in pixels and in mm."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxseg.anatomy.measure import shapes
from jaxseg.anatomy.measure.shapes import Region, Unmeasurable

ALL = (shapes.perimeter, shapes.compactness, shapes.centroid, shapes.box, shapes.convexity)


def rectangle(top=3, left=4, height=5, width=8, size=(20, 30)):
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def test_a_rectangle_in_pixels():
    region = Region(rectangle())
    assert shapes.area(region) == {"area": 40}
    # 2 * (7 + 4) steps around, minus the closing step.
    assert shapes.perimeter(region) == {"perimeter": 21}
    assert shapes.compactness(region) == {"compactness": 4 * math.pi * 40 / 21**2}
    assert shapes.centroid(region) == {"cx": 7, "cy": 5}
    assert shapes.box(region) == {"x": 4, "y": 3, "width": 8, "height": 5}
    assert shapes.convexity(region) == {"convexity": 40 / 28}


def test_a_rectangle_in_mm_with_different_row_and_column_distances():
    region = Region(rectangle(), (2.0, 0.5))
    assert shapes.area(region) == {"area": 40, "area_mm2": 40.0}
    # The closing step runs to the left along the top: 7 + 6 steps of columns, 4 + 4 of rows.
    assert shapes.perimeter(region) == {"perimeter": 21, "perimeter_mm": 13 * 0.5 + 8 * 2.0}
    assert shapes.centroid(region) == {"cx": 7, "cy": 5, "centroid_x_mm": 3.75, "centroid_y_mm": 10.0}
    assert shapes.box(region) == {"x": 4, "y": 3, "width": 8, "height": 5, "width_mm": 4.0, "height_mm": 10.0}
    assert "compactness_mm" not in shapes.compactness(region)


def test_a_diagonal_step_has_the_length_of_its_hypotenuse():
    mask = np.eye(3, dtype=bool)
    region = Region(mask, (3.0, 4.0))
    found = shapes.perimeter(region)  # there and back, minus one step
    assert found["perimeter"] == pytest.approx(3 * math.sqrt(2))
    assert found["perimeter_mm"] == pytest.approx(15)


def test_only_the_contour_of_the_part_that_starts_lowest_is_measured():
    mask = rectangle()
    mask[15:17, 20:23] = True
    region = Region(mask)
    assert shapes.area(region) == {"area": 46}
    assert shapes.perimeter(region) == {"perimeter": 5}
    assert shapes.convexity(region) == {"convexity": 46 / 2}
    assert shapes.box(region) == {"x": 4, "y": 3, "width": 19, "height": 14}


def test_an_empty_mask_has_area_0_and_no_other_value():
    region = Region(np.zeros((4, 4), bool), (1.0, 1.0))
    assert shapes.area(region) == {"area": 0, "area_mm2": 0}
    for function in ALL:
        with pytest.raises(Unmeasurable, match="the mask is empty"):
            function(region)


@pytest.mark.parametrize("function", [shapes.perimeter, shapes.compactness, shapes.convexity])
def test_a_single_pixel_has_no_contour(function):
    mask = rectangle()
    mask[19, 0] = True
    with pytest.raises(Unmeasurable, match="starts lowest is a single pixel"):
        function(Region(mask))


def test_a_line_has_a_perimeter_but_no_convexity():
    region = Region(rectangle(height=1, width=4))
    assert shapes.perimeter(region) == {"perimeter": 5}
    with pytest.raises(Unmeasurable, match="straight line of pixels"):
        shapes.convexity(region)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 1))
def test_centroid_and_box_include_all_pixels(seed, share):
    mask = np.random.default_rng(seed).random((9, 13)) < share
    mask[4, 6] = True
    y, x = np.nonzero(mask)
    found = shapes.centroid(Region(mask, (2.0, 3.0)))
    assert (found["cx"], found["cy"]) == (math.floor(x.mean()), math.floor(y.mean()))
    assert (found["centroid_x_mm"], found["centroid_y_mm"]) == pytest.approx((3 * x.mean(), 2 * y.mean()))
    box = {"x": x.min(), "y": y.min(), "width": np.ptp(x) + 1, "height": np.ptp(y) + 1}
    assert shapes.box(Region(mask)) == box
