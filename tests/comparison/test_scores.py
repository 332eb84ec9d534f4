"""The scores of one mask: their definitions, empty masks, units, and impossible masks."""

import dataclasses
import math

import numpy as np
import pytest

from jaxseg.comparison.scores import MEASURES, Tolerance, parse_tolerance, score_mask


def square(top: int, left: int, side: int = 4, shape=(12, 12)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[..., top : top + side, left : left + side] = True
    return mask


def test_overlap_and_sizes_of_a_moved_square():
    found = score_mask(square(2, 3), square(2, 2))
    assert (found.dice, found.iou, found.hd) == (12 / 16, 12 / 20, 1)
    assert (found.prediction_size, found.truth_size, found.difference, found.relative_difference) == (16, 16, 0, 0)
    assert (found.unit, found.empty) == ("px", "")
    larger = score_mask(square(2, 2, 5), square(2, 2))
    assert (larger.difference, larger.relative_difference) == (9, 9 / 16)


def test_lengths_are_in_millimetres_if_the_spacing_is_known():
    plain = score_mask(square(2, 3), square(2, 2))
    found = score_mask(square(2, 3), square(2, 2), spacing_mm=(0.5, 2))
    assert (found.unit, found.hd, found.prediction_size) == ("mm", 2, 16)
    even = score_mask(square(2, 3), square(2, 2), spacing_mm=(0.25, 0.25))
    for name in ("hd", "hd95", "assd"):
        assert getattr(even, name) == pytest.approx(getattr(plain, name) / 4)
    assert even.truth_size == 1
    assert (even.dice, even.iou, even.nsd) == (plain.dice, plain.iou, plain.nsd)


def test_a_tolerance_in_pixels_does_not_depend_on_the_spacing():
    masks = square(2, 4), square(2, 2)
    values = [score_mask(*masks, spacing_mm=s, tolerance=Tolerance(1, "px")).nsd for s in (None, (3, 0.1), (0.1, 3))]
    assert 0 < values[0] < 1
    assert len(set(values)) == 1
    wide, narrow = (score_mask(*masks, spacing_mm=(1, 1), tolerance=Tolerance(t, "mm")).nsd for t in (2, 1.99))
    assert wide == 1
    assert narrow == values[0]


def test_volumes_have_volumes():
    found = score_mask(square(2, 3, shape=(3, 12, 12)), square(2, 2, shape=(3, 12, 12)), spacing_mm=(2, 1, 0.5))
    assert (found.truth_size, found.hd, found.dice) == (48, 0.5, 0.75)


@pytest.mark.parametrize("which", ["prediction", "truth", "both"])
def test_empty_masks_have_documented_values(which):
    empty, mask = np.zeros((12, 12), bool), square(2, 2)
    found = score_mask(mask if which == "truth" else empty, mask if which == "prediction" else empty)
    assert found.empty == which
    values = {name: getattr(found, name) for name in MEASURES}
    if which == "both":
        assert [name for name, value in values.items() if not math.isnan(value)] == ["difference"]
    else:
        assert (found.dice, found.iou, found.nsd) == (0, 0, 0)
        assert [found.hd95, found.hd, found.assd] == [math.inf] * 3
    assert found.difference == {"prediction": -16, "truth": 16, "both": 0}[which]
    assert math.isnan(found.relative_difference) == (which != "prediction")


def test_full_masks_are_equal():
    full = np.ones((5, 6), bool)
    found = dataclasses.asdict(score_mask(full, full))
    assert [found[name] for name in MEASURES] == [1, 1, 1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(("text", "length", "unit"), [("2mm", 2, "mm"), (" 0.5 px ", 0.5, "px"), (".25mm", 0.25, "mm")])
def test_a_tolerance_has_a_length_and_a_unit(text, length, unit):
    assert parse_tolerance(text) == Tolerance(length, unit)
    assert parse_tolerance(str(parse_tolerance(text))) == Tolerance(length, unit)


@pytest.mark.parametrize("text", ["2", "mm", "-1mm", "2cm", "nan px", "1e3mm", ""])
def test_other_tolerances_are_refused(text):
    with pytest.raises(ValueError, match="a length in mm or px, such as 2mm or 3px"):
        parse_tolerance(text)


@pytest.mark.parametrize(
    ("prediction", "truth", "options", "words"),
    [
        (np.zeros((3, 4), bool), np.zeros((4, 3), bool), {}, "the predicted mask is 3 x 4, the true one 4 x 3"),
        (np.zeros(3, bool), np.zeros(3, bool), {}, r"must be \(H, W\) or \(D, H, W\)"),
        (np.zeros((0, 4), bool), np.zeros((0, 4), bool), {}, r"must be \(H, W\)"),
        (np.zeros((3, 4)), np.zeros((3, 4), bool), {}, "must be bool, got float64"),
        (np.zeros((3, 4), bool), np.zeros((3, 4), bool), {"spacing_mm": (1, 1, 1)}, "2 positive numbers of mm"),
        (np.zeros((3, 4), bool), np.zeros((3, 4), bool), {"spacing_mm": (1, 0)}, "2 positive numbers of mm"),
        (np.zeros((3, 4), bool), np.zeros((3, 4), bool), {"tolerance": Tolerance(2, "mm")}, "spacing of the pixels is"),
    ],
)
def test_impossible_masks_are_refused(prediction, truth, options, words):
    with pytest.raises(ValueError, match=words):
        score_mask(prediction, truth, **options)
