"""The masks of one image, packed at the network's size, and the protocol that the writers of masks need."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from jaxseg.masks import coco
from jaxseg.masks.confidence import Confidence
from jaxseg.nn.indices import bilinear_array, bilinear_taps, nearest_indices

if TYPE_CHECKING:
    from jaxseg.anatomy.measure.features import Measurements


class Masks(Protocol):
    """Masks of one image as the writers need them; `Segmentation` implements it.

    Attributes:
      names: (K,) label of every mask.
      indices: (K,) positions of the labels in the model's label set.
      size: height and width of the image.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def indices(self) -> tuple[int, ...]: ...

    @property
    def size(self) -> tuple[int, int]: ...

    def mask(self, k: int) -> np.ndarray:
        """Returns mask `k`, (H, W) bool."""

    def packed_mask(self, k: int) -> np.ndarray:
        """Returns mask `k`, (H, ceil(W / 8)) uint8, eight columns per byte, the first one in the highest bit."""


@dataclasses.dataclass(frozen=True)
class Orientation:
    """How an image appears to a network: inverted (black and white exchanged) or turned.

    Attributes:
      inverted: whether it appears inverted.
      rotation: by how many degrees it appears turned counter-clockwise: 0, 90, 180 or 270.
      corrected: whether an upright image, not inverted, was segmented instead. The masks fit the file in any case.
      problem: why this could not be found out; "" if it was.

    >>> Orientation(inverted=True).note
    'the image looks inverted; it is segmented as it is (--check-orientation fix corrects it)'
    >>> Orientation().note
    ''
    """

    inverted: bool = False
    rotation: int = 0
    corrected: bool = False
    problem: str = ""

    @property
    def quarters(self) -> int:
        """Number of quarter turns counter-clockwise that lead from the image that was segmented to the file's."""
        return self.rotation // 90 if self.corrected else 0

    @property
    def note(self) -> str:
        """What a user must know; "" if the image looks upright and not inverted."""
        if self.problem:
            return f"whether the image is turned or inverted was not checked: {self.problem}"
        turned = f"turned by {self.rotation} degrees" + (" (upside down)" if self.rotation == 180 else "")
        words = [word for word, wanted in (("inverted", self.inverted), (turned, self.rotation)) if wanted]
        if not words:
            return ""
        if self.corrected:
            what = "it was corrected before it was segmented"
        else:
            what = "it is segmented as it is (--check-orientation fix corrects it)"
        return f"the image looks {' and '.join(words)}; {what}"


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """The masks of one image, as a network computed them.

    Attributes:
      names: (K,) label of every mask.
      indices: (K,) positions of the labels in the model's label set.
      size: height and width of the image.
      bits: (K, h, w / 8) uint8, the masks at the network's size (h, w), eight columns per byte.
      scores: (K, h, w) float32 sigmoid values at the network's size; None unless they were requested.
      notes: remarks on the image.
      spacing_mm: distance between the image's rows and between its columns in millimetres; None if it is unknown.
      orientation: how the image appeared to the network; None if that was not checked.
      turned: whether the masks fit the image as its EXIF orientation turns it, and not as it is stored.
      mean_probabilities: (K,) float32, the mean sigmoid value in each mask at the network's size, NaN for an empty
        mask; None unless they were requested.
      source: file of the image; None if it was given as an array.
      cutoff: masks at the image's size are where the enlarged `scores` exceed this; None: the masks are enlarged.
      confidence: how sure the network is of each mask; None unless it was requested.

    >>> mask = np.zeros((1, 8, 8), bool)
    >>> mask[0, :4] = True
    >>> found = Segmentation(("heart",), (0,), (2, 3), np.packbits(mask, axis=2))
    >>> found.mask(0).tolist()
    [[True, True, True], [False, False, False]]
    """

    names: tuple[str, ...]
    indices: tuple[int, ...]
    size: tuple[int, int]
    bits: np.ndarray
    scores: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    spacing_mm: tuple[float, float] | None = None
    orientation: Orientation | None = None
    turned: bool = False
    mean_probabilities: np.ndarray | None = None
    source: Path | None = None
    cutoff: float | None = None
    confidence: Confidence | None = None

    def rotated(self, quarters: int) -> "Segmentation":
        """Returns the masks of the image turned counter-clockwise by a number of quarter turns, as `numpy.rot90` turns.

        Raises:
          ValueError: the network's grid is not square.
        """
        if self.bits.shape[1] != self.bits.shape[2] * 8:
            raise ValueError(f"masks of {self.bits.shape[1]} x {self.bits.shape[2] * 8} pixels cannot be turned")
        if quarters % 4 == 0:
            return self
        bits = np.packbits(np.rot90(np.unpackbits(self.bits, axis=2), quarters, axes=(1, 2)), axis=2)
        scores = None if self.scores is None else np.rot90(self.scores, quarters, axes=(1, 2))
        size, spacing = self.size, self.spacing_mm
        if quarters % 2:
            size, spacing = size[::-1], spacing and spacing[::-1]
        return dataclasses.replace(self, bits=bits, scores=scores, size=size, spacing_mm=spacing)

    def seen_as(self, orientation: Orientation | None) -> "Segmentation":
        """Returns the masks of a file whose image appeared to the network in this orientation, with its note.

        Args:
          orientation: if it was corrected, these masks are those of the upright image.
        """
        if orientation is None:
            return self
        notes = (*self.notes, orientation.note) if orientation.note else self.notes
        return dataclasses.replace(self.rotated(orientation.quarters), notes=notes, orientation=orientation)

    @property
    def upright(self) -> "Segmentation":
        """The masks of the image that the network saw: turned back if it was turned before it was segmented."""
        quarters = 0 if self.orientation is None else self.orientation.quarters
        return dataclasses.replace(self.rotated(-quarters), orientation=None)

    def mask(self, k: int) -> np.ndarray:
        """Returns mask `k` as (H, W) bool at the image's size, resized by nearest neighbour as in the original.

        With a `cutoff`, the probabilities are resized bilinearly instead, and then cut.
        """
        if self.cutoff is not None and self.scores is not None:
            return _smooth(self.scores[k], self.size, np.float32(self.cutoff))
        rows, columns = self._indices
        return np.unpackbits(self.bits[k], axis=1).view(bool).take(columns, axis=1).take(rows, axis=0)

    def packed_mask(self, k: int) -> np.ndarray:
        """Returns mask `k` as (H, ceil(W / 8)) uint8, eight columns per byte, the first one in the highest bit."""
        if self.cutoff is not None:
            return np.packbits(self.mask(k), axis=1)
        rows, columns = self._indices
        return np.packbits(np.unpackbits(self.bits[k], axis=1).take(columns, axis=1), axis=1).take(rows, axis=0)

    def runs(self, k: int) -> np.ndarray:
        """Returns `jaxseg.masks.coco.runs_of(self.mask(k))`, (R,) int64, at the network's size if possible."""
        if self.cutoff is not None:  # smooth edges exist only at the image's size
            return coco.runs_of(self.mask(k))
        return coco.enlarged_runs(np.unpackbits(self.bits[k], axis=1).view(bool), *self._indices)

    @functools.cached_property
    def masks(self) -> np.ndarray:
        """(K, H, W) bool at the image's size; computed once, on first use."""
        masks = np.empty((len(self.names), *self.size), bool)
        for k in range(len(self.names)):
            masks[k] = self.mask(k)
        return masks

    @functools.cached_property
    def probabilities(self) -> np.ndarray:
        """(K, H, W) float32 in [0, 1] at the image's size; `masks` equals `probabilities > threshold`, up to rounding.

        Raises:
          ValueError: they were not requested.
        """
        if self.scores is None:
            raise ValueError("no probabilities were kept; ask for them with segment(..., probabilities=True)")
        rows, columns = self._indices
        whole = np.empty((len(self.names), *self.size), np.float32)
        for k, scores in enumerate(self.scores):
            if self.cutoff is None:
                whole[k] = scores.take(columns, axis=1).take(rows, axis=0)
            else:
                whole[k] = bilinear_array(scores, self.size)
        return whole

    def save(self, path: str | Path, format: str | None = None) -> Path:
        """Writes the masks as a file, or as a folder with one file per class.

        Args:
          path: the file or folder; the suffix of the format is added if it is missing. What exists is replaced.
          format: "npy", "npz", "json", "coco-lines" (.jsonl), "parquet", "dicom-seg" (.seg.dcm; the image must be a
            DICOM file), or "png" or "jpg", which write a folder. None: by the suffix; a path without suffix is a
            folder of png files.

        Returns:
          The path that was written.

        Raises:
          ValueError: the format is unknown, needs a package that is missing, or does not fit the image.
          OSError: the file cannot be written.

        >>> from pathlib import Path
        >>> mask = np.zeros((1, 8, 8), bool)
        >>> found = Segmentation(("heart",), (0,), (20, 30), np.packbits(mask, axis=2))
        >>> found.save("masks.npy").name, np.load("masks.npy").shape
        ('masks.npy', (1, 20, 30))
        >>> sorted(file.name for file in found.save("one_per_class").iterdir())
        ['heart.png']
        """
        from jaxseg.masks.save import save

        return save(self, Path(path), format)

    def to_pandas(self) -> Any:
        """Returns a pandas DataFrame with one row per mask, also for empty masks.

        The columns are those of the format "parquet": image (the name of its file, if it has one), class, height,
        width, rle (COCO's compressed run lengths), area, box_x, box_y, box_width, box_height in pixels of the image,
        and mean_probability (NaN if it was not requested or the mask is empty).

        Raises:
          ValueError: pandas is not installed.

        >>> mask = np.zeros((1, 8, 8), bool)
        >>> mask[0, :4] = True
        >>> found = Segmentation(("heart",), (0,), (16, 16), np.packbits(mask, axis=2))
        >>> found.to_pandas()[["class", "area", "box_height"]].values.tolist()
        [['heart', 128, 8]]
        """
        from jaxseg.masks.save import to_pandas

        return to_pandas(self)

    def overlay(self, image: str | Path | np.ndarray | None = None, **options: Any) -> Image.Image:
        """Returns a picture of the masks over their image, with a legend; see `jaxseg.visualize`.

        Args:
          image: a file or an array, as `jaxseg.visualize` takes it; None: the file that was segmented.
          **options: of `jaxseg.visualize`: classes, colors, alpha, sides, title, width.

        Raises:
          ValueError: an array was segmented and no image is given, or as `jaxseg.visualize`.
          OSError: the file cannot be read.

        >>> mask = np.zeros((1, 8, 8), bool)
        >>> mask[0, :4] = True
        >>> found = Segmentation(("heart",), (0,), (96, 96), np.packbits(mask, axis=2))
        >>> found.overlay(np.zeros((96, 96), np.uint8), width=128).height >= 128
        True
        """
        import jaxseg

        image = self.source if image is None else image
        if image is None:
            raise ValueError("an array was segmented, which is not kept: give the image, as overlay(image)")
        return jaxseg.visualize(image, self, **options)

    def measure(self, features: str | Sequence[str], **options: Any) -> "Measurements":
        """Returns measurements of the anatomy in the masks; see `jaxseg.extract`.

        Args:
          features: CTR, SCD, area, perimeter, compactness, centroid, box, convexity: a list or a comma-separated
            string.
          **options: of `jaxseg.extract`: original_values, groups.

        Raises:
          ValueError: a feature is unknown.

        >>> mask = np.zeros((1, 8, 8), bool)
        >>> mask[0, :4] = True
        >>> Segmentation(("heart",), (0,), (96, 96), np.packbits(mask, axis=2)).measure("area").values
        {'heart_area': 32}
        """
        import jaxseg

        return jaxseg.extract(self, features, **options)

    @functools.cached_property
    def _indices(self) -> tuple[np.ndarray, np.ndarray]:
        height, width = self.bits.shape[1], self.bits.shape[2] * 8
        return nearest_indices(height, self.size[0]), nearest_indices(width, self.size[1])


