"""Turns readers' outlines into nodules: the mask of each reader, and which readers outlined the same nodule.

Uses numpy and scipy only.

Source: Armato et al. 2011, doi 10.1118/1.3528204, for the meaning of an outline; masks and the first grouping as
pylidc 0.2.3 computes them.
"""

import dataclasses
import statistics
from collections.abc import Sequence

import numpy as np
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from jaxseg.annotators.lidc.annotations import RATINGS, Annotation

GROUPINGS = ("pylidc", "readers")
_MOST = 4  # pylidc lowers its tolerance by a tenth until no group has more annotations, or it would be below the least
_FACTOR, _LEAST = 0.9, 0.1
_SAME_MM = 0.01  # if an outline's UID is unknown, its slice is the one at most this far from its position
_SLACK = 1e-6  # relative tolerance of distances


@dataclasses.dataclass(frozen=True)
class Stack:
    """Positions of the slices of a CT.

    Attributes:
      z: (D,) positions in millimetres, ascending.
      places: SOP Instance UID -> index of the slice.
      size: rows and columns.
      spacing_mm: distance of neighbouring rows and of neighbouring columns.
      thickness_mm: thickness of a slice according to its tags; None: unknown.
    """

    z: np.ndarray
    places: dict[str, int]
    size: tuple[int, int]
    spacing_mm: tuple[float, float]
    thickness_mm: float | None = None

    @property
    def step_mm(self) -> float:
        """Median distance of neighbouring slices in millimetres; 0 for a single slice."""
        return float(np.median(np.diff(self.z))) if len(self.z) > 1 else 0.0


@dataclasses.dataclass(frozen=True)
class Placed:
    """An annotation as a mask in its own box of the CT.

    Attributes:
      annotation: the annotation.
      start: first slice, row and column of the box.
      mask: (d, h, w) bool.
      pixels: (n, 3) integers, the points of its outlines as slice, row and column.
      points: (n, 3) float64, the same points in millimetres.
    """

    annotation: Annotation
    start: tuple[int, int, int]
    mask: np.ndarray
    pixels: np.ndarray
    points: np.ndarray

    @property
    def stop(self) -> tuple[int, int, int]:
        """Slice, row and column after the last ones of the box."""
        return tuple(first + length for first, length in zip(self.start, self.mask.shape, strict=True))


@dataclasses.dataclass(frozen=True)
class Nodule:
    """The annotations of one nodule.

    Attributes:
      readers: the readers' numbers in the file, ascending, one per mask; as pylidc groups, a reader can occur twice.
      start: first slice, row and column of the box that holds all outlines.
      masks: (A, d, h, w) bool, one mask per reader.
      ratings: for each of `RATINGS` the median of the readers (the higher of two middle ones); None if none rated it.
      malignancy: each reader's rating of malignancy, or None.
    """

    readers: tuple[int, ...]
    start: tuple[int, int, int]
    masks: np.ndarray
    ratings: tuple[int | None, ...]
    malignancy: tuple[int | None, ...]

    @property
    def consensus(self) -> np.ndarray:
        """Voxels that at least half of the readers marked, (d, h, w) bool."""
        return self.masks.mean(0) >= 0.5


