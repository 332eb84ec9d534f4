"""SegAE's input: the part of a CT slice around a mask, resized to one size in 8 bits as in the original.

Source: Chen et al. 2024, arXiv:2406.00327; Schuture/Quality-Sentinel.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

HU_RANGE = (-200.0, 200.0)
MARGIN = 20  # margin in pixels, if it is not random
LEAST_MARGIN, ROOM = 10, 256  # random margins in pixels
SLICES = 10  # number of slices per mask that the original scores
_UNIT = np.arange(256, dtype=np.float32) / np.float32(255) - np.float32(0.5)
_CT, _MASK = _UNIT / np.float32(0.25), _UNIT / np.float32(0.5)  # values of the 256 byte values


class Window(NamedTuple):
    """A part of a slice in pixels, `slice[top:bottom, left:right]`."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def part(self) -> tuple[slice, slice]:
        """The index of the part."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


def bounds(mask: np.ndarray) -> Window:
    """Returns the first and the last row and column of a mask, both inclusive.

    Args:
      mask: (H, W) bool, or values 0 and 1.

    Raises:
      ValueError: the mask is empty.

    Example:
      >>> mask = np.zeros((8, 8), bool)
      >>> mask[2:4, 1:6] = True
      >>> bounds(mask)
      Window(top=2, bottom=3, left=1, right=5)
    """
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not rows.size:
        raise ValueError("the mask is empty in this slice, so there is nothing to crop to")
    return Window(int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1]))


def draw_margins(rng: np.random.Generator, found: Window, largest: int | None = None) -> tuple[int, int]:
    """Returns random margins in pixels for rows and for columns, sampled as in the original's training.

    Each margin is a whole number in [10, max(10, (256 - length) // 2)], both ends inclusive, in which the length is the
    last row or column minus the first. The margin of the rows is sampled first.

    Args:
      rng: generator of the random numbers.
      found: result of `bounds`.
      largest: upper limit of the margins, at least 10; None: none beside the original's.
    """
    lengths = found.bottom - found.top, found.right - found.left
    limits = (max(LEAST_MARGIN, (ROOM - n) // 2) for n in lengths)
    rows, columns = (int(rng.integers(LEAST_MARGIN, min(limit, largest or limit) + 1)) for limit in limits)
    return rows, columns


def crop_window(found: Window, shape: tuple[int, int], margins: tuple[int, int] = (MARGIN, MARGIN)) -> Window:
    """Returns the part of a slice that the original crops.

    It has two peculiarities with which the published weights were trained. The last row and column of the mask are used
    as an exclusive end, so the margins below and to the right are one pixel narrower. The shorter side is widened by
    half of the difference on both sides, but not beyond the slice, so at the border of a slice the part is not square.

    Args:
      found: result of `bounds`.
      shape: (H, W) of the slice.
      margins: pixels above and below, and pixels left and right; at least 1.

    Raises:
      ValueError: a margin is below 1.

    Example:
      >>> crop_window(Window(100, 119, 50, 89), (512, 512))
      Window(top=70, bottom=149, left=30, right=109)
    """
    if min(margins) < 1:
        raise ValueError(f"margins must be at least 1, got {margins}")
    (top, bottom), (left, right) = (
        (max(0, low - margin), min(length, high + margin))
        for low, high, margin, length in zip(found[::2], found[1::2], margins, shape, strict=True)
    )
    missing = (right - left) - (bottom - top)
    half = abs(missing) // 2
    if missing > 0:
        top, bottom = max(0, top - half), min(shape[0], bottom + half)
    else:
        left, right = max(0, left - half), min(shape[1], right + half)
    return Window(top, bottom, left, right)


def to_bytes(ct: np.ndarray, mask: np.ndarray, size: int = 256, hu_range: tuple[float, float] = HU_RANGE) -> np.ndarray:
    """Returns a crop in 8 bits, resized to the input size of the network.

    CT values are clipped to the range, mapped to 0 to 255 and rounded down. Pillow resizes both channels in 8 bits,
    bilinearly, with antialiasing if the size decreases.

    Args:
      ct: (h, w) Hounsfield units.
      mask: (h, w) bool, or values 0 and 1.
      size: height and width of the result in pixels.
      hu_range: CT values in HU that become 0 and 255.

    Returns:
      (size, size, 2) uint8: CT, and mask with values from 0 to 255.
    """
    low, high = hu_range
    unit = (np.clip(ct, low, high).astype(np.float64) - low) / (high - low)
    grey = (unit.astype(np.float32) * np.float32(255)).astype(np.uint8)
    return np.stack([_resized(grey, size), mask_bytes(mask, size)], -1)


def mask_bytes(mask: np.ndarray, size: int) -> np.ndarray:
    """Returns a (h, w) mask of 0 and 1 as `to_bytes` resizes it, (size, size) uint8 from 0 to 255."""
    return _resized(mask.astype(np.uint8) * np.uint8(255), size)


def _resized(plane: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR))


def normalise(pixels: np.ndarray) -> np.ndarray:
    """Returns the input of the network, float32: CT in [-2, 2] and mask in [-1, 1].

    Args:
      pixels: (..., 2) uint8, as `to_bytes` returns them.
    """
    return np.stack([_CT[pixels[..., 0]], _MASK[pixels[..., 1]]], -1)


def network_input(ct: np.ndarray, mask: np.ndarray, size: int = 256) -> np.ndarray:
    """Returns the input of the network for a slice, (size, size, 2) float32, cropped with the fixed margins.

    Args:
      ct: (H, W) Hounsfield units.
      mask: (H, W) bool, or values 0 and 1; not empty.
      size: height and width of the result in pixels.

    Raises:
      ValueError: the mask is empty, or the two are not slices of one shape.
    """
    if ct.shape != mask.shape or ct.ndim != 2:
        raise ValueError(f"slices must be (H, W) of one shape, got {ct.shape} for the CT and {mask.shape} for the mask")
    part = crop_window(bounds(mask), mask.shape).part
    return normalise(to_bytes(ct[part], mask[part], size))


def slices_with(mask: np.ndarray) -> np.ndarray:
    """Returns the ascending indices, int64, of the slices of a (D, H, W) mask that are not empty."""
    return np.flatnonzero(mask.any((1, 2)))


def spread(count: int, wanted: int = SLICES) -> list[int]:
    """Returns which of `count` slices are scored, as in the original: all, or `wanted` of them at even distances.

    If some are left out, the first slice is always scored and the last never.

    Example:
      >>> spread(25)
      [0, 2, 5, 7, 10, 12, 15, 17, 20, 22]
    """
    return list(range(count)) if count <= wanted else [int(count / wanted * k) for k in range(wanted)]
