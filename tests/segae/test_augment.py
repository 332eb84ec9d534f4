"""Augmentation that imitates other scanners: thicker slices, softer kernels, and pixels of another size."""

import numpy as np
import pytest

from jaxseg.datasets.volume_cache import pack
from jaxseg.segae.augment import Augmentation, organ_shifts, resampled, thick_slice


def record(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    truth = np.zeros((9, 60, 64), bool)
    truth[2:7, 20:40, 22:44] = True
    mask = np.roll(truth, 3, axis=1)
    ct = np.where(truth, 80, -60) + rng.integers(-20, 20, truth.shape)
    labels = np.where(truth, 13, 0).astype(np.uint8)
    volumes = {"ct": ct.astype(np.int16), "labels": labels, "mask": pack(mask)}
    return volumes | {"slices": np.arange(2, 7), "label": 13}


def example(seed: int, **options) -> dict:
    return Augmentation(48, **options)(record(), np.random.default_rng(seed))


def test_options_that_are_off_change_nothing():
    """A run of an earlier version can be resumed: its random numbers are the same."""
    for seed in range(5):
        plain, off = example(seed), example(seed, blur=0.0, thickness=1, spacing=0.0)
        np.testing.assert_array_equal(plain["image"], off["image"])


@pytest.mark.parametrize("option", [{"blur": 2.0}, {"thickness": 5}])
def test_kernel_and_thickness_change_only_the_ct_and_remove_its_noise(option):
    texture, plain_texture = [], []
    for seed in range(20):
        plain, found = example(seed), example(seed, **option)
        texture.append(np.abs(np.diff(found["image"][..., 0])).mean())
        plain_texture.append(np.abs(np.diff(plain["image"][..., 0])).mean())
        assert found["image"].shape == (48, 48, 2)
        assert 0.5 < found["dice"] < 1
    assert np.mean(texture) < 0.85 * np.mean(plain_texture)


def test_pixels_of_another_size_change_the_image_but_hardly_the_dice():
    found = [example(seed, spacing=1.0) for seed in range(40)]
    texture = [np.abs(np.diff(each["image"][..., 0])).mean() for each in found]
    assert max(texture) > 1.5 * min(texture)  # large pixels are means of small ones
    np.testing.assert_allclose([each["dice"] for each in found], 17 / 20, atol=0.08)


def test_a_limit_of_the_margins_leaves_masks_larger_in_the_image():
    shares = {
        largest: np.mean([(example(seed, largest_margin=largest)["image"][..., 1] > 0).mean() for seed in range(20)])
        for largest in (None, 10)
    }
    assert shares[10] > 1.3 * shares[None]


def test_thick_slices_are_means_that_end_with_the_ct():
    ct = np.arange(6, dtype=np.int16)[:, None, None] * np.ones((1, 3, 4), np.int16)
    assert thick_slice(ct, 2, 1)[0, 0] == 2
    assert thick_slice(ct, 2, 3)[0, 0] == 2
    assert thick_slice(ct, 0, 3)[0, 0] == 0.5
    assert thick_slice(ct, 5, 4)[0, 0] == 4
    assert thick_slice(ct, 0, 1).dtype == np.float32


@pytest.mark.parametrize("factor", [0.3, 0.5, 0.9, 1.0, 1.4, 3.0])
def test_resampling_keeps_the_place_and_the_share_of_the_mask(factor):
    mask = np.zeros((50, 60), bool)
    mask[10:30, 20:50] = True
    ct = np.linspace(-100, 100, 60) * np.ones((50, 1))
    small, truth, found = resampled(ct, mask, mask, factor)
    assert small.shape == found.shape == (round(50 * factor), round(60 * factor))
    np.testing.assert_array_equal(truth, found)
    assert found.mean() == pytest.approx(mask.mean(), abs=0.03)
    centre = np.argwhere(found).mean(0) / found.shape
    np.testing.assert_allclose(centre, np.argwhere(mask).mean(0) / mask.shape, atol=0.03)
    assert small[:, -1].mean() > 80


def test_a_mask_that_would_vanish_is_kept():
    mask = np.zeros((50, 50), bool)
    mask[10, 10] = True
    ct = np.zeros((50, 50), np.int16)
    for given, found in zip((ct, mask, mask), resampled(ct, mask, mask, 0.2), strict=True):
        assert found is given


@pytest.mark.parametrize("option", [{"blur": -1.0}, {"thickness": 0}, {"spacing": -0.1}, {"thickness": 2.5}])
def test_values_out_of_range_are_refused(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        Augmentation(48, **option)


@pytest.mark.parametrize("changed", [{"flip_rows": 1.0}, {"rotate": 90.0}, {"spacing": 0.5}, {}])
def test_the_true_mask_is_moved_as_the_mask_is(changed):
    for seed in range(5):
        perfect = example(seed, truth_share=1.0, with_truth=True, **changed)
        np.testing.assert_array_equal(perfect["truth"], np.rint(255 * (perfect["image"][..., 1] + 1) / 2))
        moved = example(seed, with_truth=True, **changed)
        assert (moved["truth"] != np.rint(255 * (moved["image"][..., 1] + 1) / 2)).any()
    assert "truth" not in example(0, **changed)


def test_organs_get_shifts_of_their_own_and_the_rest_of_the_slice_none():
    labels = np.zeros((40, 60), np.uint8)
    labels[5:35, 5:25], labels[5:35, 35:55] = 13, 200
    found = [organ_shifts(np.random.default_rng(seed), labels, 100) for seed in range(20)]
    left, right = (np.array([shift[20, column] for shift in found]) for column in (15, 45))
    assert 60 < max(abs(left)) <= 100
    assert (abs(left - right) > 1).all()
    assert all(abs(shift[:, 30]).max() < 1e-3 for shift in found)


def test_contrast_changes_the_organ_and_neither_masks_nor_the_rest():
    changed = [example(seed, contrast=300.0) for seed in range(10)]
    plain = [example(seed) for seed in range(10)]
    assert {each["dice"] for each in changed} == {each["dice"] for each in plain}
    organs = [np.std([each["image"][..., 0].max() for each in found]) for found in (plain, changed)]
    corners = [np.std([each["image"][0, 0, 0] for each in found]) for found in (plain, changed)]
    assert organs[1] > 2 * organs[0]
    assert corners[1] < 1.5 * corners[0]
