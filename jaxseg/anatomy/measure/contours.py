"""Contours of masks, point by point as OpenCV traces them, and polygons computed from them.

Masks are (H, W) bool. Points are (N, 2) int64, pixel centres with x to the right and y down. A region is a set of
pixels connected by sides or corners. A hole is a set of background pixels connected by sides only that does not reach
the outside.
"""

import math

import numpy as np

# Directions 0 to 7: the first is right, the others follow counter-clockwise as seen on a screen.
_STEPS = np.array([(1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1)])
_RIGHT, _LEFT = 0, 4


def first_contour(mask: np.ndarray) -> np.ndarray:
    """Returns the outer contour of one region of a mask: of those outside all holes, the one that starts last.

    Args:
      mask: (H, W) bool.

    Returns:
      (N, 2) int64 x, y: every pixel of the contour, counter-clockwise on a screen, starting at the region's first pixel
      in reading order. Pixels of thin parts occur once per direction. (0, 2) for an empty mask. Equal to the first
      contour of OpenCV's findContours(mask, RETR_EXTERNAL, CHAIN_APPROX_NONE).

    Raises:
      ValueError: the mask is not (H, W) bool.

    Source: Suzuki and Abe 1985, "Topological structural analysis of digitized binary images by border following".
    """
    grid = _Grid(mask)
    start = grid.last_outer_start()
    return np.zeros((0, 2), np.int64) if start is None else grid.follow(start, _LEFT)


def all_contours(mask: np.ndarray) -> list[np.ndarray]:
    """Returns the contours of all regions of a mask, including those inside holes, and of all holes.

    The contour of a hole runs over the mask's pixels around it. Filled by the even-odd rule, the polygons show the mask
    without the outer half of its outermost pixels.

    Args:
      mask: (H, W) bool.

    Returns:
      A list of (N, 2) int64 x, y; the last contour in reading order comes first. Equal to OpenCV's findContours(mask,
      RETR_LIST, CHAIN_APPROX_NONE).

    Raises:
      ValueError: the mask is not (H, W) bool.
    """
    grid = _Grid(mask)
    # A hole is found at its first pixel in reading order; its contour starts at the mask's pixel to the left.
    found = [(start, start, _LEFT) for start in grid.starts()]
    found += [(hole, hole - 1, _RIGHT) for hole in grid.holes()]
    return [grid.follow(start, side) for _, start, side in sorted(found, reverse=True)]


def polygon_area(points: np.ndarray) -> float:
    """Returns the area of a closed polygon, (N, 2), in square units; 0.0 for fewer than three points."""
    x, y = np.asarray(points).reshape(-1, 2).T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def convex_hull(points: np.ndarray) -> np.ndarray:
    """Returns the corners of the smallest convex polygon that contains all points.

    Args:
      points: (N, 2) integers.

    Returns:
      (M, 2) with the same dtype, each corner once and without points on edges. If all points are equal or on one line,
      there are one or two corners.

    Source: Andrew 1979, "Another efficient algorithm for convex hulls in two dimensions" (the monotone chain).
    """
    points = np.asarray(points).reshape(-1, 2)
    ordered = points[np.lexsort((points[:, 0], points[:, 1]))]
    turns = np.diff(ordered[:, 1]) != 0  # only the first and the last point of a row can be corners
    ends = np.concatenate([turns, [True]]) | np.concatenate([[True], turns]) if len(points) else slice(0)
    ordered = list(dict.fromkeys(map(tuple, ordered[ends].tolist())))
    chain = _half_hull(ordered)[:-1] + _half_hull(ordered[::-1])[:-1]
    return np.array(chain or ordered[:1], points.dtype).reshape(-1, 2)


def simplify(points: np.ndarray, tolerance: float) -> np.ndarray:
    """Returns a closed polygon with fewer points; no omitted point is farther than `tolerance` from it.

    Args:
      points: (N, 2) x, y.
      tolerance: at least 0, in the unit of the points; 0 omits only points on straight lines.

    Returns:
      (M, 2), a selection in the same order; at least three points, unless fewer were given.

    Raises:
      ValueError: the tolerance is negative or not finite.

    Source: Douglas and Peucker 1973, applied to a ring that is cut at its first point and at the farthest point.
    """
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance must be at least 0, got {tolerance}")
    points = np.asarray(points).reshape(-1, 2)
    count = len(points)
    if count <= 3:
        return points
    ring = np.concatenate([points, points[:1]]).astype(np.float64)
    far = int(np.argmax(((ring - ring[0]) ** 2).sum(1)))
    kept, parts = {0, far}, [(0, far), (far, count)]
    while parts:
        start, end = parts.pop()
        if end - start < 2:
            continue
        distance = _distance(ring[start + 1 : end], ring[start], ring[end])
        middle = start + 1 + int(np.argmax(distance))
        if distance.max() > tolerance:
            kept.add(middle)
            parts += [(start, middle), (middle, end)]
    if len(kept) < 3:
        away = _distance(points.astype(np.float64), ring[0], ring[far])
        away[list(kept)] = -1
        kept |= set(np.argsort(-away, kind="stable")[: 3 - len(kept)].tolist())
    return points[sorted(kept)]


