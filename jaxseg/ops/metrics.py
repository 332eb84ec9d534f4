"""Metrics of masks, in numpy."""

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
