"""Phantoms show the same patient for a seed at every size, and their anatomy is plausible."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from jaxseg.datasets import phantom

RIGHT_LUNG, LEFT_LUNG, HEART, SPINE, RIBS, CLAVICLES = range(6)
SMALL = 64


@pytest.fixture(scope="module")
def crowd() -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns 200 patients at 64 pixels."""
    return [phantom.draw(seed, SMALL) for seed in range(200)]


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a & b).sum((1, 2)) / (a | b).sum((1, 2))


def middle(mask: np.ndarray) -> float:
    """Returns the mean column of a mask."""
    return float(np.nonzero(mask)[1].mean())


def test_classes_name_the_masks():
    image, masks = phantom.draw(0, (96, 128))
    assert (image.shape, image.dtype) == ((96, 128), np.uint8)
    assert (masks.shape, masks.dtype) == ((len(phantom.CLASSES), 96, 128), bool)


def test_a_seed_and_a_size_determine_the_image():
    for first, second in zip(phantom.draw(7, 96), phantom.draw(7, 96), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_seeds_differ(crowd):
    assert len({image.tobytes() for image, _ in crowd}) == len(crowd)
    assert len({masks.tobytes() for _, masks in crowd}) == len(crowd)


@pytest.mark.parametrize("seed", range(4))
def test_pixel_centres_shared_by_two_sizes_agree(seed):
    """The middle pixel of each 3x3 block at 288 is a pixel centre at 96; only rounding on an outline may differ."""
    _, small = phantom.draw(seed, 96)
    _, large = phantom.draw(seed, 288)
    assert iou(small, large[:, 1::3, 1::3]).min() > 0.99


@pytest.mark.parametrize("seed", range(4))
def test_masks_of_half_the_size_agree(seed):
    _, small = phantom.draw(seed, 256)
    _, large = phantom.draw(seed, 512)
    halved = large.reshape(6, 256, 2, 256, 2).mean((2, 4)) >= 0.5
    assert iou(small, halved).min() > 0.9


def test_images_of_two_sizes_show_the_same_patient():
    small, _ = phantom.draw(3, 96)
    large, _ = phantom.draw(3, 288)
    other, _ = phantom.draw(4, 288)
    halves = [picture.reshape(96, 3, 96, 3).mean((1, 3)) for picture in (large, other)]
    same, different = (np.abs(small - half).mean() for half in halves)
    assert same < 4
    assert different > 3 * same


def test_a_wide_image_shows_the_same_chest():
    _, square = phantom.draw(5, 96)
    _, wide = phantom.draw(5, (96, 160))
    _, tall = phantom.draw(5, (160, 96))
    np.testing.assert_array_equal(square, wide[:, :, 32:128])
    np.testing.assert_array_equal(square, tall[:, 32:128])


def test_every_class_is_present(crowd):
    fewest = np.min([masks.sum((1, 2)) for _, masks in crowd], axis=0)
    assert (fewest >= [400, 400, 200, 200, 400, 40]).all(), fewest


def test_organs_are_on_their_sides(crowd):
    for seed, (_, masks) in enumerate(crowd):
        spine = middle(masks[SPINE])
        assert middle(masks[RIGHT_LUNG]) < spine < middle(masks[LEFT_LUNG]), seed
        assert middle(masks[HEART]) > spine, seed
        overlaps = [(masks[HEART] & masks[lung]).sum() for lung in (RIGHT_LUNG, LEFT_LUNG)]
        assert overlaps[1] > overlaps[0], seed


def test_lungs_are_separate_and_inside_the_body(crowd):
    for seed, (_, masks) in enumerate(crowd):
        assert not (masks[RIGHT_LUNG] & masks[LEFT_LUNG]).any(), seed
        patient = phantom._patient(np.random.default_rng(seed))
        x, y, pixel = phantom._grid(patient, SMALL, SMALL)
        depth = phantom._body(patient, x, y)
        assert depth[masks[RIGHT_LUNG] | masks[LEFT_LUNG]].min() > pixel, seed
        assert depth[masks.any(axis=0)].min() >= 0, seed


def test_lungs_are_completely_inside_the_image(crowd):
    for seed, (_, masks) in enumerate(crowd):
        lungs = masks[RIGHT_LUNG] | masks[LEFT_LUNG]
        rim = np.concatenate([lungs[0], lungs[-1], lungs[:, 0], lungs[:, -1]])
        assert not rim.any(), seed


def test_the_heart_takes_a_plausible_share_of_the_chest(crowd):
    shares = [m[HEART].any(0).sum() / (m[RIGHT_LUNG] | m[LEFT_LUNG]).any(0).sum() for _, m in crowd]
    assert 0.4 < min(shares) < 0.52
    assert 0.55 < max(shares) < 0.75


def test_lungs_are_darker_than_heart_and_spine(crowd):
    for seed, (image, masks) in enumerate(crowd):
        bones = masks[RIBS] | masks[CLAVICLES]
        lungs = (masks[RIGHT_LUNG] | masks[LEFT_LUNG]) & ~masks[HEART] & ~bones
        assert image[masks[HEART] & ~masks[SPINE]].mean() - image[lungs].mean() > 50, seed
        assert image[masks[SPINE]].mean() - image[lungs].mean() > 50, seed


@pytest.mark.parametrize("seed", range(10))
def test_ribs_are_brighter_than_the_lung_around_them(seed):
    image, masks = phantom.draw(seed, 192)
    around = np.asarray(Image.fromarray(image).filter(ImageFilter.BoxBlur(9)), np.float32)
    contrast = image - around
    lungs = (masks[RIGHT_LUNG] | masks[LEFT_LUNG]) & ~masks[HEART] & ~masks[CLAVICLES]
    assert contrast[lungs & masks[RIBS]].mean() - contrast[lungs & ~masks[RIBS]].mean() > 3


def test_images_use_the_full_grey_range(crowd):
    for seed, (image, _) in enumerate(crowd):
        assert np.percentile(image, 99) > 170, seed
        assert (image == 255).mean() < 0.02, seed
        assert np.unique(image).size > 100, seed


@pytest.mark.parametrize("size", [31, 0, -4, (256,), (256, 256, 3), (64, 16), 64.0, (64.5, 64)])
def test_wrong_sizes_are_refused(size):
    with pytest.raises(ValueError, match="size must be a side or .height, width. of at least 32"):
        phantom.draw(0, size)


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed must be an integer >= 0, got -1"):
        phantom.draw(-1)