def runs_of(masks: Masks, k: int) -> np.ndarray:
    """Returns the runs of mask `k` at the image's size, (R,) int64, as `jaxseg.masks.coco.runs_of` does."""
    return masks.runs(k) if isinstance(masks, Segmentation) else coco.runs_of(masks.mask(k))


def _smooth(scores: np.ndarray, size: tuple[int, int], cutoff: np.float32) -> np.ndarray:
    """Returns where probabilities (h, w), enlarged bilinearly to a size, exceed a cut-off: (*size,) bool.

    Only the part of the result is computed whose pixels lie beside a probability above the cut-off.
    """
    mask, above, parts = np.zeros(size, bool), scores > cutoff, []
    for axis in (0, 1):
        low, high, weight = bilinear_taps(scores.shape[axis], size[axis])
        hit = np.asarray(above.any(1 - axis))
        places = np.flatnonzero(hit[low] | hit[high])
        if not len(places):
            return mask
        part = slice(places[0], places[-1] + 1)
        parts.append((part, low[part], high[part], weight[part]))
    (rows, *taps), (columns, low, high, weight) = parts
    found = scores[taps[0]] * (1 - taps[2][:, None]) + scores[taps[1]] * taps[2][:, None]
    mask[rows, columns] = found[:, low] * (1 - weight) + found[:, high] * weight > cutoff
    return mask


