"""Turns readers' outlines into nodules: the mask of each reader, and which readers outlined the same nodule.

Uses numpy and scipy only.

Source: Armato et al. 2011, doi 10.1118/1.3528204, for the meaning of an outline.
"""

import dataclasses
import statistics
from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree

from jaxseg.annotators.lidc.annotations import RATINGS, Annotation

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
    """

    z: np.ndarray
    places: dict[str, int]
    size: tuple[int, int]
    spacing_mm: tuple[float, float]

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
      points: (n, 3) float64, the points of its outlines as z, row, column in millimetres.
    """

    annotation: Annotation
    start: tuple[int, int, int]
    mask: np.ndarray
    points: np.ndarray

    @property
    def stop(self) -> tuple[int, int, int]:
        """Slice, row and column after the last ones of the box."""
        return tuple(first + length for first, length in zip(self.start, self.mask.shape, strict=True))


@dataclasses.dataclass(frozen=True)
class Nodule:
    """The annotations of one nodule by different readers.

    Attributes:
      readers: the readers' numbers in the file, ascending.
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
    """Returns the pixels inside an outline. The outline itself is outside, as the archive defines it.

    A pixel is inside if a ray from it crosses the closed outline an odd number of times.

    Args:
      points: (n, 2) integers, row and column, in drawing order; neighbouring points need not be adjacent pixels.
      size: rows and columns of the result.

    Returns:
      (rows, columns) bool; empty for lines and points.
    """
    inside = np.zeros(size, bool)
    start = points.astype(np.int64)
    stop = np.roll(start, -1, 0)
    for (r0, c0), (r1, c1) in zip(start.tolist(), stop.tolist(), strict=True):
        if r0 != r1:  # the edge crosses its rows from the upper end to before the lower end
            (upper, at), (lower, to) = sorted([(r0, c0), (r1, c1)])
            rows = np.arange(max(upper, 0), min(lower, size[0]))
            crossing = at + (rows - upper) * (to - at) / (lower - upper)
            inside[rows] ^= np.arange(size[1]) > crossing[:, None]
    for (r0, c0), (r1, c1) in zip(start.tolist(), stop.tolist(), strict=True):
        pieces = max(int(np.gcd(r1 - r0, c1 - c0)), 1)  # number of steps between pixel centres on the edge
        k = np.arange(pieces + 1)
        rows, columns = r0 + k * (r1 - r0) // pieces, c0 + k * (c1 - c0) // pieces
        within = (rows >= 0) & (rows < size[0]) & (columns >= 0) & (columns < size[1])
        inside[rows[within], columns[within]] = False
    return inside


def place(annotation: Annotation, stack: Stack) -> Placed:
    """Returns an annotation as a mask: the pixels inside inclusions, without those inside exclusions.

    Within a slice, outlines are applied from the largest to the smallest, so an inclusion inside an exclusion is kept.

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
    enclosed = [fill(outline.points - [top, left], size) for outline in annotation.outlines]
    parts = list(zip(enclosed, slices, annotation.outlines, strict=True))
    for inside, k, outline in sorted(parts, key=lambda part: (-part[0].sum(), not part[2].inclusion)):
        mask[k - first][inside] = outline.inclusion
    counts = [len(outline.points) for outline in annotation.outlines]
    positions = np.column_stack([np.repeat(stack.z[slices], counts), points * np.array(stack.spacing_mm)])
    return Placed(annotation, (first, top, left), mask, positions)


def group(placed: Sequence[Placed], tolerance_mm: float) -> list[tuple[int, ...]]:
    """Returns which annotations belong to one nodule: close to each other, and at most one per reader.

    Annotations are joined in the order of their distance. Those that share voxels come first, the largest share before
    the others; then those with the nearest outlines. A join that would bring together two annotations of one reader is
    skipped.

    Args:
      placed: the annotations.
      tolerance_mm: largest distance of two outlines; annotations that share a voxel are always close enough.

    Returns:
      Groups of indices, ascending; every annotation is in one group.
    """
    pairs = []
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
    """Returns the nodule of annotations by different readers; its masks are in the order of the readers' numbers."""
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


def find_nodules(annotations: Sequence[Annotation], stack: Stack) -> list[Nodule]:
    """Returns the nodules of a CT, in the order of their first annotation; the tolerance is the slice spacing.

    Annotations that enclose no pixel are left out.

    Args:
      annotations: the annotations of all readers.
      stack: positions and size of the CT's slices.

    Raises:
      ValueError: an outline lies in no slice of the CT, or leaves the slice.
    """
    placed = [each for each in (place(annotation, stack) for annotation in annotations) if each.mask.any()]
    return [join([placed[i] for i in indices]) for indices in group(placed, stack.step_mm)]


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
    apart = np.maximum(a.points.min(0) - b.points.max(0), b.points.min(0) - a.points.max(0))
    if np.linalg.norm(np.maximum(apart, 0)) > limit:
        return np.inf
    return float(cKDTree(a.points).query(b.points, distance_upper_bound=limit * 2 + 1)[0].min())


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
