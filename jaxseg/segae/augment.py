"""Random transform of SegAE's training records: slices, margins, degraded masks, and changes of the CT."""

import dataclasses
from typing import Any

import numpy as np
from scipy import ndimage

from jaxseg.datasets.degrade import KINDS, degrade
from jaxseg.segae.crop import HU_RANGE, bounds, crop_window, draw_margins
from jaxseg.segae.data import example, planes


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The transform of training. The defaults are those of the original: a random slice and random margins.

    Attributes:
      size: side S of the examples in pixels.
      degrade_share: fraction of the examples whose mask is the true mask degraded by `jaxseg.datasets.degrade`, to a
        Dice that is sampled uniformly from `degrade_dice`.
      degrade_dice: lowest and highest Dice of these masks, in (0, 1].
      kinds: ways in which these masks are degraded, keys of `jaxseg.datasets.degrade.KINDS`.
      truth_share: fraction of the examples whose mask is the true mask.
      window_jitter: largest random shift in HU of each end of the range of CT values, in [0, 200).
      noise: largest standard deviation in HU of noise on the CT; each example samples its own uniformly from 0.
      flip_rows, flip_columns: probabilities of flipping. If all CTs have the same orientation, flipped columns show
        "kidney left" on the wrong side. If they do not, as in the original, the side has no meaning anyway.
      rotate: largest angle of rotation in degrees, in [0, 180].

    Raises:
      ValueError: a value is out of range.
    """

    size: int = 256
    degrade_share: float = 0.0
    degrade_dice: tuple[float, float] = (0.05, 0.98)
    kinds: tuple[str, ...] = tuple(KINDS)
    truth_share: float = 0.0
    window_jitter: float = 0.0
    noise: float = 0.0
    flip_rows: float = 0.0
    flip_columns: float = 0.0
    rotate: float = 0.0

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")
        for name in ("degrade_share", "truth_share", "flip_rows", "flip_columns"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.degrade_share + self.truth_share > 1:
            raise ValueError("the sum of degrade_share and truth_share must be at most 1")
        if not 0 < self.degrade_dice[0] <= self.degrade_dice[1] <= 1:
            raise ValueError(f"degrade_dice must be two ascending numbers in (0, 1], got {self.degrade_dice}")
        if not 0 <= self.window_jitter < (HU_RANGE[1] - HU_RANGE[0]) / 2:
            raise ValueError(f"window_jitter must be in [0, 200) HU, got {self.window_jitter}")
        if self.noise < 0 or not 0 <= self.rotate <= 180:
            raise ValueError(f"noise must be at least 0, rotate in [0, 180], got {self.noise} and {self.rotate}")
        if not self.kinds or set(self.kinds) - set(KINDS):
            raise ValueError(f"kinds must be some of {', '.join(KINDS)}, got {', '.join(self.kinds) or 'none'}")

    def __call__(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        z = int(rng.choice(record["slices"]))
        ct, truth, mask = planes(record, z)
        choice = rng.random()
        if choice < self.degrade_share:
            mask, _ = degrade(rng, truth, rng.uniform(*self.degrade_dice), self.kinds)
        elif choice < self.degrade_share + self.truth_share:
            mask = truth
        found = bounds(mask)
        part = crop_window(found, mask.shape, draw_margins(rng, found)).part
        ct, truth, mask = self._moved(rng, ct[part], truth[part], mask[part])
        if self.noise:
            ct = ct + rng.uniform(0, self.noise) * rng.standard_normal(ct.shape, np.float32)
        low, high = HU_RANGE + self.window_jitter * rng.uniform(-1, 1, 2)
        return example(ct, truth, mask, record["label"], z, size=self.size, hu_range=(low, high))

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