class _Grid:
    """The bounding box of a mask with a border of background, and the neighbours of every pixel."""

    def __init__(self, mask: np.ndarray):
        mask = np.asarray(mask)
        if mask.dtype != bool or mask.ndim != 2:
            raise ValueError(f"a mask must be (H, W) bool, got {mask.dtype} {mask.shape}")
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        self.top, self.left = (int(rows[0]), int(columns[0])) if rows.size else (0, 0)
        box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if rows.size else mask[:0, :0]
        self.framed = np.pad(box, 1)
        self.width = self.framed.shape[1]
        self._codes = None

    def starts(self) -> list[int]:
        """Returns the first pixel of every region, in reading order."""
        return _first_pixels(*_labelled(self.framed, np.ones((3, 3))))

    def last_outer_start(self) -> int | None:
        """Returns the first pixel of the last region in reading order that lies outside all holes; None without one."""
        starts = self.starts()
        if len(starts) < 2:
            return starts[0] if starts else None
        # The pixel to the left of a region's first pixel is background: the outside, or the hole around the region.
        background = self._background()[0].ravel()
        return next(start for start in reversed(starts) if background[start - 1] == background[0])

    def holes(self) -> list[int]:
        """Returns the first pixel of every hole, in reading order."""
        return _first_pixels(*self._background())[1:]

    def follow(self, start: int, side: int) -> np.ndarray:
        """Returns the contour, (N, 2), through the pixel `start` that has the background on that side of it."""
        if self._codes is None:
            self._codes = _neighbours(self.framed)
        codes, moves = self._codes, [int(x + y * self.width) for x, y in _STEPS]
        here = codes[start]
        direction = next((d % 8 for d in range(side + 7, side - 1, -1) if here >> d % 8 & 1), None)
        path = [start]
        if direction is not None:  # else the region is a single pixel
            # The contour ends with the step from this last pixel back to the first.
            last, place, turn = start + moves[direction], start, _TURN
            direction = (direction + 4) % 8
            while True:
                direction = turn[codes[place] << 3 | direction]
                following = place + moves[direction]
                if following == start and place == last:
                    break
                place = following
                path.append(place)
        y, x = np.divmod(np.array(path), self.width)
        return np.stack([x + (self.left - 1), y + (self.top - 1)], axis=1)

    def _background(self) -> tuple[np.ndarray, int]:
        return _labelled(~self.framed)


def _labelled(mask: np.ndarray, neighbours: np.ndarray | None = None) -> tuple[np.ndarray, int]:
    """Returns the number of its region for every pixel, and the number of regions."""
    from scipy import ndimage  # it takes 0.2 s, and commands that only segment do not need it

    return ndimage.label(mask, neighbours)


def _neighbours(framed: np.ndarray) -> bytes:
    """Returns which neighbours of every pixel, in reading order, are in the mask: one bit per direction."""
    height, width = framed.shape
    codes = np.zeros((height, width), np.uint8)
    inside, cells = codes[1:-1, 1:-1], framed.view(np.uint8)
    for bit, (x, y) in enumerate(_STEPS.tolist()):
        inside |= cells[1 + y : height - 1 + y, 1 + x : width - 1 + x] << np.uint8(bit)
    return codes.tobytes()


def _first_pixels(numbered: np.ndarray, count: int) -> list[int]:
    """Returns the index of the first pixel of each label from 1 to count, in reading order."""
    if count < 2:
        return [int(np.argmax(numbered.ravel() == 1))] if count else []
    flat = numbered.ravel()
    places = np.flatnonzero(flat)
    first = np.full(count + 1, flat.size)
    np.minimum.at(first, flat[places], places)
    return sorted(first[1:].tolist())


def _turns() -> bytes:
    """Returns the next direction for a pixel's neighbours and the last direction, at table[neighbours * 8 + direction].

    The search runs counter-clockwise and starts after the pixel just left.
    """
    table = bytearray(256 * 8)
    for code in range(1, 256):
        for direction in range(8):
            around = ((direction + 4 + turn) % 8 for turn in range(1, 9))
            table[code * 8 + direction] = next(d for d in around if code >> d & 1)
    return bytes(table)


_TURN = _turns()


def _half_hull(points: list) -> list:
    """Returns the corners on one side of points sorted by row, then column."""
    chain = []
    for x, y in points:
        while len(chain) > 1:
            (x0, y0), (x1, y1) = chain[-2:]
            if (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) > 0:
                break
            chain.pop()
        chain.append((x, y))
    return chain


def _distance(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Returns the distance of points, (N, 2), from the segment between two points."""
    along, away = end - start, points - start
    length = float(np.hypot(*along))
    if not length:
        return np.hypot(*away.T)
    place = away @ along
    # Computed from a cross product, so that integer points on the line have exactly the distance 0.
    apart = np.abs(away[:, 0] * along[1] - away[:, 1] * along[0]) / length
    beyond = np.minimum(np.hypot(*away.T), np.hypot(*(points - end).T))
    return np.where((place >= 0) & (place <= length**2), apart, beyond)
