"""The masks of an X-ray, and the store that keeps them for a while, so that other formats can be fetched."""

import collections
import dataclasses
import secrets
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxseg.masks.read import select
from jaxseg.masks.segmentation import Segmentation
from jaxseg.service.limits import Limits, Refused


@dataclasses.dataclass(frozen=True)
class Found:
    """The masks of one X-ray that a client sent.

    Attributes:
      segmentation: the masks, without `bits`, which are kept compressed.
      folder: of the request; it holds the file.
      path: the file.
      name: name of the file, as the client gave it; only for display.
      intensity: how the file was read.
      size: bytes of the file and of the compressed masks.
    """

    segmentation: Segmentation
    folder: Path
    path: Path
    name: str
    intensity: str
    size: int
    packed: bytes

    @classmethod
    def of(cls, segmentation: Segmentation, path: Path, name: str, intensity: str) -> "Found":
        """Returns masks with their file, ready to be kept."""
        bits = np.ascontiguousarray(segmentation.bits)
        packed = zlib.compress(bits.data, 1)
        shell = dataclasses.replace(segmentation, bits=bits[:0], source=None)
        return cls(shell, path.parent, path, name, intensity, path.stat().st_size + len(packed), packed)

    def masks(self, grid: tuple[int, int]) -> Segmentation:
        """Returns the masks again.

        Args:
          grid: height and width of the network's masks.
        """
        bits = np.frombuffer(zlib.decompress(self.packed), np.uint8).reshape(-1, grid[0], grid[1] // 8)
        return dataclasses.replace(self.segmentation, bits=bits)


def chosen(segmentation: Segmentation, classes: str) -> Segmentation:
    """Returns only the masks of some classes.

    Args:
      segmentation: the masks.
      classes: labels or groups, separated by commas; "" means all.

    Raises:
      Refused: a class is unknown.
    """
    if not classes:
        return segmentation
    try:
        places = list(select(segmentation.names, classes))
    except ValueError as error:
        raise Refused(422, f"classes: {error}") from None
    more: dict = {name: tuple(getattr(segmentation, name)[k] for k in places) for name in ("names", "indices")}
    for name in ("mean_probabilities", "scores"):
        values = getattr(segmentation, name)
        more[name] = None if values is None else values[places]
    sure = segmentation.confidence
    if sure is not None:
        arrays = {field.name: getattr(sure, field.name)[places] for field in dataclasses.fields(sure)[1:]}
        more["confidence"] = dataclasses.replace(sure, names=more["names"], **arrays)
    return dataclasses.replace(segmentation, bits=segmentation.bits[places], **more)


class Results:
    """Keeps results for some minutes, within a number and a number of bytes; the oldest ones are dropped first.

    Only who knows the random name of a result, of 128 bits, can fetch it.

    Args:
      limits: bounds of what is kept.
      remove: removes the folder of a dropped result.
      clock: returns seconds.
    """

    def __init__(self, limits: Limits, remove: Callable[[Path], None], *, clock: Callable[[], float] = time.monotonic):
        self.limits, self._remove, self._clock = limits, remove, clock
        self._kept: collections.OrderedDict[str, tuple[float, Found]] = collections.OrderedDict()
        self._folders: set[Path] = set()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, found: Found) -> str:
        """Keeps a result, and returns its name."""
        name = secrets.token_hex(16)
        self._kept[name] = (self._clock(), found)
        self._bytes += found.size
        self._folders.add(found.folder)
        self.drop_old()
        return name

    def holds(self, folder: Path) -> bool:
        """Returns whether the folder of a request holds a result that is kept."""
        return folder in self._folders

    def get(self, name: str) -> Found:
        """Returns a kept result.

        Raises:
          Refused: there is none of this name.
        """
        self.drop_old()
        if name not in self._kept:
            minutes = self.limits.result_seconds / 60
            raise Refused(
                404, f"there is no such result; results are kept up to {minutes:g} minutes: send the image again"
            )
        return self._kept[name][1]

    def drop_old(self) -> None:
        """Drops what is too old or too much."""
        while self._kept:
            since, found = next(iter(self._kept.values()))
            late = self._clock() - since > self.limits.result_seconds
            if not (late or len(self._kept) > self.limits.results or self._bytes > self.limits.result_bytes):
                return
            self._kept.popitem(last=False)
            self._bytes -= found.size
            self._folders.discard(found.folder)
            self._remove(found.folder)
