"""Distances between the surfaces of two masks, 2-D (H, W) or 3-D (D, H, W), by two definitions of a surface.

`surface_distances` weights each point of a surface by its size. The points are the corners of pixels at which pixels of
the mask and others meet. The size is the length (2-D) or area (3-D) that marching squares or cubes give to the corner,
so that the result does not depend on the direction of an edge. `edge_distance` takes the centres of the pixels at the
edge instead, without weights.

Source: Nikolov et al. 2018, arXiv:1809.04430, and its package `surface-distance`, whose numbers these functions equal;
Lorensen and Cline 1987, doi 10.1145/37402.37422 (marching cubes).
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np
from scipy.spatial import KDTree

Spacing = Sequence[float] | np.ndarray


@dataclasses.dataclass(frozen=True)
class SurfaceDistances:
    """Distances from every point of each surface to the other surface; infinite if the other mask is empty.

    Attributes:
      from_prediction: (N,) float64, from the points of the predicted surface, in ascending order.
      prediction_sizes: (N,) float64, the sizes of these points: lengths in 2-D, areas in 3-D.
      from_truth: (M,) float64, from the points of the true surface, in ascending order.
      truth_sizes: (M,) float64.
    """

    from_prediction: np.ndarray
    prediction_sizes: np.ndarray
    from_truth: np.ndarray
    truth_sizes: np.ndarray

    def within(self, tolerance: float) -> float:
        """Returns the share of both surfaces that is at most `tolerance` from the other (NSD, the surface Dice).

        It is NaN if both masks are empty, and 0 if one is.
        """
        near = self.prediction_sizes[self.from_prediction <= tolerance].sum()
        near += self.truth_sizes[self.from_truth <= tolerance].sum()
        total = self.prediction_sizes.sum() + self.truth_sizes.sum()
        return float(near / total) if total else np.nan

    def average(self) -> float:
        """Returns the mean distance over both surfaces together, weighted by size (ASSD).

        It is NaN if both masks are empty, and infinite if one is.
        """
        sizes = np.concatenate([self.prediction_sizes, self.truth_sizes])
        distances = np.concatenate([self.from_prediction, self.from_truth])
        return float((distances * sizes).sum() / sizes.sum()) if sizes.size else np.nan

    def percentile(self, percent: float) -> float:
        """Returns the Hausdorff distance that leaves outliers out (HD95 for 95), the larger one of both directions.

        In a direction, it is the smallest distance within which `percent` of the surface lie. It is NaN if both masks
        are empty, and infinite if one is.
        """
        if not self.from_prediction.size and not self.from_truth.size:
            return np.nan
        if not self.from_prediction.size or not self.from_truth.size:
            return np.inf
        pairs = ((self.from_prediction, self.prediction_sizes), (self.from_truth, self.truth_sizes))
        found = []
        for distances, sizes in pairs:
            shares = np.cumsum(sizes) / np.sum(sizes)
            place = int(np.searchsorted(shares, percent / 100))
            found.append(distances[min(place, len(distances) - 1)])
        return float(max(found))


def surface_distances(prediction: np.ndarray, truth: np.ndarray, spacing: Spacing) -> SurfaceDistances:
    """Returns the distances between the surfaces of two masks.

    A surface is closed at the border of the image.

    Args:
      prediction: (H, W) or (D, H, W) bool.
      truth: bool, of the same shape.
      spacing: distance between pixels along each axis; the result has the same unit.
    """
    sides = tuple(float(side) for side in spacing)
    (points, sizes), (true_points, true_sizes) = (_surface(mask, sides) for mask in (prediction, truth))
    return SurfaceDistances(
        *_sorted(_nearest(points, true_points, spacing), sizes),
        *_sorted(_nearest(true_points, points, spacing), true_sizes),
    )


def edge_distance(prediction: np.ndarray, truth: np.ndarray, spacing: Spacing) -> float:
    """Returns the Hausdorff distance between the pixels at the edges of two masks, from centre to centre.

    The edge of a mask consists of its pixels that have a neighbour along an axis which is not in the mask or lies
    outside the image. The result equals that of `compute_hausdorff_distance` in MONAI, and that of
    `jaxseg.nn.metrics.hausdorff` for two-dimensional masks.

    Args:
      prediction, truth, spacing: as in `surface_distances`.

    Returns:
      The largest distance from a pixel of one edge to the nearest of the other. NaN if both masks are empty, infinite
      if one is.
    """
    points, true_points = _edge(prediction), _edge(truth)
    if not len(points) and not len(true_points):
        return np.nan
    if not len(points) or not len(true_points):
        return np.inf
    return float(max(_nearest(points, true_points, spacing).max(), _nearest(true_points, points, spacing).max()))


def _surface(mask: np.ndarray, spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the points of a surface, (N, ndim) numbers of corners, and their sizes, (N,)."""
    box = _box(mask)
    if box is None:
        return np.empty((0, mask.ndim), np.int64), np.empty(0)
    pixels = mask[box].view(np.uint8)
    codes = np.zeros(tuple(side + 1 for side in pixels.shape), np.uint8)  # one bit per pixel that meets at a corner
    for bit, offset in enumerate(np.ndindex((2,) * mask.ndim)):
        window = tuple(slice(start, start + side) for start, side in zip(offset, pixels.shape, strict=True))
        codes[window] |= pixels << bit
    places = np.flatnonzero((codes != 0) & (codes != 2 ** (2**mask.ndim) - 1))
    points = np.stack(np.unravel_index(places, codes.shape), axis=1)
    return points + [part.start for part in box], _sizes(spacing)[codes.ravel()[places]]


