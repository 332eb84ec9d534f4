"""Pictures that keep their aspect ratio lie where the original puts them, and masks return to the whole picture."""

import cv2
import numpy as np
import pytest

from jaxseg.images.fit import FITS, Placement
from jaxseg.images.picture import ImageError, Picture
from jaxseg.images.preprocess import PREPROCESSING, fit_of, of_whole_image, paxray, paxray_folder
from jaxseg.nn.indices import nearest_indices

RNG = np.random.default_rng


@pytest.mark.parametrize("size", [(100, 70), (70, 100), (64, 64), (333, 47), (20, 900)])
def test_a_padded_picture_equals_the_originals_with_black_around_it(size):
    pixels = RNG(0).integers(0, 256, (*size, 3), np.uint8)
    scale = 64 / max(size)
    whole = [64 if side == max(size) else int(side * scale) for side in size]
    resized = cv2.resize(pixels.astype(np.float32), (whole[1], whole[0]))
    wanted = np.zeros((64, 64, 3), np.float32)
    top, left = (64 - whole[0]) // 2, (64 - whole[1]) // 2
    wanted[top : top + whole[0], left : left + whole[1]] = resized
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    found = PREPROCESSING["paxray_pad"](Picture(pixels), (64, 64))
    np.testing.assert_allclose(found, (wanted - mean) / std, atol=2e-2, rtol=1e-5)


def test_a_cropped_picture_is_the_middle_of_the_resized_one():
    picture = Picture(RNG(1).integers(0, 256, (40, 100, 3), np.uint8))
    found = PREPROCESSING["paxray_crop"](picture, (32, 32))
    np.testing.assert_array_equal(found, paxray(picture, (32, 80))[:, 24:56])
    whole = Placement.of((40, 100), (32, 32), "crop")
    assert (whole.inside, whole.visible) == ((slice(0, 32), slice(0, 32)), (slice(0, 32), slice(24, 56)))


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(90, 40), (40, 90), (64, 64), (31, 200)])
def test_masks_lie_on_the_same_pixels_as_the_picture(fit, size):
    mask = RNG(2).random(size) < 0.5
    place = Placement.of(size, (48, 48), fit)
    rows, columns = place.sources(size)
    found = np.zeros((48, 48), bool)
    found[place.inside] = mask[rows][:, columns]
    resized = mask[nearest_indices(size[0], place.content[0])][:, nearest_indices(size[1], place.content[1])]
    np.testing.assert_array_equal(found, place.placed(resized, False))


@pytest.mark.parametrize("size", [(96, 48), (48, 96)])
def test_masks_of_a_padded_grid_return_to_the_stretched_grid(size):
    mask = np.zeros((48, 48), bool)
    mask[10:30, 5:20] = True
    place = Placement.of(size, (48, 48), "pad")
    small = mask[nearest_indices(48, place.content[0])][:, nearest_indices(48, place.content[1])]
    found = place.stretched(place.placed(small, False)[None])[0]
    assert np.count_nonzero(found ^ mask) <= 48, "half of the pixels of one axis were lost"
    outside = place.stretched(np.ones((1, 48, 48), bool))[0]
    assert outside.all()


def test_what_a_cropped_grid_does_not_show_is_empty():
    place = Placement.of((48, 96), (48, 48), "crop")
    found = place.stretched(np.ones((2, 48, 48), bool))
    assert found[:, :, 12:36].all()
    assert not found[:, :, :12].any()
    assert not found[:, :, 36:].any()


def test_packed_masks_of_a_padded_picture_fit_the_whole_picture():
    mask = np.zeros((1, 48, 48), bool)
    mask[0, 10:30, 12:36] = True  # the picture lies in columns 12 to 35
    bits, scores = of_whole_image(np.packbits(mask, axis=2), mask.astype(np.float32), (96, 48), "cxas_pad")
    wanted = np.zeros((48, 48), bool)
    wanted[10:30] = True
    np.testing.assert_array_equal(np.unpackbits(bits, axis=2)[0], wanted)
    np.testing.assert_array_equal(scores[0], wanted)
    same, none = of_whole_image(bits, None, (96, 48), "cxas")
    assert same is bits
    assert none is None


def test_names_of_preprocessings_state_the_fit():
    assert {name: fit_of(name) for name in PREPROCESSING} == {
        "cxas": "stretch",
        "paxray": "stretch",
        "paxray_folder": "stretch",
        "cxas_pad": "pad",
        "cxas_crop": "crop",
        "paxray_pad": "pad",
        "paxray_crop": "crop",
    }
    picture = Picture(RNG(3).integers(0, 256, (30, 30, 3), np.uint8))
    np.testing.assert_array_equal(PREPROCESSING["paxray_pad"](picture, (24, 24)), paxray(picture, (24, 24)))
    assert paxray_folder(picture, (24, 24)).max() > 100


def test_a_picture_that_is_too_long_to_crop_is_refused():
    with pytest.raises(ImageError, match="the picture is 10 x 400, which is too long"):
        Placement.of((10, 400), (64, 64), "crop")
    assert Placement.of((10, 4000), (64, 64), "pad").content == (1, 64)
