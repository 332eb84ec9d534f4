"""Masks as training data, resized to one size: PNG, JPEG and `.npy` files, as Post-DAE reads them, and files of runs.

A record is {"mask": (H, W, C) float32 in [0, 1]}.

Source: balazsborsos/dae_postprocessing.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.files import printable
from jaxseg.images.picture import ImageError
from jaxseg.masks.cohort import image_names, is_cohort_file, open_cohort
from jaxseg.masks.pictures import PICTURES, parse_levels, read_brightness
from jaxseg.masks.read import open_masks
from jaxseg.masks.results import keys_in
from jaxseg.nn.indices import bilinear_array

GREY = ("soft", "threshold")
SPLITS = ("disjoint", "original")


@dataclasses.dataclass(frozen=True)
class MaskFolder:
    """A source of records: the masks of a folder, or of a file with the masks of many images.

    PNG and JPEG files have one channel, their brightness. `.npy` files hold (H, W) for one channel, or (C, H, W); they
    are bool or integers, 0 and 1 or 0 and 255. Masks are resized bilinearly without antialiasing, so edges become soft
    if the size changes.

    Attributes:
      root: the folder; or a .jsonl or .parquet file, see `jaxseg.masks.cohort`, whose classes are the channels. If it
        lies in its folder of results, masks of images that failed later and masks of earlier settings are left out.
      size: H and W of the records.
      channels: C, the number of channels that every file must have.
      grey: treatment of values between black and white. "soft": they are kept and divided by 255, as in the original;
        an image in which more than a quarter of the pixels are grey is not a mask and is refused, and so is a label
        map with a grey level per class. "threshold": images are thresholded at 127 before they are resized, even if
        they are not masks.
      files: the masks. None: all png, jpg and npy files in the folder, sorted by name, without sub-folders and without
        files whose names begin with a dot. If `root` is a file, they are the names of its images.
      ignored: number of entries of the folder that are not masks; counted if `files` is not given.
      labels: level and name of each channel, "LEVEL=NAME", if the files are label maps; see `parse_levels`.
      classes: folder and name of each channel, "FOLDER=NAME", if every class has a separate folder in `root`; see
        `parse_classes`. Masks of one image have the same size and the same file name, apart from the suffix. Images
        without all classes are left out and counted in `ignored`; the mask of a class may be empty.
      blank: accept empty and full masks. They have no shape to learn, but a segmenter's results are scored with them.

    Raises:
      ValueError: the folder holds no mask, or an option is impossible. Reading a record raises it if the file is
        damaged, too large or not a mask, has other channels, or is empty or full without `blank`.
      OSError: the folder or a file cannot be read.
    """

    root: str | Path
    size: tuple[int, int] = (512, 512)
    channels: int = 1
    grey: str = "soft"
    files: tuple[Path, ...] | None = None
    ignored: int = 0
    labels: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)
    classes: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)
    blank: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self):
        if self.grey not in GREY:
            raise ValueError(f"grey is {self.grey!r}; known: {', '.join(GREY)}")
        if self.channels < 1:
            raise ValueError(f"channels must be at least 1, got {self.channels}")
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"the size must be two positive numbers, got {self.size}")
        if self.files is None and self.classes:
            object.__setattr__(self, "files", tuple(self._of_classes))
            everything = {path.stem for folder in self._folders for path in _masks_in(folder)}
            object.__setattr__(self, "ignored", len(everything) - len(self.files))
        elif self.files is None and is_cohort_file(Path(self.root)):
            object.__setattr__(self, "files", tuple(sorted(self._images)))
        elif self.files is None:
            object.__setattr__(self, "files", _masks_in(Path(self.root)))
            object.__setattr__(self, "ignored", sum(1 for _ in Path(self.root).iterdir()) - len(self.files))

    @property
    def _folders(self) -> list[Path]:
        """The folder of each class."""
        return [Path(self.root) / folder for folder in parse_classes(self.classes)]

    @functools.cached_property
    def _of_classes(self) -> dict[Path, list[Path]]:
        """The first class's file of an image -> the files of all its classes, sorted by name."""
        found = [_by_stem(folder) for folder in self._folders]
        joint = {found[0][name]: [of[name] for of in found] for name in found[0] if all(name in of for of in found)}
        if not joint:
            folders = " and ".join(str(folder) for folder in self._folders)
            raise ValueError(f"{folders} have no file name in common; masks of one image need the same name")
        return joint

    @functools.cached_property
    def _images(self) -> dict[Path, str]:
        """Name of an image -> its key, if `root` is a file with the masks of many images."""
        names, valid = image_names(Path(self.root)), keys_in(Path(self.root))
        return {Path(name): key for key, name in names.items() if valid is None or key in valid}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.files[index]
        masks = self._read_classes(path) if self.classes else self._read(path, self.channels)
        resized = np.stack([_fitted(mask, self.size) for mask in masks], -1)
        for state, value in (("empty", 0), ("full: every pixel is foreground", 1)):
            if not self.blank and (resized == value).all():
                raise ImageError(f"{path.name}: the mask is {state}, at {self.size[0]} x {self.size[1]}")
        return {"mask": resized}

    def _read_classes(self, path: Path) -> list[np.ndarray]:
        """Returns the mask of each class of an image."""
        masks = []
        for file in self._of_classes[path]:
            try:
                masks += self._read(file, 1)
            except ImageError as error:
                raise ImageError(f"{file.parent.name}/{error}") from None
        shapes = {f"{mask.shape[0]} x {mask.shape[1]}" for mask in masks}
        if len(shapes) > 1:
            raise ImageError(f"{path.name}: its classes have masks of different sizes: {', '.join(sorted(shapes))}")
        return masks

    def _read(self, path: Path, channels: int) -> list[np.ndarray]:
        """Returns the masks of a file, bool or uint8 from 0 to 255."""
        joint, levels = is_cohort_file(Path(self.root)), parse_levels(self.labels) or None
        if joint:
            stack = open_cohort(Path(self.root), None, self._images[path])
        else:
            stack = open_masks(path, levels=levels)  # reads only the header, which shows size, type and damage
        if stack.count != channels:
            raise ImageError(f"{path.name}: has {stack.count} channels; the setting is {channels}")
        if joint or levels or path.suffix.lower() == ".npy":
            return list(stack.read(range(stack.count)))
        return [read_brightness(path, threshold=self.grey == "threshold")]

    def name(self, index: int) -> str:
        """Returns the name of a record's file."""
        return printable(self.files[index].name)

    def split(
        self, *, train_fraction: float = 0.8, seed: int = 0, split: str = "disjoint"
    ) -> tuple["MaskFolder", "MaskFolder"]:
        """Returns the sources for training and validation.

        Args:
          train_fraction: share of the files for training, in (0, 1); the number of files is rounded down.
          seed: random seed of the split, which depends only on the seed and the files' names.
          split: "disjoint": validation has the files that training does not have. "original": as the original splits;
            do not evaluate with it. Training is a random selection of all files and validation the last files of the
            list, so most validation masks are also trained on. The original's exact splits cannot be reproduced: its
            selection had no seed, and its list was in the order of the file system. Here the list is sorted by name.

        Returns:
          The two sources.

        Raises:
          ValueError: an option is impossible, or one of the two would be empty.
        """
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; known: {', '.join(SPLITS)}")
        if not 0 < train_fraction < 1:
            raise ValueError(f"train_fraction must be in (0, 1), got {train_fraction}")
        count = math.floor(train_fraction * len(self))
        if not 0 < count < len(self):
            raise ValueError(
                f"{len(self)} masks cannot be split into a share of {train_fraction:g} and the rest; add masks"
            )
        order = np.random.default_rng(seed).permutation(len(self))
        rest = order[count:] if split == "disjoint" else np.arange(count, len(self))
        return self._part(order[:count]), self._part(rest)

    def _part(self, indices: np.ndarray) -> "MaskFolder":
        return dataclasses.replace(self, files=tuple(self.files[i] for i in indices))


