"""Box plots: boxes lie at their quartiles, values beyond the whiskers are points, and all numbers of rows fit."""

import math

import numpy as np
import pytest

from jaxseg.draw import boxes as module
from jaxseg.draw.boxes import BoxPanel, boxes

RED = (213, 94, 0)


def columns_of(picture, colour=RED) -> np.ndarray:
    """Returns the columns in which a colour fills a large part of a box."""
    hits = (np.asarray(picture) == np.asarray(colour)).all(-1).sum(0)
    return np.flatnonzero(hits > 8)


def one(values, **options):
    return boxes([BoxPanel("Dice", (np.array(values),), **options)], ["heart"], colours=[RED])


def test_a_box_lies_between_its_quartiles():
    picture = one([0, 0.25, 0.5, 0.75, 1.0], top=1.0)
    half = one([0, 0.125, 0.25, 0.375, 1.0], top=1.0)
    whole, narrow = columns_of(picture), columns_of(half)
    assert np.ptp(narrow) == pytest.approx(np.ptp(whole) / 2, abs=4)
    assert narrow[0] < whole[0]


def test_few_values_are_points_and_unknown_ones_are_left_out():
    assert not columns_of(one([0.2, 0.4, 0.9], top=1.0)).size > 12
    same = one([0.1, 0.5, 0.6, 0.7, 0.9], top=1.0), one([0.1, 0.5, 0.6, 0.7, 0.9, math.nan, math.inf], top=1.0)
    np.testing.assert_array_equal(*map(np.asarray, same))
    assert not columns_of(one([math.nan, math.inf])).size


def test_the_box_of_values():
    found = module._box(np.array([1.0, 2, 3, 4, 5, 100, math.nan]))
    assert (found.low, found.first, found.median, found.third, found.high) == (1, 2.25, 3.5, 4.75, 5)
    assert found.outliers.tolist() == [100]
    assert module._box(np.array([math.nan])) is None


@pytest.mark.parametrize(
    ("values", "top", "expected"),
    [
        ([0.81, 0.85, 0.9, 0.95, 0.99], 1.0, (0.8, 1.0)),
        ([0.0] * 9, 1.0, (0.0, 1.0)),
        ([1.0] * 9, 1.0, (0.9, 1.0)),
        ([1, 2, 3, 4, 5, 100], None, (0.0, 5)),
        ([0.0] * 9, None, (0.0, 1.0)),
        ([math.nan], 1.0, (0.0, 1.0)),
    ],
)
def test_the_axis_shows_the_whiskers(values, top, expected):
    panel = BoxPanel("x", (np.array(values, float),), top)
    assert module._limits(panel, [module._box(panel.values[0])]) == pytest.approx(expected)


@pytest.mark.parametrize("count", [1, 5, 159])
def test_every_row_has_a_box(count):
    rng = np.random.default_rng(0)
    values = tuple(rng.beta(9, 2, 30) for _ in range(count))
    colours = [(200, 30 + k, 90) for k in range(count)]
    picture = boxes([BoxPanel("Dice", values, 1.0)] * 4, [f"class {k}" for k in range(count)], colours=colours)
    pixels = np.asarray(picture)
    greens = pixels[(pixels[..., 0] == 200) & (pixels[..., 2] == 90), 1]
    assert np.bincount(greens, minlength=256)[30 : 30 + count].min() > 40
    assert 1000 < pixels.shape[1] < 1800
    assert pixels.shape[0] < 3500


def test_numbers_that_differ_are_refused():
    panel = BoxPanel("Dice", (np.zeros(3),))
    for panels, rows, colours in (([], ["a"], [RED]), ([panel], [], []), ([panel], ["a", "b"], [RED] * 2)):
        with pytest.raises(ValueError, match="each of one or more panels needs values and a colour for each"):
            boxes(panels, rows, colours=colours)
