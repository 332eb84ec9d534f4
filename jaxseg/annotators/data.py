"""Slices with several annotators each: the layouts of the LIDC and the MNIST set of learn-vae-noisy-label.

A record is a dict: "image", (H, W, C) float32; "labels", (H, W, A) uint8 of 0 and 1, one place per annotator;
"present", (A,) bool, True for the first n places, which have an annotator; "truth", (H, W) uint8 of 0 and 1. The
labels of absent annotators are 0.

Source: rCampSemp/learn-vae-noisy-label, whose dataset class lists its folders again for every item.
"""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.datasets.volume_cache import Cache
from jaxseg.files import printable
from jaxseg.images.checks import ImageError, check_size
from jaxseg.images.tiff import SUFFIXES, read_tiff

SPLITS = ("train", "validate", "test")
MNIST_ANNOTATORS = ("Over", "Under", "Wrong", "GT")  # the last is the truth, used as a fourth, good annotator
MEMORY = 2 * 2**30  # bytes

_LIDC_FOLDERS = {"image": "scans", "truth": "masks/GT", "labels": "masks/annots"}


@dataclasses.dataclass(frozen=True)
class _Held:
    """A record in memory, with one byte per pixel of a mask."""

    image: np.ndarray
    labels: np.ndarray
    truth: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.image.nbytes + self.labels.nbytes + self.truth.nbytes


@dataclasses.dataclass(frozen=True)
class AnnotatedSlices:
    """A source of records: one split of one of the two sets. Each file is read once and cached within a memory limit.

    Attributes:
      files: for each record, the paths that `read` takes.
      read: function of the paths that returns image (H, W, C), labels (H, W, n) and truth (H, W).
      annotators: A, the largest number of annotators of a record.
      root: folder that the records' names are relative to.
      cache: the records in memory.
    """

    files: tuple[tuple[Path, ...], ...]
    read: Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]
    annotators: int
    root: Path
    cache: Cache = dataclasses.field(default_factory=lambda: Cache(MEMORY))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        paths = self.files[index]
        held = self.cache.get(paths[0], lambda: _Held(*self.read(*paths)))
        count = held.labels.shape[-1]
        if count > self.annotators:
            raise ImageError(f"{paths[0].name}: has {count} annotators, and data.annotators is {self.annotators}")
        labels = np.zeros((*held.truth.shape, self.annotators), np.uint8)
        labels[..., :count] = held.labels
        present = np.arange(self.annotators) < count
        return {"image": held.image, "labels": labels, "present": present, "truth": held.truth}

    def name(self, index: int) -> str:
        """Returns the path of a record's image, relative to the root."""
        return printable(self.files[index][0].relative_to(self.root).as_posix())


def lidc_slices(root: str | Path, split: str, *, annotators: int = 4, memory: int = MEMORY) -> AnnotatedSlices:
    """Returns a split of the LIDC set: `{split}/scans/*.tif`, with the same names in `masks/GT` and `masks/annots`.

    Images are returned as stored; the set's makers z-scored each of them. The truth is the annotators' consensus.

    Args:
      root: folder of the set.
      split: "train", "validate" or "test".
      annotators: A. Reading a slice with more annotators fails.
      memory: size limit of the cached records in bytes.

    Returns:
      The source of records; reading a record raises an ImageError if a file is damaged or the three files do not fit.

    Raises:
      ValueError: the split is unknown or empty, or its three folders do not hold files of the same names.
      OSError: a folder or file cannot be read.
    """
    root = Path(root)
    _check(split, annotators)
    found = {what: _listed(root / split / folder) for what, folder in _LIDC_FOLDERS.items()}
    keys = _paired(root / split, {_LIDC_FOLDERS[what]: set(files) for what, files in found.items()})
    keys = sorted(keys, key=_natural)
    files = tuple(tuple(found[what][key] for what in ("image", "truth", "labels")) for key in keys)
    return AnnotatedSlices(files, _read_lidc, annotators, root, Cache(memory))


