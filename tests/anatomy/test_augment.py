"""The original's augmentation, on records whose pixels hold their own positions."""

import time

import numpy as np
import pytest
from scipy import ndimage

from jaxseg.anatomy.augment import Augmentation, unchanged
from jaxseg.images.preprocess import MEAN, STD
from jaxseg.nn.indices import nearest_indices

RNG = np.random.default_rng


def record(side: int, classes: int = 5) -> dict:
    """Returns a record in which image and classes hold the row and column of every pixel."""
    row, column = np.mgrid[:side, :side]
    image = np.stack([row, column, row * side + column], -1).astype(np.float32)
    masks = np.stack([((row + k) * (column + 2 * k)) % 3 == 0 for k in range(classes)])
    target = np.packbits(masks, axis=0, bitorder="little").transpose(1, 2, 0)
    return {"image": image, "target": np.ascontiguousarray(target), "classes": classes}


def test_augmentation_equals_the_originals():
    source, augment = record(64), Augmentation(crop=60, resize_prob=0.6, resize_scale=1.2)
    masks = unchanged(source, RNG(0))["target"]
    stretched, sizes = 0, set()
    for seed in range(300):
        example = augment(source, RNG(seed))
        rows, columns = (example["image"][..., i].astype(int) for i in (0, 1))
        assert (rows.shape, example["target"].shape) == ((60, 60), (60, 60, 5))
        assert (rows == rows[:, :1]).all()
        assert (columns == columns[:1]).all()
        np.testing.assert_array_equal(example["target"], masks[rows, columns])
        found = [matching(line, 64) for line in (rows[:, 0], columns[0])]
        assert all(found), "rows and columns are a part of a nearest neighbour resizing to [60, 76)"
        plain = [64 in lengths for lengths in found]
        stretched += not all(plain)
        sizes |= {tuple(min(lengths) for lengths in found)}
    assert 140 <= stretched <= 200  # of 300 with probability 0.6; some cannot be recognised
    assert len(sizes) > 60, "height and width are drawn independently"


def matching(line: np.ndarray, side: int) -> list[int]:
    """Returns the lengths to which `side` pixels may have been resized before `line` was cropped."""
    length = len(line)
    return [
        size
        for size in range(60, int(1.2 * side))
        for full in [nearest_indices(side, size)]
        if any((full[first : first + length] == line).all() for first in range(size - length + 1))
    ]


def test_every_crop_position_occurs_and_mirroring_is_off_by_default():
    source = record(8)
    plain = [Augmentation(crop=6, resize_prob=0)(source, RNG(i))["image"] for i in range(80)]
    assert {(int(x[0, 0, 0]), int(x[0, 0, 1])) for x in plain} == {(i, j) for i in range(3) for j in range(3)}
    flips = Augmentation(crop=None, flip_prob=0.5)
    found = [flips(source, RNG(i)) for i in range(60)]
    mirrored = [x for x in found if x["image"][0, 0, 1] == 7]
    assert 15 < len(mirrored) < 45
    np.testing.assert_array_equal(mirrored[0]["target"], unchanged(source, RNG(0))["target"][:, ::-1])


def normalised(values: np.ndarray) -> dict:
    """Returns a record whose image has these values, (H, W), in three channels, with one class of bright pixels."""
    image = (values[..., None] - np.float32(MEAN)) / np.float32(STD)
    return {"image": image, "target": (values > 128).astype(np.uint8)[..., None], "classes": 1}


def restored(example: dict) -> np.ndarray:
    """Returns the values of the first channel before they were normalised."""
    return example["image"][..., 0] * np.float32(STD[0]) + np.float32(MEAN[0])


def test_a_rotation_turns_image_and_masks_together():
    values = np.zeros((60, 60), np.float32)
    values[10:20, 25:35], values[40:44, 28:32] = 255, 200
    found = set()
    for seed in range(40):
        example = Augmentation(crop=None, rotate=30, rotate_prob=1.0)(normalised(values), RNG(seed))
        turned, mask = restored(example), example["target"][..., 0] > 0
        angle = next(
            a
            for a in range(-30, 31)
            if np.allclose(ndimage.rotate(values, a, reshape=False, order=1), turned, atol=0.01)
        )
        np.testing.assert_array_equal(mask, ndimage.rotate(values > 128, angle, reshape=False, order=0))
        found.add(angle)
    assert len(found) > 15
    assert min(found) >= -30
    assert max(found) <= 29
    still = Augmentation(crop=None, rotate=30)(normalised(values), RNG(0))
    np.testing.assert_allclose(restored(still), values, atol=1e-3)


