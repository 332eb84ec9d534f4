"""Distances between sets of masks: both definitions of the generalised energy distance, and their terms.

All functions take numpy arrays or JAX arrays; with JAX arrays they also work under `jax.jit` and `jax.vmap`. Masks are
(..., N, H, W) bool: N annotations or samples of one image. The distance of two masks is 1 - intersection over union,
in [0, 1].
"""

import math
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

EMPTY_PUBLISHED, EMPTY_ORIGINAL = 0.0, 1.0  # distance of two empty masks
_NAMES = ("distance_to_annotators", "distance_between_samples", "distance_between_annotators")


def distances(a: Any, b: Any, *, empty: float = EMPTY_PUBLISHED) -> Any:
    """Returns the distance of every mask in one set to every mask in another.

    Args:
      a: (..., N, H, W) bool.
      b: (..., M, H, W) bool.
      empty: distance of two empty masks. 0: they agree, as in the published results. 1: as in the original, whose
        Jaccard index of two empty masks is 0.

    Returns:
      (..., N, M) in [0, 1]: float64 for numpy arrays, float32 for JAX arrays.

    Raises:
      ValueError: the shapes do not fit, or the masks are not bool.
    """
    if a.ndim < 3 or b.ndim != a.ndim or a.shape[-2:] != b.shape[-2:] or a.shape[:-3] != b.shape[:-3]:
        raise ValueError(f"masks must be (..., N, H, W) and (..., M, H, W) of one size, got {a.shape} and {b.shape}")
    if a.dtype != bool or b.dtype != bool:
        raise ValueError(f"masks must be bool, got {a.dtype} and {b.dtype}; threshold them first")
    kind = "float64" if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) else "float32"
    a, b = (masks.reshape(*masks.shape[:-2], masks.shape[-2] * masks.shape[-1]).astype(kind) for masks in (a, b))
    overlap = a @ b.swapaxes(-1, -2)  # (..., N, M); integers below 2^24, so exact
    union = a.sum(-1)[..., :, None] + b.sum(-1)[..., None, :] - overlap
    nothing = (union == 0).astype(kind)
    return (1 - overlap / (union + nothing)) * (1 - nothing) + empty * nothing


def energy_distance_published(annotations: Any, samples: Any, *, present: Any = None) -> Any:
    """Returns the generalised energy distance as published: 2 E d(S, Y) - E d(S, S') - E d(Y, Y').

    The means include the pairs of a mask with itself. The result is therefore 0 for equal sets and never negative, and
    one annotation or one sample is enough. The distance of two empty masks is 0.

    Args:
      annotations: (..., N, H, W) bool, Y.
      samples: (..., M, H, W) bool, S.
      present: (..., N) bool, which annotations exist; None: all of them.

    Returns:
      (...) in [0, 2]; NaN if no annotation is present.

    Raises:
      ValueError: as in `distances`; or there is no annotation or no sample, or `present` has another shape.

    Source: Kohl et al. 2018, arXiv:1806.05034, which calls it the squared distance; its terms are not squared.
    """
    cross, among_samples, among = _means(annotations, samples, present, EMPTY_PUBLISHED, with_itself=True)
    return 2 * cross - among_samples - among


def energy_distance_original(annotations: Any, samples: Any, *, present: Any = None) -> Any:
    """Returns what the original calls the generalised energy distance: it adds what the published one subtracts.

    The value is 2 E d(S, Y) + E d(S, S') + E d(Y, Y'). The last two means are over pairs of different masks, and the
    distance of two empty masks is 1. Identical samples lower it, so use it only to compare with the original's results.

    Args:
      annotations: (..., N, H, W) bool, Y; at least two.
      samples: (..., M, H, W) bool, S; at least two.
      present: (..., N) bool, which annotations exist; None: all of them.

    Returns:
      (...) in [0, 4]; NaN if fewer than two annotations are present (the original divides by zero).

    Raises:
      ValueError: as in `energy_distance_published`; or there are fewer than two annotations or samples.

    Source: rCampSemp/learn-vae-noisy-label.
    """
    for name, masks in (("annotations", annotations), ("samples", samples)):
        if masks.ndim >= 3 and masks.shape[-3] < 2:
            raise ValueError(f"the original's distance needs at least two {name}, got {masks.shape}")
    cross, among_samples, among = _means(annotations, samples, present, EMPTY_ORIGINAL, with_itself=False)
    return 2 * cross + among_samples + among


