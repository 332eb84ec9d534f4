"""Plots: lengths, places and colours follow the numbers, bad values are refused, and matplotlib is optional."""

import logging
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.draw import figures
from jaxseg.draw.pictures import BACKGROUND
from jaxseg.draw.plots import GREY, MAX_ROWS, PAIR, Axis, Panel, count_bars, paired_bars, parallel_coordinates, scatter
from jaxseg.palette import OKABE_ITO

SERIES = ("before", "after")
FINITE = st.floats(1e-6, 1e6)
BLUE = OKABE_ITO[1]


def lengths(picture, colour) -> list[int]:
    """Returns the lengths of the bars of a colour from above; its square in the legend is shorter than any bar."""
    hits = (np.asarray(picture) == np.asarray(colour)).all(-1).sum(1)
    starts = [i for i in range(1, len(hits)) if hits[i] > 40 and hits[i - 1] <= 40]
    return [int(hits[i + 1]) for i in starts]


def bars(pairs, **options) -> np.ndarray:
    rows = [f"row {i}" for i in range(len(pairs))]
    panel = Panel("Dice", tuple(pairs), **options)
    return np.asarray(paired_bars([panel], rows, title="corruption", series=SERIES, caption="60 masks"))


def test_bars_are_as_long_as_their_means():
    picture = bars([((0.5, 0.0), (1.0, 0.0)), ((0.25, 0.0), (0.75, 0.0))], top=1.0)
    before, after = (lengths(picture, colour) for colour in PAIR)
    assert before[0] == pytest.approx(2 * before[1], abs=4)
    assert after[1] == pytest.approx(0.75 * after[0], abs=4)
    assert after[0] == pytest.approx(2 * before[0], abs=4)


def test_a_missing_mean_has_no_bar():
    picture = bars([((None, None), (0.5, 0.1)), ((math.nan, None), (0.5, 0.1))], top=1.0)
    assert lengths(picture, PAIR[0]) == []
    assert len(lengths(picture, PAIR[1])) == 2


def test_panels_are_drawn_beside_each_other():
    panel = Panel("Hausdorff", (((90.0, 5.0), (20.0, 3.0)),), digits=1)
    one, two = (paired_bars([panel] * n, ["original"], title="", series=SERIES, caption="x " * 90) for n in (1, 2))
    assert two.width > one.width + 250


def test_bars_without_panels_or_rows_are_refused():
    with pytest.raises(ValueError, match="pair for each of 2 rows"):
        paired_bars([Panel("Dice", (((1.0, 0.0), (1.0, 0.0)),))], ["a", "b"], title="", series=SERIES)
    with pytest.raises(ValueError, match="one or more panels"):
        paired_bars([], ["a"], title="", series=SERIES)


def test_counts_are_as_long_as_their_numbers():
    found = lengths(count_bars({"a": {"x": 8, "y": 4, "z": 0}}, columns=1), BLUE)
    assert len(found) == 2
    assert found[0] / found[1] == pytest.approx(2, abs=0.05)


def test_many_counts_are_summed_up_and_an_empty_table_is_drawn():
    many = count_bars({"a": {str(k): 1 for k in range(MAX_ROWS + 50)}, "none": {}}, caption="what this is " * 20)
    few = count_bars({"a": {str(k): 1 for k in range(MAX_ROWS)}})
    assert many.height < few.height + 120
    assert many.mode == "RGB"
    with pytest.raises(ValueError, match="at least one table and one column"):
        count_bars({})


def orange(true, predicted, **options) -> np.ndarray:
    """Returns where the first colour of the palette is, bool (H, W)."""
    red, _, blue = np.moveaxis(np.asarray(scatter(np.array(true), np.array(predicted), **options)).astype(int), -1, 0)
    return red - blue > 90


def centre(found: np.ndarray) -> np.ndarray:
    return np.array([index.mean() for index in np.nonzero(found)])


def has(picture, colour) -> bool:
    """Returns whether a square of a colour, as in the legend, is in a picture."""
    return (np.asarray(picture) == np.asarray(colour)).all(-1).sum() > 30


def test_points_lie_where_their_values_say():
    origin, right, top, point = (centre(orange([x], [y])) for x, y in ((0, 0), (1, 0), (0, 1), (0.25, 0.5)))
    assert right[0] == pytest.approx(origin[0], abs=1.5)
    assert top[1] == pytest.approx(origin[1], abs=1.5)
    assert right[1] > origin[1] + 300
    assert origin[0] > top[0] + 300
    np.testing.assert_allclose(point, origin + 0.25 * (right - origin) + 0.5 * (top - origin), atol=3)


@pytest.mark.parametrize("value", [-0.5, 1.7])
def test_a_prediction_outside_0_and_1_is_drawn(value):
    assert orange([0.5], [value]).sum() > 0.4 * orange([0.5], [0.5]).sum()
    higher, lower = (centre(orange([0.5], [y]))[0] for y in (max(value, 0.5), min(value, 0.5)))
    assert higher < lower


