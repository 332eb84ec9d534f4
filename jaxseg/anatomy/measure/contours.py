"""Contours of masks, point by point as OpenCV traces them, and polygons computed from them.

Masks are (H, W) bool. Points are (N, 2) int64, pixel centres with x to the right and y down. A region is a set of
pixels connected by sides or corners. A hole is a set of background pixels connected by sides only that does not reach
the outside.
"""

import math
from collections.abc import Iterator

import numpy as np

# Directions 0 to 7: the first is down to the left, the others follow counter-clockwise as seen on a screen. A contour
# leaves a region's first pixel in the first of these in which it can.
_STEPS = np.array([(-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0)])
_RIGHT, _LEFT = 3, 7
# Neighbours as bits, one per direction: those that share a side, and those before a pixel in reading order.
_SIDES, _BEFORE = np.uint8(0b10101010), np.uint8(0b11110000)


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Returns left column, top row, width and height of the smallest box around all pixels of a mask, (H, W) bool.

    They are 0 for an empty mask.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return 0, 0, 0, 0
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    return left, top, right - left, bottom - top


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
    return grid.points[grid.last_outer()]


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
    return [grid.points[steps] for _, steps in sorted(grid.all_contours(), reverse=True)]


def polygon_area(points: np.ndarray) -> float:
    """Returns the area of a closed polygon, (N, 2), in square units; 0.0 for fewer than three points."""
    points = np.asarray(points).reshape(-1, 2)
    (x, y), (next_x, next_y) = points.T, np.concatenate([points[1:], points[:1]]).T
    return abs(float(np.dot(x, next_y) - np.dot(y, next_x))) / 2


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
    if (points == points[:1]).all():
        return points[:1]
    ordered = points[np.lexsort((points[:, 0], points[:, 1]))]
    changes = ordered[1:, 1] != ordered[:-1, 1]  # only the first and the last point of a row can be corners
    first, last = ordered[np.append(True, changes)], ordered[np.append(changes, True)]
    chain = _half_hull(np.concatenate([first[:1], last]))[:-1]
    chain += _half_hull(np.concatenate([last[-1:], first[::-1]]))[:-1]
    return np.array(chain, points.dtype)


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
    """The steps of all contours of a mask, from pixel to pixel, numbered in reading order.

    A contour comes through a pixel once for each group of background pixels around it with a pixel that shares a side.
    It leaves to the pixel of the mask that follows the group counter-clockwise. Such a step determines the next one, so
    that a contour is followed by looking up one number after the other.
    """

    def __init__(self, mask: np.ndarray):
        mask = np.asarray(mask)
        if mask.dtype != bool or mask.ndim != 2:
            raise ValueError(f"a mask must be (H, W) bool, got {mask.dtype} {mask.shape}")
        left, top, width, height = bounding_box(mask)
        framed = np.zeros((height + 2, width + 2), bool)  # the box with a border of background
        box = mask[top : top + height, left : left + width]
        framed[1:-1, 1:-1] = box.view(np.uint8) != 0  # Pillow stores True as 255
        self.framed, self.width = framed.ravel(), width + 2
        moves = _STEPS @ (1, self.width)
        self.neighbours = _neighbours(self.framed, moves)
        edge = np.flatnonzero(self.framed & (self.neighbours & _SIDES != _SIDES))
        chosen, direction = np.nonzero(_LEAVES[self.neighbours[edge]])
        self.places = edge[chosen]
        self.keys = self.places * 8 + direction
        to = self.places + moves[direction] * (self.neighbours[self.places] > 0)  # a single pixel leads to itself
        self.following = self.numbers(to, (direction + 4) % 8).tolist()
        self.known: dict[int, list[int]] = {}
        y, x = np.divmod(self.places, self.width)
        self.points = np.stack([x + (left - 1), y + (top - 1)], axis=1)

    def numbers(self, places: np.ndarray, after: int | np.ndarray) -> np.ndarray:
        """Returns the numbers of the steps that leave pixels, (N,), by the first way after a direction."""
        return np.searchsorted(self.keys, places * 8 + _NEXT[self.neighbours[places], after])

    def contour(self, step: int) -> list[int]:
        """Returns the numbers of the steps of the contour with this step; the lowest comes first.

        A region's outer contour starts at the region's first pixel.
        """
        if step not in self.known:
            following = self.following
            steps, step = [step], following[step]
            while step != steps[0]:
                steps.append(step)
                step = following[step]
            start = steps.index(min(steps))
            self.known.update(dict.fromkeys(steps, steps[start:] + steps[:start]))
        return self.known[step]

    def is_outer(self, steps: list[int]) -> bool:
        """Returns whether a contour is a region's outer contour, not that of a hole."""
        place = self.places[steps[0]]
        return not self.framed[place - 1] and steps[0] == self.numbers(place, _LEFT)

    def last_outer(self) -> list[int]:
        """Returns the contour of the last region in reading order that lies outside all holes; [] without one."""
        # Background is above and to the left of a region's first pixel, but also of other peaks.
        peaks = self.places[self.neighbours[self.places] & _BEFORE == 0]
        for start in self.numbers(peaks, _LEFT)[::-1].tolist():
            steps = self.contour(start)
            if steps[0] == start and not self.in_hole(steps):
                return steps
        return []

    def all_contours(self) -> Iterator[tuple[int, list[int]]]:
        """Yields the first pixel of every region and hole, and the contour that starts there or to the left of it."""
        # A hole's contour starts at the first pixel with the hole on its right, next to the hole's first pixel.
        beside = set(self.numbers(self.places[~self.framed[self.places + 1]], _RIGHT).tolist())
        for step in range(len(self.keys)):
            if step not in self.known:
                steps = self.contour(step)
                start = 0 if self.is_outer(steps) else steps.index(min(beside.intersection(steps)))
                yield self.places[steps[start]] + (start > 0), steps[start:] + steps[:start]

    def in_hole(self, steps: list[int]) -> bool:
        """Returns whether the region with this outer contour lies in a hole."""
        while self.is_outer(steps):
            # The background to the left of a region's first pixel surrounds the region.
            place = self.places[steps[0]]
            before = np.flatnonzero(self.framed[place - place % self.width : place])
            if not before.size:
                return False
            # On its other side is a region that it surrounds as well, or its own contour as a hole.
            steps = self.contour(int(self.numbers(place - place % self.width + before[-1], _RIGHT)))
        return True


