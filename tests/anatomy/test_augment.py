"""The original's augmentation, on records whose pixels hold their own positions."""

import time

import numpy as np
import pytest

from jaxseg.anatomy.augment import Augmentation, unchanged
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
