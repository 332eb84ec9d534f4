"""The scores of a mask compared with the true one: overlap, distances of the surfaces, and size.

| score | definition | two empty masks | one empty mask |
|---|---|---|---|
| `dice` | 2 |A and B| / (|A| + |B|) | NaN | 0 |
| `iou` | |A and B| / |A or B| | NaN | 0 |
| `nsd` | share of both surfaces within the tolerance of the other | NaN | 0 |
| `hd95` | distance within which 95 % of each surface lie, the larger one | NaN | infinite |
| `hd` | largest distance between pixels at the edges, centre to centre | NaN | infinite |
| `assd` | mean distance over both surfaces | NaN | infinite |
"""

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from jaxseg.comparison.surfaces import edge_distance, surface_distances

MEASURES = ("dice", "iou", "nsd", "hd95", "hd", "assd", "difference", "relative_difference")
DISTANCES = ("hd95", "hd", "assd")
TOLERANCE = "2px"


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """The largest distance at which two surfaces count as equal, in "mm" or "px"."""

    length: float
    unit: str

    def __str__(self) -> str:
        return f"{self.length:g}{self.unit}"


def parse_tolerance(text: str) -> Tolerance:
    """Returns the tolerance that a text such as "2mm" or "3 px" states.

    Raises:
      ValueError: the text has another form.

    >>> parse_tolerance("1.5mm")
    Tolerance(length=1.5, unit='mm')
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(mm|px)\s*", text)
    if found is None:
        raise ValueError(f"a tolerance is a length in mm or px, such as 2mm or 3px, got {text!r}")
    return Tolerance(float(found[1]), found[2])


@dataclasses.dataclass(frozen=True)
class Scores:
    """The scores of one mask; the table at the top of the module defines them.

    Attributes:
      dice, iou, nsd: in [0, 1].
      hd95, hd, assd: distances in `unit`.
      prediction_size, truth_size: areas of (H, W) masks, volumes of (D, H, W) masks: numbers of pixels if the unit is
        "px", otherwise mm² or mm³.
      difference: predicted minus true size.
      relative_difference: `difference` divided by the true size; NaN if the true mask is empty.
      unit: "mm", or "px" if the spacing is unknown.
      empty: which masks are empty: "", "prediction", "truth" or "both".
    """

    dice: float
    iou: float
    nsd: float
    hd95: float
    hd: float
    assd: float
    prediction_size: float
    truth_size: float
    difference: float
    relative_difference: float
    unit: str
    empty: str


def score_mask(
    prediction: np.ndarray,
    truth: np.ndarray,
    *,
    spacing_mm: Sequence[float] | None = None,
    tolerance: Tolerance | None = None,
) -> Scores:
    """Returns the scores of one mask.

    NSD, HD95 and ASSD are those of the package `surface-distance`: points of the surface are weighted by its length or
    area. HD, Dice and IoU are those of MONAI, whose other distances have no weights and differ from these.

    Args:
      prediction: (H, W) or (D, H, W) bool.
      truth: bool, of the same shape.
      spacing_mm: distance between pixels along each axis in millimetres; None means that lengths are in pixels.
      tolerance: of NSD; None means 2 pixels. In pixels, it does not depend on the spacing.

    Raises:
      ValueError: the shapes differ, the masks are not bool, 2-D or 3-D, or the spacing is impossible; or the tolerance
        is in mm, but the spacing is unknown.
    """
    tolerance = parse_tolerance(TOLERANCE) if tolerance is None else tolerance
    prediction, truth = np.asarray(prediction), np.asarray(truth)
    _check(prediction, truth, spacing_mm, tolerance)
    spacing = np.ones(truth.ndim) if spacing_mm is None else np.array(spacing_mm, np.float64)
    overlap, *counts = (int(np.count_nonzero(mask)) for mask in (prediction & truth, prediction, truth))
    distances = surface_distances(prediction, truth, spacing)
    near = distances
    if tolerance.unit == "px" and not np.all(spacing == 1):
        near = surface_distances(prediction, truth, np.ones(truth.ndim))
    sizes = [float(count * np.prod(spacing)) for count in counts]
    return Scores(
        dice=_ratio(2 * overlap, sum(counts)),
        iou=_ratio(overlap, sum(counts) - overlap),
        nsd=near.within(tolerance.length),
        hd95=distances.percentile(95),
        hd=edge_distance(prediction, truth, spacing),
        assd=distances.average(),
        prediction_size=sizes[0],
        truth_size=sizes[1],
        difference=sizes[0] - sizes[1],
        relative_difference=_ratio(counts[0] - counts[1], counts[1]),
        unit="px" if spacing_mm is None else "mm",
        empty={(True, False): "prediction", (False, True): "truth", (True, True): "both"}.get(
            (not counts[0], not counts[1]), ""
        ),
    )


def _check(prediction: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float] | None, tolerance: Tolerance) -> None:
    if prediction.shape != truth.shape:
        sizes = [" x ".join(map(str, masks.shape)) for masks in (prediction, truth)]
        raise ValueError(f"the predicted mask is {sizes[0]}, the true one {sizes[1]}; both must have one size")
    if prediction.ndim not in (2, 3) or not prediction.size:
        raise ValueError(f"masks must be (H, W) or (D, H, W), got {prediction.shape}")
    for masks in (prediction, truth):
        if masks.dtype != bool:
            raise ValueError(f"masks must be bool, got {masks.dtype}; threshold them first")
    if spacing_mm is None:
        if tolerance.unit == "mm":
            raise ValueError(f"the tolerance is {tolerance}, but the spacing of the pixels is unknown; give it, or px")
        return
    if len(spacing_mm) != truth.ndim or not all(0 < side < math.inf for side in spacing_mm):
        raise ValueError(f"the spacing must be {truth.ndim} positive numbers of mm, got {tuple(spacing_mm)}")


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
