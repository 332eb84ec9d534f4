"""Transforms of records with an image and packed masks: pure functions of record and generator, in numpy.

A record has "image", (H, W, 3) float32, already normalised; "target", (H, W, ceil(K / 8)) uint8, where bit k % 8 of
byte k // 8 is class k; and "classes", K.
"""

import dataclasses
from typing import Annotated, Any

import numpy as np

from jaxseg.nn.indices import nearest_indices
from jaxseg.settings import Range, verify


def unpack(record: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns the example of a record: "image", (H, W, 3) float32, and "target", (H, W, K) uint8 of 0 and 1."""
    target = np.unpackbits(record["target"], axis=-1, count=record["classes"], bitorder="little")
    return {"image": record["image"], "target": target}


def unchanged(record: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The transform of evaluation: `unpack`."""
    return unpack(record)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The transform of training: picture and masks are stretched at random, cropped, and at will mirrored.

    The defaults are the original's at its size of 512: with probability 0.6 height and width become two numbers drawn
    from [480, 614), by nearest neighbour; then 480 x 480 pixels are cut out.

    Attributes:
      crop: side of the result in pixels; None: the records' own size, and then nothing is stretched.
      resize_prob: probability of stretching.
      resize_scale: the largest stretched side is below this times the record's.
      flip_prob: probability of mirroring left and right. Classes such as "left lung" are then on the wrong side, so it
        is for classes without a side only.
    """

    crop: Annotated[int, Range(1, 65_536)] | None = 480
    resize_prob: Annotated[float, Range(0, 1)] = 0.6
    resize_scale: Annotated[float, Range(0.1, 10)] = 1.2
    flip_prob: Annotated[float, Range(0, 1)] = 0.0

    def __post_init__(self):
        verify(self)

    def __call__(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        stretch, flip = rng.random() < self.resize_prob, rng.random() < self.flip_prob
        rows, columns = (self._pixels(side, rng, stretch=stretch) for side in record["image"].shape[:2])
        if flip:
            columns = columns[::-1]
        # All is sampling by nearest neighbour, so one look-up does it, and normalising before does not matter.
        image, target = (record[key].take(rows, 0).take(columns, 1) for key in ("image", "target"))
        return unpack({**record, "image": image, "target": target})

    def _pixels(self, side: int, rng: np.random.Generator, *, stretch: bool) -> np.ndarray:
        """Which of `side` rows or columns are taken, in order."""
        if self.crop is None:
            return np.arange(side)
        largest = int(side * self.resize_scale)
        if side < self.crop or (stretch and largest <= self.crop):
            raise ValueError(
                f"{self.crop} pixels cannot be cut from {side} stretched to less than {largest}; load the pictures "
                "larger, or lower crop or resize_prob"
            )
        size = int(rng.integers(self.crop, largest)) if stretch else side
        first = int(rng.integers(0, size - self.crop + 1))
        return nearest_indices(side, size)[first : first + self.crop]
