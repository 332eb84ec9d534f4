"""The segmentations of COCO annotations: polygons and run lengths, compressed or not, without making whole masks.

A mask is described by its changes: the positions, counted down the columns, at which it changes between background and
foreground. Two changes at one position cancel each other. So masks are sampled at a network's size directly, although
their images may have a hundred times the pixels.

Source of the rule by which polygons are filled: the mask API of COCO, Lin et al. 2014, arXiv:1405.0312.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxseg.masks.coco import runs_of_rle

_FINE = 5  # polygons are traced on a grid that is this many times as fine as the image
_PART = 2**20  # points of outlines that are computed together
_MOST_POINTS = 2**27  # on the fine grid, of one polygon
_FAR = 4  # a corner may lie this many sides outside of its image


def changes_of(segmentation: Any, size: tuple[int, int]) -> list[np.ndarray]:
    """Returns the changes of the parts of an annotation; its mask is the union of the parts.

    Args:
      segmentation: a list of polygons, each [x, y, x, y, ...] in pixels with at least three corners; or run lengths,
        {"size": [H, W], "counts": text, bytes or list of whole numbers}.
      size: height and width of the image.

    Returns:
      One ascending array of positions, (N,) int64 from 0 to H * W, per polygon, or one for run lengths.

    Raises:
      ValueError: the segmentation is none of these, is damaged, or belongs to an image of another size. All sizes are
        checked before memory is taken for them.

    >>> changes_of([[0, 0, 2, 0, 2, 2, 0, 2]], (3, 3))[0].tolist()
    [0, 2, 3, 5]
    """
    if isinstance(segmentation, dict):
        if list(segmentation.get("size") or ()) != list(size):
            raise ValueError(f"an annotation's size is {segmentation.get('size')}, its image's is {list(size)}")
        return [np.cumsum(runs_of_rle(segmentation))[:-1]]
    if not isinstance(segmentation, list):
        kind = type(segmentation).__name__
        raise ValueError(f"a segmentation must be a list of polygons, or run lengths with size and counts, got {kind}")
    if not segmentation:
        raise ValueError("an annotation has no polygon; its box is not a mask")
    return [_changes_of_polygon(_corners(polygon, size), size) for polygon in segmentation]


def sampled(parts: Sequence[np.ndarray], size: tuple[int, int], rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Returns `mask[rows][:, columns]` of the mask with these changes, without making the mask.

    Args:
      parts: what `changes_of` returns.
      size: height and width of the mask.
      rows: (h,) ascending indices of rows.
      columns: (w,) ascending indices of columns.

    Returns:
      (h, w) bool.
    """
    kept, places = np.unique(columns, return_inverse=True)
    positions = (kept[:, None].astype(np.int64) * size[0] + rows).ravel()  # ascending
    found = np.zeros(len(positions), bool)
    for changes in parts:
        first = np.searchsorted(positions, changes)
        found |= np.cumsum(np.bincount(first, minlength=len(positions) + 1)[:-1]) % 2 == 1
    return np.ascontiguousarray(found.reshape(len(kept), len(rows))[places.reshape(-1)].T)


def mask_of(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """Returns the whole mask of an annotation, (H, W) bool, as pycocotools decodes it.

    Args:
      segmentation, size: as `changes_of` takes them.

    Raises:
      ValueError: as `changes_of`.
    """
    return sampled(changes_of(segmentation, size), size, np.arange(size[0]), np.arange(size[1]))


def _corners(polygon: Any, size: tuple[int, int]) -> np.ndarray:
    """Returns the corners of a polygon on the fine grid, (N, 2) int64 of x and y."""
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        found = f"{len(polygon)} numbers" if isinstance(polygon, list) else type(polygon).__name__
        raise ValueError(f"a polygon must be a list [x, y, x, y, ...] of at least three corners, got {found}")
    if any(isinstance(number, bool) or not isinstance(number, int | float) for number in polygon):
        raise ValueError("a polygon may hold only numbers")
    try:
        numbers = np.asarray(polygon, np.float64).reshape(-1, 2)
    except OverflowError:  # a whole number that exceeds every float
        numbers = np.full((1, 2), np.inf)
    far = _FAR * max(size)
    if not np.all(np.abs(numbers) <= far):  # also if one is not a number
        raise ValueError(
            f"a polygon has corners more than {far} pixels from the origin of an image of {size[0]} x {size[1]} "
            "pixels: the annotation is damaged or belongs to another image"
        )
    return np.trunc(_FINE * numbers + 0.5).astype(np.int64)


def _changes_of_polygon(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the sorted changes of a closed polygon with corners on the fine grid, (N, 2)."""
    height, width = size
    ends = np.roll(corners, -1, axis=0)
    steps = np.abs(ends - corners).max(axis=1)
    if steps.sum() > _MOST_POINTS:
        raise ValueError(f"a polygon's outline has more than {_MOST_POINTS // _FINE:,} pixels: it is damaged")
    found = [np.zeros(0, np.int64)]
    for some in _parts(steps):
        x, y, higher = _crossings(corners[some], ends[some], steps[some])
        # A crossing between two fine columns counts where a column of pixels begins; `higher` is its upper row.
        place = (x + 0.5) / _FINE - 0.5
        row = np.ceil(np.clip((np.minimum(y, higher) + 0.5) / _FINE - 0.5, 0, height)).astype(np.int64)
        counts = (np.floor(place) == place) & (place >= 0) & (place <= width - 1)
        found.append(place[counts].astype(np.int64) * height + row[counts])
    return np.sort(np.concatenate(found))


def _parts(steps: np.ndarray) -> Iterator[np.ndarray]:
    """Yields indices of edges that have about `_PART` points together; edges without length are left out."""
    kept = np.flatnonzero(steps)
    part = np.cumsum(steps[kept]) // _PART
    for number in np.unique(part):
        yield kept[part == number]


def _crossings(starts: np.ndarray, ends: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns where edges go from one fine column to the next: the left one, and the rows before and after.

    An edge is sampled along its longer axis. The other coordinate is computed from the end with the smaller coordinate
    on the longer axis, so that both directions give the same points.
    """
    change = ends - starts
    flat = np.abs(change[:, 0]) >= np.abs(change[:, 1])  # x is the longer axis
    main, other = np.where(flat, 0, 1), np.where(flat, 1, 0)
    edges = np.arange(len(steps))
    turned = starts[edges, main] > ends[edges, main]
    low, high = np.where(turned[:, None], ends, starts), np.where(turned[:, None], starts, ends)
    slope = (high[edges, other] - low[edges, other]) / steps
    edge = np.repeat(edges, steps + 1)
    first = np.cumsum(steps + 1) - (steps + 1)
    step = np.arange(len(edge)) - first[edge]
    step = np.where(turned[edge], steps[edge] - step, step)
    along = low[edges, main][edge] + step
    across = np.trunc(low[edges, other][edge] + slope[edge] * step + 0.5).astype(np.int64)
    x, y = np.where(flat[edge], along, across), np.where(flat[edge], across, along)
    crosses = (x[1:] != x[:-1]) & (edge[1:] == edge[:-1])
    left = np.where(x[1:] < x[:-1], x[1:], x[1:] - 1)
    return left[crosses], y[1:][crosses], y[:-1][crosses]
