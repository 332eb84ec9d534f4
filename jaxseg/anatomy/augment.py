"""Transforms of records with an image and packed masks: pure numpy functions of a record and a random generator.

A record has "image", (H, W, 3) float32, already normalised; "target", (H, W, ceil(K / 8)) uint8, where bit k % 8 of
byte k // 8 is class k; and "classes", K.
"""

import dataclasses
from typing import Annotated, Any

import numpy as np

from jaxseg.nn.indices import nearest_indices
from jaxseg.settings import Range, verify


def unpack(record: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns a training example: "image", (H, W, 3) float32, and "target", (H, W, K) uint8 of 0 and 1."""
    target = np.unpackbits(record["target"], axis=-1, count=record["classes"], bitorder="little")
    return {"image": record["image"], "target": target}


def unchanged(record: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns the example of a record without augmentation: the transform for evaluation."""
    return unpack(record)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The transform for training: image and masks are stretched at random, cropped, and optionally mirrored.

    The defaults are the original's for a size of 512: with probability 0.6, height and width are resized to two numbers
    sampled from [480, 614), by nearest neighbour; then a crop of 480 x 480 pixels is taken.

    Attributes:
      crop: side of the result in pixels; None: the size of the records, without stretching.
      resize_prob: probability of stretching, in [0, 1].
      resize_scale: the stretched sides are shorter than this factor times the record's side.
      flip_prob: probability of mirroring left and right, in [0, 1]. A class such as "left lung" is then on the wrong
        side, so use it only for classes without a side.

    Raises:
      ValueError: a value is out of range.
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
        # Every step is nearest-neighbour sampling, so one indexing does them all, and normalising first is equal.
        image, target = (record[key].take(rows, 0).take(columns, 1) for key in ("image", "target"))
        return unpack({**record, "image": image, "target": target})

    def _pixels(self, side: int, rng: np.random.Generator, *, stretch: bool) -> np.ndarray:
        """Returns the indices of the selected rows or columns among `side`, in order."""
        if self.crop is None:
            return np.arange(side)
        largest = int(side * self.resize_scale)
        if side < self.crop or (stretch and largest <= self.crop):
            raise ValueError(
                f"a crop of {self.crop} pixels does not fit {side} pixels stretched to less than {largest}; load "
                "larger images, or lower crop or resize_prob"
            )
        size = int(rng.integers(self.crop, largest)) if stretch else side
        first = int(rng.integers(0, size - self.crop + 1))
        return nearest_indices(side, size)[first : first + self.crop]
