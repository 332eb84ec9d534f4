"""Bars in pairs: their lengths follow the numbers, and what cannot be drawn is refused."""

import math

import numpy as np
import pytest

from jaxseg.post_dae.bars import COLOURS, Panel, paired_bars

SERIES = ("before", "after")


def drawn(pairs, **options) -> np.ndarray:
    panel = Panel("Dice", tuple(pairs), **options)
    rows = [f"row {i}" for i in range(len(pairs))]
    return np.asarray(paired_bars([panel], rows, title="corruption", series=SERIES, caption="of 60 masks"))


def lengths(picture: np.ndarray, colour) -> list[int]:
    """The lengths of the bars of a colour, from above; its square in the legend, below all, is left out."""
    hits = (picture == np.asarray(colour)).all(-1).sum(1)
    found = [hits[i] for i in range(1, len(hits)) if hits[i] > 30 and hits[i - 1] <= 30]
    return [int(length) for length in found]


def test_bars_are_as_long_as_their_means():
    picture = drawn([((0.5, 0.0), (1.0, 0.0)), ((0.25, 0.0), (0.75, 0.0))], top=1.0)
    before, after = (lengths(picture, colour) for colour in COLOURS)
    assert before[0] == pytest.approx(2 * before[1], abs=3)
    assert after[1] == pytest.approx(0.75 * after[0], abs=3)
    assert after[0] == pytest.approx(2 * before[0], abs=3)


def test_a_missing_mean_has_no_bar():
    picture = drawn([((None, None), (0.5, 0.1)), ((math.nan, None), (0.5, 0.1))], top=1.0)
    assert lengths(picture, COLOURS[0]) == []
    assert len(lengths(picture, COLOURS[1])) == 2


def test_several_panels_stand_beside_each_other():
    panel = Panel("Hausdorff", (((90.0, 5.0), (20.0, 3.0)),), digits=1)
    one, two = (
        paired_bars([panel] * n, ["original"], title="corruption", series=SERIES, caption="x " * 200) for n in (1, 2)
    )
    assert two.width > one.width + 250


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="pair for each of 2 rows"):
        paired_bars([Panel("Dice", (((1.0, 0.0), (1.0, 0.0)),))], ["a", "b"], title="", series=SERIES)
    with pytest.raises(ValueError, match="one or more panels"):
        paired_bars([], ["a"], title="", series=SERIES)
