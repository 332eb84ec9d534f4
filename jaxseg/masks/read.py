"""Reads masks in every format that `jaxseg segment` writes and in the usual formats of reference masks."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.images.picture import ImageError
from jaxseg.images.read import stem
from jaxseg.masks.cohort import is_cohort_file, open_cohort
from jaxseg.masks.formats import (
    Stack,
    open_coco,
    open_label_map,
    open_npy,
    open_npz,
    open_pictures,
    split,
)
from jaxseg.masks.pictures import PICTURES, listed
from jaxseg.masks.results import check_origin, classes_of, find_masks, grid_of, key_in, named_masks, read_summary
from jaxseg.masks.segmentation import on_grid
from jaxseg.masks.write import file_names
from jaxseg.vocabulary import labels

__all__ = [
    "LoadedMasks",
    "class_pictures",
    "find_masks",
    "is_of_one_image",
    "open_masks",
    "read_masks",
    "select",
    "on_network_grid",
]

SUFFIXES = (*PICTURES, ".npy", ".npz", ".json", ".jsonl", ".parquet", ".dcm")
_MAX_PIXELS = 2**34  # of masks in memory, eight in one byte: all classes of CXAS at 10,000 x 10,000


@dataclasses.dataclass(frozen=True)
class LoadedMasks:
    """The masks of one image, with eight pixels in one byte.

    Attributes:
      names: (K,) names of the masks.
      bits: (K, H, ceil(W / 8)) uint8, the first pixel in the highest bit.
      size: height and width.
      notes: remarks for the user.
    """

    names: tuple[str, ...]
    bits: np.ndarray
    size: tuple[int, int]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, names: Sequence[str], masks: np.ndarray) -> "LoadedMasks":
        """Returns masks in memory, (K, H, W) bool, with their names."""
        return cls(tuple(names), np.packbits(masks, axis=2), (masks.shape[1], masks.shape[2]))

    @property
    def masks(self) -> np.ndarray:
        """All masks, (K, H, W) bool, which take eight times the memory of `bits`."""
        return np.unpackbits(self.bits, axis=2, count=self.size[1]).view(bool)

    def mask(self, k: int) -> np.ndarray:
        """Returns mask `k`, (H, W) bool."""
        return np.unpackbits(self.bits[k], axis=1, count=self.size[1]).view(bool)

    def chosen(self, indices: Sequence[int]) -> "LoadedMasks":
        """Returns some of the masks."""
        names = tuple(self.names[k] for k in indices)
        return self if names == self.names else dataclasses.replace(self, names=names, bits=self.bits[list(indices)])


def read_masks(
    path: str | Path,
    *,
    names: Sequence[str] | None = None,
    image: str | Path | None = None,
    levels: Mapping[int, str] | None = None,
    classes: str | Sequence[str] | None = None,
) -> LoadedMasks:
    """Reads the masks of one image.

    Args:
      path: a folder with one PNG or JPEG file per class, one such file, a `.npy` or `.npz` file with bools or integers
        of shape (K, H, W) or (H, W), a COCO `.json` file, a DICOM SEG object, or a `.jsonl` or
        `.parquet` file with the masks of all images of a run. Pictures are thresholded at 127. A label map, with one
        grey level per class, is refused unless `levels` names its classes.
      names: names of the K classes. If they are not given, they are the names in the file (for pictures, the file
        names), else the classes in the `summary.json` of the run that wrote the file, else the labels of CXAS for 159
        masks, else class_000, class_001, ... If they are given, an (H, W) array is a label map: 0 is no class and k is
        the k-th name. A first name "background" names the 0.
      image: file of the image; it chooses the image in a file that has several. Masks that jaxseg made from another
        image are refused.
      levels: for a label map, a PNG or an (H, W) array: level -> name of its class, instead of `names`.
      classes: labels or groups to read, as `jaxseg.vocabulary.labels.select` takes them; only these are decoded. None
        means all.

    Returns:
      The masks, in the order of the names.

    Raises:
      ImageError: the file is damaged or too large, holds no masks, or does not fit the names or levels.
      ValueError: a class is unknown, or the masks were made from another image.
      OSError: the file does not exist or cannot be read.
    """
    stack = open_masks(path, names=names, image=image, levels=levels)
    found = _names_of(stack)
    with _naming(path):
        chosen = select(found, classes)
        if len(chosen) * stack.size[0] * stack.size[1] > _MAX_PIXELS:
            raise ImageError(
                f"{len(chosen)} masks of {stack.size[0]} x {stack.size[1]} are too many; choose fewer classes"
            )
        bits = np.empty((len(chosen), stack.size[0], -(-stack.size[1] // 8)), np.uint8)
        for target, mask in zip(bits, stack.read(chosen), strict=True):
            target[:] = np.packbits(mask, axis=1)
    return LoadedMasks(tuple(found[k] for k in chosen), bits, stack.size, tuple(stack.notes))


def open_masks(
    path: str | Path,
    *,
    names: Sequence[str] | None = None,
    image: str | Path | None = None,
    levels: Mapping[int, str] | None = None,
) -> Stack:
    """Opens masks like `read_masks`; each mask is decoded when it is read.

    Args:
      path: as in `read_masks`.
      names: as in `read_masks`.
      image: as in `read_masks`.
      levels: as in `read_masks`.

    Returns:
      A `Stack` that has names and yields bool masks. Reading a mask may raise the errors of `read_masks`.

    Raises:
      ImageError, ValueError, OSError: as `read_masks`.
    """
    path, image = Path(path), None if image is None else Path(image)
    with _naming(path):
        if isinstance(names, str):
            raise ValueError("names must be a list of strings, got one string")
        if names is not None and levels is not None:
            raise ValueError("give names or levels, not both")
        if image is not None:
            check_origin(path, image)
        stack = _open(path, image, None if names is None else tuple(names)) if levels is None else _split(path, levels)
    return dataclasses.replace(stack, read=functools.partial(_read, path, stack))


def on_network_grid(
    loaded: LoadedMasks, path: Path, spacing_mm: tuple[float, float] | None
) -> tuple[np.ndarray | None, tuple[int, int] | None, tuple[float, float] | None]:
    """Returns the masks on the network's grid, on which they are measured, as in the original.

    This needs masks of a jaxseg run that can be recovered. Masks that were changed afterwards, stored with losses or
    made with smooth edges, those of an image with fewer pixels than the network's grid, and masks of other origin are
    measured on the pixels of the image.

    Args:
      loaded: the masks, as `read_masks` returned them.
      path: from which they were read.
      spacing_mm: distance between the image's rows and between its columns in millimetres; None if it is unknown.

    Returns:
      (K, h, w) bool, and height and width of the grid; None and None for the pixels of the image. Then height and width
      of a pixel in millimetres, or None.
    """
    grid = grid_of(path)
    if grid is None:
        return None, None, spacing_mm
    coarse = np.empty((len(loaded.names), *grid), bool)
    for k in range(len(loaded.names)):  # one at a time, because all of them may need gigabytes
        found = on_grid(loaded.mask(k)[None], grid)
        if found is None:
            return None, None, spacing_mm
        coarse[k] = found[0]
    if spacing_mm is None:
        return coarse, grid, None
    height, width = (mm * side / to for mm, side, to in zip(spacing_mm, loaded.size, grid, strict=True))
    return coarse, grid, (height, width)


def select(names: Sequence[str], classes: str | Sequence[str] | None) -> tuple[int, ...]:
    """Returns the indices of labels or groups in `names`.

    Groups of CXAS are known also if `names` holds only some of its labels.

    Args:
      names: names of the masks.
      classes: labels or groups, as `jaxseg.vocabulary.labels.select` takes them; None means all names.

    Raises:
      ValueError: a label is unknown or is not in `names`.

    >>> select(["heart", "spine"], "spine")
    (1,)
    """
    names = tuple(names)
    classes = classes if classes is None or isinstance(classes, str) else tuple(classes)
    if classes is None or names in labels.GROUPS or not set(names) <= set(labels.CXAS):
        return labels.select(names, classes)
    wanted = [labels.CXAS[k] for k in labels.select(labels.CXAS, classes)]
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ValueError(f"masks of {', '.join(missing)} are missing; there are {', '.join(names)}")
    return tuple(sorted(names.index(name) for name in wanted))


def class_pictures(folder: Path) -> list[Path]:
    """Returns the PNG and JPEG files of a folder, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith("."))