def _neighbours(framed: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Returns which neighbours of every pixel, in reading order, are in the mask: (N,) uint8, one bit per direction."""
    codes = np.zeros(framed.size, np.uint8)
    first = moves.max()
    inside, cells = codes[first : framed.size - first], framed.view(np.uint8)
    for move in moves[::-1]:
        inside += inside  # the bits move up by one
        inside |= cells[first + move : first + move + inside.size]
    return codes


def _next_directions() -> np.ndarray:
    """Returns the first direction after another in which there is a neighbour, (256, 8) uint8; 0 without neighbours."""
    table = np.zeros((256, 8), np.uint8)
    for code in range(1, 256):
        for after in range(8):
            table[code, after] = next(d % 8 for d in range(after + 1, after + 9) if code >> d % 8 & 1)
    return table


def _leaves() -> np.ndarray:
    """Returns in which directions contours leave a pixel with these neighbours, (256, 8) bool."""
    table = np.zeros((256, 8), bool)
    for code in range(256):
        for side in range(1, 8, 2):
            if not code >> side & 1:
                table[code, _NEXT[code, side]] = True
    return table


_NEXT = _next_directions()
_LEAVES = _leaves()


def _half_hull(points: np.ndarray) -> list:
    """Returns the corners on one side of points, (N, 2), whose rows ascend or descend.

    Only the first and the last point may share a row with another.
    """
    for _ in range(2):  # leaves out most points that are no corners, so that few remain for the slow loop
        (x0, y0), (x1, y1), (x2, y2) = points[:-2].T, points[1:-1].T, points[2:].T
        bends = (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0) > 0
        points = points[np.concatenate([[True], bends, [True]])]
    chain = []
    for x, y in points.tolist():
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
