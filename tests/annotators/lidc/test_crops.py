"""Crops of LIDC slices: the z-score, and CLAHE compared with OpenCV's."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.annotators.lidc.crops import equalise, z_score


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 2.0, 4.0, 40.0]), st.sampled_from([(4, 4), (8, 8), (2, 4)]))
def test_images_are_equalised_as_opencv_does(seed, clip, tiles):
    rng = np.random.default_rng(seed)
    spread = rng.choice([5, 40, 120])
    image = np.clip(rng.normal(rng.integers(30, 220), spread, (64, 48)), 0, 255).astype(np.uint8)
    wanted = cv2.createCLAHE(clip, tiles[::-1]).apply(image)
    found = equalise(image, clip=clip, tiles=tiles)
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - wanted).max() <= 1
    assert (found != wanted).mean() < 0.03  # halves are rounded in the other direction


def test_a_flat_region_gains_contrast_only_with_a_high_clip_limit():
    image = np.full((64, 64), 100, np.uint8)
    image[20:40, 20:40] = 110
    assert np.ptp(equalise(image, clip=40.0)) > 4 * np.ptp(equalise(image, clip=1.0).astype(int))


@pytest.mark.parametrize(
    ("image", "options", "reason"),
    [
        (np.zeros((64, 64)), {}, r"\(H, W\) uint8"),
        (np.zeros((64, 63), np.uint8), {}, "cannot be divided into 4 x 4 equal tiles"),
        (np.zeros((0, 64), np.uint8), {}, "cannot be divided"),
        (np.zeros((64, 64), np.uint8), {"clip": 0}, "clip must be above 0"),
    ],
)
def test_images_and_options_that_do_not_fit_are_refused(image, options, reason):
    with pytest.raises(ValueError, match=reason):
        equalise(image, **options)


def test_crops_are_z_scored_and_clahe_changes_them():
    crop = np.random.default_rng(0).normal(-700, 200, (64, 64))
    for clahe in (False, True):
        np.testing.assert_allclose(
            [z_score(crop, clahe=clahe).mean(), z_score(crop, clahe=clahe).std()], [0, 1], atol=1e-9
        )
    assert np.abs(z_score(crop) - z_score(crop, clahe=True)).max() > 0.2
    with pytest.raises(ValueError, match="a crop is constant"):
        z_score(np.full((64, 64), -1000.1))