def on_grid(masks: np.ndarray, grid: tuple[int, int]) -> np.ndarray | None:
    """Returns the masks as the network made them, from masks that `Segmentation` resized to the image's size.

    Args:
      masks: (K, H, W) bool, at the image's size.
      grid: height h and width w of the network's masks.

    Returns:
      (K, h, w) bool. None if they cannot be recovered: the image has fewer rows or columns than the grid, or the masks
      are not those of a network with this grid, because they were changed or stored with losses.

    >>> image_size = np.zeros((1, 4, 3), bool)
    >>> image_size[0, :2] = True
    >>> on_grid(image_size, (2, 2)).tolist()
    [[[True, True], [False, False]]]
    """
    if masks.shape[1:] == grid:
        return masks
    rows, columns = (nearest_indices(side, size) for side, size in zip(grid, masks.shape[1:], strict=True))
    (kept_rows, first_rows), (kept_columns, first_columns) = (
        np.unique(to, return_index=True) for to in (rows, columns)
    )
    if (len(kept_rows), len(kept_columns)) != grid:
        return None
    found = np.empty((len(masks), *grid), bool)
    for mask, coarse in zip(masks, found, strict=True):
        coarse[:] = mask.take(first_rows, axis=0).take(first_columns, axis=1)
        if not np.array_equal(coarse.take(columns, axis=1).take(rows, axis=0), mask):
            return None
    return found
