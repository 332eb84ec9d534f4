"""Agreement of predicted and true Dice, for all masks and for every organ: numbers, a table and a plot."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from jaxseg.draw.plots import scatter
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


def quality_examination(true: np.ndarray, predicted: np.ndarray, organs: Sequence[str]) -> Examination:
    """Returns the agreement over all slices and for every organ, with the largest error first.

    Args:
      true, predicted: (N,) Dice of slices.
      organs: N names, one per slice.
    """
    names = np.array(organs)
    whole = _row(true, predicted)
    rows = {str(name): _row(true[names == name], predicted[names == name]) for name in np.unique(names)}
    rows = dict(sorted(rows.items(), key=lambda item: -item[1]["mae"]))
    shown = f"{whole['count']} slices: linear {whole['correlation']:.3f}, rank {whole['rank_correlation']:.3f}"
    picture = scatter(true, predicted, groups=list(organs), title=f"{shown}, MAE {whole['mae']:.3f}")
    return Examination({"all": whole, "organs": rows}, _table({"all": whole} | rows), picture)


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
