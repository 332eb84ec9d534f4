"""Parallel coordinates: lines lie where their values are, brighter ones are higher, and bad values are refused."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.tuning.coordinates import Axis, colour_of, parallel_coordinates

FINITE = st.floats(1e-6, 1e6)


def drawn(*axes, **options) -> np.ndarray:
    return np.asarray(parallel_coordinates(axes, **options)).astype(int)


def height_at(picture: np.ndarray, x: int, colour) -> float:
    """The row in a column where the pixel nearest to a colour is."""
    return float(np.abs(picture[60:, x] - np.asarray(colour)).sum(-1).argmin())


def test_a_line_goes_through_its_values_on_plain_and_logarithmic_axes():
    first = Axis("rate", (1e-4, 1e-3, 1e-2), 1e-4, 1e-2, log=True)
    plain = Axis("decay", (0.0, 0.5, 1.0))
    score = Axis("dice", (0.0, 0.5, 1.0))
    picture = drawn(first, plain, score)
    for axis_x in (90 + 5, 90 + 170 + 5):  # the left column of each gap between axes
        rows = [height_at(picture, axis_x, colour_of(place)) for place in (0, 0.5, 1)]
        assert rows[0] > rows[1] > rows[2]
        assert rows[1] == pytest.approx((rows[0] + rows[2]) / 2, abs=6)


def test_choices_are_evenly_spaced_in_their_order():
    names = Axis("optimizer", ("sgd", "adam", "adamw"), choices=("adam", "adamw", "sgd"))
    rows = [height_at(drawn(names, Axis("dice", (1.0, 0.0, 0.5))), 95, colour_of(place)) for place in (0, 0.5, 1)]
    assert rows[0] > rows[1] > rows[2]


def test_higher_is_brighter():
    light = [np.dot(colour_of(place), (0.2126, 0.7152, 0.0722)) for place in np.linspace(0, 1, 21)]
    assert light == sorted(light)
    assert colour_of(-1) == colour_of(0)
    assert colour_of(2) == colour_of(1)


def test_faint_lines_are_paler_and_below():
    axes = (Axis("a", (0.5, 0.5), 0, 1), Axis("dice", (0.4, 0.6), 0, 1))
    both, second = drawn(*axes, faint=[False, False]), drawn(*axes, faint=[False, True])
    assert np.abs(both - second).sum() > 0
    alone = drawn(*axes, faint=[True, True])
    assert alone.sum() < both.sum()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(FINITE, FINITE, st.booleans()), min_size=1, max_size=8))
def test_any_finite_values_are_drawn(rows):
    a, b, faint = zip(*rows, strict=True)
    picture = drawn(Axis("a", a, log=True), Axis("name " * 40, a), Axis("b", b), title="x" * 900, faint=faint)
    assert picture.shape == (picture.shape[0], 2 * 90 + 2 * 170, 3)


@pytest.mark.parametrize(
    ("axes", "options", "message"),
    [
        ([], {}, "two or more axes"),
        ([Axis("a", (1.0,))], {}, "two or more axes"),
        ([Axis("a", ()), Axis("b", ())], {}, "two or more axes"),
        ([Axis("a", (1.0,)), Axis("b", (1.0, 2.0))], {}, r"got \[1, 2\]"),
        ([Axis("a", (math.nan,)), Axis("b", (1.0,))], {}, "a: values must be finite"),
        ([Axis("a", (2.0,), 0, 1), Axis("b", (1.0,))], {}, "a: values must be finite and from 0 to 1"),
        ([Axis("a", (0.0,), log=True), Axis("b", (1.0,))], {}, "needs values above 0, got 0"),
        ([Axis("a", ("x",), choices=("y", "z")), Axis("b", (1.0,))], {}, "'x' is not one of y, z"),
        ([Axis("a", (1.0,)), Axis("b", ("y",), choices=("y",))], {}, "the last axis gives the colours"),
        ([Axis("a", (1.0,)), Axis("b", (1.0,))], {"faint": [True, False]}, "1 lines need as many entries"),
    ],
)
def test_what_cannot_be_drawn_is_refused(axes, options, message):
    with pytest.raises(ValueError, match=message):
        parallel_coordinates(axes, **options)
