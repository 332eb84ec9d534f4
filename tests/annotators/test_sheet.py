"""Sheets of samples: all cells are present, maps have the right scale, and matrices the right position."""

import numpy as np
import pytest

from jaxseg.annotators.sheet import confusion_picture, enlarged, samples_sheet, shown_image


def parts(classes: int = 2, n: int = 7, size: tuple[int, int] = (32, 32), channels: int = 1) -> dict:
    rng = np.random.default_rng(0)
    found = {"image": rng.normal(size=(*size, channels)), "clean": rng.integers(0, classes, size).astype(np.uint8)}
    found |= {"masks": rng.integers(0, classes, (n, *size)).astype(np.uint8)}
    found |= {"agreement": np.ones(size, np.float32), "entropy": np.zeros(size, np.float32)}
    return found | {"confusion": np.full((classes, classes, *size), 0.5), "classes": classes}


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_has_two_rows_with_the_same_number_of_pictures(classes, channels):
    given = parts(classes, channels=channels)
    sheet = samples_sheet(**given)
    assert sheet.width == 5 * 268 + 12
    assert sheet.height > 2 * 268
    assert samples_sheet(**given | {"confusion": None}).width == 4 * 268 + 12
    assert samples_sheet(**given | {"masks": given["masks"][:1]}).size == sheet.size


@pytest.mark.parametrize(("agreement", "entropy", "levels"), [(0.5, 1.0, (0, 255)), (1.0, 0.0, (255, 0))])
def test_maps_are_scaled_from_black_to_white(agreement, entropy, levels):
    given = parts()
    given["agreement"][:], given["entropy"][:] = agreement, entropy
    pixels = np.asarray(samples_sheet(**given))
    shown = [pixels[150, 12 + 268 * column + 128] for column in (2, 3)]
    assert [tuple(pixel) for pixel in shown] == [(level,) * 3 for level in levels]


def test_the_clean_mask_is_outlined_and_samples_are_filled():
    given = parts(size=(64, 64))
    given["image"][:], given["clean"][:], given["masks"][:] = 0, 0, 0
    given["clean"][16:48, 16:48] = given["masks"][:, 16:48, 16:48] = 1
    pixels = np.asarray(samples_sheet(**given)).astype(int)
    colourful = np.ptp(pixels, axis=-1) > 20
    clean = colourful[:300, 280:536]
    assert 400 < clean.sum() < 600  # the outline of a square of 128 pixels
    assert colourful[320:, 12:268].sum() == pytest.approx(128**2, rel=0.05)


def test_rows_of_matrices_are_annotated_classes_and_columns_are_true_classes():
    confusion = np.zeros((2, 2, 4, 5))
    confusion[1, 0] = 1
    picture = confusion_picture(confusion)
    assert picture.shape == (10, 12)
    assert (picture[6:, :5] == 255).all()
    assert not picture[:4, :5].any()
    assert not picture[:4, 7:].any()
    assert np.array_equal(np.unique(picture), [0, 90, 255])


def test_images_are_stretched_and_constant_images_are_black():
    ramp = np.linspace(-3, 8, 200).reshape(10, 20, 1)
    shown = shown_image(ramp)
    assert (shown.min(), shown.max()) == (0, 255)
    assert not shown_image(np.full((5, 5, 1), 7.0)).any()
    spot = np.zeros((20, 20, 3))
    spot[3, 3] = 1, 0, 0
    assert tuple(shown_image(spot)[3, 3]) == (255, 0, 0)


@pytest.mark.parametrize(("side", "expected"), [(28, 252), (64, 256), (300, 300)])
def test_small_pictures_are_enlarged_by_whole_pixels(side, expected):
    assert enlarged(np.zeros((side, side // 2))).shape == (expected, side // 2 * (expected // side))
