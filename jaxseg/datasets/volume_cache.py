"""Keeps volumes in memory up to a limit, the most recently used ones; masks take one bit per voxel."""

import collections
import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class PackedMask:
    """A mask that takes one bit per voxel of its bounding box.

    Attributes:
      shape: (D, H, W) of the whole mask.
      box: bounding box of the mask as slices of the three axes; of length 0 for an empty mask.
      bits: (slices of the box, bytes per slice) uint8.
    """

    shape: tuple[int, int, int]
    box: tuple[slice, slice, slice]
    bits: np.ndarray

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.bits.nbytes

    def plane(self, z: int) -> np.ndarray:
        """Returns slice z, (H, W) bool."""
        plane = np.zeros(self.shape[1:], bool)
        slices, rows, columns = self.box
        if slices.start <= z < slices.stop:
            size = rows.stop - rows.start, columns.stop - columns.start
            flat = np.unpackbits(self.bits[z - slices.start], count=size[0] * size[1])
            plane[rows, columns] = flat.reshape(size).view(bool)
        return plane

    def array(self) -> np.ndarray:
        """Returns the whole mask, (D, H, W) bool."""
        return np.stack([self.plane(z) for z in range(self.shape[0])])


def pack(mask: np.ndarray) -> PackedMask:
    """Packs a (D, H, W) bool mask.

    Example:
      >>> mask = np.zeros((2, 100, 100), bool)
      >>> mask[1, 40:48, 40:48] = True
      >>> packed = pack(mask)
      >>> packed.nbytes, bool((packed.plane(1) == mask[1]).all())
      (8, True)
    """
    places = [np.flatnonzero(mask.any(axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    box = tuple(slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0) for found in places)
    part = mask[box]
    return PackedMask(mask.shape, box, np.packbits(part.reshape(len(part), part[0].size if len(part) else 0), axis=1))


class Cache:
    """Thread-safe cache of arrays by key, which is pickled without its values.

    Args:
      limit: size in bytes of all values together. A larger single value is kept too, without others.

    Attributes:
      limit: as given.
      held: size in bytes of the values in the cache.

    Raises:
      ValueError: the limit is negative.
    """

    def __init__(self, limit: int):
        if limit < 0:
            raise ValueError(f"the memory limit must be at least 0 bytes, got {limit}")
        self.limit = limit
        self.held = 0
        self._values: collections.OrderedDict[Any, Any] = collections.OrderedDict()
        self._making: dict[Any, threading.Lock] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, int]:
        return {"limit": self.limit}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__init__(state["limit"])

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """Returns the value of a key, which is made first if it is not in the cache.

        Args:
          key: any hashable object.
          make: returns the value, an object with `nbytes`; for one key, only one thread at a time calls it.
        """
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                if key in self._values:
                    return self._values[key]
            value = make()
            with self._lock:
                before = self._values.pop(key, None)  # made by a thread that waited for an older lock of this key
                self.held += value.nbytes - (0 if before is None else before.nbytes)
                self._values[key] = value
                while self.held > self.limit and len(self._values) > 1:
                    self.held -= self._values.popitem(last=False)[1].nbytes
                self._making.pop(key, None)
            return value
