"""Scatter plots: points lie where their values say, all are seen, groups have colours, bad values are refused."""

import numpy as np
import pytest

from jaxseg.palette import OKABE_ITO
from jaxseg.segae.scatter import OTHERS, scatter


def orange(true, predicted, **options) -> np.ndarray:
    """Where the first colour is, bool (H, W)."""
    red, _, blue = np.moveaxis(np.asarray(scatter(np.array(true), np.array(predicted), **options)).astype(int), -1, 0)
    return red - blue > 90


def centre(found: np.ndarray) -> np.ndarray:
    return np.array([index.mean() for index in np.nonzero(found)])


def has(picture, colour) -> bool:
    """Whether a square of a colour, as in the legend, is in a picture."""
    return (np.asarray(picture) == np.asarray(colour)).all(-1).sum() > 50


def test_points_lie_where_their_values_say():
    corners = [centre(orange([x], [y])) for x, y in ((0, 0), (1, 0), (0, 1), (0.25, 0.5))]
    origin, right, top, point = corners
    assert right[0] == pytest.approx(origin[0], abs=1.5)
    assert top[1] == pytest.approx(origin[1], abs=1.5)
    assert right[1] > origin[1] + 300
    assert origin[0] > top[0] + 300
    np.testing.assert_allclose(point, origin + 0.25 * (right - origin) + 0.5 * (top - origin), atol=3)


@pytest.mark.parametrize("value", [-0.5, 1.7])
def test_a_prediction_beyond_0_and_1_is_seen(value):
    assert orange([0.5], [value]).sum() > 0.4 * orange([0.5], [0.5]).sum()
    higher, lower = (centre(orange([0.5], [y]))[0] for y in (max(value, 0.5), min(value, 0.5)))
    assert higher < lower


def test_points_on_the_diagonal_lie_on_its_line():
    bare = np.asarray(scatter(np.array([0.9]), np.array([0.1]))).astype(int)
    row, column = np.rint(centre(orange([0.4], [0.4]))).astype(int)
    assert bare[row, column].mean() > 60
    assert bare[row, column + 20].mean() < 40


def test_the_most_frequent_groups_have_colours_and_the_rest_is_grey():
    few, many = ([f"organ {i}" for i in range(count) for _ in range(20 - i)] for count in (7, 12))
    pictures = [scatter(np.full(len(x), 0.3), np.full(len(x), 0.6), groups=x) for x in (few, many)]
    assert all(has(picture, colour) for picture in pictures for colour in OKABE_ITO)
    assert [has(picture, OTHERS) for picture in pictures] == [False, True]


def test_a_legend_takes_room_only_where_there_are_groups():
    points = np.array([0.1, 0.8]), np.array([0.2, 0.7])
    assert scatter(*points, groups=["liver", "colon"]).width > scatter(*points).width


def test_thousands_of_points_leave_the_diagonal_to_be_seen_through_and_the_same_picture_twice():
    rng = np.random.default_rng(0)
    true = rng.random(4000)
    predicted = true + 0.1 * rng.normal(size=4000)
    first, second = (np.asarray(scatter(true, predicted, title="a title " * 40)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("true", "predicted", "options", "words"),
    [
        ([], [], {}, "as many true as predicted"),
        ([0.1, 0.2], [0.1], {}, r"as many true as predicted values, got \(2,\) and \(1,\)"),
        ([[0.1]], [[0.1]], {}, r"got \(1, 1\)"),
        ([0.1], [np.nan], {}, "finite"),
        ([0.1], [0.1], {"groups": []}, "1 points need as many groups, got 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(true, predicted, options, words):
    with pytest.raises(ValueError, match=words):
        scatter(np.array(true), np.array(predicted), **options)
