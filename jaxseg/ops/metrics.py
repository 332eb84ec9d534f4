"""Metrics of masks. numpy only, and array methods where it says jax."""

from collections.abc import Sequence

import numpy as np


def dice(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Returns the Dice coefficient of each mask.

    Args:
      prediction: (..., H, W) bool.
      truth: (..., H, W) bool.

    Returns:
      (...) float64 in [0, 1]; NaN where both masks are empty.

    Raises:
      ValueError: the shapes differ.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"masks must have one shape, got {prediction.shape} and {truth.shape}")
    overlap = (prediction & truth).sum((-2, -1))
    total = prediction.sum((-2, -1)) + truth.sum((-2, -1))
    return np.where(total > 0, 2 * overlap / np.maximum(total, 1), np.nan)


def intersection_over_union(prediction, truth):
    """Returns PAX-Ray's intersection over union of each mask; for arrays of numpy or jax, under `jax.jit` too.

    Args:
      prediction: (B, H, W, K) bool.
      truth: (B, H, W, K) bool.

    Returns:
      (B, K) float32, `intersection / (union + 1e-6)`, so 0 where both masks are empty.

    Raises:
      ValueError: the shapes differ.

    Source: ConstantinSeibold/multilabel_segmentation_paxray.
    """
    if prediction.shape != truth.shape or prediction.ndim != 4:
        raise ValueError(f"masks must both be (B, H, W, K), got {prediction.shape} and {truth.shape}")
    overlap = (prediction & truth).sum((1, 2)).astype("float32")
    return overlap / ((prediction | truth).sum((1, 2)).astype("float32") + 1e-6)


def dice_of_iou(iou):
    """Returns the Dice coefficient that belongs to an intersection over union of one mask: `2 iou / (1 + iou)`."""
    return 2 * iou / (1 + iou)


def mean_scores(iou: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns PAX-Ray's figures of a split: means over its images, then over classes.

    Args:
      iou: (N, K), of `intersection_over_union`, a row an image.
      names: of the K classes; a first one called "background" is left out of all figures.

    Returns:
      "iou" and "dice", scalars; "class_iou" and "class_dice", (K,) or without the background (K - 1,). float64.

    Raises:
      ValueError: there is no image or no class, or the names are more or fewer.
    """
    iou = np.asarray(iou, np.float64)
    if iou.ndim != 2 or iou.shape[1] != len(names):
        raise ValueError(f"{len(names)} classes need scores of shape (N, {len(names)}), got {iou.shape}")
    iou = iou[:, 1:] if names[0] == "background" else iou
    if iou.size == 0:
        raise ValueError("there is no image, or no class, to average over")
    by_class = {"class_iou": iou.mean(0), "class_dice": dice_of_iou(iou).mean(0)}
    return {"iou": by_class["class_iou"].mean(), "dice": by_class["class_dice"].mean(), **by_class}
