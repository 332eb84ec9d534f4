"""Size, position and shape of one mask, as defined by CXAS.

A `Region` wraps a mask, (H, W) bool. Lengths are in its pixels, and also in mm if the size of a pixel is known.
`jaxseg extract` and `jaxseg report` measure masks at the network's size, so their pixels are those of its grid. Every
function returns its values by the endings of the column names, and raises `Unmeasurable` if there are none.

Perimeter, compactness and convexity have the limits of the original. They trace the contour of only one part of the
mask, the one whose first row is lowest. That contour runs through pixel centres, and its last step, back to the start,
is not counted. Compactness and convexity relate it to the area of the whole mask. They have no values in mm, because
an image that was stretched to a square grid shows other shapes than those of the body.
"""

import dataclasses
import math
from functools import cached_property

import numpy as np

from jaxseg.anatomy.measure.contours import bounding_box, convex_hull, first_contour, polygon_area

_EMPTY = "the mask is empty"
_POINT = "the part of the mask that starts lowest is a single pixel"
_FLAT = "the part of the mask that starts lowest is a straight line of pixels"


class Unmeasurable(ValueError):
    """Raised if something cannot be measured; the message is the reason.

    Args:
      reason: the reason.
      crashes: True if the original stops with an error here instead of returning a value.
    """

    def __init__(self, reason: str, *, crashes: bool = False):
        super().__init__(reason)
        self.crashes = crashes


@dataclasses.dataclass(frozen=True, eq=False)
class Line:
    """A line that a feature measured, for drawing: its `kind`, and (N, 2) points x, y in pixels of the masks."""

    feature: str
    kind: str
    points: np.ndarray
    label: str = ""


class Region:
    """One mask, with cached quantities that several measurements use.

    Args:
      mask: (H, W) bool.
      pixel_mm: height and width of a pixel in mm, if known.
    """

    def __init__(self, mask: np.ndarray, pixel_mm: tuple[float, float] | None = None):
        self.mask, self.pixel_mm = mask, pixel_mm

    @cached_property
    def area(self) -> int:
        """Number of pixels of the mask."""
        return int(np.count_nonzero(self.mask))

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        """Left column, top row, width and height of the smallest box around all pixels."""
        if not self.area:
            raise Unmeasurable(_EMPTY)
        return bounding_box(self.mask)

    @cached_property
    def sums(self) -> tuple[int, int]:
        """The sums of the columns and of the rows of all pixels."""
        left, top, width, height = self.box
        part = self.mask[top : top + height, left : left + width]
        x, y = part.sum(axis=0, dtype=np.int32), part.sum(axis=1, dtype=np.int32)
        return left * self.area + int(np.arange(width) @ x), top * self.area + int(np.arange(height) @ y)

    @cached_property
    def contour(self) -> np.ndarray:
        """The contour of the part whose first row is lowest, (N, 2)."""
        left, top, width, height = self.box
        return first_contour(self.mask[top : top + height, left : left + width]) + (left, top)

    @cached_property
    def hull(self) -> np.ndarray:
        """The corners of the convex hull of `contour`, (M, 2)."""
        return convex_hull(self.contour)

    @cached_property
    def perimeter(self) -> float:
        """The length of `contour` in pixels, without the step that closes it."""
        return self.length(1.0, 1.0)

    def length(self, row: float, column: float) -> float:
        """Returns the length of `contour` for the given distances of rows and columns."""
        if len(self.contour) < 2:
            raise Unmeasurable(_POINT)
        steps = np.diff(self.contour, axis=0)
        # Summed one after the other, so that the last digit equals the original's.
        return float(np.cumsum(np.hypot(steps[:, 0] * column, steps[:, 1] * row))[-1])


def area(region: Region) -> dict[str, float]:
    """Returns `area` in pixels, and `area_mm2`; an empty mask has the area 0."""
    values = {"area": region.area}
    if region.pixel_mm:
        values["area_mm2"] = region.area * region.pixel_mm[0] * region.pixel_mm[1]
    return values


def perimeter(region: Region) -> dict[str, float]:
    """Returns `perimeter`, the length of the outline in pixels, and `perimeter_mm`."""
    values = {"perimeter": region.perimeter}
    if region.pixel_mm:
        values["perimeter_mm"] = region.length(*region.pixel_mm)
    return values


def compactness(region: Region) -> dict[str, float]:
    """Returns `compactness`, 4 pi area / perimeter^2: about 1 for a disc, less for long or ragged shapes."""
    return {"compactness": 4 * math.pi * region.area / region.perimeter**2}


def centroid(region: Region) -> dict[str, float]:
    """Returns `cx` and `cy`, the mean position of the pixels, truncated to integers.

    In mm, `centroid_x_mm` and `centroid_y_mm` keep the fraction and are counted from the centre of the first pixel.
    """
    x, y = region.sums
    values = {"cx": x // region.area, "cy": y // region.area}
    if region.pixel_mm:
        row, column = region.pixel_mm
        values |= {"centroid_x_mm": x / region.area * column, "centroid_y_mm": y / region.area * row}
    return values


def box(region: Region) -> dict[str, float]:
    """Returns `x` (left), `y` (top), `width` and `height` of the box around all pixels; `width_mm`, `height_mm`."""
    values = dict(zip(("x", "y", "width", "height"), region.box, strict=True))
    if region.pixel_mm:
        row, column = region.pixel_mm
        values |= {"width_mm": values["width"] * column, "height_mm": values["height"] * row}
    return values


def convexity(region: Region) -> dict[str, float]:
    """Returns `convexity`, the area divided by the area of the convex hull.

    The hull runs through pixel centres, so a convex mask has a value slightly above 1. A mask of several parts has a
    value far above 1, because the hull contains only one part.
    """
    hull_area = polygon_area(region.hull)
    if not hull_area:
        raise Unmeasurable(_POINT if len(region.contour) == 1 else _FLAT)
    return {"convexity": region.area / hull_area}
