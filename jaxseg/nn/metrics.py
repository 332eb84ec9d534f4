"""Metrics of masks, in numpy and scipy; functions whose docstring says so also take jax arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage


def dice(
    prediction: np.ndarray,
    truth: np.ndarray,
    *,
    axes: tuple[int, ...] | None = (-2, -1),
    epsilon: float = 0.0,
) -> np.ndarray:
    """Returns the Dice coefficient of pairs of binary masks, 2 |A and B| / (|A| + |B| + epsilon).

    Args:
      prediction: (..., H, W) bool.
      truth: (..., H, W) bool.
      axes: axes that belong to one mask; None means all axes, for example those of a volume (D, H, W).
      epsilon: added to the denominator. The original of SegAE uses 1e-6, which gives two empty masks a Dice of 0.

    Returns:
      (...) float64 in [0, 1], the shape without `axes`; NaN where the denominator is 0 (both masks are empty).

    Raises:
      ValueError: the shapes differ.

    >>> a = np.array([[True, True], [False, False]])
    >>> b = np.array([[True, False], [False, False]])
    >>> round(float(dice(a, b)), 3)
    0.667

    Source: Dice 1945, doi 10.2307/1932409.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"masks must have one shape, got {prediction.shape} and {truth.shape}")
    overlap = np.count_nonzero(prediction & truth, axis=axes)
    total = np.count_nonzero(prediction, axis=axes) + np.count_nonzero(truth, axis=axes) + epsilon
    return np.where(total > 0, 2 * overlap / np.where(total > 0, total, 1), np.nan)


def hausdorff(
    prediction: np.ndarray,
    truth: np.ndarray,
    *,
    percentile: float = 100,
    spacing: tuple[float, float] | None = None,
) -> np.ndarray:
    """Returns the symmetric Hausdorff distance between the outlines of each pair of masks.

    The outline of a mask consists of its pixels that have a neighbour to the left, right, above or below which is not
    in the mask or lies outside the image. For every pixel of one outline, the distance between its centre and the
    nearest centre of the other outline is computed. The result is the percentile of these distances, by linear
    interpolation, and the larger one of the two directions. Some programs compute one percentile of both directions
    together, which gives another result below 100.

    Args:
      prediction: (..., H, W) bool.
      truth: (..., H, W) bool.
      percentile: from 0 to 100. 100 gives the largest distance, which is the Hausdorff distance proper; 95 leaves
        outliers out.
      spacing: distance between rows and between columns in millimetres; None means that the result is in pixels.

    Returns:
      (...) float64, in pixels or millimetres; NaN where a mask is empty, because then no distance is defined.

    Raises:
      ValueError: the shapes differ, the masks are not bool, or the percentile or spacing is impossible.

    Source: Huttenlocher et al. 1993, doi 10.1109/34.232073; Taha and Hanbury 2015, doi 10.1186/s12880-015-0068-x.
    """
    prediction, truth = np.asarray(prediction), np.asarray(truth)
    if prediction.shape != truth.shape or prediction.ndim < 2:
        raise ValueError(f"masks must have one shape (..., H, W), got {prediction.shape} and {truth.shape}")
    for masks in (prediction, truth):
        if masks.dtype != bool:
            raise ValueError(f"masks must be bool, got {masks.dtype}; threshold them first")
    if not 0 <= percentile <= 100:
        raise ValueError(f"the percentile must be in [0, 100], got {percentile}")
    if spacing is not None and (len(spacing) != 2 or not all(0 < side < np.inf for side in spacing)):
        raise ValueError(f"the spacing must be two positive numbers of millimetres, got {spacing}")
    result = np.full(prediction.shape[:-2], np.nan)
    for index in np.ndindex(result.shape):
        result[index] = _hausdorff_of_two(prediction[index], truth[index], percentile, spacing)
    return result


def intersection_over_union(prediction: Any, truth: Any) -> Any:
    """Returns PAX-Ray's intersection over union of each pair of masks; arrays are numpy's or jax's, also traced.

    Args:
      prediction: (B, H, W, K) bool.
      truth: (B, H, W, K) bool.

    Returns:
      (B, K) float32 in [0, 1], `intersection / (union + 1e-6)`, so it is 0 where both masks are empty.

    Raises:
      ValueError: the shapes differ or are not (B, H, W, K).

    Source: ConstantinSeibold/multilabel_segmentation_paxray.
    """
    if prediction.shape != truth.shape or prediction.ndim != 4:
        raise ValueError(f"masks must both be (B, H, W, K), got {prediction.shape} and {truth.shape}")
    overlap = (prediction & truth).sum((1, 2)).astype("float32")
    return overlap / ((prediction | truth).sum((1, 2)).astype("float32") + 1e-6)


def dice_of_iou(iou: Any) -> Any:
    """Returns the Dice coefficient of the masks that have an intersection over union: `2 iou / (1 + iou)`.

    Args:
      iou: a number or an array of numpy or jax, in [0, 1].

    Returns:
      The same shape, in [0, 1].

    >>> dice_of_iou(0.5)
    0.6666666666666666
    """
    return 2 * iou / (1 + iou)


def mean_scores(iou: np.ndarray, names: Sequence[str], *, background: bool = False) -> dict[str, np.ndarray]:
    """Returns PAX-Ray's scores of a data split: means over its images, then over classes.

    Args:
      iou: (N, K), the result of `intersection_over_union`, one row per image.
      names: names of the K classes; if the first one is "background" or "Background", it is left out of all scores.
      background: whether the first class is the background under any name.

    Returns:
      "iou" and "dice", scalars; "class_iou" and "class_dice", (K,), or (K - 1,) without the background. All float64.

    Raises:
      ValueError: there is no image or no class, or the number of names is not K.

    Source: ConstantinSeibold/multilabel_segmentation_paxray.
    """
    iou = np.asarray(iou, np.float64)
    if iou.ndim != 2 or iou.shape[1] != len(names):
        raise ValueError(f"{len(names)} classes need scores of shape (N, {len(names)}), got {iou.shape}")
    iou = iou[:, 1:] if background or names[0].lower() == "background" else iou
    if iou.size == 0:
        raise ValueError("there is no image, or no class, to average over")
    by_class = {"class_iou": iou.mean(0), "class_dice": dice_of_iou(iou).mean(0)}
    return {"iou": by_class["class_iou"].mean(), "dice": by_class["class_dice"].mean(), **by_class}


def _hausdorff_of_two(a: np.ndarray, b: np.ndarray, percentile: float, spacing: tuple[float, float] | None) -> float:
    if not (a.any() and b.any()):
        return np.nan
    rows, columns = (np.flatnonzero((a | b).any(axis)) for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)  # all outlines lie inside
    outlines = [mask[box] & ~ndimage.binary_erosion(mask[box]) for mask in (a, b)]
    distances = [ndimage.distance_transform_edt(~outline, sampling=spacing) for outline in outlines]
    return max(
        np.percentile(distances[1][outlines[0]], percentile), np.percentile(distances[0][outlines[1]], percentile)
    )
