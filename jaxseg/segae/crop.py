"""SegAE's input: the part of a slice round a mask, at one size, in 8 bits as the original makes it.

Source: Chen et al. 2024, arXiv:2406.00327; Schuture/Quality-Sentinel.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

HU_RANGE = (-200.0, 200.0)
MARGIN = 20  # pixels, where it is not drawn
LEAST_MARGIN, ROOM = 10, 256  # of margins that are drawn
SLICES = 10  # of a mask that the original scores
_UNIT = np.arange(256, dtype=np.float32) / np.float32(255) - np.float32(0.5)
_CT, _MASK = _UNIT / np.float32(0.25), _UNIT / np.float32(0.5)  # of every byte, (256,)


class Window(NamedTuple):
    """A part of a slice, `slice[top:bottom, left:right]`."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def part(self) -> tuple[slice, slice]:
        """The index of the part."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


def bounds(mask: np.ndarray) -> Window:
    """Returns the first and the last row and column that hold a mask, the last ones included.

    Args:
      mask: (H, W) bool or 0 and 1.

    Raises:
      ValueError: the mask is empty.
    """
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not rows.size:
        raise ValueError("the mask is empty in this slice, so there is nothing to crop to")
    return Window(int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1]))


def draw_margins(rng: np.random.Generator, found: Window) -> tuple[int, int]:
    """Returns random margins above and below, and left and right, of what `bounds` found; as the original trains.

    Each is a whole number in [10, max(10, (256 - length) // 2)], both ends included, where the length is the last
    row minus the first; the one of the rows is drawn first.
    """
    lengths = found.bottom - found.top, found.right - found.left
    rows, columns = (int(rng.integers(LEAST_MARGIN, max(LEAST_MARGIN, (ROOM - n) // 2) + 1)) for n in lengths)
    return rows, columns


def crop_window(found: Window, shape: tuple[int, int], margins: tuple[int, int] = (MARGIN, MARGIN)) -> Window:
    """Returns the part of a slice that the original cuts out.

    It has two oddities, to which published weights are used. The last row and column of the mask are taken for the
    end, so that below and right the margin is one pixel narrower. And the shorter side is widened by half of the
    difference on both sides, but not beyond the slice, so that at its border the part is not a square.

    Args:
      found: what `bounds` returned.
      shape: of the slice, H and W.
      margins: above and below, left and right, in pixels; at least 1.
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
    """Returns a crop at the network's size, in 8 bits.

    CT values are cut to the range, which becomes 0 to 255 without rounding up; both channels are resized by Pillow in
    8 bits, bilinearly, with antialiasing where they shrink.

    Args:
      ct: (h, w) Hounsfield units.
      mask: (h, w) bool or 0 and 1.
      size: height and width of the result.
      hu_range: lowest and highest CT value that is told apart.

    Returns:
      (size, size, 2) uint8: CT and mask.
    """
    low, high = hu_range
    unit = (np.clip(ct, low, high).astype(np.float64) - low) / (high - low)
    planes = (unit.astype(np.float32) * np.float32(255)).astype(np.uint8), mask.astype(np.uint8) * np.uint8(255)
    return np.stack([Image.fromarray(p).resize((size, size), Image.Resampling.BILINEAR) for p in planes], -1)


def normalise(pixels: np.ndarray) -> np.ndarray:
    """Returns what the network takes, float32: CT in [-2, 2] and mask in [-1, 1].

    Args:
      pixels: (..., 2) uint8, as `to_bytes` makes them.
    """
    return np.stack([_CT[pixels[..., 0]], _MASK[pixels[..., 1]]], -1)


def network_input(ct: np.ndarray, mask: np.ndarray, size: int = 256) -> np.ndarray:
    """Returns the network's input for a slice, (size, size, 2) float32, with the fixed margins.

    Args:
      ct: (H, W) Hounsfield units.
      mask: (H, W) bool or 0 and 1, not empty.
      size: height and width of the result.

    Raises:
      ValueError: the mask is empty, or the two are no slices of one shape.
    """
    if ct.shape != mask.shape or ct.ndim != 2:
        raise ValueError(f"slices must be (H, W) of one shape, got {ct.shape} for the CT and {mask.shape} for the mask")
    part = crop_window(bounds(mask), mask.shape).part
    return normalise(to_bytes(ct[part], mask[part], size))


def slices_with(mask: np.ndarray) -> np.ndarray:
    """Returns the numbers of the slices of (D, H, W) that hold a part of a mask, ascending, int64."""
    return np.flatnonzero(mask.any((1, 2)))


def spread(count: int, wanted: int = SLICES) -> list[int]:
    """Returns which of `count` slices the original scores: all, or of more than `wanted` the places int(n / 10 k).

    The first is always among them, the last never.
    """
    return list(range(count)) if count <= wanted else [int(count / wanted * k) for k in range(wanted)]
