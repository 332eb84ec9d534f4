"""Agreement of predicted and true Dice: correlations with ties, few values, tables, and values for JSON."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxseg.palette import OKABE_ITO
from jaxseg.segae.calibration import parse_calibration
from jaxseg.segae.evaluate import quality_examination, summary

DICE = st.integers(0, 10).map(lambda tenths: tenths / 10)  # few values, so that there are ties


@pytest.fixture(scope="module")
def examined():
    """Returns three organs: one predicted well, one predicted badly, and one with two slices."""
    true = np.array([0.1, 0.5, 0.9, 0.2, 0.4, 0.6, 0.3, 0.8])
    predicted = np.array([0.2, 0.5, 0.9, 0.9, 0.5, 0.1, 0.3, 0.7])
    return quality_examination(true, predicted, ["liver"] * 3 + ["colon"] * 3 + ["small bowel"] * 2)


@settings(deadline=None)
@given(st.lists(st.tuples(DICE, DICE), min_size=3, max_size=30))
def test_correlations_equal_those_of_scipy_also_with_ties(pairs):
    true, predicted = np.array(pairs).T
    found = summary(true, predicted)
    assert found["mae"] == pytest.approx(np.abs(true - predicted).mean())
    if len(set(true)) > 1 and len(set(predicted)) > 1:
        assert found["correlation"] == pytest.approx(stats.pearsonr(true, predicted).statistic, abs=1e-9)
        assert found["rank_correlation"] == pytest.approx(stats.spearmanr(true, predicted).statistic, abs=1e-9)


def test_the_rank_correlation_depends_only_on_the_order():
    true = np.linspace(0.1, 0.9, 20)
    found = summary(true, true**5)
    assert found["rank_correlation"] == pytest.approx(1)
    assert found["correlation"] < 0.95
    assert summary(true, -true)["rank_correlation"] == pytest.approx(-1)


@pytest.mark.parametrize("predicted", [[0.3], [0.3, 0.4], [0.3, 0.3, 0.3], [0.1 + 0.2] * 7])
def test_without_spread_or_with_few_values_there_is_no_correlation_and_no_warning(predicted):
    true = np.linspace(0, 1, len(predicted))
    found = summary(true, np.array(predicted))
    assert not abs(found["correlation"]) > 0
    assert not abs(found["rank_correlation"]) > 0
    assert np.isfinite(found["mae"])


def test_single_precision_gives_the_same_numbers():
    rng = np.random.default_rng(0)
    true, predicted = rng.random((2, 50)).astype(np.float32)
    wide = summary(true.astype(np.float64), predicted.astype(np.float64))
    assert summary(true, predicted) == pytest.approx(wide, abs=1e-6)


@pytest.mark.parametrize("shapes", [((3,), (4,)), ((0,), (0,)), ((2, 2), (2, 2))])
def test_other_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match="must both be"):
        summary(*(np.zeros(shape) for shape in shapes))


def test_every_organ_is_measured_separately(examined):
    found = examined.numbers
    assert found["all"]["count"] == 8
    assert {name: row["count"] for name, row in found["organs"].items()} == {"liver": 3, "colon": 3, "small bowel": 2}
    assert found["organs"]["liver"]["mae"] == pytest.approx(0.1 / 3)
    assert found["organs"]["colon"]["rank_correlation"] == pytest.approx(-1)
    assert found["organs"]["colon"]["true"] == pytest.approx(0.4)
    assert found["organs"]["colon"]["predicted"] == pytest.approx(0.5)
    assert found["organs"]["small bowel"]["correlation"] is None
    json.dumps(found, allow_nan=False)


def test_the_table_starts_with_all_organs_together_then_each_by_mae(examined):
    lines = examined.table.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["organ", "all", "colon", "small bowel", "liver"]
    assert len({len(line) for line in lines}) == 1
    assert lines[3].split()[-2:] == ["-", "-"]


def test_the_picture_has_a_colour_for_every_organ(examined):
    pixels = np.asarray(examined.picture)
    assert [(pixels == np.asarray(colour)).all(-1).sum() > 50 for colour in OKABE_ITO[:4]] == [True] * 3 + [False]


def test_calibrated_errors_are_reported_and_the_calibration_is_for_the_card():
    rng = np.random.default_rng(0)
    true = rng.uniform(0.1, 1, 60)
    predicted = 0.5 * true + 0.02 * rng.normal(size=60)
    cases, masks = [f"case{k % 3}" for k in range(60)], [f"mask{k // 2}" for k in range(60)]
    found = quality_examination(true, predicted, ["liver"] * 60, cases=cases, masks=masks)
    numbers = found.numbers["calibration"]
    assert numbers["before"]["mae"] == pytest.approx(np.abs(predicted - true).mean())
    assert numbers["after"]["mae"] < 0.3 * numbers["before"]["mae"]
    assert abs(numbers["after"]["mean_error"]) < 0.03 < -numbers["before"]["mean_error"]
    assert (numbers["fitted_without"], numbers["masks"]) == ("case", 30)
    assert "calibrated on every other case" in found.table
    assert f"90% of the 30 masks are within {numbers['margin']:.3f} of the score" in found.table
    calibration = parse_calibration(found.calibration)
    assert np.abs(calibration(predicted) - true).mean() < numbers["before"]["mae"]
    plain = quality_examination(true, predicted, ["liver"] * 60)
    assert found.picture.width > 1.5 * plain.picture.width  # the reliability plot is beside it
    assert plain.calibration == ""
    assert "calibration" not in plain.numbers
