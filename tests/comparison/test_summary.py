"""The summary: means over the scores that are known, and intervals that contain the mean as often as they say."""

import inspect
import math

import numpy as np
import pytest
from scipy import stats

from jaxseg.comparison import summary
from jaxseg.comparison.scores import MEASURES, Scores
from jaxseg.comparison.summary import Collected, bootstrap


def scores(dice: float, hd: float = 1.0, unit: str = "px") -> Scores:
    return Scores(dice, dice / 2, dice, hd, hd, hd, 4.0, 4.0, 0.0, 0.0, unit, "")


def collected(images: list[list[tuple[str, str, Scores]]]) -> Collected:
    found = Collected()
    for image in images:
        found.add_image(image)
    return found


def test_the_mean_and_the_median_are_of_the_scores_that_are_known():
    images = [[("", "heart", scores(d, h))] for d, h in ((0.2, 1), (0.9, math.inf), (math.nan, math.nan), (1.0, 4))]
    rows = {row.measure: row for row in collected(images).rows()}
    assert list(rows) == list(MEASURES)
    dice, distance = rows["dice"], rows["hd95"]
    assert (dice.count, dice.left_out, dice.mean, dice.median) == (3, 1, pytest.approx(0.7), 0.9)
    assert (distance.count, distance.left_out, distance.mean, distance.median) == (2, 2, 2.5, 2.5)
    assert (dice.unit, distance.unit, rows["difference"].unit, rows["relative_difference"].unit) == ("", "px", "px", "")


def test_annotators_classes_and_units_have_rows_of_their_own():
    images = [
        [("A", "heart", scores(0.5)), ("B", "heart", scores(0.7)), ("A", "lung", scores(0.9))],
        [("A", "heart", scores(0.6, unit="mm"))],
    ]
    rows = [row for row in collected(images).rows() if row.measure == "hd"]
    assert [(row.annotator, row.name, row.unit, row.count) for row in rows] == [
        ("A", "heart", "px", 1),
        ("B", "heart", "px", 1),
        ("A", "lung", "px", 1),
        ("A", "heart", "mm", 1),
    ]
    assert all(math.isnan(row.low) for row in rows)  # of a single image


def test_a_class_without_any_score_has_no_mean():
    rows = collected([[("", "heart", scores(math.nan, math.nan))]] * 3).rows()
    assert {(row.count, row.left_out) for row in rows if row.measure in ("dice", "hd")} == {(0, 3)}
    assert all(math.isnan(value) for row in rows if row.measure == "dice" for value in (row.mean, row.median, row.low))


def test_the_interval_is_that_of_scipy():
    values = np.random.default_rng(1).beta(8, 2, 120)
    found = bootstrap(values[:, None])
    seed = {"rng" if "rng" in inspect.signature(stats.bootstrap).parameters else "random_state": 0}  # before 1.15
    expected = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", **seed).confidence_interval
    np.testing.assert_allclose(found[:, 0], expected, atol=0.004)


def test_the_interval_contains_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    values = rng.normal(5, 2, (60, 400))  # 400 data sets of 60 images
    low, high = bootstrap(values, resamples=500)
    assert np.mean((low <= 5) & (high >= 5)) == pytest.approx(0.95, abs=0.035)


def test_the_interval_is_the_same_every_time_and_for_each_class_in_any_company(monkeypatch):
    values = np.random.default_rng(0).random((50, 6))
    values[::3, 1] = np.nan
    values[:49, 2] = np.inf
    together = bootstrap(values)
    np.testing.assert_array_equal(together, bootstrap(values))
    for k in range(6):
        np.testing.assert_allclose(bootstrap(values[:, k : k + 1])[:, 0], together[:, k], rtol=1e-12)
    assert np.isnan(together[:, 2]).all()  # one known score
    monkeypatch.setattr(summary, "_BLOCK", 70)  # one sample at a time
    np.testing.assert_allclose(bootstrap(values), together, rtol=1e-12)


def test_large_tables_are_summarised_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    images = [[("", f"class {k}", scores(rng.random())) for k in range(7) if rng.random() < 0.8] for _ in range(40)]
    whole = collected(images).rows()
    monkeypatch.setattr(summary, "_VALUES", 40 * len(MEASURES) * 2)
    parts = collected(images).rows()
    assert [(row.name, row.measure, row.count) for row in parts] == [(r.name, r.measure, r.count) for r in whole]
    np.testing.assert_allclose([row.low for row in parts], [row.low for row in whole], rtol=1e-12)
