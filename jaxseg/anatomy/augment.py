"""Transforms of records with an image and packed masks: pure numpy functions of a record and a random generator.

A record has "image", (H, W, 3) float32, already normalised; "target", (H, W, ceil(K / 8)) uint8, where bit k % 8 of
byte k // 8 is class k; "classes", K; and perhaps "exclusive", whether every pixel belongs to one class.
"""

import dataclasses
from typing import Annotated, Any

import numpy as np
from scipy import ndimage

from jaxseg.images.preprocess import MEAN, STD
from jaxseg.nn.indices import nearest_indices
from jaxseg.settings import Range, verify


def unpack(record: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns a training example: "image", (H, W, 3) float32, and "target", (H, W, K) uint8 of 0 and 1.

    In an exclusive record, a pixel belongs to the last class that has it, or to the first class if none has it.
    """
    target = np.unpackbits(record["target"], axis=-1, count=record["classes"], bitorder="little")
    if record.get("exclusive"):
        chosen = target.shape[-1] - 1 - np.argmax(target[..., ::-1], axis=-1)
        chosen[~target.any(axis=-1)] = 0
        target = (chosen[..., None] == np.arange(target.shape[-1])).view(np.uint8)
    return {"image": record["image"], "target": target}


def unchanged(record: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns the example of a record without augmentation: the transform for evaluation."""
    return unpack(record)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The transform for training: image and masks are stretched at random and cropped, and more on request.

    The defaults are the original's for a size of 512: with probability 0.6, height and width are resized to two numbers
    sampled from [480, 614), by nearest neighbour; then a crop of 480 x 480 pixels is taken. The others are options of
    the original. They follow in its order: rotation before the crop, then mirroring, brightness and contrast, noise.

    Attributes:
      crop: side of the result in pixels; None: the size of the records, without stretching.
      resize_prob: probability of stretching, in [0, 1].
      resize_scale: the stretched sides are shorter than this factor times the record's side.
      flip_prob: probability of mirroring left and right, in [0, 1]. A class such as "left lung" is then on the wrong
        side, so use it only for classes without a side.
      rotate: image and masks are turned by a whole number of degrees from -`rotate` to `rotate` - 1; the corners of the
        image become black. The original turns only the image.
      rotate_prob: probability of turning, in [0, 1].
      jitter: brightness and contrast are multiplied by factors from 1 - `jitter` (at least 0) to 1 + `jitter`. The
        original also changes saturation and hue, which grey images do not have.
      jitter_prob: probability of such a change, in [0, 1].
      noise: the standard deviation of normal noise is sampled from 0 to this share of the range of the image's values.
      noise_prob: probability of noise, in [0, 1].
      white: value of white in the images before they were normalised: 255, or 1 if they were divided by 255.

    Raises:
      ValueError: a value is out of range.
    """

    crop: Annotated[int, Range(1, 65_536)] | None = 480
    resize_prob: Annotated[float, Range(0, 1)] = 0.6
    resize_scale: Annotated[float, Range(0.1, 10)] = 1.2
    flip_prob: Annotated[float, Range(0, 1)] = 0.0
    rotate: Annotated[int, Range(0, 180)] = 0
    rotate_prob: Annotated[float, Range(0, 1)] = 0.0
    jitter: Annotated[float, Range(0, 1)] = 0.0
    jitter_prob: Annotated[float, Range(0, 1)] = 0.0
    noise: Annotated[float, Range(0, 1)] = 0.0
    noise_prob: Annotated[float, Range(0, 1)] = 0.0
    white: Annotated[float, Range(1, 255)] = 255.0

    def __post_init__(self):
        verify(self)

    def __call__(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        stretch, flip = rng.random() < self.resize_prob, rng.random() < self.flip_prob
        (rows, top), (columns, left) = (self._pixels(side, rng, stretch=stretch) for side in record["image"].shape[:2])
        arrays = [record["image"], record["target"]]
        if self.rotate and rng.random() < self.rotate_prob:
            angle = int(rng.integers(-self.rotate, self.rotate))
            arrays = _rotated(*(x.take(rows, 0).take(columns, 1) for x in arrays), angle)
            rows, columns = np.arange(len(rows)), np.arange(len(columns))
        rows, columns = rows[top:][: self.crop], columns[left:][: self.crop]
        if flip:
            columns = columns[::-1]
        # Every other step is nearest-neighbour sampling, so one indexing does them all, and normalising first is equal.
        image, target = (x.take(rows, 0).take(columns, 1) for x in arrays)
        return unpack({**record, "image": self._regraded(image, rng), "target": target})

    def _pixels(self, side: int, rng: np.random.Generator, *, stretch: bool) -> tuple[np.ndarray, int]:
        """Returns the indices of the stretched rows or columns among `side`, and where the crop begins."""
        if self.crop is None:
            return np.arange(side), 0
        largest = int(side * self.resize_scale)
        if side < self.crop or (stretch and largest <= self.crop):
            raise ValueError(
                f"a crop of {self.crop} pixels does not fit {side} pixels stretched to less than {largest}; load "
                "larger images, or lower crop or resize_prob"
            )
        size = int(rng.integers(self.crop, largest)) if stretch else side
        first = int(rng.integers(0, size - self.crop + 1))
        return nearest_indices(side, size), first

    def _regraded(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns a normalised image with other brightness, contrast and noise."""
        jitter = self.jitter > 0 and rng.random() < self.jitter_prob
        noise = self.noise > 0 and rng.random() < self.noise_prob
        if not (jitter or noise):
            return image
        values = image * np.float32(STD) + np.float32(MEAN)
        if jitter:
            values = self._jittered(values, rng)
        if noise:
            deviation = rng.random() * self.noise * np.ptp(values)
            values = values + np.float32(deviation) * rng.standard_normal(values.shape, np.float32)
        return (values - np.float32(MEAN)) / np.float32(STD)

    def _jittered(self, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns values from 0 to `white` with other brightness and contrast, in random order."""
        factors = np.float32(rng.uniform(max(0.0, 1 - self.jitter), 1 + self.jitter, 2))
        for kind in rng.permutation(2):
            middle = np.float32(0) if kind == 0 else values.mean()
            values = np.clip(middle + factors[kind] * (values - middle), 0, np.float32(self.white))
        return values


def _rotated(image: np.ndarray, target: np.ndarray, angle: int) -> list[np.ndarray]:
    """Returns a normalised image and packed masks turned by degrees, as scipy turns; masks by nearest neighbour."""
    black = -np.float32(MEAN) / np.float32(STD)
    options = {"axes": (0, 1), "reshape": False}
    image = ndimage.rotate(image - black, angle, order=1, **options) + black
    return [image, ndimage.rotate(target, angle, order=0, **options)]