def fill(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the pixels inside an outline. The points of the outline are outside, as the archive defines them.

    A pixel is inside if a ray from it downwards crosses the closed outline an odd number of times. Most outlines are
    chains of neighbouring pixels. Where points are farther apart, the side of a pixel exactly on their line depends on
    the direction of drawing, as in pylidc.

    Args:
      points: (n, 2) integers, row and column, in drawing order; neighbouring points need not be adjacent pixels.
      size: rows and columns of the result.

    Returns:
      (rows, columns) bool.
    """
    inside = np.zeros(size, bool)
    start = points.astype(np.int64)
    stop, rows = np.roll(start, -1, 0), np.arange(size[0])[:, None]
    for (r0, c0), (r1, c1) in zip(start.tolist(), stop.tolist(), strict=True):
        columns = np.arange(max(min(c0, c1) + 1, 0), min(max(c0, c1) + 1, size[1]))  # none if the edge is vertical
        if columns.size:
            turned = 1 if c1 > c0 else -1
            crossing = turned * (r0 * (c1 - c0) + (columns - c0) * (r1 - r0))  # the row, times the edge's width
            inside[:, columns] ^= rows <= (crossing - (turned < 0)) // abs(c1 - c0)
    within = ((start >= 0) & (start < size)).all(1)
    inside[tuple(start[within].T)] = False
    return inside


def place(annotation: Annotation, stack: Stack) -> Placed:
    """Returns an annotation as a mask: the pixels inside inclusions, without those inside exclusions.

    The points of every outline are outside, also those of exclusions, because an outline describes the first pixels
    outside the nodule. The masks are those of pylidc, with which the original made its set: inclusions are applied in
    their order, then exclusions.

    Args:
      annotation: the outlines of one reader.
      stack: positions and size of the CT's slices.

    Raises:
      ValueError: an outline lies in no slice of the CT, or leaves the slice.
    """
    slices = [_slice_of(outline.uid, outline.z, stack) for outline in annotation.outlines]
    points = np.concatenate([outline.points for outline in annotation.outlines])
    if points.min() < 0 or (points >= stack.size).any():
        raise ValueError(f"nodule {annotation.nodule}: an outline leaves its slice of {stack.size} rows and columns")
    (top, left), (bottom, right) = points.min(0).tolist(), points.max(0).tolist()
    first, size = min(slices), (bottom - top + 1, right - left + 1)
    mask = np.zeros((max(slices) - first + 1, *size), bool)
    for k, outline in sorted(zip(slices, annotation.outlines, strict=True), key=lambda part: not part[1].inclusion):
        own = outline.points - [top, left]
        mask[k - first][fill(own, size)] = outline.inclusion
        mask[k - first][tuple(own.T)] = False
    where = np.repeat(slices, [len(outline.points) for outline in annotation.outlines])
    positions = np.column_stack([stack.z[where], points * np.array(stack.spacing_mm)])
    return Placed(annotation, (first, top, left), mask, np.column_stack([where, points]), positions)


def group_as_pylidc(placed: Sequence[Placed], stack: Stack) -> list[tuple[int, ...]]:
    """Returns which annotations belong to one nodule as pylidc's `cluster_annotations` does, which the original uses.

    Annotations are joined if two of their points are close, and so are chains of them. pylidc measures in pixels and
    slices, and compares with the thickness of a slice in millimetres. It does not know the readers, so one reader can
    occur twice. If it cannot reach groups of at most four, it says that they must be grouped by hand; these are then
    grouped by `group_by_reader`.

    Args:
      placed: the annotations.
      stack: positions and thickness of the CT's slices; if the thickness is unknown, the slice spacing is used.

    Returns:
      Groups of indices, ascending; every annotation is in one group.
    """
    tolerance = stack.thickness_mm or stack.step_mm
    near = np.full((len(placed), len(placed)), np.inf)
    for j in range(len(placed)):
        for i in range(j):
            near[i, j] = _nearest(placed[i].pixels, placed[j].pixels, tolerance)
    groups = _connected(near <= tolerance)
    while any(len(found) > _MOST for found in groups):
        tolerance *= _FACTOR
        if tolerance < _LEAST:
            break
        groups = _connected(near <= tolerance)
    parted = []
    for found in groups:
        parts = [range(len(found))] if len(found) <= _MOST else group_by_reader([placed[i] for i in found], stack)
        parted += [tuple(found[i] for i in part) for part in parts]
    return sorted(parted)


def group_by_reader(placed: Sequence[Placed], stack: Stack) -> list[tuple[int, ...]]:
    """Returns which annotations belong to one nodule: close to each other, and at most one per reader.

    The archive's files list the nodules of each reader, so two annotations of one reader are two nodules. Annotations
    are joined in the order of their distance, which is at most the slice spacing. Those that share voxels come first,
    the largest share before the others; then those with the nearest outlines. A join that would bring together two
    annotations of one reader is skipped.

    Args:
      placed: the annotations.
      stack: positions of the CT's slices.

    Returns:
      Groups of indices, ascending; every annotation is in one group.
    """
    pairs, tolerance_mm = [], stack.step_mm
    for j in range(len(placed)):
        for i in range(j):
            if placed[i].annotation.reader != placed[j].annotation.reader:
                distance = _distance(placed[i], placed[j], tolerance_mm * (1 + _SLACK))
                if distance <= tolerance_mm * (1 + _SLACK):
                    pairs.append((distance, i, j))
    groups = {i: {i} for i in range(len(placed))}
    for _, i, j in sorted(pairs):
        both = groups[i] | groups[j]
        if groups[i] is not groups[j] and len({placed[k].annotation.reader for k in both}) == len(both):
            groups |= dict.fromkeys(both, both)
    return sorted({tuple(sorted(found)) for found in groups.values()})


def join(placed: Sequence[Placed]) -> Nodule:
    """Returns the nodule of several annotations; its masks are in the order of the readers' numbers."""
    placed = sorted(placed, key=lambda each: each.annotation.reader)
    start = np.min([each.start for each in placed], 0)
    stop = np.max([each.stop for each in placed], 0)
    masks = np.zeros((len(placed), *(stop - start)), bool)
    for mask, each in zip(masks, placed, strict=True):
        mask[tuple(slice(a, b) for a, b in zip(each.start - start, each.stop - start, strict=True))] = each.mask
    annotations = [each.annotation for each in placed]
    return Nodule(
        tuple(annotation.reader for annotation in annotations),
        tuple(start.tolist()),
        masks,
        tuple(_median([annotation.ratings[k] for annotation in annotations]) for k in range(len(RATINGS))),
        tuple(annotation.ratings[RATINGS.index("malignancy")] for annotation in annotations),
    )


def find_nodules(annotations: Sequence[Annotation], stack: Stack, grouping: str = "pylidc") -> list[Nodule]:
    """Returns the nodules of a CT, in the order of their first annotation.

    Annotations that enclose no pixel are left out.

    Args:
      annotations: the annotations of all readers.
      stack: positions and size of the CT's slices.
      grouping: "pylidc", see `group_as_pylidc`, or "readers", see `group_by_reader`.

    Raises:
      ValueError: an outline lies in no slice of the CT, or leaves the slice.
    """
    placed = [each for each in (place(annotation, stack) for annotation in annotations) if each.mask.any()]
    group = {"pylidc": group_as_pylidc, "readers": group_by_reader}[grouping]
    return [join([placed[i] for i in indices]) for indices in group(placed, stack)]


def _connected(joined: np.ndarray) -> list[tuple[int, ...]]:
    """Returns the indices of each connected part of a graph, whose edges are (n, n) bool."""
    count, labels = connected_components(joined, directed=False)
    return [tuple(np.flatnonzero(labels == label).tolist()) for label in range(count)]


def _slice_of(uid: str, z: float, stack: Stack) -> int:
    if uid in stack.places:
        return stack.places[uid]
    nearest = int(np.abs(stack.z - z).argmin())
    if abs(stack.z[nearest] - z) > _SAME_MM:
        raise ValueError(f"the CT has no slice {uid or 'without UID'} at {z:g} mm, but a reader drew an outline there")
    return nearest


def _distance(a: Placed, b: Placed, limit: float) -> float:
    """Returns the distance of two outlines in millimetres; negative if they overlap; infinite beyond the limit."""
    shared = _shared(a, b)
    if shared:
        return -shared / np.count_nonzero(a.mask) - shared / np.count_nonzero(b.mask)
    return _nearest(a.points, b.points, limit)


def _nearest(a: np.ndarray, b: np.ndarray, limit: float) -> float:
    """Returns the smallest distance of points (n, 3) to points (m, 3); infinite if it is certainly beyond the limit."""
    apart = np.maximum(a.min(0) - b.max(0), b.min(0) - a.max(0))
    if np.linalg.norm(np.maximum(apart, 0)) > limit:
        return np.inf
    return float(cKDTree(a).query(b, distance_upper_bound=limit * 2 + 1)[0].min())


def _shared(a: Placed, b: Placed) -> int:
    """Returns the number of voxels that both masks have."""
    first, last = np.maximum(a.start, b.start), np.minimum(a.stop, b.stop)
    if (first >= last).any():
        return 0
    parts = [
        each.mask[tuple(slice(*ends) for ends in zip(first - each.start, last - each.start, strict=True))]
        for each in (a, b)
    ]
    return int(np.count_nonzero(parts[0] & parts[1]))


def _median(values: Sequence[int | None]) -> int | None:
    given = [value for value in values if value is not None]
    return statistics.median_high(given) if given else None