def is_of_one_image(path: Path, image: Path) -> bool:
    """Returns whether a path holds the masks of one image; otherwise `find_masks` looks for them in it.

    This is true for a file. It is true for a folder with pictures (one per class), unless the folder has a jaxseg
    summary or contains masks with the name of the image.

    Args:
      path: an existing file or folder.
      image: file of the image.

    Raises:
      ValueError: the summary in the folder is damaged.
    """
    if not path.is_dir():
        return True
    return read_summary(path) is None and not named_masks(path, image) and bool(class_pictures(path))


def _open(path: Path, image: Path | None, names: tuple[str, ...] | None) -> Stack:
    """Returns the masks at `path` with their names, not decoded yet."""
    suffix = path.suffix.lower()
    if path.is_dir():
        return _open_folder(path, names)
    if suffix not in SUFFIXES:
        raise ImageError(f"cannot read masks from {suffix or 'a file without suffix'}; allowed: {', '.join(SUFFIXES)}")
    if suffix in (".npy", ".npz"):
        return _name_arrays(open_npy(path) if suffix == ".npy" else open_npz(path), path, names)
    if is_cohort_file(path):
        stack = open_cohort(path, image, None if image is None else key_in(path, image))
    elif suffix in (".json", ".dcm"):
        stack = open_coco(path, image) if suffix == ".json" else _open_seg(path)
    else:  # reference masks often have one folder per class, with one picture per image
        of_image = image is not None and path.stem == stem(image)
        stack = open_pictures([path], [path.resolve().parent.name] if of_image else None)
    return dataclasses.replace(stack, names=_renamed(_names_of(stack), names))


