"""Agreement of predicted and true Dice, for all masks and for every organ: numbers, tables and plots."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from scipy import stats

from jaxseg.draw.pictures import BACKGROUND
from jaxseg.draw.plots import scatter
from jaxseg.segae.calibration import Fitted, calibrate
from jaxseg.text_table import text_table
from jaxseg.training.task import Examination

LEAST = 3  # smallest number of masks for a correlation
COLUMNS = {  # key -> heading
    "count": "slices",
    "true": "true Dice",
    "predicted": "predicted",
    "mae": "MAE",
    "correlation": "linear",
    "rank_correlation": "rank",
}
BINS = 10  # points of the reliability plot for each way to predict


def summary(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Returns "correlation" (Pearson), "rank_correlation" (Spearman; ties share their mean rank) and "mae".

    Args:
      true: (N,) true Dice.
      predicted: (N,) predicted Dice.

    Returns:
      Numbers; a correlation is 0 if one of the two is constant or there are fewer than three masks.
    """
    true, predicted = (np.asarray(values, np.float64) for values in (true, predicted))
    if true.shape != predicted.shape or true.ndim != 1 or not true.size:
        raise ValueError(f"true and predicted Dice must both be (N,), got {true.shape} and {predicted.shape}")
    return {
        "correlation": _pearson(true, predicted),
        "rank_correlation": _pearson(stats.rankdata(true), stats.rankdata(predicted)),
        "mae": float(np.abs(predicted - true).mean()),
    }


def quality_examination(
    true: np.ndarray,
    predicted: np.ndarray,
    organs: Sequence[str],
    *,
    cases: Sequence[str] | None = None,
    masks: Sequence[str] | None = None,
) -> Examination:
    """Returns the agreement over all slices and for every organ, with the largest error first.

    If the slices belong to enough masks, it has a calibration too, with its errors on masks it was not fitted on.

    Args:
      true, predicted: (N,) Dice of slices.
      organs: N names, one per slice.
      cases, masks: N names of the case and of the mask of each slice; None: there is no calibration.
    """
    names = np.array(organs)
    whole = _row(true, predicted)
    rows = {str(name): _row(true[names == name], predicted[names == name]) for name in np.unique(names)}
    rows = dict(sorted(rows.items(), key=lambda item: -item[1]["mae"]))
    shown = f"{whole['count']} slices: linear {whole['correlation']:.3f}, rank {whole['rank_correlation']:.3f}"
    picture = scatter(true, predicted, groups=list(organs), title=f"{shown}, MAE {whole['mae']:.3f}")
    numbers, table = {"all": whole, "organs": rows}, _table({"all": whole} | rows)
    known = cases is not None and masks is not None
    fitted = calibrate(predicted, true, cases=cases, organs=organs, masks=masks) if known else None
    if fitted is None:
        return Examination(numbers, table, picture)
    numbers["calibration"] = _calibrated(true, predicted, fitted)
    table += "\n\n" + _calibration_table(numbers["calibration"], fitted)
    picture = _beside(picture, _reliability(true, predicted, fitted))
    return Examination(numbers, table, picture, calibration=fitted.calibration.text())


def _calibrated(true: np.ndarray, predicted: np.ndarray, fitted: Fitted) -> dict:
    """Returns the errors before and after the calibration, and the interval."""
    found = {name: _errors(true, values) for name, values in {"before": predicted, "after": fitted.crossed}.items()}
    calibration = fitted.calibration
    interval = {"margin": calibration.margin, "coverage": calibration.coverage, "masks": calibration.masks}
    return found | {"fitted_without": fitted.unit} | interval


def _errors(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    return {"mean_error": float(np.mean(predicted - true))} | summary(true, predicted)


def _calibration_table(numbers: Mapping, fitted: Fitted) -> str:
    keys = ("mean_error", "mae", "correlation", "rank_correlation")
    rows = {"predicted": numbers["before"], f"calibrated on every other {fitted.unit}": numbers["after"]}
    cells = [[name, *(f"{found[key]:.3f}" for key in keys)] for name, found in rows.items()]
    table = text_table(["calibration", "mean error", "MAE", "linear", "rank"], cells)
    held = f"{numbers['coverage']:.0%} of the {numbers['masks']} masks are within {numbers['margin']:.3f} of the score"
    return f"{table}\n{held}"


def _reliability(true: np.ndarray, predicted: np.ndarray, fitted: Fitted) -> Image.Image | None:
    """Draws the mean true over the mean predicted Dice of equally many slices, before and after the calibration."""
    points = []
    for name, values in {"predicted": predicted, "calibrated": fitted.crossed}.items():
        parts = np.array_split(np.argsort(values, kind="stable"), min(BINS, len(values)))
        points += [(name, float(np.mean(values[part])), float(np.mean(true[part]))) for part in parts]
    names, x, y = zip(*points, strict=True)
    title = f"reliability, {len(points) // 2} groups of slices"
    axes = ("mean predicted Dice", "mean true Dice")
    return scatter(np.array(x), np.array(y), groups=list(names), title=title, axes=axes)


def _beside(left: Image.Image | None, right: Image.Image | None) -> Image.Image | None:
    if left is None or right is None:
        return left or right
    whole = Image.new("RGB", (left.width + right.width, max(left.height, right.height)), BACKGROUND)
    whole.paste(left, (0, 0))
    whole.paste(right, (left.width, 0))
    return whole


def _row(true: np.ndarray, predicted: np.ndarray) -> dict[str, float | int | None]:
    numbers = {"count": len(true), "true": float(np.mean(true)), "predicted": float(np.mean(predicted))}
    numbers |= summary(true, predicted)
    if len(true) < LEAST:
        numbers |= {"correlation": None, "rank_correlation": None}
    return numbers


def _table(rows: Mapping[str, Mapping]) -> str:
    cells = [[name, *(_cell(row[key]) for key in COLUMNS)] for name, row in rows.items()]
    return text_table(["organ", *COLUMNS.values()], cells)


def _cell(value: float | int | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    if len(a) < LEAST or not scale > 1e-12:
        return 0.0
    return float(np.clip(a @ b / scale, -1, 1))
