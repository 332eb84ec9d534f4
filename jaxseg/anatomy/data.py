"""The PAX-Ray data set as published: chest X-rays and overlapping masks of anatomy, one channel per class.

`jaxseg.anatomy.coco_set` reads the same from files in the format of COCO.

The data set is a folder with images, targets and `paxray.json`. The JSON file holds `label_dict`, the class names under
"0", "1", ..., and the lists `train`, `val` and `test` of `{"image": ..., "target": ...}`, with paths relative to the
folder. A target is a `.npy` file, (K, H, W), of bool or of 0 and 1; or, if classes exclude each other, (H, W) of the
numbers of the classes.

Source: Seibold et al. 2022, arXiv:2210.03416; ConstantinSeibold/multilabel_segmentation_paxray.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxseg import npy
from jaxseg.files import printable, read_json
from jaxseg.images.fit import Placement
from jaxseg.images.preprocess import PREPROCESSING, fit_of
from jaxseg.images.read import read_picture

SPLITS = ("train", "val", "test")
MAX_LIST_BYTES = 2**26
_STRETCH = 0.02  # largest relative difference between the aspect ratios of an image and its target


class Masks(Protocol):
    """Masks of an image that are stored in the list itself, such as `jaxseg.anatomy.coco_set.Annotated`."""

    def packed(self, classes: int, place: Placement, picture_size: tuple[int, int]) -> np.ndarray:
        """Returns the masks as `read_target` does."""


Pair = tuple[Path, Path | Masks]  # path of an image, and path of its target or its masks


@dataclasses.dataclass(frozen=True)
class Paxray:
    """The lists of a data set.

    Attributes:
      root: folder of the data set. The lists name files inside it; links in it may lead to other places.
      names: names of the K classes, in the order of the targets' channels.
      splits: "train", "val", "test" -> pairs of image and target, in the order of the file.
    """

    root: Path
    names: tuple[str, ...]
    splits: dict[str, tuple[Pair, ...]]


def read_paxray(root: str | Path, file: str = "paxray.json") -> Paxray:
    """Reads the lists of a data set and checks that all files exist.

    Args:
      root: folder of the data set.
      file: name of the JSON file in it.

    Raises:
      ValueError: the lists differ from the published format, or name files that are missing or outside the folder.
      OSError: the JSON file cannot be opened.
    """
    root = Path(root).resolve()
    path = root / file
    table = _table(path)
    problems: list[str] = []
    names = _names(table.get("label_dict"), problems)
    splits = {split: _pairs(root, split, table.get(split), problems) for split in SPLITS}
    if problems:
        raise ValueError(f"{file}: {first_of(problems)}")
    check_there(root, [path for pairs in splits.values() for pair in pairs for path in pair], file)
    return Paxray(root, names, splits)


def check_there(root: Path, paths: Sequence[Path], file: str) -> None:
    """Raises ValueError if a data set in the folder `root` lacks files that its list `file` names."""
    files = dict.fromkeys(paths)
    missing = [printable(path.relative_to(root).as_posix()) for path in files if not _is_file(path)]
    if missing:
        raise ValueError(f"{len(missing)} of {len(files)} files named in {file} are missing: {first_of(missing, ', ')}")


def subset(pairs: Sequence[Pair], fraction: float, seed: int) -> tuple[Pair, ...]:
    """Returns a random part of a split, sorted by image path.

    The split is sorted first, so its order in the file does not matter. With the same seed, a smaller part is contained
    in a larger one.

    Args:
      pairs: the split.
      fraction: share of the pairs in (0, 1]; their number is rounded, and at least one.
      seed: random seed of the selection.

    Raises:
      ValueError: the fraction is out of range.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"the fraction must be in (0, 1], got {fraction}")
    ordered = sorted(pairs, key=lambda pair: pair[0].as_posix())
    count = max(1, round(fraction * len(ordered)))
    chosen = np.random.default_rng(seed).permutation(len(ordered))[:count]
    return tuple(ordered[i] for i in sorted(chosen))


