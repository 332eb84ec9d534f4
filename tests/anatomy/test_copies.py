"""The changes of images for test-time augmentation, and the mean of their results."""

import numpy as np
import pytest

from jaxseg.anatomy.copies import MOST, SCALE, SHIFT, copies, settled

OPTIONS = ((40, 60), ("right lung", "left lung", "heart"), (0, 1, 2), "cxas")


def test_the_changes_are_the_same_in_every_call_and_the_first_of_every_larger_number():
    few, many = copies(3, *OPTIONS), copies(7, *OPTIONS)
    for ours, theirs in zip(few, many, strict=False):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
    assert len({float(copy.gamma) for copy in many}) == 7
    assert copies(0, *OPTIONS) == []


@pytest.mark.parametrize("number", range(4))
def test_the_two_maps_between_a_copy_and_its_image_are_inverse(number):
    copy = copies(4, *OPTIONS)[number]
    for there, here in ((copy.rows, copy.in_rows), (copy.columns, copy.in_columns)):
        pixels = np.arange(len(there))
        back = np.polyval(np.polyfit(pixels, here, 1), there)  # both are straight lines
        np.testing.assert_allclose(back, pixels, atol=1e-3)
    assert np.sign(np.diff(copy.columns)).tolist() == [-1 if number % 2 else 1] * 59
    middle = copy.in_rows[20] - 20
    assert abs(middle) <= SHIFT * 40 + SCALE
    assert copy.channels.tolist() == ([1, 0, 2] if number % 2 else [0, 1, 2])
    assert copy.counted.all()


def test_black_and_white_are_those_of_the_preprocessing():
    assert copies(1, *OPTIONS[:3], "paxray_folder")[0].white.tolist() == [255] * 3
    assert copies(1, *OPTIONS)[0].black == pytest.approx([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])


@pytest.mark.parametrize("count", [-1, MOST + 1, 2.0, True])
def test_impossible_numbers_are_refused(count):
    with pytest.raises(ValueError, match="tta must be a whole number of copies from 0 to 64"):
        copies(count, *OPTIONS)


def test_the_mean_over_copies_leaves_out_what_they_do_not_have():
    nan = np.nan
    results = [np.array([[1.0, nan, nan]]), np.array([[0.5, 0.25, nan]])]
    *_, sure, pooled = settled((np.zeros(1), None, (np.full((1, 3, 3), 9.0), results), None))
    np.testing.assert_array_equal(sure, [[[9, 9, 9, 0.75], [9, 9, 9, 0.25], [9, 9, 9, nan]]])
    assert pooled is None
    assert np.isnan(settled((np.zeros(1), None, (np.full((1, 3, 3), 9.0), []), None))[2][..., 3]).all()
    assert settled((1, 2, None, 3)) == (1, 2, None, 3)
