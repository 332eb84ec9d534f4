"""Calibrated Dice: a monotone map from predicted to true Dice, and an interval around the score of a mask.

The map is an isotonic regression of the true on the predicted Dice of validation slices (Barlow et al. 1972; Zadrozny
and Elkan 2002, doi 10.1145/775047.775151), with straight lines between the centres of its steps, and from these to
(0, 0) and (1, 1), so that masks worse than all of the validation keep their order. The interval is from
conformal prediction (Vovk et al. 2005; Lei et al. 2018, arXiv:1604.04173): the score plus and minus the residual that
90 % of the validation masks do not exceed. Residuals are cross-validated: the map of a case is fitted on other cases.
The interval therefore holds for masks like those of the validation split, and for slices in which mask and truth
share at least `data.overlap` pixels, because only these are validated with. With few patients, it says little about
another scanner or another segmenter.
"""

import dataclasses
import json
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from jaxseg.files import parse_json

COVERAGE = 0.9  # fraction of masks whose interval holds the true Dice
FOLDS = 10  # largest number of folds of the cross-validation
LEAST_MASKS = 5  # fewest masks of a calibration
LEAST_SLOPE = 0.01  # of the map towards its ends, also if the best masks of the validation are perfect
DIGITS = 6  # decimal places that are stored


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A monotone map from predicted to true Dice.

    Attributes:
      predicted: predicted Dice of the knots, ascending; at least one.
      dice: true Dice at the knots, not descending, in [0, 1].
      margin: half of the width of the interval around the score of a mask, in [0, 1].
      coverage: fraction of masks whose interval holds the true Dice.
      masks: number of masks that it was fitted on.
    """

    predicted: tuple[float, ...]
    dice: tuple[float, ...]
    margin: float = 1.0
    coverage: float = COVERAGE
    masks: int = 0

    def __call__(self, values: ArrayLike) -> np.ndarray:
        """Returns calibrated Dice in [0, 1]; beyond the knots it is constant, and NaN stays NaN.

        Args:
          values: predicted Dice, any shape.

        Example:
          >>> Calibration((0.2, 0.6), (0.5, 0.9))([0.0, 0.3, 0.9]).tolist()
          [0.5, 0.6, 0.9]
        """
        return np.round(np.interp(values, self.predicted, self.dice), 12)

    def text(self) -> str:
        """Returns the calibration as the JSON text that the card of a model holds."""
        return json.dumps(dataclasses.asdict(self))


def parse_calibration(text: str) -> Calibration:
    """Returns the calibration that `Calibration.text` wrote.

    Raises:
      ValueError: the text is something else.

    Example:
      >>> parse_calibration(Calibration((0.2, 0.6), (0.5, 0.9)).text()).dice
      (0.5, 0.9)
    """
    try:
        found = parse_json(text.encode())
        values = found | {name: tuple(map(_number, found[name])) for name in ("predicted", "dice")}
        calibration = Calibration(**values)
        knots, dice = calibration.predicted, calibration.dice
        good = len(knots) == len(dice) > 0 and type(calibration.masks) is int and calibration.masks >= 0
        good = good and all(a < b for a, b in zip(knots, knots[1:], strict=False))
        good = good and all(a <= b for a, b in zip(dice, dice[1:], strict=False)) and dice[0] >= 0 and dice[-1] <= 1
        good = good and 0 <= _number(calibration.margin) <= 1 and 0 < _number(calibration.coverage) < 1
    except (TypeError, KeyError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(f"this is not a calibration: {error}") from None
    if not good:
        raise ValueError("this is not a calibration: its numbers are out of range or not ascending")
    return calibration


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def isotonic(predicted: ArrayLike, true: ArrayLike) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the knots of the monotone map with the smallest squared error.

    Args:
      predicted: (N,) predicted Dice, finite; N is at least 1.
      true: (N,) true Dice in [0, 1].

    Returns:
      Predicted Dice, ascending, and true Dice, not descending, at the centre of each step.

    Raises:
      ValueError: the shapes differ, or a value is not finite.

    Example:
      >>> isotonic([0.1, 0.2, 0.3, 0.4], [0.5, 0.3, 0.6, 0.8])
      ((0.15, 0.3, 0.4), (0.4, 0.6, 0.8))
    """
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    if predicted.shape != true.shape or predicted.ndim != 1 or not predicted.size:
        raise ValueError(f"predicted and true Dice must both be (N,), got {predicted.shape} and {true.shape}")
    if not np.isfinite([predicted, true]).all():
        raise ValueError("predicted and true Dice must be finite")
    places, index, counts = np.unique(np.round(predicted, DIGITS), return_inverse=True, return_counts=True)
    means = np.bincount(index, true) / counts
    found = optimize.isotonic_regression(means, weights=counts)
    starts = found.blocks[:-1]
    centres = np.add.reduceat(places * counts, starts) / np.add.reduceat(counts, starts)
    levels = np.clip(found.x[starts], 0, 1)
    return tuple(np.round(centres, DIGITS).tolist()), tuple(np.round(levels, DIGITS).tolist())


