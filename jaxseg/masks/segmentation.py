"""The masks of one image, packed at the network's size."""

import dataclasses
import functools
from typing import Protocol

import numpy as np

from jaxseg.nn.indices import nearest_indices


class Masks(Protocol):
    """What the writers need; `Segmentation` has it."""

    names: tuple[str, ...]
    indices: tuple[int, ...]
    size: tuple[int, int]

    def mask(self, k: int) -> np.ndarray:
        """(H, W) bool."""

    def packed_mask(self, k: int) -> np.ndarray:
        """(H, ceil(W / 8)) uint8."""


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """The masks of one image.

    Attributes:
      names: (K,) label of every mask; `indices` are their positions in the model's label set.
      size: height and width of the image.
      bits: (K, h, w / 8) uint8, the masks at the network's size, eight columns a byte.
      scores: (K, h, w) float32 sigmoid values at the network's size, where asked for.
      notes: of the reader.
      spacing_mm: distance of the image's rows and of its columns, where the file tells.
    """

    names: tuple[str, ...]
    indices: tuple[int, ...]
    size: tuple[int, int]
    bits: np.ndarray
    scores: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    spacing_mm: tuple[float, float] | None = None

    def mask(self, k: int) -> np.ndarray:
        """Returns mask `k` as (H, W) bool at the image's size (nearest neighbour, as the original)."""
        rows, columns = self._indices
        return np.unpackbits(self.bits[k], axis=1).view(bool).take(columns, axis=1).take(rows, axis=0)

    def packed_mask(self, k: int) -> np.ndarray:
        """Returns mask `k` as (H, ceil(W / 8)) uint8, eight columns a byte, the first in the highest bit."""
        rows, columns = self._indices
        return np.packbits(np.unpackbits(self.bits[k], axis=1).take(columns, axis=1), axis=1).take(rows, axis=0)

    @functools.cached_property
    def masks(self) -> np.ndarray:
        """(K, H, W) bool at the image's size; made once, on first use."""
        masks = np.empty((len(self.names), *self.size), bool)
        for k in range(len(self.names)):
            masks[k] = self.mask(k)
        return masks

    @functools.cached_property
    def probabilities(self) -> np.ndarray:
        """(K, H, W) float32 in [0, 1] at the image's size; `masks` is this > threshold, up to rounding.

        Raises:
          ValueError: they were not asked for.
        """
        if self.scores is None:
            raise ValueError("no probabilities were kept; ask for them with segment(..., probabilities=True)")
        rows, columns = self._indices
        whole = np.empty((len(self.names), *self.size), np.float32)
        for k, scores in enumerate(self.scores):
            whole[k] = scores.take(columns, axis=1).take(rows, axis=0)
        return whole

    @functools.cached_property
    def _indices(self) -> tuple[np.ndarray, np.ndarray]:
        height, width = self.bits.shape[1], self.bits.shape[2] * 8
        return nearest_indices(height, self.size[0]), nearest_indices(width, self.size[1])
