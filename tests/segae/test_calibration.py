"""Isotonic calibration of the predicted Dice, its interval, and its stored form."""

import json

import numpy as np
import pytest

from jaxseg.segae.calibration import COVERAGE, Calibration, calibrate, isotonic, parse_calibration


def too_low(seed: int, masks: int = 60, slices: int = 3):
    """Returns predicted and true Dice of slices, and the names of masks; predictions are about 0.6 of the truth."""
    rng = np.random.default_rng(seed)
    true = np.clip(np.repeat(rng.uniform(0.1, 1, masks), slices) + 0.02 * rng.normal(size=masks * slices), 0, 1)
    return 0.6 * true + 0.03 * rng.normal(size=true.size), true, [f"m{k // slices}" for k in range(true.size)]


def fit(predicted, true, masks, cases=2):
    names = [f"c{int(mask[1:]) % cases}" for mask in masks]
    return calibrate(predicted, true, cases=names, organs=["liver"] * len(true), masks=masks)


def test_predictions_that_are_too_low_are_corrected_on_other_cases():
    predicted, true, masks = too_low(0)
    fitted = fit(predicted, true, masks)
    assert fitted.unit == "case"
    assert np.abs(predicted - true).mean() > 0.15
    assert np.abs(fitted.crossed - true).mean() < 0.06
    assert abs(np.mean(fitted.crossed - true)) < 0.02


@pytest.mark.parametrize("seed", range(20))
def test_the_map_never_falls_and_stays_in_0_to_1(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 40))
    predicted = np.round(rng.normal(0.5, 0.5, count), int(rng.integers(0, 3)))  # with ties
    knots, dice = isotonic(predicted, rng.uniform(0, 1, count))
    values = Calibration(knots, dice)(np.linspace(-2, 3, 101))
    assert (np.diff(values) >= 0).all()
    assert values.min() >= 0
    assert values.max() <= 1


@pytest.mark.parametrize("seed", range(10))
def test_masks_that_are_worse_than_all_of_the_validation_keep_their_order(seed):
    calibration = fit(*too_low(seed)).calibration
    assert calibration.predicted[1] > 0
    values = calibration(np.linspace(0, 1, 201))
    assert (np.diff(values) > 0).all()
    assert (values[0], values[-1]) == (0, 1)


def test_ends_are_added_only_outside():
    masks = [f"m{k}" for k in range(8)]
    predicted = np.array([-0.1, 0.2, 0.4, 0.5, 0.6, 0.7, 0.9, 1.1])
    calibration = fit(predicted, np.linspace(0.1, 0.8, 8), masks).calibration
    assert calibration.predicted == tuple(predicted)
    assert calibration([-1, 2]).tolist() == pytest.approx([0.1, 0.8])


@pytest.mark.parametrize("seed", range(5))
def test_the_fit_has_the_mean_of_the_truth_and_a_smaller_error_than_any_line(seed):
    predicted, true, _ = too_low(seed)
    knots, dice = map(np.array, isotonic(predicted, true))
    steps = dice[np.abs(predicted[:, None] - knots).argmin(1)]
    assert np.mean(steps) == pytest.approx(np.mean(true), abs=0.01)
    found = Calibration(tuple(knots), tuple(dice))(predicted)
    line = np.polyval(np.polyfit(predicted, true, 1), predicted)
    assert np.square(found - true).mean() <= np.square(line - true).mean()


def test_the_interval_holds_for_new_masks_as_often_as_it_says():
    held = []
    for seed in range(30):
        calibration = fit(*too_low(seed)).calibration
        predicted, true, _ = too_low(1000 + seed)
        scores, means = calibration(predicted).reshape(-1, 3).mean(1), true.reshape(-1, 3).mean(1)
        held.append(np.mean(np.abs(scores - means) <= calibration.margin))
    assert np.mean(held) == pytest.approx(COVERAGE, abs=0.05)


def test_few_masks_have_the_widest_interval_and_fewer_no_calibration():
    predicted, true, masks = too_low(0, masks=8)
    assert fit(predicted, true, masks).calibration.margin == 1
    assert fit(predicted[:12], true[:12], masks[:12]) is None


def test_one_case_is_divided_by_organs_and_one_organ_by_masks():
    predicted, true, masks = too_low(0)
    one = ["x"] * len(true)
    halves = [f"organ{k % 2}" for k in range(len(true))]
    assert calibrate(predicted, true, cases=one, organs=halves, masks=masks).unit == "organ"
    assert calibrate(predicted, true, cases=one, organs=one, masks=masks).unit == "mask"


def test_the_stored_form_is_read_again():
    calibration = fit(*too_low(0)).calibration
    assert parse_calibration(calibration.text()) == calibration
    assert np.isnan(calibration(np.array([np.nan]))).all()


@pytest.mark.parametrize(
    "change",
    [
        {"predicted": []},
        {"predicted": [0.5, 0.2]},
        {"dice": [0.5, 0.2]},
        {"dice": [0.5, 1.2]},
        {"dice": [0.5]},
        {"dice": ["0.5", "0.6"]},
        {"dice": None},
        {"margin": -0.1},
        {"margin": True},
        {"margin": 10**400},
        {"predicted": [0.2, 10**400]},
        {"coverage": 1.0},
        {"masks": 2.5},
        {"more": 1},
    ],
)
def test_damaged_calibrations_are_refused(change):
    content = json.loads(Calibration((0.2, 0.6), (0.5, 0.9)).text()) | change
    with pytest.raises(ValueError, match="this is not a calibration"):
        parse_calibration(json.dumps(content))
    for text in ("", "[]", "{", "3"):
        with pytest.raises(ValueError, match="this is not a calibration"):
            parse_calibration(text)


def test_bad_values_are_refused():
    for predicted, true in (([], []), ([0.1], [0.1, 0.2]), ([np.nan], [0.1])):
        with pytest.raises(ValueError, match="predicted and true Dice must"):
            isotonic(predicted, true)
