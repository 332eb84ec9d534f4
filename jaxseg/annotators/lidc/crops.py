"""Which slices of a nodule become training data, and their crops: what is chosen, cut and scaled."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxseg.annotators.lidc.annotations import RATINGS
from jaxseg.annotators.lidc.nodules import Nodule, Stack
from jaxseg.annotators.lidc.series import Slices, read_pixels

SIDE = 64  # pixels of a crop
LUNG_HU = (-1000.0, 400.0)  # window in which CLAHE spreads the contrast
_LEVELS = 256


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a set is made with, as meta/summary.json keeps it.

    Attributes:
      val_fraction, test_fraction: of the patients.
      seed: of that choice.
      least_readers: a nodule is taken where so many readers outlined it.
      least_pixels, most_pixels: a slice is taken where the readers' consensus has so many. The least is that of the
        published set; most_pixels None: as many as a crop holds.
      clahe: spread the contrast of the crops by CLAHE in the lung window, before they are z-scored.
    """

    val_fraction: float = 0.1
    test_fraction: float = 0.2
    seed: int = 0
    least_readers: int = 2
    least_pixels: int = 31
    most_pixels: int | None = None
    clahe: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self):
        if min(self.val_fraction, self.test_fraction) < 0 or self.val_fraction + self.test_fraction >= 1:
            raise ValueError(f"the fractions must leave patients, got {self.val_fraction} and {self.test_fraction}")
        if self.least_readers < 1 or self.least_pixels < 1:
            raise ValueError(f"at least 1 reader and 1 pixel, got {self.least_readers} and {self.least_pixels}")
        if self.most_pixels is not None and self.most_pixels < self.least_pixels:
            raise ValueError(f"most_pixels, {self.most_pixels}, is below least_pixels, {self.least_pixels}")

    @property
    def fractions(self) -> dict[str, float]:
        """Split -> share of the patients."""
        others = {"test": self.test_fraction, "validate": self.val_fraction}
        return {"train": 1 - sum(others.values())} | others


def describe(nodule: Nodule, stack: Stack, settings: Settings) -> dict[str, Any]:
    """Returns what the record of a patient says of a nodule, for JSON.

    Returns:
      "readers": their numbers; "ratings": name -> median or None; "malignancy_by_reader"; "slices": of its box, those
      that are taken, ascending, and "pixels" of their consensus; "diameter_mm": of the disc with the area of the
      largest consensus; "left_out": why no slice is taken, or "".
    """
    pixels = nodule.consensus.sum((1, 2))
    most = SIDE * SIDE if settings.most_pixels is None else settings.most_pixels
    taken = np.flatnonzero((pixels >= settings.least_pixels) & (pixels <= most))
    readers, extent, size = len(nodule.readers), nodule.masks.shape[2:], stack.size
    if readers < settings.least_readers:
        reason = f"outlined by {readers} of the readers"
    elif max(extent) > SIDE or min(size) < SIDE:
        reason = f"its outlines extend over {extent[0]} x {extent[1]} pixels, a crop has {SIDE} x {SIDE}"
    else:
        reason = "" if len(taken) else "no slice has a consensus within the limits of size"
    taken = [] if reason else taken.tolist()
    area = float(pixels.max()) * float(np.prod(stack.spacing_mm))
    return {
        "readers": list(nodule.readers),
        "ratings": dict(zip(RATINGS, nodule.ratings, strict=True)),
        "malignancy_by_reader": list(nodule.malignancy),
        "slices": taken,
        "pixels": [int(pixels[z]) for z in taken],
        "diameter_mm": round(float(np.sqrt(4 * area / np.pi)), 2),
        "left_out": reason,
    }


def cut_slices(
    nodule: Nodule, slices: Slices, taken: Sequence[int], *, clahe: bool = False
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Cuts slices of a nodule out of its CT, all at one place.

    Args:
      nodule: with its masks.
      slices: of the CT.
      taken: slices of the nodule's box.
      clahe: as in `z_score`.

    Yields:
      The slice, and what its files hold by their folders: "scans", (1, 64, 64) float64; "masks/annots",
      (1, 64, 64, A) bool; "masks/GT", (1, 64, 64) bool, the consensus.

    Raises:
      ValueError: a file is damaged or its crop constant.
      OSError: a file cannot be read.
    """
    top, left = crop_start(nodule, slices.stack.size)
    row, column = nodule.start[1] - top, nodule.start[2] - left
    height, width = nodule.masks.shape[2:]
    for z in taken:
        annotations = np.zeros((1, SIDE, SIDE, len(nodule.readers)), bool)
        annotations[0, row : row + height, column : column + width] = np.moveaxis(nodule.masks[:, z], 0, -1)
        path = slices.paths[nodule.start[0] + z]
        crop = read_pixels(path)[top : top + SIDE, left : left + SIDE]
        if crop.shape != (SIDE, SIDE):
            raise ValueError(f"{path.name}: its pixels have another size than its tags say")
        scan = z_score(crop, clahe=clahe)[None]
        yield z, {"scans": scan, "masks/annots": annotations, "masks/GT": annotations.mean(-1) >= 0.5}


def crop_start(nodule: Nodule, size: tuple[int, int]) -> tuple[int, int]:
    """Returns first row and column of the crop: the nodule's box in its middle, moved into the slice where need be."""
    return tuple(
        min(max((2 * first + length - SIDE) // 2, 0), side - SIDE)
        for first, length, side in zip(nodule.start[1:], nodule.masks.shape[2:], size, strict=True)
    )


def z_score(crop: np.ndarray, *, clahe: bool = False) -> np.ndarray:
    """Returns a crop (H, W) in Hounsfield units with mean 0 and standard deviation 1; at will through CLAHE before.

    Raises:
      ValueError: it is constant.
    """
    if clahe:
        low, high = LUNG_HU
        grey = np.rint((np.clip(crop, low, high) - low) * (255 / (high - low))).astype(np.uint8)
        crop = equalise(grey).astype(np.float64)
    if crop.min() == crop.max():
        raise ValueError("a crop is constant, so it has no z-score; the CT is damaged or empty there")
    return (crop - crop.mean()) / crop.std()


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
    tables = np.stack([_lookup_table(part, clip) for part in parts]).reshape(rows, columns, _LEVELS)
    (r0, r1, dr), (c0, c1, dc) = (_between(side, count) for side, count in zip(image.shape, tiles, strict=True))
    r0, r1, dr = r0[:, None], r1[:, None], dr[:, None]
    upper = tables[r0, c0, image] * (1 - dc) + tables[r0, c1, image] * dc
    lower = tables[r1, c0, image] * (1 - dc) + tables[r1, c1, image] * dc
    return np.clip(np.rint(upper * (1 - dr) + lower * dr), 0, _LEVELS - 1).astype(np.uint8)


def _lookup_table(part: np.ndarray, clip: float) -> np.ndarray:
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