def as_read(record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Returns the record unchanged: masks are corrupted on the device (`jaxseg.post_dae.corrupt`)."""
    return record


def parse_classes(texts: Sequence[str]) -> dict[str, str]:
    """Returns the folder and the name of each class, in the given order.

    Args:
      texts: folder and name each, such as "heart_masks=heart".

    Raises:
      ValueError: a text has another form, a folder lies outside the folder of the data, or one occurs twice.

    >>> parse_classes(["lung_masks=lungs", "heart_masks=heart"])
    {'lung_masks': 'lungs', 'heart_masks': 'heart'}
    """
    classes: dict[str, str] = {}
    for text in texts:
        folder, _, name = (part.strip() for part in text.partition("="))
        if not folder or not name:
            raise ValueError(f"{text!r} is not FOLDER=NAME, such as heart_masks=heart")
        if Path(folder).is_absolute() or ".." in Path(folder).parts:
            raise ValueError(f"{text!r}: the folder must lie in the folder of the data")
        if folder in classes or name in classes.values():
            raise ValueError(f"{text!r}: this folder or this name occurs twice")
        classes[folder] = name
    return classes


def _by_stem(folder: Path) -> dict[str, Path]:
    """Returns the masks of a folder by their names without suffix; raises ValueError if a name occurs twice."""
    found: dict[str, Path] = {}
    for path in _masks_in(folder):
        if path.stem in found:
            raise ValueError(f"{folder}: {found[path.stem].name} and {path.name} have the same name")
        found[path.stem] = path
    return found


def _masks_in(folder: Path) -> tuple[Path, ...]:
    """Returns the masks of a folder, sorted by name; raises ValueError if it has none."""
    entries = sorted(folder.iterdir(), key=lambda path: path.name)
    files = tuple(path for path in entries if _is_mask(path))
    if not files:
        raise ValueError(
            f"{folder}: none of its {len(entries)} entries is a mask; name the folder that holds the png, jpg or npy "
            "files itself"
        )
    return files


def _is_mask(path: Path) -> bool:
    return path.suffix.lower() in (*PICTURES, ".npy") and not path.name.startswith(".") and path.is_file()


def _fitted(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a mask, bool or uint8 from 0 to 255, to float32 in [0, 1]."""
    return bilinear_array(mask, size) / np.float32(1 if mask.dtype == bool else 255)
