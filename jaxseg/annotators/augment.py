"""What training does at random to slices with several annotators: turns, mirrors, deformation, grey values."""

import dataclasses
from typing import Annotated, Any

import numpy as np
from scipy import ndimage

from jaxseg.settings import Range, verify


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The transform of training; image, labels and truth are moved alike. The default is the original's.

    Attributes:
      turn: probability of turning by 180 degrees.
      symmetry: mirror and turn by quarters, to any of the eight positions alike; for square images.
      rotate: degrees at most.
      scale: share by which each side is stretched or shrunk at most.
      contrast: share by which grey values are spread or squeezed round their mean at most.
      brightness: by how many standard deviations of the image grey values are moved at most.
      noise: standard deviation at most, in those of the image; that of an example is drawn evenly from 0 on.
    """

    turn: Annotated[float, Range(0, 1)] = 0.5
    symmetry: bool = dataclasses.field(default=False, kw_only=True)
    rotate: Annotated[float, Range(0, 180)] = 0.0
    scale: Annotated[float, Range(0, 1, below=True)] = 0.0
    contrast: Annotated[float, Range(0, 1, below=True)] = 0.0
    brightness: Annotated[float, Range(0, 100)] = 0.0
    noise: Annotated[float, Range(0, 100)] = 0.0

    def __post_init__(self):
        verify(self)

    def __call__(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        parts = {name: record[name] for name in ("image", "labels", "truth")}
        if rng.random() < self.turn:
            parts = {name: part[::-1, ::-1] for name, part in parts.items()}
        if self.symmetry:
            quarters, mirrored = rng.integers(4), rng.random() < 0.5
            parts = {name: np.rot90(part[::-1] if mirrored else part, quarters) for name, part in parts.items()}
        if self.rotate or self.scale:
            parts = self._stretched(parts, rng)
        found = record | {name: np.ascontiguousarray(part) for name, part in parts.items()}
        return found | {"image": self._greys(found["image"], rng)}

    def _stretched(self, parts: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        angle = np.deg2rad(rng.uniform(-self.rotate, self.rotate))
        sides = 1 + rng.uniform(-self.scale, self.scale, 2)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = turn / sides
        middle = (np.array(parts["truth"].shape) - 1) / 2
        offset = middle - matrix @ middle

        def moved(plane: np.ndarray, order: int) -> np.ndarray:
            return ndimage.affine_transform(plane, matrix, offset, order=order, mode="nearest")

        def each(part: np.ndarray, order: int) -> np.ndarray:
            return np.stack([moved(part[..., k], order) for k in range(part.shape[-1])], -1)

        truth = moved(parts["truth"], 0)
        return {"image": each(parts["image"], 1), "labels": each(parts["labels"], 0), "truth": truth}

    def _greys(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if not (self.contrast or self.brightness or self.noise):
            return image
        mean, spread = image.mean(), image.std()
        found = mean + (image - mean) * np.float32(1 + rng.uniform(-self.contrast, self.contrast))
        found = found + spread * np.float32(rng.uniform(-self.brightness, self.brightness))
        found = found + spread * np.float32(rng.uniform(0, self.noise)) * rng.standard_normal(image.shape, np.float32)
        return found.astype(np.float32, copy=False)


def with_seed(record: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The transform of evaluation: adds the "seed" of an image's samples, always the same of one image."""
    return record | {"seed": rng.integers(2**32, dtype=np.uint32)}