def _split(path: Path, levels: Mapping[int, str]) -> Stack:
    """Opens a label map whose levels have these names."""
    suffix = path.suffix.lower()
    if not levels or not all(type(level) is int and isinstance(name, str) for level, name in levels.items()):
        raise ValueError(f"levels must map whole numbers to names, got {dict(levels)!r}")
    if len(set(levels.values())) < len(levels):
        raise ValueError("two levels have the same name")
    if suffix in PICTURES and not path.is_dir():
        return open_label_map(path, levels)
    if suffix in (".npy", ".npz"):
        return split(path, open_npy(path) if suffix == ".npy" else open_npz(path), levels)
    raise ImageError("levels are the classes of a label map, which is one png, npy or npz file")


def _names_of(stack: Stack) -> tuple[str, ...]:
    if stack.names is None:
        raise ValueError("the masks have no names; give them with names=")
    return stack.names


def _open_folder(path: Path, names: tuple[str, ...] | None) -> Stack:
    """Opens one picture per class, in the order of the label set that holds them all: `names`, the run's or CXAS's."""
    pictures = class_pictures(path)
    found = {picture.stem: picture for picture in pictures}
    if not pictures:
        raise ImageError("the folder holds no png or jpg file; give the folder of one image")
    if len(found) < len(pictures):
        raise ImageError("two pictures have the name of one class")
    for label_set in [names] if names else [classes_of(path) or (), labels.CXAS]:
        known = dict(zip(file_names(label_set), label_set, strict=True))
        if set(found) <= set(known):
            order = [name for name in known if name in found]
            return open_pictures([found[name] for name in order], [known[name] for name in order])
        if names:
            unknown = sorted(set(found) - set(known))
            raise ImageError(f"no class has the name {unknown[0]!r} of a picture; the names are {', '.join(names)}")
    return open_pictures(pictures)


def _name_arrays(stack: Stack, path: Path, names: tuple[str, ...] | None) -> Stack:
    """Names the masks of a numpy file; an (H, W) array with several names is split into one mask per name."""
    if names and stack.flat and (len(names) > 1 or names[0].lower() == "background"):
        names = names[1:] if names[0].lower() == "background" else names
        if not names:
            raise ImageError("the names hold only the background; give the names of the classes")
        return split(path, stack, dict(enumerate(names, 1)), strict=True)
    if names is None:
        listed = classes_of(path) or ()
        fitting = [known for known in (listed, labels.CXAS) if len(known) == stack.count]
        names = fitting[0] if fitting else labels.numbered(stack.count)
    return dataclasses.replace(stack, names=_renamed(range(stack.count), names))


def _open_seg(path: Path) -> Stack:
    from jaxseg.masks.read_seg import open_dicom_seg

    return open_dicom_seg(path)


def _read(path: Path, stack: Stack, indices: Sequence[int]) -> Iterator[np.ndarray]:
    with _naming(path):
        yield from map(_binary, stack.read(indices))


@contextlib.contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Adds the name of the file to the messages of errors."""
    try:
        yield
    except ValueError as error:
        name = Path(path).name
        kind = ImageError if isinstance(error, ImageError) else ValueError
        raise kind(f"{name}: " + str(error).removeprefix(f"{name}: ")) from None


def _renamed(found: Sequence[Any], names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        return tuple(found)
    if len(names) != len(found):
        raise ImageError(f"holds {len(found)} masks, but {len(names)} names were given")
    return tuple(names)


def _binary(mask: np.ndarray) -> np.ndarray:
    """Returns an array of 0 and 1, or of 0 and 255, as bool; raises ImageError for other values."""
    if mask.dtype == bool:
        return mask
    top = mask.max()
    if top not in (0, 1, 255) or not ((mask == 0) | (mask == top)).all():
        raise ImageError(
            f"has values from {mask.min()} to {top}; masks are 0 and 1, or an (H, W) label map together with its names "
            f"(--label VALUE=NAME for its values {listed(np.unique(mask).tolist())})"
        )
    return mask != 0