def test_equal_values_lie_on_the_diagonal():
    bare = np.asarray(scatter(np.array([0.9]), np.array([0.1]))).astype(int)
    row, column = np.rint(centre(orange([0.4], [0.4]))).astype(int)
    assert bare[row - 1 : row + 2, column - 1 : column + 2].mean(-1).max() > 100
    assert bare[row, column + 20].mean() < 40


def test_the_most_frequent_groups_have_colours_and_the_others_are_grey():
    few, many = ([f"organ {i}" for i in range(count) for _ in range(20 - i)] for count in (7, 12))
    pictures = [scatter(np.full(len(x), 0.3), np.full(len(x), 0.6), groups=x) for x in (few, many)]
    assert all(has(picture, colour) for picture in pictures for colour in OKABE_ITO)
    assert [has(picture, GREY) for picture in pictures] == [False, True]


def test_the_legend_needs_room_only_if_there_are_groups():
    points = np.array([0.1, 0.8]), np.array([0.2, 0.7])
    assert scatter(*points, groups=["liver", "colon"]).width > scatter(*points).width


def test_the_same_points_give_the_same_picture():
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
def test_points_that_cannot_be_drawn_are_refused(true, predicted, options, words):
    with pytest.raises(ValueError, match=words):
        scatter(np.array(true), np.array(predicted), **options)


def coordinates(*axes, **options) -> np.ndarray:
    return np.asarray(parallel_coordinates(axes, **options)).astype(int)


def rows_of_lines(picture: np.ndarray, share: float) -> list[float]:
    """Returns the rows of the lines in the column at this share of the width, ordered from dark to bright."""
    column = picture[62:, round(share * picture.shape[1])]
    drawn = np.flatnonzero(np.abs(column - np.asarray(BACKGROUND)).sum(-1) > 100)
    lines = np.split(drawn, np.flatnonzero(np.diff(drawn) > 1) + 1)
    return [float(line.mean()) for line in sorted(lines, key=lambda line: column[line].sum(-1).max())]


def test_lines_follow_plain_and_logarithmic_axes():
    first = Axis("rate", (1e-4, 1e-3, 1e-2), 1e-4, 1e-2, log=True)
    picture = coordinates(first, Axis("decay", (0.0, 0.5, 1.0)), Axis("dice", (0.0, 0.5, 1.0)))
    for share in (0.27, 0.6):  # between the axes
        rows = rows_of_lines(picture, share)
        assert len(rows) == 3
        assert rows[0] > rows[1] > rows[2]
        assert rows[1] == pytest.approx((rows[0] + rows[2]) / 2, abs=6)


def test_choices_are_evenly_spaced_in_their_order():
    names = Axis("optimizer", ("sgd", "adam", "adamw"), choices=("adam", "adamw", "sgd"))
    rows = rows_of_lines(coordinates(names, Axis("dice", (1.0, 0.0, 0.5))), 0.4)
    assert len(rows) == 3
    assert rows == sorted(rows, reverse=True)


def test_faint_lines_are_paler():
    axes = (Axis("a", (0.5, 0.5), 0, 1), Axis("dice", (0.4, 0.6), 0, 1))
    both, second, none = (coordinates(*axes, faint=faint) for faint in ([False] * 2, [False, True], [True] * 2))
    assert np.abs(both - second).sum() > 0
    assert none.sum() < both.sum()


@settings(max_examples=5, deadline=None)
@given(st.lists(st.tuples(FINITE, FINITE, st.booleans()), min_size=1, max_size=8))
def test_any_finite_values_are_drawn(rows):
    a, b, faint = zip(*rows, strict=True)
    axes = (Axis("a", a, log=True), Axis("name " * 40, a), Axis("$b", b))
    assert coordinates(*axes, title="x" * 900, faint=faint).shape[2] == 3


def test_letters_that_the_font_lacks_and_formulas_are_drawn_as_plain_text():
    picture = count_bars({"肺 $x_1$": {"\x1b[31m心": 1}}, caption="$\\frac{")
    assert picture.mode == "RGB"


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
def test_coordinates_that_cannot_be_drawn_are_refused(axes, options, message):
    with pytest.raises(ValueError, match=message):
        parallel_coordinates(axes, **options)


def test_without_matplotlib_there_is_no_plot_and_the_log_names_the_extra(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    figures._has_matplotlib.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert [count_bars({"a": {"x": 1}}) for _ in range(2)] == [None, None]
        assert caplog.text.count("pip install 'jaxseg[plot]'") == 1
    finally:
        figures._has_matplotlib.cache_clear()


def test_matplotlib_is_imported_only_to_draw():
    code = "import sys, jaxseg.draw.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