def _edge(mask: np.ndarray) -> np.ndarray:
    """Returns the pixels at the edge of a mask, (N, ndim)."""
    box = _box(mask)
    if box is None:
        return np.empty((0, mask.ndim), np.int64)
    pixels = mask[box]
    inner = pixels.copy()
    for axis in range(mask.ndim):
        along, before = np.moveaxis(inner, axis, 0), np.moveaxis(pixels, axis, 0)
        along[1:] &= before[:-1]
        along[:-1] &= before[1:]
        along[0] = along[-1] = False
    return np.argwhere(pixels & ~inner) + [part.start for part in box]


def _box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """Returns the smallest box that holds all pixels of a mask; None if it is empty."""
    found = []
    for axis in range(mask.ndim):
        places = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        if not places.size:
            return None
        found.append(slice(int(places[0]), int(places[-1]) + 1))
    return tuple(found)


def _nearest(points: np.ndarray, others: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Returns the distance of each point to the nearest of the others, (N,); infinite if there are no others."""
    if not len(points) or not len(others):
        return np.full(len(points), np.inf)
    _, nearest = KDTree(others * spacing).query(points * spacing)
    # The differences of whole numbers are exact, so that equal distances are equal numbers.
    return np.sqrt((((points - others[nearest]) * spacing) ** 2).sum(axis=1))


def _sorted(distances: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((sizes, distances))
    return distances[order], sizes[order]


@functools.lru_cache(maxsize=64)
def _sizes(spacing: tuple[float, ...]) -> np.ndarray:
    """Returns the size of the surface at a corner for each code: the bits say which pixels around it are in the mask.

    Returns:
      (16,) lengths in 2-D, (256,) areas in 3-D.
    """
    walls = np.prod(spacing) / np.array(spacing)  # sizes of a pixel's sides, each across one axis
    lengths = [np.linalg.norm(walls[list(axes)]) for axes in _subsets(len(spacing))]
    return _shares(len(spacing)) @ lengths


def _subsets(ndim: int) -> list[tuple[int, ...]]:
    return [axes for count in range(1, ndim + 1) for axes in itertools.combinations(range(ndim), count)]


@functools.cache
def _shares(ndim: int) -> np.ndarray:
    """Returns the surface at a corner as a sum of shares of the lengths of vectors.

    A part of the surface has the area vector (its shares of the sides of a pixel across each axis). Its size is the
    length of that vector, so it is a share of one of the lengths in `_sizes`.

    Returns:
      (codes, subsets of axes) float64.
    """
    subsets, pixels = _subsets(ndim), list(np.ndindex((2,) * ndim))
    table = np.zeros((2 ** len(pixels), len(subsets)))
    for code, row in enumerate(table):
        inside = [pixel for bit, pixel in enumerate(pixels) if code >> bit & 1]
        if 2 * len(inside) > len(pixels):  # the same surface, seen from its other side
            inside = [pixel for pixel in pixels if pixel not in inside]
        for group in _groups(inside):
            for axes, share in _shares_of_group(group).items():
                row[subsets.index(axes)] += share
    return table


def _groups(pixels: list[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Returns pixels in groups that are connected by their sides; pixels that meet diagonally are apart."""
    groups: list[list[tuple[int, ...]]] = []
    for pixel in pixels:
        near = [group for group in groups if any(_are_neighbours(pixel, other) for other in group)]
        groups = [group for group in groups if group not in near]
        groups.append([pixel, *itertools.chain.from_iterable(near)])
    return groups


def _are_neighbours(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return sum(i != j for i, j in zip(a, b, strict=True)) == 1


def _shares_of_group(group: list[tuple[int, ...]]) -> dict[tuple[int, ...], float]:
    """Returns the surface that cuts a connected group of 1 to 4 pixels from the others around a corner.

    Returns:
      Axes -> share of the vector of the sides across these axes.
    """
    ndim = len(group[0])
    every = tuple(range(ndim))
    flat = [axis for axis in every if len({pixel[axis] for pixel in group}) == 1]  # axes along which it has one layer
    if len(group) == 1:  # its corner is cut off
        return {every: 1 / 2 if ndim == 2 else 1 / 8}
    if len(group) == 2:  # a side in 2-D, a slope along an edge in 3-D
        return {tuple(flat): 1 if ndim == 2 else 1 / 2}
    if len(group) == 3:  # a triangle between the three pixels and the layer beside them, and a slope
        return {(flat[0],): 1 / 2, every: 3 / 8}
    if flat:  # a whole layer
        return {(flat[0],): 1}
    neighbours = {pixel: [other for other in group if _are_neighbours(pixel, other)] for pixel in group}
    if max(map(len, neighbours.values())) == 3:  # a hexagon around a pixel and its three neighbours
        return {every: 3 / 4}
    (first, second) = (pixel for pixel, beside in neighbours.items() if len(beside) == 2)  # the middle of a path
    middle = next(axis for axis in every if first[axis] != second[axis])
    ends = [axis for axis in every if axis != middle]
    slopes = {tuple(sorted((middle, axis))): 1 / 4 for axis in ends}
    return {every: 1 / 2} | slopes
