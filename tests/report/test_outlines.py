"""Outlines and small masks show the masks that they were computed from."""

import base64
import io
import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from jaxseg.palette import palette
from jaxseg.report.outlines import figure_size, jpeg, outline, painted, reduced, resized

small_masks = arrays.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def polygons(path: str) -> list[np.ndarray]:
    """Returns the corners of every closed polygon of path data, each (N, 2)."""
    assert re.fullmatch(r"(M\d+ \d+l(-?\d+ -?\d+)( -?\d+ -?\d+)*z)*", path), path
    found = []
    for part in path.split("z")[:-1]:
        numbers = np.array([int(n) for n in re.findall(r"-?\d+", part)]).reshape(-1, 2)
        found.append(np.cumsum(numbers, axis=0))
    return found


def filled(path: str, size) -> np.ndarray:
    """Returns the pixels whose centres are on the outline, or inside it by the even-odd rule."""
    inside, edge = np.zeros(size, bool), np.zeros(size, bool)
    for polygon in polygons(path):
        for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            steps = max(abs(x1 - x0), abs(y1 - y0), 1)
            for i in range(steps + 1):
                edge[y0 + (y1 - y0) * i // steps, x0 + (x1 - x0) * i // steps] = True
            for y in range(min(y0, y1), max(y0, y1)):  # half-open interval: a corner counts once
                crossing = x0 + (x1 - x0) * (y - y0) / (y1 - y0)
                inside[y, np.arange(size[1]) < crossing] ^= True
    return inside | edge


@given(small_masks)
@settings(max_examples=150, deadline=None)
def test_an_outline_without_tolerance_gives_the_mask_with_its_holes(mask):
    assert (filled(outline(mask, 0), mask.shape) == mask).all()


@given(small_masks, st.floats(0, 3))
@settings(max_examples=60, deadline=None)
def test_a_coarser_outline_has_at_most_as_many_corners_and_all_lie_in_the_mask(mask, tolerance):
    fine, coarse = polygons(outline(mask, 0)), polygons(outline(mask, tolerance))
    assert len(fine) == len(coarse)
    assert sum(map(len, coarse)) <= sum(map(len, fine))
    for x, y in np.concatenate([*coarse, np.zeros((0, 2), int)]):
        assert mask[y, x]


@given(arrays.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))), st.integers(1, 12))
@settings(max_examples=80, deadline=None)
def test_a_reduced_mask_is_empty_only_if_the_mask_is(mask, side):
    size = figure_size(mask.shape, side)
    small = reduced(mask, size)
    assert (small.shape, small.dtype) == (size, np.dtype(bool))
    assert small.any() == mask.any()
    assert max(size) == min(side, max(mask.shape))
    if mask.all():
        assert small.all()


def test_a_single_pixel_of_a_large_mask_keeps_its_place():
    mask = np.zeros((3000, 2000), bool)
    mask[2999, 100] = True
    assert np.argwhere(reduced(mask, (256, 171))).tolist() == [[255, 8]]


def test_a_painted_picture_has_colours_where_the_masks_are():
    pixels, mask = np.full((40, 40), 100, np.uint8), np.zeros((40, 40), bool)
    mask[:, :20] = True
    picture = painted(pixels, [mask], palette(1), (10, 10))
    assert picture.shape == (10, 10, 3)
    assert (picture[:, 6:] == 100).all()
    assert (picture[5, 2] != 100).any()
    assert (painted(pixels, [], palette(0), (10, 10)) == 100).all()


def test_a_jpeg_is_close_to_its_picture():
    pixels = np.tile(np.arange(64, dtype=np.uint8) * 3, (64, 1))
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(jpeg(pixels, 90)))))
    assert np.abs(shown.astype(int) - pixels).max() < 12
    assert resized(pixels, (32, 16)).shape == (32, 16)
