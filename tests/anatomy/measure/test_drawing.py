"""Drawings show the lines where they were measured, at any size, on dark and bright images."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.anatomy.measure import drawing
from jaxseg.anatomy.measure.drawing import draw_lines
from jaxseg.anatomy.measure.features import measure
from jaxseg.anatomy.measure.ratios import CTR_CLASSES, SCD_CLASSES

ALL = "CTR,SCD,area,perimeter,compactness,centroid,box,convexity"


def chest(height=200, width=160):
    """Returns the masks that CTR needs, as boxes at known positions."""
    masks = np.zeros((3, height, width), bool)
    masks[0, 150, 40:71] = True  # midline in column 70
    masks[1, 100:120, 50:101] = True  # the heart extends 20 and 30 columns from it
    masks[2, 60:140, 30:131] = True  # the thorax is 100 wide, first in row 60
    return masks


def colour_at(picture, point, grid, size):
    x, y = (np.array(point) + 0.5) * np.divide(size[::-1], grid[::-1]) - 0.5
    return tuple(int(c) for c in picture[round(y), round(x)])


@pytest.mark.parametrize("ground", [0, 255])
@pytest.mark.parametrize("size", [(1000, 800), (2000, 1000)])
def test_ctr_is_drawn_where_it_was_measured(ground, size):
    picture = draw_lines(np.full(size, ground, np.uint8), measure(chest(), CTR_CLASSES, "CTR"))
    assert picture.dtype == np.uint8
    assert picture.shape[0] > size[0]
    assert picture.shape[1:] == (size[1], 3)

    def seen(point):
        return colour_at(picture, point, (200, 160), size)

    assert seen((60, 100)) == seen((95, 100)) == drawing._HEART
    assert seen((110, 60)) == drawing._LUNG
    assert seen((131.5, 60)) != drawing._LUNG
    assert seen((70, 0.2)) == drawing._YELLOW
    assert seen((20, 100)) == (ground,) * 3
    column = picture[: size[0], round(95.5 / 160 * size[1]), 0].astype(int)
    assert np.ptp(column) > 100, "no rim or line is seen"


def test_scd_is_drawn_where_it_was_measured():
    masks = np.zeros((23, 200, 160), bool)
    for i, x in enumerate([60] * 11 + [60 + 20] + [60] * 11):
        masks[i, 8 * i + 4, x] = True
    picture = draw_lines(np.zeros((1000, 800, 3), np.uint8), measure(masks, SCD_CLASSES, "SCD"))
    assert colour_at(picture, (80, 92), (200, 160), (1000, 800)) == drawing._SPINE
    assert colour_at(picture, (72, 92), (200, 160), (1000, 800)) == drawing._PURPLE
    assert colour_at(picture, (60, 197), (200, 160), (1000, 800)) == drawing._VERMILION


def test_shapes_of_classes_are_drawn_where_they_were_measured():
    picture = draw_lines(np.zeros((1000, 800), np.uint8), measure(chest()[1:2], ["heart"], "box,centroid"))
    for point in ((49.5, 110), (100.5, 110), (70, 99.5), (75, 109)):  # edges of the box, and the centroid
        x, y = (np.array(point) + 0.5) * 5  # inside a pixel of the picture
        near = picture[int(y) - 1 : int(y) + 1, int(x) - 1 : int(x) + 1]
        assert (near == drawing._HEART).all(axis=2).any(), point
    assert not picture[510:530, 260:340].any()
    assert not picture[620:1000].any()


def test_without_measurements_the_image_is_unchanged_and_the_reason_is_written():
    image = np.full((800, 800), 77, np.uint8)
    found = measure(np.zeros((3, 8, 8), bool), CTR_CLASSES, "CTR,box")
    picture = draw_lines(image, found)
    assert (picture[:800] == 77).all()
    text = " ".join(text for text, _ in drawing._captions(found, {}))
    assert "CTR, Cardio-Thoracic Ratio: not measured, the mask of 'right hemidiaphragm' and 'heart'" in text
    assert "not measured: the mask is empty: right hemidiaphragm, heart, lung" in text
    assert (picture[800:].max(axis=2) > 200).any(), "nothing is written"


def test_captions_state_values_in_pixels_and_mm():
    text = [text for text, _ in drawing._captions(measure(chest(), CTR_CLASSES, "CTR", pixel_mm=(1.0, 2.0)), {})]
    assert text[0] == "CTR, Cardio-Thoracic Ratio: 0.500"
    assert "- heart, picture's left 20 pixels" in text
    assert "- thorax 100 pixels" in text
    assert "- heart 100 mm, thorax 200 mm" in text


def test_a_small_image_is_enlarged_and_a_narrow_one_gets_a_margin():
    found = measure(chest(), CTR_CLASSES, "CTR")
    assert draw_lines(np.zeros((100, 80), np.uint8), found).shape[1] == round(80 * 768 / 100)
    narrow = draw_lines(np.full((2000, 10), 255, np.uint8), found)
    assert narrow.shape[1] == 320
    assert narrow[100, 156].tolist() == [255] * 3
    assert narrow[100, 20].tolist() == list(drawing._BACKGROUND)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1), st.booleans())
def test_masks_and_images_of_any_size_are_drawn(height, width, seed, original_values):
    rng = np.random.default_rng(seed)
    names = [*CTR_CLASSES, *SCD_CLASSES, "a\nclass, with a long name " * 5]
    masks = rng.random((len(names), *rng.integers(1, 30, 2))) < rng.choice([0, 0.1, 0.9])
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    count = rng.integers(1, len(names))
    kept = rng.choice(len(names), count, replace=False)
    found = measure(masks[kept], [names[i] for i in kept], ALL, original_values=original_values, pixel_mm=(0.5, 0.4))
    picture = draw_lines(image, found)
    assert picture.shape[2] == 3
    assert picture.shape[1] >= 320


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4), np.uint8)])
def test_arrays_that_are_not_images_are_refused(image):
    with pytest.raises(ValueError, match="image must"):
        draw_lines(image, measure(chest(), CTR_CLASSES, "CTR"))
