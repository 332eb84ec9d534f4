"""The scores of many images in short: mean, median and a bootstrap interval of the mean for every class.

Scores that are NaN or infinite, such as distances to an empty mask, are left out and counted. The 95 % interval is the
percentile bootstrap of Efron and Tibshirani 1993: the images are sampled again with replacement, 2,000 times and always
alike, and the mean of each sample is taken over its scores that are known.
"""

import array
import dataclasses
from collections.abc import Iterator

import numpy as np

from jaxseg.comparison.scores import DISTANCES, MEASURES, Scores

RESAMPLES = 2000
_INTERVAL = (0.025, 0.975)
_BLOCK = 2**22  # numbers of one array of sampled images
_VALUES = 2**24  # numbers of one matrix of scores


@dataclasses.dataclass(frozen=True)
class Row:
    """One measure of one class over all images.

    Attributes:
      annotator: whose masks were compared; "" if there is one prediction.
      name: name of the class.
      measure: one of `jaxseg.comparison.scores.MEASURES`.
      unit: "mm" or "px" for distances and differences of sizes, which are in px or mm, or in mm² or mm³; else "".
      count: number of scores that are known and finite.
      left_out: number of the other scores.
      mean, median: of the scores that are known and finite; NaN if there are none.
      low, high: 95 % interval of the mean; NaN if there are fewer than two scores.
    """

    annotator: str
    name: str
    measure: str
    unit: str
    count: int
    left_out: int
    mean: float
    median: float
    low: float
    high: float


class Collected:
    """The scores of all images, by annotator, class and unit, in the order in which they first occur."""

    def __init__(self) -> None:
        self._images = 0
        self._values: dict[tuple[str, str, str], tuple[array.array, array.array]] = {}

    def add_image(self, found: list[tuple[str, str, Scores]]) -> None:
        """Adds the scores of one image: annotator, class and scores of each."""
        for annotator, name, scores in found:
            numbers, values = self._values.setdefault(
                (annotator, name, scores.unit), (array.array("q"), array.array("d"))
            )
            numbers.append(self._images)
            values.extend(getattr(scores, measure) for measure in MEASURES)
        self._images += 1

    def values(self) -> Iterator[tuple[tuple[str, str, str], np.ndarray]]:
        """Yields annotator, class and unit, and the scores of its images, (n, measures) float64."""
        for key, (_, values) in self._values.items():
            yield key, np.array(values).reshape(-1, len(MEASURES))

    def rows(self) -> list[Row]:
        """Returns one row for each annotator, class, unit and measure."""
        rows = []
        for keys in self._parts():
            table = np.full((self._images, len(keys), len(MEASURES)), np.nan)
            for k, key in enumerate(keys):
                numbers, values = self._values[key]
                table[np.array(numbers), k] = np.array(values).reshape(-1, len(MEASURES))
            bounds = bootstrap(table.reshape(self._images, -1)).reshape(2, len(keys), len(MEASURES))
            for k, key in enumerate(keys):
                total = len(self._values[key][0])
                rows += [_row(key, m, table[:, k, i], total, bounds[:, k, i]) for i, m in enumerate(MEASURES)]
        return rows

    def _parts(self) -> Iterator[list[tuple[str, str, str]]]:
        """Yields the keys in parts whose scores fit in one matrix of bounded size."""
        keys = list(self._values)
        count = max(1, _VALUES // (max(self._images, 1) * len(MEASURES)))
        for start in range(0, len(keys), count):
            yield keys[start : start + count]


def bootstrap(values: np.ndarray, *, resamples: int = RESAMPLES) -> np.ndarray:
    """Returns the 95 % intervals of the means of several measures, from images that are sampled again.

    All measures and classes share the samples, which depend only on the number of images.

    Args:
      values: (N, M) scores of N images; NaN or infinite where a score is unknown.
      resamples: number of samples.

    Returns:
      (2, M) float64, the lower and the upper end; NaN for measures with fewer than two known scores.
    """
    known = np.isfinite(values)
    enough = known.sum(axis=0) >= 2
    bounds = np.full((2, values.shape[1]), np.nan)
    if not enough.any():
        return bounds
    known, filled = known[:, enough].astype(np.float64), np.where(known, values, 0)[:, enough]
    count, rng = len(values), np.random.default_rng(0)
    means = np.empty((resamples, filled.shape[1]))
    for start in range(0, resamples, step := max(1, _BLOCK // count)):
        size = min(step, resamples - start)
        drawn = rng.integers(0, count, (size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count).astype(np.float64)
        sums, counts = times @ filled, times @ known
        means[start : start + size] = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    bounds[:, enough] = np.nanquantile(means, _INTERVAL, axis=0)
    return bounds


def _row(key: tuple[str, str, str], measure: str, values: np.ndarray, total: int, bounds: np.ndarray) -> Row:
    annotator, name, unit = key
    there = values[np.isfinite(values)]
    mean, median = (float(there.mean()), float(np.median(there))) if there.size else (np.nan, np.nan)
    shown = unit if measure in (*DISTANCES, "difference") else ""
    low, high = (float(bound) for bound in bounds)
    return Row(annotator, name, measure, shown, there.size, total - there.size, mean, median, low, high)
