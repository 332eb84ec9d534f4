"""Fills and contours are painted where the masks are, and nowhere else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.draw.overlay import overlay, region
from jaxseg.palette import palette

GREY = np.full((40, 60), 100, np.uint8)


def square(top: int, left: int, side: int, shape: tuple[int, int] = GREY.shape) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top : top + side, left : left + side] = True
    return mask


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_pixels_outside_masks_stay_unchanged(seed, alpha):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (17, 23, 3), dtype=np.uint8)
    masks = rng.random((3, 17, 23)) > rng.random()
    before = image.copy()
    painted = overlay(image, masks, alpha=alpha)
    outside = ~masks.any(axis=0)
    np.testing.assert_array_equal(painted[outside], image[outside])
    np.testing.assert_array_equal(image, before)


def test_fill_mixes_image_and_colour():
    colours = np.array([[200, 0, 40]], np.uint8)
    painted = overlay(GREY, square(10, 10, 20)[None], alpha=0.25, colors=colours)
    assert painted.dtype == np.uint8
    assert painted[20, 20].tolist() == [125, 75, 85]


@pytest.mark.parametrize(("side", "width"), [(64, 1), (800, 2)])
def test_a_contour_is_inside_its_mask_and_wider_in_large_images(side, width):
    image = np.zeros((side, side), np.uint8)
    mask = square(20, 20, 24, image.shape)
    painted = overlay(image, mask[None], alpha=0)
    contour = (painted == palette(1)[0]).all(axis=-1)
    expected = mask & ~square(20 + width, 20 + width, 24 - 2 * width, image.shape)
    np.testing.assert_array_equal(contour, expected)


def test_contour_follows_the_inner_edge_of_a_hole():
    mask = square(5, 5, 30) & ~square(15, 15, 8)
    painted = overlay(GREY, mask[None], alpha=0)
    assert painted[14, 18].tolist() == palette(1)[0].tolist()
    assert painted[16, 18].tolist() == [100, 100, 100]


def test_a_small_class_stays_visible_on_a_large_one():
    colours = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)
    large, small = square(2, 2, 36), square(12, 12, 10)
    for masks, order in ((np.stack([small, large]), [1, 0]), (np.stack([large, small]), [0, 1])):
        painted = overlay(GREY, masks, alpha=1, colors=colours[order])
        assert painted[16, 16].tolist() == [255, 255, 255]
        assert painted[6, 6].tolist() == [0, 0, 0]


def test_empty_classes_are_skipped():
    masks = np.stack([square(5, 5, 9), np.zeros_like(GREY, bool)])
    without = overlay(GREY, masks[:1], colors=palette(2)[:1])
    np.testing.assert_array_equal(overlay(GREY, masks), without)
    nothing = overlay(GREY, masks[1:])
    np.testing.assert_array_equal(nothing, np.repeat(GREY[..., None], 3, axis=2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": GREY.astype(np.float32)}, r"image must be uint8 .* got float32 \(40, 60\)"),
        ({"image": GREY[None]}, r"image must be uint8 .* got uint8 \(1, 40, 60\)"),
        ({"image": [[1]]}, "image must be uint8 .* got int64"),
        ({"image": GREY[:0], "masks": np.zeros((1, 0, 60), bool)}, "image must have pixels"),
        ({"masks": np.zeros((2, 40, 60), np.uint8)}, "masks must be bool, got uint8; threshold"),
        ({"masks": np.zeros((40, 60), bool)}, r"masks must be .* the image's \(40, 60\), got \(40, 60\)"),
        ({"masks": np.zeros((2, 60, 40), bool)}, r"masks must be .* got \(2, 60, 40\)"),
        ({"colors": palette(3)}, r"colors must be \(2, 3\) integers from 0 to 255, got uint8 \(3, 3\)"),
        ({"colors": np.full((2, 3), 256)}, r"colors must be \(2, 3\) integers from 0 to 255"),
        ({"colors": np.full((2, 3), 0.5)}, r"colors must be \(2, 3\) integers .* got float64"),
        ({"alpha": 1.5}, "alpha must be from 0 to 1, got 1.5"),
    ],
)
def test_bad_arguments_of_overlay_are_refused(change, message):
    given_ = {"image": GREY, "masks": np.zeros((2, 40, 60), bool)} | change
    with pytest.raises(ValueError, match=message):
        overlay(given_.pop("image"), given_.pop("masks"), **given_)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12))
def test_a_region_is_the_mask_in_its_smallest_box(seed, height, width):
    mask = np.random.default_rng(seed).random((height, width)) > 0.8
    part = region(mask)
    assert (part is None) == (not mask.any())
    if part is not None:
        whole = np.zeros_like(mask)
        whole[part.box] = part.inside
        np.testing.assert_array_equal(whole, mask)
        assert part.inside.any(axis=0)[[0, -1]].all()
        assert part.inside.any(axis=1)[[0, -1]].all()