def mean_distances(annotations: Any, samples: Any, *, present: Any = None) -> dict[str, Any]:
    """Returns the mean distances of samples to annotations, between samples, and between annotations.

    Args:
      annotations: (..., N, H, W) bool.
      samples: (..., M, H, W) bool.
      present: (..., N) bool, which annotations exist; None: all of them.

    Returns:
      A dict of "distance_to_annotators", "distance_between_samples" and "distance_between_annotators", each (...) in
      [0, 1]. The last two are means over pairs of different masks, and NaN if there is no such pair. The distance of
      two empty masks is 0.

    Raises:
      ValueError: as in `energy_distance_published`.
    """
    return dict(zip(_NAMES, _means(annotations, samples, present, EMPTY_PUBLISHED, with_itself=False), strict=True))


def matched_iou(overlaps: np.ndarray) -> np.ndarray:
    """Returns the mean IoU of pairs of a sample and an annotator, matched so that it is as large as possible.

    The samples are divided among the annotators, so that all have the same number (the Hungarian algorithm). If the
    numbers do not divide, both sets are repeated to their least common multiple. Annotators that are absent are left
    out, so it is not equal to published values, which are for sets of four masks, where an absent one is empty.

    Args:
      overlaps: (N, A, S) intersection over union of every annotator's mask and every sample of N images, in [0, 1]; NaN
        for annotators that are absent.

    Returns:
      (N,) float64 in [0, 1]; NaN for an image without annotators.

    Source: Kohl et al. 2019, arXiv:1905.13077.
    """
    found = np.full(len(overlaps), np.nan)
    for i, table in enumerate(np.asarray(overlaps, np.float64)):
        table = table[~np.isnan(table).all(1)]
        if not len(table):
            continue
        size = math.lcm(*table.shape)
        repeated = table.repeat(size // len(table), 0).repeat(size // table.shape[1], 1)
        found[i] = repeated[linear_sum_assignment(repeated, maximize=True)].mean()
    return found


def dice_original(prediction: Any, truth: Any) -> Any:
    """Returns the original's Dice coefficient of each mask: 2 |A and B| / (|A| + |B| + 1e-8).

    It deviates from `jaxseg.nn.metrics.dice`: the term 1e-8 makes the coefficient of two empty masks 0, not NaN. And
    it also takes JAX arrays, which that function does not.

    Args:
      prediction: (..., H, W) bool.
      truth: (..., H, W) bool.

    Returns:
      (...) in [0, 1]: float64 for numpy arrays, float32 for JAX arrays.

    Raises:
      ValueError: the shapes differ, or the masks are not bool.

    Source: rCampSemp/learn-vae-noisy-label (`seg_score`, which returns the mean of these coefficients).
    """
    if prediction.shape != truth.shape or prediction.ndim < 2:
        raise ValueError(f"masks must have one shape (..., H, W), got {prediction.shape} and {truth.shape}")
    if prediction.dtype != bool or truth.dtype != bool:
        raise ValueError(f"masks must be bool, got {prediction.dtype} and {truth.dtype}; threshold them first")
    kind = "float64" if isinstance(prediction, np.ndarray) and isinstance(truth, np.ndarray) else "float32"
    overlap = (prediction & truth).sum((-2, -1)).astype(kind)
    total = prediction.sum((-2, -1)).astype(kind) + truth.sum((-2, -1)).astype(kind)
    return 2 * overlap / (total + 1e-8)


def _means(annotations: Any, samples: Any, present: Any, empty: float, *, with_itself: bool) -> tuple[Any, Any, Any]:
    """Returns the mean distances (...) of samples to annotations, between samples, and between annotations."""
    cross = distances(annotations, samples, empty=empty)
    if 0 in cross.shape[-2:]:
        raise ValueError(f"at least one annotation and one sample are needed, got {annotations.shape}, {samples.shape}")
    if present is not None and present.shape != annotations.shape[:-2]:
        raise ValueError(f"present must be {annotations.shape[:-2]}, got {present.shape}")
    rows = np.ones(annotations.shape[:-2], cross.dtype) if present is None else present.astype(cross.dtype)
    columns = np.ones(samples.shape[:-2], cross.dtype)
    found = [_mean(cross, rows[..., :, None] * columns[..., None, :])]
    for masks, weights in ((samples, columns), (annotations, rows)):
        pairs = weights[..., :, None] * weights[..., None, :]
        if not with_itself:
            count = masks.shape[-3]
            others = 1 - np.eye(count, dtype=cross.dtype)
            pairs = pairs * others.reshape((1,) * (pairs.ndim - 2) + (count, count))
        found.append(_mean(distances(masks, masks, empty=empty), pairs))
    return tuple(found)


def _mean(table: Any, weights: Any) -> Any:
    with np.errstate(invalid="ignore"):  # without any pair the mean is NaN
        return (table * weights).sum((-2, -1)) / weights.sum((-2, -1))