@dataclasses.dataclass(frozen=True)
class Split:
    """A source of records at one size.

    A record holds "image", (H, W, 3) float32 as `PREPROCESSING` returns it; "target", (H, W, ceil(K / 8)) uint8, where
    bit k % 8 of byte k // 8 is class k, which makes copies eight times as fast; and "classes", K. The transforms of
    `jaxseg.anatomy.augment` unpack it.

    Attributes:
      pairs: image and target path of each record.
      classes: K, the number of classes that every target must have.
      size: H and W.
      preprocessing: a key of `jaxseg.images.preprocess.PREPROCESSING`, which is stored with the model. "paxray": as in
        the original's training, values from 0 to 255 normalised as if they were from 0 to 1. "cxas": values from 0 to 1
        normalised. The ends "_pad" and "_crop" keep the aspect ratio, see `jaxseg.images.fit`.
      root: folder that the records' names are relative to; None: names are whole paths.
      exclusive: whether every pixel belongs to one class; the transforms then give it to the last one that has it, and
        to the first class, the background, if none has it.

    Raises:
      ValueError: the size is not two positive numbers, or the preprocessing is unknown.
    """

    pairs: tuple[Pair, ...]
    classes: int
    size: tuple[int, int] = (512, 512)
    preprocessing: str = "paxray"
    root: Path | None = None
    exclusive: bool = False

    def __post_init__(self):
        if self.preprocessing not in PREPROCESSING:
            raise ValueError(f"unknown preprocessing {self.preprocessing!r}; known: {', '.join(PREPROCESSING)}")
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"the size must be two positive numbers, got {self.size}")

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, target = self.pairs[index]
        picture = read_picture(image)
        place = Placement.of(picture.size, self.size, fit_of(self.preprocessing))
        if isinstance(target, Path):
            masks = read_target(target, self.classes, place, picture.size, labels=self.exclusive)
        else:
            masks = target.packed(self.classes, place, picture.size)
        return {
            "image": PREPROCESSING[self.preprocessing](picture, self.size),
            "target": masks,
            "classes": self.classes,
            "exclusive": self.exclusive,
        }

    def name(self, index: int) -> str:
        """Returns the path of a record's image, relative to the root if there is one."""
        path = self.pairs[index][0]
        return printable((path.relative_to(self.root) if self.root else path).as_posix())


