"""Reads masks: all that `jaxseg segment` writes, and what truth usually comes in."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxseg.images.picture import ImageError
from jaxseg.images.read import stem
from jaxseg.masks.formats import PICTURES, Stack, open_coco, open_npy, open_npz, open_pictures
from jaxseg.masks.results import classes_of, find_masks
from jaxseg.masks.write import file_names
from jaxseg.vocabulary import labels

__all__ = ["LoadedMasks", "class_pictures", "find_masks", "open_masks", "read_masks", "select"]

SUFFIXES = (*PICTURES, ".npy", ".npz", ".json", ".dcm")
_MAX_BYTES = 2**34  # of the masks in memory, a byte a pixel: all classes of CXAS in 10,000 x 10,000


@dataclasses.dataclass(frozen=True)
class LoadedMasks:
    """The masks of one image: (K, H, W) bool, and their K names."""

    names: tuple[str, ...]
    masks: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.masks.shape[1:]

    def mask(self, k: int) -> np.ndarray:
        """Returns mask `k`, (H, W) bool."""
        return self.masks[k]


def read_masks(
    path: str | Path,
    *,
    names: Sequence[str] | None = None,
    image: str | Path | None = None,
    classes: str | Sequence[str] | None = None,
) -> LoadedMasks:
    """Reads the masks of one image.

    Args:
      path: a folder with a png or jpg a class, one such picture, a `.npy` or `.npz` file with bool or whole numbers
        (K, H, W) or (H, W), a COCO `.json` file with run lengths, or a DICOM SEG object. Pictures are cut at 127.
      names: of the K classes. Not given: what the file says (pictures: their names), else the classes in the
        `summary.json` of the run that wrote the file, else those of CXAS for 159 masks, else class_000, class_001, ...
        With names, an (H, W) array is a label map: 0 is no class, k the k-th name; a first name "background" is that 0.
      image: file of the image, which a COCO file of several images is searched for.
      classes: only these labels or groups, as `jaxseg.vocabulary.labels.select` takes them; only they are decoded.

    Returns:
      LoadedMasks, in the order of the names.

    Raises:
      ImageError: the file is damaged, too large, holds no masks, or does not fit the names.
      ValueError: a class is unknown.
      OSError: there is no such file.
    """
    stack = open_masks(path, names=names, image=image)
    with _naming(path):
        chosen = select(stack.names, classes)
        if len(chosen) * stack.size[0] * stack.size[1] > _MAX_BYTES:
            raise ImageError(f"{len(chosen)} masks of {stack.size[0]} x {stack.size[1]} are too many; choose classes")
        masks = np.empty((len(chosen), *stack.size), bool)
        for target, mask in zip(masks, stack.read(chosen), strict=True):
            target[:] = mask
    return LoadedMasks(tuple(stack.names[k] for k in chosen), masks)


def open_masks(path: str | Path, *, names: Sequence[str] | None = None, image: str | Path | None = None) -> Stack:
    """Opens masks as `read_masks` does; they are decoded when they are read, one at a time.

    Returns:
      A Stack with names, whose masks are bool; reading one may raise as `read_masks` does.
    """
    path, image = Path(path), None if image is None else Path(image)
    with _naming(path):
        if isinstance(names, str):
            raise ValueError("names must be a list of texts, got one text")
        stack = _open(path, image, None if names is None else tuple(names))
    return dataclasses.replace(stack, read=functools.partial(_read, path, stack))


def select(names: Sequence[str], classes: str | Sequence[str] | None) -> tuple[int, ...]:
    """Returns the indices of labels or groups among names; groups of CXAS also where only some of its labels are.

    Raises:
      ValueError: a label is unknown, or not among the names.
    """
    names = tuple(names)
    if classes is None or names in labels.GROUPS or not set(names) <= set(labels.CXAS):
        return labels.select(names, classes)
    wanted = [labels.CXAS[k] for k in labels.select(labels.CXAS, classes)]
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ValueError(f"there are no masks of {', '.join(missing)}; there are {', '.join(names)}")
    return tuple(sorted(names.index(name) for name in wanted))


def class_pictures(folder: Path) -> list[Path]:
    """Returns the png and jpg files of a folder, sorted."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith("."))


def _open(path: Path, image: Path | None, names: tuple[str, ...] | None) -> Stack:
    """The masks at `path` with their names, undecoded."""
    suffix = path.suffix.lower()
    if path.is_dir():
        return _open_folder(path, names)
    if suffix not in SUFFIXES:
        raise ImageError(f"cannot read masks from {suffix or 'a file without suffix'}; allowed: {', '.join(SUFFIXES)}")
    if suffix in (".npy", ".npz"):
        return _name_arrays(open_npy(path) if suffix == ".npy" else open_npz(path), path, names)
    if suffix in (".json", ".dcm"):
        stack = open_coco(path, image) if suffix == ".json" else _open_seg(path)
    else:  # of truth there is often a folder a class, with a picture an image
        of_image = image is not None and path.stem == stem(image)
        stack = open_pictures([path], [path.resolve().parent.name] if of_image else None)
    return dataclasses.replace(stack, names=_renamed(stack.names, names))


def _open_folder(path: Path, names: tuple[str, ...] | None) -> Stack:
    """A picture a class, in the order of the label set that knows them all: of the names, the run or CXAS."""
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
            raise ImageError(f"no class is called {unknown[0]!r}, as a picture is; the names are {', '.join(names)}")
    return open_pictures(pictures)


def _name_arrays(stack: Stack, path: Path, names: tuple[str, ...] | None) -> Stack:
    """Gives names to masks from a numpy file; an (H, W) array with several names becomes as many masks."""
    if names and stack.flat and (len(names) > 1 or names[0].lower() == "background"):
        names = names[1:] if names[0].lower() == "background" else names
        if not names:
            raise ImageError("no class has a name but the background")
        return Stack(len(names), stack.size, lambda indices: _split(stack, len(names), indices), names)
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
    """Puts the name of the file before what is said against it."""
    try:
        yield
    except ValueError as error:
        name = Path(path).name
        kind = ImageError if isinstance(error, ImageError) else ValueError
        raise kind(f"{name}: " + str(error).removeprefix(f"{name}: ")) from None


def _renamed(found: Sequence, names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        return tuple(found)
    if len(names) != len(found):
        raise ImageError(f"holds {len(found)} masks, but {len(names)} names were given")
    return tuple(names)


def _split(stack: Stack, count: int, indices: Sequence[int]):
    """Yields the masks of a label map's values 1 + index."""
    (values,) = stack.read([0])
    if values.min() < 0 or values.max() > count:
        raise ImageError(f"the label map has values from {values.min()} to {values.max()}, but {count} classes")
    for k in indices:
        yield values == k + 1


def _binary(mask: np.ndarray) -> np.ndarray:
    """Returns an array of 0 and 1, or of 0 and 255, as bool."""
    if mask.dtype == bool:
        return mask
    top = mask.max()
    if top not in (0, 1, 255) or not ((mask == 0) | (mask == top)).all():
        raise ImageError(
            f"has values from {mask.min()} to {top}; masks are 0 and 1, or an (H, W) label map together with its names"
        )
    return mask != 0