def mnist_slices(
    root: str | Path, split: str, *, annotators: tuple[str, ...] = MNIST_ANNOTATORS, memory: int = MEMORY
) -> AnnotatedSlices:
    """Returns a split of the MNIST set: `{split}/Gaussian/{i}_Gaussian.tif`, and `GT`, `Over`, `Under`, `Wrong` alike.

    Args:
      root: folder of the set.
      split: "train", "validate" or "test".
      annotators: names of `MNIST_ANNOTATORS`, in the order of the places. The original's probabilistic U-Net leaves out
        the good annotator, "GT".
      memory: size limit of the cached records in bytes.

    Returns:
      The source of records; reading a record raises an ImageError if a file is damaged or the files do not fit.

    Raises:
      ValueError: the split or an annotator is unknown, the split is empty, or its folders do not hold the same numbers.
      OSError: a folder or file cannot be read.
    """
    root = Path(root)
    _check(split, len(annotators))
    unknown = [name for name in annotators if name not in MNIST_ANNOTATORS]
    if unknown or len(set(annotators)) < len(annotators):
        known = ", ".join(MNIST_ANNOTATORS)
        raise ValueError(f"annotators must be distinct names of {known}, got {', '.join(map(str, annotators))}")
    folders = ("Gaussian", "GT", *(name for name in annotators if name != "GT"))
    found = {name: _listed(root / split / name, f"_{name}") for name in folders}
    keys = _paired(root / split, {name: set(files) for name, files in found.items()})
    keys = sorted(keys, key=_natural)
    wanted = ("Gaussian", "GT", *annotators)
    files = tuple(tuple(found[name][key] for name in wanted) for key in keys)
    return AnnotatedSlices(files, _read_mnist, len(annotators), root, Cache(memory))


def _check(split: str, annotators: int) -> None:
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; known: {', '.join(SPLITS)}")
    if annotators < 1:
        raise ValueError(f"there must be at least one annotator, got {annotators}")


def _listed(folder: Path, ending: str = "") -> dict[str, Path]:
    """Returns the TIFF files of a folder by name, without suffix and `ending`."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    found = {}
    for path in folder.iterdir():
        if path.name.startswith(".") or path.suffix.lower() not in SUFFIXES:
            continue
        if not path.stem.endswith(ending):
            raise ValueError(f"{folder}: {printable(path.name)} is not named NUMBER{ending}.tif")
        found[path.stem.removesuffix(ending)] = path
    return found


def _paired(folder: Path, names: dict[str, set[str]]) -> set[str]:
    """Returns the names that all folders have; raises ValueError if a folder lacks one, or there are none."""
    everywhere = set.union(*names.values())
    lacks = [f"{sub} lacks {printable(min(everywhere - have))}" for sub, have in names.items() if everywhere - have]
    if lacks:
        raise ValueError(f"{folder}: its folders do not hold the same files: {'; '.join(lacks)}")
    if not everywhere:
        raise ValueError(f"{folder}: holds no TIFF file in {', '.join(names)}")
    return everywhere


def _natural(name: str) -> list:
    """Returns a sort key that compares the numbers in names as numbers."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def _read_lidc(image: Path, truth: Path, labels: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scan, consensus, annotations = (read_tiff(path) for path in (image, truth, labels))
    if scan.ndim != 3 or scan.shape[0] != 1 or scan.dtype.kind != "f":
        raise ImageError(f"{image.name}: a scan is (1, H, W) of floating-point numbers, got {scan.shape} {scan.dtype}")
    fits = consensus.shape == scan.shape and annotations.shape[:-1] == scan.shape and annotations.ndim == 4
    if not fits or annotations.shape[-1] < 1:
        shapes = f"{scan.shape}, {consensus.shape} and {annotations.shape}"
        raise ImageError(
            f"{image.name}: scan, GT and annots must be (1, H, W), (1, H, W) and (1, H, W, n), got {shapes}"
        )
    return _image(image, scan[0][..., None]), _mask(labels, annotations[0]), _mask(truth, consensus[0])


def _read_mnist(image: Path, truth: Path, *labels: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    picture = read_tiff(image)
    if picture.ndim != 3 or picture.shape[-1] not in (1, 3) or picture.dtype.kind != "f":
        raise ImageError(f"{image.name}: an image is (H, W, 3) of floating-point numbers, got {picture.shape}")
    masks = []
    for path in (truth, *labels):
        mask = read_tiff(path)
        if mask.shape != picture.shape[:2]:
            raise ImageError(f"{path.name}: a mask of {image.name} is {picture.shape[:2]}, got {mask.shape}")
        masks.append(_mask(path, mask))
    return _image(image, picture), np.stack(masks[1:], -1), masks[0]


def _image(path: Path, pixels: np.ndarray) -> np.ndarray:
    check_size(*pixels.shape[:2])
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(pixels, np.float32)
    if not np.isfinite(found).all():
        raise ImageError(f"{path.name}: has values that are not finite in float32 (NaN, infinite or too large)")
    return found


def _mask(path: Path, mask: np.ndarray) -> np.ndarray:
    if mask.dtype.kind not in "bu" or mask.max() > 1:
        raise ImageError(f"{path.name}: a mask must hold only 0 and 1, got {mask.dtype} up to {mask.max():g}")
    return np.ascontiguousarray(mask, np.uint8)