def read_target(
    path: Path, classes: int, place: Placement, picture_size: tuple[int, int], *, labels: bool = False
) -> np.ndarray:
    """Reads masks through a memory map; only the pixels that nearest-neighbour sampling needs are read.

    Args:
      path: a `.npy` file, (K, h, w) of bool or of uint8 0 and 1.
      classes: K.
      place: where the picture lies on the network's grid of H x W pixels.
      picture_size: height and width of the masks' image; h and w may differ from it but have the same ratio.
      labels: whether the file may also be a label map, (h, w) of whole numbers from 0 to K - 1.

    Returns:
      (H, W, ceil(K / 8)) uint8; bit k % 8 of byte k // 8 is class k.

    Raises:
      ValueError: the file holds another array, is cut short, or does not fit the image.
      OSError: it cannot be opened.
    """
    try:
        masks = npy.mapped(path)
    except npy.NpyError as error:
        raise ValueError(f"{path.name}: {error}") from None
    is_map = labels and masks.ndim == 2 and masks.dtype.kind in "iu"
    stacked = masks.dtype in (np.bool_, np.uint8) and masks.ndim == 3 and masks.shape[0] == classes
    if not (is_map or stacked):
        also = ", or a label map (H, W) of whole numbers" if labels else ""
        found = f"{masks.shape} {masks.dtype}"
        raise ValueError(f"{path.name}: a target must be ({classes}, H, W) of bool or uint8{also}, got {found}")
    check_ratio(path.name, masks.shape[-2:], picture_size)
    rows, columns = place.sources(masks.shape[-2:])
    planes = np.zeros((-(-classes // 8), *place.grid), np.uint8)
    if is_map:
        _add_labels(planes, np.asarray(masks[rows]).take(columns, 1), classes, place, path)
    for k in range(classes if stacked else 0):
        plane = np.asarray(masks[k]).view(np.uint8)[rows].take(columns, 1)  # a bool of a file may hold any byte
        if plane.max() > 1:
            raise ValueError(f"{path.name}: a target must hold 0 and 1, class {k} holds {plane.max()}")
        planes[k // 8][place.inside] |= plane << np.uint8(k % 8)
    return np.ascontiguousarray(planes.transpose(1, 2, 0))


def _add_labels(planes: np.ndarray, labels: np.ndarray, classes: int, place: Placement, path: Path) -> None:
    """Sets the bits of the classes of a label map; the first class needs none."""
    if labels.min() < 0 or labels.max() >= classes:
        found = f"{labels.min()} to {labels.max()}"
        raise ValueError(f"{path.name}: a label map must hold the classes 0 to {classes - 1}, it holds {found}")
    for k in np.unique(labels):
        planes[k // 8][place.inside] |= (labels == k).view(np.uint8) << np.uint8(k % 8)


def check_ratio(name: str, size: tuple[int, ...], picture_size: tuple[int, int]) -> None:
    """Raises ValueError if masks in the file `name` have another aspect ratio than their picture."""
    height, width = size
    if abs(height * picture_size[1] - width * picture_size[0]) > _STRETCH * height * picture_size[1]:
        sizes = f"{height} x {width}, the picture {picture_size[0]} x {picture_size[1]}"
        raise ValueError(f"{name}: the target and its picture have different aspect ratios: the target is {sizes}")


def _table(path: Path) -> dict:
    try:
        table = read_json(path, most=MAX_LIST_BYTES)
    except ValueError as error:
        raise ValueError(f"{path.name}: not JSON ({error})") from None
    if isinstance(table, dict) and "annotations" in table:
        raise ValueError(f"{path.name}: this is a COCO file; set data.format: coco")
    if not isinstance(table, dict):
        raise ValueError(f"{path.name}: must be a JSON object with label_dict, {', '.join(SPLITS)}")
    return table


def _names(table: Any, problems: list[str]) -> tuple[str, ...]:
    if not isinstance(table, dict) or not table:
        problems.append("label_dict must be an object of class names, under 0, 1, ...")
        return ()
    names = [table.get(str(k)) for k in range(len(table))]
    bad = [k for k, name in enumerate(names) if not isinstance(name, str) or not name.strip()]
    if bad:
        problems.append(f"label_dict has {len(table)} entries, and no name under {first_of(bad, ', ')}")
    return tuple(names)


def _pairs(root: Path, split: str, entries: Any, problems: list[str]) -> tuple[Pair, ...]:
    if not isinstance(entries, list):
        problems.append(f"{split} must be a list of image and target")
        return ()
    pairs = []
    for number, entry in enumerate(entries):
        paths = [entry.get(key) if isinstance(entry, dict) else None for key in ("image", "target")]
        if not all(isinstance(path, str) and path and "\0" not in path for path in paths):
            problems.append(f"{split}[{number}] must have the texts image and target")
            continue
        places = [inside(root, path) for path in paths]
        outside = [printable(text) for text, place in zip(paths, places, strict=True) if place is None]
        problems += [f"{split}[{number}]: {text!r} lies outside the data set's folder" for text in outside]
        pairs.append(tuple(places))
    return tuple(pairs)


def inside(root: Path, text: str) -> Path | None:
    """Returns the path in a folder that a text names; None if the path lies outside of the folder.

    Links are not resolved: whoever has the folder made them.
    """
    path = Path(os.path.normpath(root / text))
    return path if path.is_relative_to(root) else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or that no file system has
        return False


def first_of(problems: Sequence, between: str = "; ") -> str:
    """Returns the first five problems as one text, with the number of the others."""
    rest = f"{between}and {len(problems) - 5} more" if len(problems) > 5 else ""
    return between.join(str(problem) for problem in problems[:5]) + rest
