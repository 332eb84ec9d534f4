"""The colours of the palette differ for normal and for colour-blind vision."""

import numpy as np
import pytest

from jaxseg.palette import OKABE_ITO, _oklab, palette


def test_all_colours_are_different():
    colours = palette(159)
    assert (colours.shape, colours.dtype) == ((159, 3), np.uint8)
    assert len(np.unique(colours, axis=0)) == 159


def test_the_palette_starts_with_okabe_and_ito():
    assert palette(7).tolist() == [list(colour) for colour in OKABE_ITO]


@pytest.mark.parametrize("num_classes", [0, 1, 7, 8, 9, 36, 200, 201])
def test_a_shorter_palette_starts_a_longer_one(num_classes):
    np.testing.assert_array_equal(palette(num_classes), palette(300)[:num_classes])


@pytest.mark.parametrize("vision", [0, 1, 2], ids=["normal", "red-blind", "green-blind"])
@pytest.mark.parametrize(("num_classes", "least"), [(20, 0.07), (159, 0.02)])
def test_colours_differ_also_for_colour_blind_readers(vision, num_classes, least):
    """In OKLab a distance of about 0.02 is just noticeable; Okabe and Ito's seven are 0.079 apart for green-blind."""
    seen = _oklab(palette(num_classes))[:, vision]
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1) + np.eye(num_classes)
    assert apart.min() > least


def test_colours_are_visible_on_dark_lungs():
    """WCAG 2.1 asks for a contrast of 3 between graphics and their background: here lungs of grey value 30."""
    srgb = np.concatenate([palette(159), [[30, 30, 30]]]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    *colours, lung = linear @ [0.2126, 0.7152, 0.0722] + 0.05
    assert min(colours) / lung > 3


def test_changing_a_returned_palette_has_no_effect_on_the_next():
    palette(3)[:] = 0
    assert palette(3).any()


def test_colours_that_a_red_blind_reader_confuses_are_close_for_that_reader_only():
    red, green = _oklab(np.array([[255, 0, 0], [0, 127, 0]]))
    apart = np.linalg.norm(red - green, axis=-1)
    assert apart[0] > 0.35
    assert apart[1] < 0.6 * apart[0]


@pytest.mark.parametrize("num_classes", [-1, 1001])
def test_numbers_of_colours_out_of_range_are_refused(num_classes):
    with pytest.raises(ValueError, match=f"from 0 to 1000, got {num_classes}"):
        palette(num_classes)
