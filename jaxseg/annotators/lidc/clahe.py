"""Contrast limited adaptive histogram equalisation (CLAHE) of grey images. Numpy only."""

import numpy as np

_LEVELS = 256


def equalise(image: np.ndarray, *, clip: float = 2.0, tiles: tuple[int, int] = (4, 4)) -> np.ndarray:
    """Returns an image whose contrast is spread tile by tile, and blended between the tiles' middles.

    Args:
      image: (H, W) uint8; H and W must be whole multiples of the tiles.
      clip: how much higher than the mean a bin of a tile's histogram may be; what is above is spread over all bins.
        The higher, the more noise is raised too.
      tiles: number of rows and columns of tiles.

    Returns:
      (H, W) uint8.

    Raises:
      ValueError: the image or an option is another.

    Source: Zuiderveld 1994, Graphics Gems IV; rounding as OpenCV's `createCLAHE`.
    """
    if image.ndim != 2 or image.dtype != np.uint8:
        raise ValueError(f"the image must be (H, W) uint8, got {image.shape} {image.dtype}")
    if min(tiles) < 1 or any(side % count or not side for side, count in zip(image.shape, tiles, strict=True)):
        raise ValueError(f"an image of {image.shape} cannot be cut into {tiles[0]} x {tiles[1]} equal tiles")
    if not clip > 0:
        raise ValueError(f"clip must be above 0, got {clip}")
    (rows, columns), (height, width) = tiles, (side // count for side, count in zip(image.shape, tiles, strict=True))
    parts = image.reshape(rows, height, columns, width).swapaxes(1, 2).reshape(rows * columns, -1)
    tables = np.stack([_table(part, clip) for part in parts]).reshape(rows, columns, _LEVELS)
    (r0, r1, dr), (c0, c1, dc) = (_between(side, count) for side, count in zip(image.shape, tiles, strict=True))
    r0, r1, dr = r0[:, None], r1[:, None], dr[:, None]
    upper = tables[r0, c0, image] * (1 - dc) + tables[r0, c1, image] * dc
    lower = tables[r1, c0, image] * (1 - dc) + tables[r1, c1, image] * dc
    return np.clip(np.rint(upper * (1 - dr) + lower * dr), 0, _LEVELS - 1).astype(np.uint8)


def _table(part: np.ndarray, clip: float) -> np.ndarray:
    """What a tile makes of each level, (256,) float32."""
    counts = np.bincount(part, minlength=_LEVELS)
    limit = max(int(clip * part.size / _LEVELS), 1)
    excess = int((counts - np.minimum(counts, limit)).sum())
    counts = np.minimum(counts, limit) + excess // _LEVELS
    rest = excess % _LEVELS
    if rest:
        step = max(_LEVELS // rest, 1)
        counts[np.arange(0, _LEVELS, step)[:rest]] += 1
    return np.rint(np.clip(counts.cumsum() * np.float32((_LEVELS - 1) / part.size), 0, _LEVELS - 1)).astype(np.float32)


def _between(side: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each pixel the tiles before and after it, and how near it is to the latter, in [0, 1]."""
    place = np.arange(side, dtype=np.float32) * np.float32(count / side) - np.float32(0.5)
    first = np.floor(place).astype(int)
    return np.clip(first, 0, count - 1), np.clip(first + 1, 0, count - 1), place - first
