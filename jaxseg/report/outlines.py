"""Masks in the size of a figure: as outlines in the syntax of SVG, and painted over a small picture."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from jaxseg.anatomy.measure.contours import all_contours, simplify
from jaxseg.draw.overlay import overlay


def figure_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Returns height and width of a figure whose longer side has at most `side` pixels; small ones keep their size."""
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns an (H, W) uint8 picture in another size."""
    if pixels.shape == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.LANCZOS))


def reduced(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns an (H, W) bool mask in a smaller size: what is at least half covered; what is not empty stays so."""
    if mask.shape == size:
        return mask
    grey = Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0)))
    shades = np.asarray(grey.resize(size[::-1], Image.Resampling.BOX))
    if not shades.any() and mask.any():  # thinner than a 500th of a pixel of the figure
        rows, columns = np.nonzero(mask)
        shades = np.zeros(size, np.uint8)
        shades[rows * size[0] // mask.shape[0], columns * size[1] // mask.shape[1]] = 255
    return shades > 127 if (shades > 127).any() else shades > 0


def outline(mask: np.ndarray, tolerance: float) -> str:
    """Returns the outlines of a mask, holes too, as the path data of SVG, to be filled by the even-odd rule.

    Coordinates are whole numbers, the centres of pixels, counted from that of the first pixel.

    Args:
      mask: (H, W) bool.
      tolerance: how far what is left out may lie from the path, in pixels.

    Returns:
      "" for an empty mask.
    """
    if not mask.any():
        return ""
    return "".join(_path(simplify(points, tolerance)) for points in all_contours(mask))


def painted(pixels: np.ndarray, masks: Sequence[np.ndarray], colours: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns a picture of (h, w) = `size` with the masks over it, (h, w, 3) uint8.

    Args:
      pixels: (H, W) uint8.
      masks: K of (H, W) bool.
      colours: (K, 3) uint8.
      size: height and width of the result.
    """
    small = np.array([reduced(mask, size) for mask in masks], bool).reshape(-1, *size)
    return overlay(resized(pixels, size), small, colors=colours)


def jpeg(pixels: np.ndarray, quality: int) -> str:
    """Returns an (H, W) or (H, W, 3) uint8 picture as a JPEG file in base64."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=quality, optimize=True)
    return base64.b64encode(data.getvalue()).decode("ascii")


def _path(points: np.ndarray) -> str:
    """A closed polygon, (N, 2): its first point, then steps from point to point."""
    x, y = points[0]
    steps = np.diff(points, axis=0).tolist() or [(0, 0)]  # of a single pixel the round end of a line is seen
    return f"M{x} {y}l" + " ".join(f"{dx} {dy}" for dx, dy in steps) + "z"