def _fitted(predicted: np.ndarray, true: np.ndarray, **fields) -> Calibration:
    """Returns a calibration that rises in the whole of [0, 1], also outside the centres of the regression."""
    knots, dice = map(np.array, isotonic(predicted, true))
    inner = (knots > 0) & (knots < 1)
    room = np.clip(dice, LEAST_SLOPE * knots, 1 - LEAST_SLOPE * (1 - knots))  # below (1, 1) and above (0, 0)
    dice = np.where(inner, room, dice)
    below, above = [0.0] * bool(knots[0] > 0), [1.0] * bool(knots[-1] < 1)
    return Calibration((*below, *knots.tolist(), *above), (*below, *dice.tolist(), *above), **fields)


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A calibration, and how it does on masks that it was not fitted on.

    Attributes:
      calibration: fitted on all masks.
      crossed: (N,) calibrated Dice of the slices, each by the map of other folds.
      unit: what the folds consist of: "case", "organ" or "mask".
    """

    calibration: Calibration
    crossed: np.ndarray
    unit: str


def calibrate(
    predicted: np.ndarray, true: np.ndarray, *, cases: Sequence[str], organs: Sequence[str], masks: Sequence[str]
) -> Fitted | None:
    """Fits a calibration on the slices of validation masks.

    Args:
      predicted, true: (N,) Dice of slices.
      cases, organs, masks: N names, one per slice: of its case, its organ and its mask. The folds of the
        cross-validation consist of cases if there are two or more, else of organs, else of masks.

    Returns:
      The calibration; None if there are fewer than `LEAST_MASKS` masks.
    """
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    if len(set(masks)) < LEAST_MASKS:
        return None
    units = {"case": cases, "organ": organs, "mask": masks}
    unit, names = next((unit, names) for unit, names in units.items() if len(set(names)) > 1)
    folds = np.unique(np.array(names), return_inverse=True)[1] % FOLDS
    crossed = np.empty_like(predicted)
    for fold in np.unique(folds):
        mine = folds == fold
        crossed[mine] = _fitted(predicted[~mine], true[~mine])(predicted[mine])
    margin = _margin(crossed, true, masks)
    return Fitted(_fitted(predicted, true, margin=margin, masks=len(set(masks))), crossed, unit)


def _margin(crossed: np.ndarray, true: np.ndarray, masks: Sequence[str]) -> float:
    """Returns the conformal quantile of the errors of the masks' means; 1 if there are too few masks for one."""
    index = np.unique(np.array(masks), return_inverse=True)[1]
    residuals = np.sort(np.abs(np.bincount(index, true - crossed) / np.bincount(index)))
    rank = math.ceil((len(residuals) + 1) * COVERAGE)
    return 1.0 if rank > len(residuals) else min(1.0, round(float(residuals[rank - 1]), DIGITS))
