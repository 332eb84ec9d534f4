"""Chooses slices of a nodule for training and cuts their crops; z-score, and contrast equalisation (CLAHE)."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxseg.annotators.lidc.annotations import RATINGS
from jaxseg.annotators.lidc.nodules import GROUPINGS, Nodule, Stack
from jaxseg.annotators.lidc.series import Slices, read_pixels

SIDE = 64  # side of a crop in pixels
LUNG_HU = (-1000.0, 400.0)  # intensity window of CLAHE in Hounsfield units
_LEVELS = 256


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a set, as meta/summary.json keeps them.

    Attributes:
      val_fraction, test_fraction: shares of the patients for validation and testing; their sum is below 1.
      seed: random seed of the split.
      least_readers: a nodule is used if at least this number of readers outlined it; with pylidc's grouping, which does
        not know the readers, if it has this number of annotations.
      least_pixels, most_pixels: a slice is used if the number of pixels of its consensus is in this range. The default
        of least_pixels is that of the published set. If most_pixels is None, the limit is the size of a crop.
      clahe: equalise the contrast of the crops by CLAHE in the lung window, before they are z-scored.
      grouping: which annotations are one nodule: "pylidc", as in the original, or "readers", at most one per reader;
        see `jaxseg.annotators.lidc.nodules`.

    Raises:
      ValueError: a value is out of range.
    """

    val_fraction: float = 0.1
    test_fraction: float = 0.2
    seed: int = 0
    least_readers: int = 2
    least_pixels: int = 31
    most_pixels: int | None = None
    clahe: bool = dataclasses.field(default=False, kw_only=True)
    grouping: str = dataclasses.field(default="pylidc", kw_only=True)

    def __post_init__(self):
        if self.grouping not in GROUPINGS:
            raise ValueError(f"grouping is {self.grouping!r}; known: {', '.join(GROUPINGS)}")
        if min(self.val_fraction, self.test_fraction) < 0 or self.val_fraction + self.test_fraction >= 1:
            given = f"{self.val_fraction} and {self.test_fraction}"
            raise ValueError(f"the fractions must be at least 0 and leave patients for training, got {given}")
        if self.least_readers < 1 or self.least_pixels < 1:
            given = f"{self.least_readers} and {self.least_pixels}"
            raise ValueError(f"least_readers and least_pixels must be at least 1, got {given}")
        if self.most_pixels is not None and self.most_pixels < self.least_pixels:
            raise ValueError(f"most_pixels, {self.most_pixels}, is below least_pixels, {self.least_pixels}")

    @property
    def fractions(self) -> dict[str, float]:
        """Share of the patients by split."""
        others = {"test": self.test_fraction, "validate": self.val_fraction}
        return {"train": 1 - sum(others.values())} | others


def describe(nodule: Nodule, stack: Stack, settings: Settings) -> dict[str, Any]:
    """Returns the description of a nodule in its patient's record.

    Args:
      nodule: the nodule.
      stack: positions and size of the CT's slices.
      settings: the settings of the set.

    Returns:
      A dict for JSON: "readers", their numbers; "ratings", name -> median or None; "malignancy_by_reader"; "slices",
      the used slices of the nodule's box in ascending order; "pixels", the size of the consensus in each of them;
      "diameter_mm", the diameter of a disc with the area of the largest consensus; "left_out", why no slice is used,
      or "".
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
    """Cuts slices of a nodule out of its CT; all crops of a nodule are at the same position.

    Args:
      nodule: the nodule with its masks.
      slices: the slices of the CT.
      taken: indices of the wanted slices in the nodule's box.
      clahe: as in `z_score`.

    Yields:
      The index of a slice, and a dict of the arrays of its files by folder: "scans", (1, 64, 64) float64;
      "masks/annots", (1, 64, 64, A) bool; "masks/GT", (1, 64, 64) bool, the consensus.

    Raises:
      ValueError: a file is damaged, or a crop is constant.
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
            raise ValueError(f"{path.name}: the size of its pixel data differs from its tags")
        scan = z_score(crop, clahe=clahe)[None]
        yield z, {"scans": scan, "masks/annots": annotations, "masks/GT": annotations.mean(-1) >= 0.5}


def crop_start(nodule: Nodule, size: tuple[int, int]) -> tuple[int, int]:
    """Returns the first row and column of a nodule's crop: centred on its box, but moved to lie inside the slice."""
    return tuple(
        min(max((2 * first + length - SIDE) // 2, 0), side - SIDE)
        for first, length, side in zip(nodule.start[1:], nodule.masks.shape[2:], size, strict=True)
    )


def z_score(crop: np.ndarray, *, clahe: bool = False) -> np.ndarray:
    """Returns a crop with mean 0 and standard deviation 1, optionally after CLAHE.

    Args:
      crop: (H, W) in Hounsfield units.
      clahe: equalise the contrast in the lung window first.

    Returns:
      (H, W) float64.

    Raises:
      ValueError: the crop is constant.
    """
    if clahe:
        low, high = LUNG_HU
        grey = np.rint((np.clip(crop, low, high) - low) * (255 / (high - low))).astype(np.uint8)
        crop = equalise(grey).astype(np.float64)
    if crop.min() == crop.max():
        raise ValueError("a crop is constant, so it has no z-score; the CT is damaged or empty there")
    return (crop - crop.mean()) / crop.std()


def equalise(image: np.ndarray, *, clip: float = 2.0, tiles: tuple[int, int] = (4, 4)) -> np.ndarray:
    """Returns an image with its contrast equalised per tile, and interpolated between the centres of the tiles (CLAHE).

    Args:
      image: (H, W) uint8; H and W must be multiples of the numbers of tiles.
      clip: limit of a bin in a tile's histogram, relative to the mean bin. Counts above the limit are distributed over
        all bins. A higher limit also amplifies noise more.
      tiles: number of rows and columns of tiles.

    Returns:
      (H, W) uint8.

    Raises:
      ValueError: the image has another type or size, or `clip` is not above 0.

    Source: Zuiderveld 1994, Graphics Gems IV; rounding as in OpenCV's `createCLAHE`.
    """
    if image.ndim != 2 or image.dtype != np.uint8:
        raise ValueError(f"the image must be (H, W) uint8, got {image.shape} {image.dtype}")
    if min(tiles) < 1 or any(side % count or not side for side, count in zip(image.shape, tiles, strict=True)):
        raise ValueError(f"an image of {image.shape} cannot be divided into {tiles[0]} x {tiles[1]} equal tiles")
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
    """Returns the new value of each grey level in one tile, (256,) float32."""
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
    """Returns for each pixel the tiles before and after it, and its relative distance from the first, in [0, 1]."""
    place = np.arange(side, dtype=np.float32) * np.float32(count / side) - np.float32(0.5)
    first = np.floor(place).astype(int)
    return np.clip(first, 0, count - 1), np.clip(first + 1, 0, count - 1), place - first
