"""Polygons and run lengths of COCO give the masks of pycocotools, whole and sampled, and damaged ones are refused."""

import time

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from pycocotools import mask as reference

from jaxseg.masks.coco_shapes import changes_of, mask_of, sampled
from jaxseg.nn.indices import nearest_indices

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
RNG = np.random.default_rng


@st.composite
def polygons(draw):
    """Generates the size of an image and one to three polygons, some beyond its edges, some with whole corners."""
    height, width = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    rng = RNG(draw(st.integers(0, 2**32 - 1)))
    found = []
    for _ in range(draw(st.integers(1, 3))):
        corners = rng.uniform(-0.4, 1.4, (rng.integers(3, 10), 2)) * [width, height]
        step = draw(st.sampled_from([0, 0.5, 1]))
        corners = np.round(corners / step) * step if step else corners
        if draw(st.booleans()):
            corners[1] = corners[0]
        found.append(corners.ravel().tolist())
    return found, (height, width)


def expected(segmentation, size: tuple[int, int]) -> np.ndarray:
    """Returns the mask of pycocotools, as its `annToMask` computes it."""
    rles = reference.frPyObjects(segmentation, *size)
    return reference.decode(reference.merge(rles) if isinstance(segmentation, list) else rles) > 0


@hypothesis.settings(deadline=None, max_examples=400)
@hypothesis.given(polygons())
def test_any_polygons_are_filled_as_by_pycocotools(given):
    np.testing.assert_array_equal(mask_of(*given), expected(*given))


def test_a_large_polygon_of_many_corners_is_filled_as_by_pycocotools():
    angle = np.linspace(0, 2 * np.pi, 3000, endpoint=False)
    radius = 700 + 150 * RNG(0).random(3000)
    polygon = [np.stack([1000 + radius * np.cos(angle), 900 + radius * np.sin(angle)], 1).ravel().tolist()]
    np.testing.assert_array_equal(mask_of(polygon, (1800, 2000)), expected(polygon, (1800, 2000)))


@hypothesis.settings(deadline=None, max_examples=100)
@hypothesis.given(polygons(), st.integers(1, 90), st.integers(1, 90))
def test_a_sampled_mask_is_the_sample_of_the_whole_mask(given, height, width):
    segmentation, size = given
    rows, columns = nearest_indices(size[0], height), nearest_indices(size[1], width)
    found = sampled(changes_of(segmentation, size), size, rows, columns)
    np.testing.assert_array_equal(found, mask_of(segmentation, size)[rows][:, columns])


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
def test_run_lengths_are_read_whether_they_are_compressed_or_not(density):
    mask = RNG(1).random((37, 21)) < density
    rle = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
    flat = mask.ravel(order="F").astype(int)
    runs = [0] * int(flat[0]) + [len(part) for part in np.split(flat, np.flatnonzero(np.diff(flat)) + 1)]
    plain = {"size": [37, 21], "counts": [int(run) for run in runs]}
    for segmentation in (rle, rle | {"counts": rle["counts"].decode()}, plain):
        np.testing.assert_array_equal(mask_of(segmentation, (37, 21)), mask)
    np.testing.assert_array_equal(expected(plain, (37, 21)), mask)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "must be a list of polygons, or run lengths with size and counts, got NoneType"),
        ([], "an annotation has no polygon; its box is not a mask"),
        ([3], "a polygon must be a list .*, got int"),
        ([[0, 0, 4, 0]], "at least three corners, got 4 numbers"),
        ([[0, 0, 4, 0, 4, 4, 1]], "got 7 numbers"),
        ([[0, 0, 4, 0, 4, "4"]], "may hold only numbers"),
        ([[0, 0, 4, 0, 4, True]], "may hold only numbers"),
        ([[0, 0, 1e300, 0, 4, 4]], "more than 24 pixels from the origin"),
        ([[0, 0, 10**400, 0, 4, 4]], "more than 24 pixels from the origin"),
        ([[0, 0, float("nan"), 0, 4, 4]], "more than 24 pixels from the origin"),
        ({"size": [2, 2], "counts": "04"}, r"an annotation's size is \[2, 2\], its image's is \[5, 6\]"),
        ({"counts": "04"}, "an annotation's size is None"),
        ({"size": [5, 6], "counts": "4"}, "cover 4 pixels"),
    ],
)
def test_what_is_no_segmentation_is_refused(segmentation, message):
    with pytest.raises(ValueError, match=message):
        changes_of(segmentation, (5, 6))


def test_an_outline_that_would_need_gigabytes_is_refused_before_they_are_taken():
    zigzag = [[0, 0, 30_000, 30_000] * 2000]
    start = time.perf_counter()
    with pytest.raises(ValueError, match="outline has more than 26,843,545 pixels"):
        changes_of(zigzag, (8192, 8192))
    assert time.perf_counter() - start < 1


def test_a_full_size_x_ray_is_sampled_fast_enough_for_training():
    y, x = np.ogrid[:2800, :2300]
    mask = ((y - 1400) ** 2 + (x - 1100) ** 2 < 700**2).astype(np.uint8)
    rle, size = reference.encode(np.asfortranarray(mask)), (2800, 2300)
    rows, columns = nearest_indices(2800, 512), nearest_indices(2300, 512)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        found = sampled(changes_of(rle, size), size, rows, columns)
        times.append(time.perf_counter() - start)
    np.testing.assert_array_equal(found, mask[rows][:, columns])
    assert min(times) < 0.05, "about 0.004 s on one core; a data set has up to 166 classes"
