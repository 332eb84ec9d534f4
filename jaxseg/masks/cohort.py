"""Files that hold the masks of all images of a run: COCO lines (.jsonl) and Parquet (.parquet).

A folder with one file per mask is simple, but 377,110 X-rays with 159 classes would be 60 million files. Here a run
writes one file. Files that were moved or written by other programs are read too.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Protocol

from jaxseg.files import printable
from jaxseg.images.picture import ImageError
from jaxseg.journal import journal_of
from jaxseg.masks import coco, lines, parquet
from jaxseg.masks.formats import Stack, stack_of_coco
from jaxseg.masks.segmentation import Masks
from jaxseg.parquet import require_pyarrow

TYPES = {"coco-lines": ".jsonl", "parquet": ".parquet"}  # output type -> suffix of its file
_MODULES: dict[str, ModuleType] = {".jsonl": lines, ".parquet": parquet}
_NAME = "masks"
_PART = re.compile(rf"(\.jaxseg-)?{_NAME}\.\d+-of-\d+")  # name of the file of a part without suffix


class MaskFile(Protocol):
    """One file to which a run adds the masks of its images, one after the other.

    Attributes:
      path: the file.
      mean_size: mean number of bytes of the images that were added; 0 before the first.
    """

    path: Path

    @property
    def mean_size(self) -> float: ...

    def open(self) -> None:
        """Finds out which images the file holds."""

    def has(self, key: str) -> bool:
        """Returns whether the file holds masks of an image."""

    def add(self, key: str, file_name: str, masks: Masks) -> None:
        """Adds the masks of an image, in place of earlier ones; may be called from any thread."""

    def finish(self) -> None:
        """Completes the file at the end of a run."""


def file_name(output_type: str, part: str | None = None) -> str:
    """Returns the name of the file in the output folder.

    Args:
      output_type: key of `TYPES`.
      part: the part of a run in the names of files, such as "3-of-8"; None: the run is not divided.

    >>> file_name("coco-lines"), file_name("parquet", "3-of-8")
    ('masks.jsonl', 'masks.3-of-8.parquet')
    """
    number = "" if part is None else f".{part}"
    return f"{_NAME}{number}{TYPES[output_type]}"


def mask_file(output_type: str, folder: Path, classes: Mapping[int, str], part: str | None = None) -> "RunMasks":
    """Returns the file to which a run adds the masks of its images.

    Args:
      output_type: key of `TYPES`.
      folder: the output folder.
      classes: index of a class in the model's label set -> its name, of all classes that are segmented.
      part: as in `file_name`.

    Raises:
      ValueError: a package is missing.
    """
    path = folder / file_name(output_type, part)
    own: MaskFile = lines.MaskLines(path, classes) if path.suffix == ".jsonl" else parquet.MaskTable(path, classes)
    return RunMasks(own, classes)


class RunMasks:
    """A `MaskFile` that also knows the images in other files of the same folder, which are not changed.

    Args:
      own: the file of this run.
      classes: as in `mask_file`.
    """

    def __init__(self, own: MaskFile, classes: Mapping[int, str]):
        self.own, self.path, self.classes = own, own.path, classes
        self._valid: frozenset[str] = frozenset()

    def open(self, places: Mapping[str, str] | None = None) -> None:
        """Finds out which images the files hold. Other files are only read if `places` names them.

        Args:
          places: key of an image -> name of the file with its masks, as in `find_holders`; None: there are no masks.
        """
        self.own.open()
        self._valid = frozenset(find_holders(self.path.parent, places or {}, self.classes))

    def has_valid(self, key: str) -> bool:
        """Returns whether the file that was named for an image holds its masks."""
        return key in self._valid

    def has(self, key: str) -> bool:
        """Returns whether a file holds masks of an image, which may be out of date."""
        return self.own.has(key) or key in self._valid

    @property
    def mean_size(self) -> float:
        """Mean number of bytes of the images that were added; 0 before the first."""
        return self.own.mean_size

    def add(self, key: str, file_name: str, masks: Masks) -> None:
        """Adds the masks of an image to the file of this run."""
        self.own.add(key, file_name, masks)

    def finish(self) -> None:
        """Completes the file of this run."""
        self.own.finish()


def part_files(folder: Path, output_type: str) -> list[Path]:
    """Returns the files of parts in an output folder, and the hidden ones that interrupted parts left."""
    pattern = Path(f"{_NAME}.*-of-*{TYPES[output_type]}")
    tables = [path for path in folder.glob(pattern.name) if _PART.fullmatch(path.stem)]
    hidden = folder.glob(journal_of(pattern).name) if pattern.suffix == ".parquet" else ()
    return sorted([*tables, *(path for path in hidden if _PART.fullmatch(path.stem))])


def find_holders(folder: Path, places: Mapping[str, str], classes: Mapping[int, str] | None = None) -> dict[str, Path]:
    """Returns the files that hold the masks of images; images that their file does not hold are left out.

    Args:
      folder: the output folder.
      places: key of an image -> name of the file that holds its masks, as the summary records it.
      classes: leave out files with other classes than these, see `mask_file`; None: their classes are not compared.

    Returns:
      Key of an image -> its file.

    Raises:
      ValueError: a package is missing.
      OSError: a file cannot be read.
    """
    found: dict[str, Path] = {}
    for name in sorted(set(places.values())):
        for file in _files_of(folder, name):
            if file.suffix == ".parquet":
                require_pyarrow()
            try:
                index = _MODULES[file.suffix].read_index(file)
            except ValueError:  # it is damaged
                continue
            if classes is None or index.categories == coco.categories(classes):
                found |= {key: file for key in index.file_names if places.get(key) == name}
    return found


def join(holders: Mapping[str, Path], path: Path) -> None:
    """Writes the masks of images in several files into one file; a file at `path` is replaced as a whole.

    Args:
      holders: key of an image -> the file that holds its masks; at least one. The files have the same classes.
      path: the file to write, which may be one of them.

    Raises:
      ValueError: a file is damaged, or its classes differ.
      OSError: a file cannot be read or written.
    """
    _MODULES[path.suffix].join(sorted(set(holders.values())), path, holders=holders)
    if path.suffix == ".parquet":
        journal_of(path).unlink(missing_ok=True)  # its masks are in the table, or outdated


def _files_of(folder: Path, name: str) -> list[Path]:
    """Returns the existing files whose masks a summary, which is untrusted, records under a name."""
    path = folder / name
    known = path.suffix in _MODULES and re.fullmatch(rf"{_NAME}(\.\d+-of-\d+)?{re.escape(path.suffix)}", name)
    files = [path, journal_of(path)] if path.suffix == ".parquet" else [path]  # the masks in the journal are later
    return [file for file in files if known and file.is_file()]


def is_cohort_file(path: Path) -> bool:
    """Returns whether the suffix of a file is that of a file with the masks of many images."""
    return path.suffix.lower() in _MODULES and not path.is_dir()


def image_names(path: Path) -> dict[str, str]:
    """Returns the keys of the images in a file -> their file names, in the order of the file.

    Raises:
      ImageError: the file is damaged, or holds something else.
      OSError: it cannot be read.
    """
    try:
        return _MODULES[path.suffix.lower()].read_index(path).file_names
    except ValueError as error:
        raise ImageError(printable(str(error))) from None


def open_cohort(path: Path, image: Path | None, key: str | None = None) -> Stack:
    """Opens the masks of one image; each mask is decoded when it is read.

    Args:
      path: the file.
      image: file of the image. It is found by its name; if several images have that name, by the end of its path.
        None: the file must have one image, or `key` must be given.
      key: key of the image, if it is known.

    Raises:
      ImageError: the file is damaged, or does not hold masks of the image.
      OSError: it cannot be read.
    """
    names = image_names(path)
    chosen = _chosen(names, image) if key is None else key
    if chosen not in names:
        raise ImageError(f"holds no masks of {printable(image.name if image else chosen)}; run jaxseg segment again")
    try:
        content = _MODULES[path.suffix.lower()].read_image(path, chosen)
    except (ValueError, KeyError, TypeError) as error:
        raise ImageError(f"the masks of {printable(names[chosen])} are damaged ({printable(str(error))})") from None
    return stack_of_coco(content, path.name, None)


def _chosen(names: dict[str, str], image: Path | None) -> str:
    """Returns the key of an image that is found by its path."""
    if len(names) == 1:
        return next(iter(names))
    if image is None:
        raise ImageError(f"the file has {len(names):,} images; choose one with image=")
    parts = Path(os.path.abspath(image)).parts
    same = {key: Path(name).parts for key, name in names.items() if name.endswith(image.name)}
    same = {key: found for key, found in same.items() if found and found[-1] == image.name}
    ends = {key: found for key, found in same.items() if parts[-len(found) :] == found}
    longest = max(map(len, ends.values()), default=0)
    best = [key for key, found in ends.items() if len(found) == longest] or list(same)
    if len(best) != 1:
        raise ImageError(f"the file has {len(best) or 'no'} images called {printable(image.name)}; it must have one")
    return best[0]