def test_a_rotation_follows_the_stretch_and_comes_before_the_crop():
    values = RNG(0).integers(0, 255, (32, 32)).astype(np.float32)
    plain = Augmentation(crop=30, resize_prob=0)
    turned = Augmentation(crop=30, resize_prob=0, rotate=1, rotate_prob=1.0)  # the only angles are -1 and 0
    for seed in range(20):
        whole = ndimage.rotate(values, -1, reshape=False, order=1)
        options = [restored(plain(normalised(image), RNG(seed))) for image in (whole, values)]
        found = restored(turned(normalised(values), RNG(seed)))
        assert any(np.allclose(found, option, atol=0.02) for option in options)


def test_jitter_changes_brightness_and_contrast_within_its_limits():
    values = np.linspace(60, 120, 400, dtype=np.float32).reshape(20, 20)
    augment = Augmentation(crop=None, jitter=0.4, jitter_prob=1.0)
    gains, means = [], []
    for seed in range(200):
        found = restored(augment(normalised(values), RNG(seed)))
        gains.append(np.polyfit(values.ravel(), found.ravel(), 1)[0])
        means.append(found.mean() / values.mean())
    assert 0.6 - 1e-3 <= min(means) < 0.7
    assert 1.3 < max(means) <= 1.4 + 1e-3
    assert 0.36 - 1e-3 <= min(gains) < 0.5
    assert 1.6 < max(gains) <= 1.96 + 1e-3
    assert 0 <= restored(augment(normalised(values * 2), RNG(1))).max() <= 255.01


@pytest.mark.parametrize("white", [1.0, 255.0])
def test_noise_is_normal_and_its_strength_is_uniform(white):
    values = np.linspace(0, white, 4096, dtype=np.float32).reshape(64, 64)
    augment = Augmentation(crop=None, noise=0.1, noise_prob=0.5, white=white)
    deviations = np.array([(restored(augment(normalised(values), RNG(seed))) - values).std() for seed in range(300)])
    assert 110 <= np.count_nonzero(deviations > 1e-4 * white) <= 190
    assert deviations.max() <= 0.105 * white
    assert deviations[deviations > 1e-4 * white].mean() == pytest.approx(0.05 * white, rel=0.15)


def test_every_pixel_of_an_exclusive_record_has_one_class():
    target = np.array([[[0b000], [0b110], [0b010], [0b001]]], np.uint8)
    source = {"image": np.zeros((1, 4, 3), np.float32), "target": target, "classes": 3, "exclusive": True}
    np.testing.assert_array_equal(unchanged(source, RNG(0))["target"][0].argmax(-1), [0, 2, 1, 0])
    assert (unchanged(source, RNG(0))["target"].sum(-1) == 1).all()


@pytest.mark.parametrize(
    "options", [{"crop": 0}, {"resize_prob": 1.1}, {"flip_prob": -0.1}, {"resize_scale": 0}, {"resize_prob": np.nan}]
)
def test_impossible_augmentations_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Augmentation(**options)


@pytest.mark.parametrize(("side", "scale"), [(50, 1.2), (60, 1.0)])
def test_a_crop_larger_than_the_records_is_refused(side, scale):
    with pytest.raises(ValueError, match=f"a crop of 60 pixels does not fit {side}"):
        Augmentation(crop=60, resize_prob=1.0, resize_scale=scale)(record(side), RNG(0))


def test_augmenting_a_full_size_target_is_fast_enough_for_training():
    image = np.zeros((512, 512, 3), np.float32)
    source = {"image": image, "target": RNG(0).integers(0, 256, (512, 512, 21), np.uint8), "classes": 166}
    times = []
    for seed in range(5):
        start = time.perf_counter()
        example = Augmentation()(source, RNG(seed))
        times.append(time.perf_counter() - start)
    assert example["target"].shape == (480, 480, 166)
    assert min(times) < 0.15, "about 0.03 s on one core"
