"""Masks at the size of a figure: as SVG outlines, or painted over a small picture."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from jaxseg.anatomy.measure.contours import all_contours, simplify
from jaxseg.draw.overlay import overlay


def figure_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Returns the height and width of a figure whose longer side has at most `side` pixels.

    Smaller images keep their size.

    >>> figure_size((2000, 1000), 500)
    (500, 250)
    """
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns an (H, W) uint8 picture at another size (height, width)."""
    if pixels.shape == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.LANCZOS))


def reduced(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns an (H, W) bool mask at a smaller size (height, width).

    A pixel of the result belongs to the mask if at least half of it is covered. If there is no such pixel, all pixels
    that the mask touches belong to it, so that a mask becomes empty only if it was empty before.
    """
    if mask.shape == size:
        return mask
    grey = Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0)))
    shades = np.asarray(grey.resize(size[::-1], Image.Resampling.BOX))
    if not shades.any() and mask.any():  # so small that every shade was rounded to 0
        rows, columns = np.nonzero(mask)
        shades = np.zeros(size, np.uint8)
        shades[rows * size[0] // mask.shape[0], columns * size[1] // mask.shape[1]] = 255
    return shades > 127 if (shades > 127).any() else shades > 0


def outline(mask: np.ndarray, tolerance: float) -> str:
    """Returns the outlines of a mask and of its holes as SVG path data, for the even-odd fill rule.

    The coordinates are integers: pixel centres, with the centre of the first pixel at (0, 0).

    Args:
      mask: (H, W) bool.
      tolerance: largest distance in pixels between the path and contour points that it leaves out.

    Returns:
      The path data, or "" for an empty mask.
    """
    if not mask.any():
        return ""
    return "".join(_path(simplify(points, tolerance)) for points in all_contours(mask))


def painted(pixels: np.ndarray, masks: Sequence[np.ndarray], colours: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns a picture with masks painted over it.

    Args:
      pixels: (H, W) uint8.
      masks: K masks, each (H, W) bool.
      colours: (K, 3) uint8.
      size: height h and width w of the result.

    Returns:
      (h, w, 3) uint8.
    """
    small = np.array([reduced(mask, size) for mask in masks], bool).reshape(-1, *size)
    return overlay(resized(pixels, size), small, colors=colours)


def jpeg(pixels: np.ndarray, quality: int) -> str:
    """Returns an (H, W) or (H, W, 3) uint8 picture as a JPEG file in base64."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=quality, optimize=True)
    return base64.b64encode(data.getvalue()).decode("ascii")


def _path(points: np.ndarray) -> str:
    """Returns the path data of a closed polygon, (N, 2): its first point, then the steps between points."""
    x, y = points[0]
    steps = np.diff(points, axis=0).tolist() or [(0, 0)]  # round line ends make a single pixel visible
    return f"M{x} {y}l" + " ".join(f"{dx} {dy}" for dx, dy in steps) + "z"
