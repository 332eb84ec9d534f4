"""Random transform of SegAE's training records: slices, margins, degraded masks, and changes of the CT."""

import dataclasses
from typing import Annotated, Any

import numpy as np
from PIL import Image
from scipy import ndimage

from jaxseg.datasets.degrade import KINDS, degrade
from jaxseg.segae.crop import HU_RANGE, LEAST_MARGIN, bounds, crop_window, draw_margins
from jaxseg.segae.data import example, planes
from jaxseg.settings import Range, verify

SOFT = 0.7  # standard deviation in pixels of the borders of shifted organs

Share = Annotated[float, Range(0, 1)]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The transform for training. The defaults are those of the original: a random slice and random margins.

    Attributes:
      size: side S of the examples in pixels, which is the side of the network's input.
      with_truth: whether the examples contain the true mask; the task sets it for models with a second head.
      degrade_share: fraction of the examples whose mask is the true mask degraded by `jaxseg.datasets.degrade`, to a
        Dice that is sampled uniformly from `degrade_dice`.
      degrade_dice: lowest and highest Dice of these masks, in (0, 1].
      kinds: ways in which these masks are degraded, keys of `jaxseg.datasets.degrade.KINDS`.
      truth_share: fraction of the examples whose mask is the true mask.
      largest_margin: largest random margin in pixels around a mask, at least 10; null: the original's, up to 128.
        Evaluation has a margin of 20.
      window_jitter: largest random shift in HU of each end of the range of CT values, in [0, 200).
      contrast: largest random shift in HU of each organ's values, as contrast agents cause; each example samples the
        range of its shifts uniformly from 0. Organs are the labels of the volume; what has no label does not change.
      noise: largest standard deviation in HU of noise on the CT; each example samples its own uniformly from 0.
      blur: largest standard deviation in pixels of a Gaussian filter of the CT with its noise, as soft reconstruction
        kernels have; each example samples its own uniformly from 0.
      thickness: largest number of neighbouring slices whose mean replaces the slice of the CT, as in scans with thicker
        slices; each example samples its own from 1. 1: the slice stays as it is.
      spacing: largest relative change of the size of pixels, such as 0.5 for pixels from 1 / 1.5 to 1.5 of the stored
        size; the slice with its masks is resampled before the crop, so that margins cover more or less of the patient.
      flip_rows, flip_columns: probabilities of flipping. If all CTs have the same orientation, flipped columns show
        "kidney left" on the wrong side. If they do not, as in the original, the side has no meaning anyway.
      rotate: largest angle of rotation in degrees, in [0, 180].

    Raises:
      ValueError: a value is out of range.
    """

    size: Annotated[int, Range(16, 2048)] = 256
    with_truth: bool = False
    degrade_share: Share = 0.0
    degrade_dice: tuple[Share, Share] = (0.05, 0.98)
    kinds: tuple[str, ...] = tuple(KINDS)
    truth_share: Share = 0.0
    largest_margin: Annotated[int, Range(LEAST_MARGIN, 100_000)] | None = None
    window_jitter: Annotated[float, Range(0, (HU_RANGE[1] - HU_RANGE[0]) / 2, below=True)] = 0.0
    contrast: Annotated[float, Range(0, 1000)] = 0.0
    noise: Annotated[float, Range(0, 1000)] = 0.0
    blur: Annotated[float, Range(0, 10)] = 0.0
    thickness: Annotated[int, Range(1, 32)] = 1
    spacing: Annotated[float, Range(0, 3)] = 0.0
    flip_rows: Share = 0.0
    flip_columns: Share = 0.0
    rotate: Annotated[float, Range(0, 180)] = 0.0

    def __post_init__(self):
        verify(self, self._problems())

    def _problems(self):
        if self.degrade_share + self.truth_share > 1:
            yield "degrade_share: together with truth_share it is more than 1"
        if not 0 < self.degrade_dice[0] <= self.degrade_dice[1]:
            yield f"degrade_dice: {list(self.degrade_dice)} must be two ascending numbers above 0"
        if not self.kinds or set(self.kinds) - set(KINDS):
            yield f"kinds: {', '.join(self.kinds) or 'none'}; name one or more of {', '.join(KINDS)}"

    def __call__(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        z = int(rng.choice(record["slices"]))
        ct, truth, mask = planes(record, z)
        if self.thickness > 1:
            ct = thick_slice(record["ct"], z, int(rng.integers(1, self.thickness + 1)))
        if self.contrast:
            ct = ct + organ_shifts(rng, record["labels"][z], rng.uniform(0, self.contrast))
        choice = rng.random()
        if choice < self.degrade_share:
            mask, _ = degrade(rng, truth, rng.uniform(*self.degrade_dice), self.kinds)
        elif choice < self.degrade_share + self.truth_share:
            mask = truth
        if self.spacing:
            factor = (1 + self.spacing) ** rng.uniform(-1, 1)
            ct, truth, mask = resampled(ct, truth, mask, factor)
        found = bounds(mask)
        part = crop_window(found, mask.shape, draw_margins(rng, found, self.largest_margin)).part
        ct, truth, mask = self._moved(rng, ct[part], truth[part], mask[part])
        if self.noise:
            ct = ct + rng.uniform(0, self.noise) * rng.standard_normal(ct.shape, np.float32)
        if self.blur:
            ct = ndimage.gaussian_filter(ct.astype(np.float32), rng.uniform(0, self.blur), mode="nearest")
        low, high = HU_RANGE + self.window_jitter * rng.uniform(-1, 1, 2)
        more = {"size": self.size, "with_truth": self.with_truth, "hu_range": (low, high)}
        return example(ct, truth, mask, record["label"], z, **more)

    def _moved(self, rng: np.random.Generator, *parts: np.ndarray) -> tuple[np.ndarray, ...]:
        """Flips and rotates CT, truth and mask in the same way."""
        for axis, probability in enumerate((self.flip_rows, self.flip_columns)):
            if rng.random() < probability:
                parts = tuple(np.flip(part, axis) for part in parts)
        if not self.rotate:
            return parts
        angle = rng.uniform(-self.rotate, self.rotate)
        ct, truth, mask = parts
        turned = [ndimage.rotate(m.view(np.uint8), angle, reshape=False, order=0).view(bool) for m in (truth, mask)]
        if not turned[1].any():  # a mask of a few pixels can vanish between the pixels of the rotated grid
            return parts
        return ndimage.rotate(ct.astype(np.float32), angle, reshape=False, order=1, mode="nearest"), *turned


def organ_shifts(rng: np.random.Generator, labels: np.ndarray, largest: float) -> np.ndarray:
    """Returns a random shift in HU for every organ of a slice, with soft borders.

    Args:
      rng: generator of all random numbers.
      labels: (H, W) integers, 0 where there is no organ.
      largest: largest shift in HU, in both directions.

    Returns:
      (H, W) float32.
    """
    shifts = rng.uniform(-largest, largest, int(labels.max()) + 1).astype(np.float32)
    shifts[0] = 0
    return ndimage.gaussian_filter(shifts[labels], SOFT)


def thick_slice(ct: np.ndarray, z: int, count: int) -> np.ndarray:
    """Returns the mean of neighbouring slices, as a scan with thicker slices shows them.

    Args:
      ct: (D, H, W) Hounsfield units.
      z: index of the middle slice; if `count` is even, the slice before it is the other middle.
      count: number of slices, at least 1; those beyond the ends of the CT are left out.

    Returns:
      (H, W) float32.

    Example:
      >>> thick_slice(np.arange(5.0)[:, None, None], 3, 2).tolist()
      [[2.5]]
    """
    first = z - count // 2
    return ct[max(0, first) : first + count].mean(0, dtype=np.float32)


def resampled(
    ct: np.ndarray, truth: np.ndarray, mask: np.ndarray, factor: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns a slice and its masks on a grid with more or fewer pixels.

    Args:
      ct: (H, W) Hounsfield units.
      truth, mask: (H, W) bool.
      factor: pixels of the result per pixel of the slice, above 0.

    Returns:
      The same three, with about (factor H, factor W) pixels; unchanged if the mask would vanish between the pixels.

    Example:
      >>> mask = np.zeros((20, 20), bool)
      >>> mask[4:12, 4:12] = True
      >>> ct, _, small = resampled(np.zeros((20, 20)), mask, mask, 0.5)
      >>> ct.shape, int(small.sum())
      ((10, 10), 16)
    """
    size = [max(1, round(factor * length)) for length in ct.shape[::-1]]
    changed = [
        np.asarray(Image.fromarray(plane.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
        for plane in (ct, truth, mask)
    ]
    found = changed[0], changed[1] >= 0.5, changed[2] >= 0.5
    return found if found[2].any() else (ct, truth, mask)
