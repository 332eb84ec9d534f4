"""COCO lines: the masks of all images of a run in one file of JSON lines, which only grows while the run works.

The first line is the head; it holds the categories. Every other line holds the masks of one image:

    {"image": {"id": 7, "key": "ward/a", "file_name": "ward/a.png", "height": 99, "width": 88}, "annotations": [...]}

Image and annotations are COCO's, with compressed run lengths, and without empty masks. Their ids are unique in the
file. The `key` of an image is the name of its results in the output folder. The `score` of an annotation is the mean
probability in its mask, if that is known. A later line of an image replaces an earlier one. A last line without a line
break is incomplete: readers ignore it.
"""

import dataclasses
import functools
import json
import math
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from jaxseg import journal
from jaxseg.files import atomic_file, parse_json
from jaxseg.masks import coco
from jaxseg.masks.segmentation import Masks, runs_of

MARK = "jaxseg_masks"  # field of the head; its value is 1
MAX_LINE = 2**28  # bytes of the masks of one image
_START = b'{"image": '
_PREFIX = 2**12  # bytes at the start of a line that hold the entry of the image


@dataclasses.dataclass(frozen=True)
class Index:
    """Where the masks of each image are in a file of COCO lines.

    Attributes:
      categories: those of the head.
      places: key of an image -> offset and length of its last line, in bytes.
      file_names: key of an image -> its file name.
      numbers: key of an image -> its id in the file.
      replaced: number of lines that a later line replaces.
    """

    categories: list
    places: dict[str, tuple[int, int]]
    file_names: dict[str, str]
    numbers: dict[str, int]
    replaced: int


class MaskLines:
    """The file of COCO lines to which a run adds images. A run that is killed loses at most the image at hand.

    Args:
      path: the file; it is made with the first image.
      classes: index of a class in the model's label set -> its name, of all classes that are segmented.
    """

    def __init__(self, path: Path, classes: Mapping[int, str]):
        self.path, self.classes = path, dict(classes)
        self._lock, self._keys, self._numbers = threading.Lock(), set[str](), dict[str, int]()
        self._exists, self._replaced, self._last = False, 0, 0
        self._sizes: list[int] = []

    @property
    def mean_size(self) -> float:
        """Mean number of bytes of the images that were added; 0 before the first."""
        return sum(self._sizes) / len(self._sizes) if self._sizes else 0.0

    def open(self) -> None:
        """Finds out which images the file holds. A file that is damaged or holds other classes is started again."""
        index = known_index(self.path, self.classes)
        self._exists = index is not None
        self._keys, self._replaced = (set(index.places), index.replaced) if index else (set(), 0)
        self._numbers = dict(index.numbers) if index else {}
        self._last = max(self._numbers.values(), default=0)

    def has(self, key: str) -> bool:
        """Returns whether the file holds masks of an image."""
        return key in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: str, file_name: str, masks: Masks) -> None:
        """Appends the masks of an image, and syncs the file to disk; may be called from any thread.

        Args:
          key: identifies the image in the run.
          file_name: of the image.
          masks: the masks.

        Raises:
          OSError: the file cannot be written.
        """
        with self._lock:
            number = self._numbers.setdefault(key, self._last + 1)
            self._last = max(self._last, number)
        line = line_of(key, file_name, masks, number=number, width=width_of(self.classes))
        with self._lock:
            if not self._exists:
                journal.create(self.path, head_of(self.classes))
                self._exists = True
            before = self.path.stat().st_size
            journal.append(self.path, line)
            self._sizes.append(self.path.stat().st_size - before)
            self._replaced += key in self._keys
            self._keys.add(key)

    def finish(self) -> None:
        """Removes the lines that later ones replace; called at the end of a run."""
        if self._replaced:
            join([self.path], self.path)
            self._replaced = 0


def head_of(classes: Mapping[int, str]) -> dict:
    """Returns the first line of a file with these classes, by index."""
    info = {"description": "masks written by jaxseg"}
    return {MARK: 1, "info": info, "categories": coco.categories(classes)}


def width_of(classes: Iterable[int]) -> int:
    """Returns how far the ids of two images' annotations are apart, from the indices of the classes."""
    return 1 + max(classes, default=0)


def line_of(key: str, file_name: str, masks: Masks, *, number: int = 1, width: int = 1000) -> dict:
    """Returns the line of an image, as JSON holds it.

    Args:
      key: identifies the image in the run.
      file_name: of the image.
      masks: the masks.
      number: id of the image in the file, from 1.
      width: as `width_of` returns it; the ids of the annotations lie from 1 + (number - 1) * width on.
    """
    means = getattr(masks, "mean_probabilities", None)
    size = int(masks.size[0]), int(masks.size[1])
    annotations = []
    for k, index in enumerate(masks.indices):
        runs = runs_of(masks, k)
        if len(runs) < 2:
            continue  # an empty mask
        ids = {"annotation_id": 1 + (number - 1) * width + index, "image_id": number, "category_id": index}
        found = coco.annotation_of_runs(runs, size, **ids)
        if means is not None and math.isfinite(means[k]):
            found["score"] = round(float(means[k]), 4)
        annotations.append(found)
    image = {"id": number, "key": key, "file_name": file_name, "height": size[0], "width": size[1]}
    return {"image": image, "annotations": annotations}


def read_index(path: Path) -> Index:
    """Returns the index of a file, which is untrusted; it is kept in memory until the file changes.

    The time grows with the size of the file, since its lines are read, but their masks are not decoded.

    Raises:
      ValueError: the file is not one of COCO lines.
      OSError: it cannot be read.
    """
    status = path.stat()
    return _index(path, status.st_size, status.st_mtime_ns)


def known_index(path: Path, classes: Mapping[int, str]) -> Index | None:
    """Returns the index of a file with these classes; None if there is none, or it is damaged or has others."""
    try:
        index = read_index(path)
    except (ValueError, FileNotFoundError):
        return None
    return index if index.categories == coco.categories(classes) else None


def read_image(path: Path, key: str) -> dict:
    """Returns the masks of one image as the content of a COCO file with this image.

    Raises:
      ValueError: the file is not one of COCO lines, or does not hold the image.
      OSError: it cannot be read.
    """
    index = read_index(path)
    offset, length = index.places[key]
    with path.open("rb") as file:
        file.seek(offset)
        line = parse_json(file.read(length))
    return {"images": [line["image"]], "categories": index.categories, "annotations": line["annotations"]}


def images(path: Path) -> Iterator[dict]:
    """Yields the last line of every image, in the order of the file, one at a time."""
    for raw in _last_lines(path):
        yield json.loads(raw)


def join(paths: Iterable[Path], path: Path, *, holders: Mapping[str, Path] | None = None) -> None:
    """Writes the last line of every image of several files into one; a file at `path` is replaced as a whole.

    The images of several files get new ids.

    Args:
      paths: files with the same categories.
      path: the file to write, which may be one of `paths`.
      holders: key of an image -> the one of `paths` from which it is taken; other images are left out. None: all images
        are taken, and one in a later file replaces one in an earlier file.

    Raises:
      ValueError: a file is not one of COCO lines, or the categories differ.
      OSError: a file cannot be read or written.
    """
    paths = list(paths)
    indices = [read_index(part) for part in paths]
    for part, index in zip(paths, indices, strict=True):
        if index.categories != indices[0].categories:
            raise ValueError(f"{part} has other categories than {paths[0]}; they cannot be joined")
    if holders is None:
        holders = {key: part for part, index in zip(paths, indices, strict=True) for key in index.places}
    width, number = width_of(category["id"] for category in indices[0].categories), 0
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        with paths[0].open("rb") as first:
            file.write(first.readline(MAX_LINE))
        for part, keys in keys_of(paths, holders).items():
            for raw in _last_lines(part, keys):
                number += 1
                file.write(raw if len(paths) == 1 else _renumbered(raw, number, width))


def keys_of(paths: Iterable[Path], holders: Mapping[str, Path]) -> dict[Path, set[str]]:
    """Returns for each file the keys of the images that are taken from it; `holders` is as in `join`."""
    found: dict[Path, set[str]] = {path: set() for path in paths}
    for key, path in holders.items():
        found[path].add(key)
    return found


def _renumbered(raw: bytes, number: int, width: int) -> bytes:
    line = json.loads(raw)
    line["image"]["id"] = number
    for one in line["annotations"]:
        one |= {"id": 1 + (number - 1) * width + one["category_id"], "image_id": number}
    return (json.dumps(line) + "\n").encode()


def _last_lines(path: Path, wanted: set[str] | None = None) -> Iterator[bytes]:
    places = read_index(path).places
    with path.open("rb") as file:
        for key, (offset, length) in sorted(places.items(), key=lambda item: item[1]):
            if wanted is None or key in wanted:
                file.seek(offset)
                yield file.read(length)


@functools.lru_cache(maxsize=4)
def _index(path: Path, _size: int, _time: int) -> Index:
    places: dict[str, tuple[int, int]] = {}
    file_names: dict[str, str] = {}
    numbers: dict[str, int] = {}
    count = 0
    with path.open("rb") as file:
        head = _parsed(_line(file))
        if head.get(MARK) != 1 or not isinstance(head.get("categories"), list):
            raise ValueError("its first line is not the head of COCO lines")
        while raw := _line(file):
            entry = _image_entry(raw)
            if entry is None:  # damaged
                continue
            count += 1
            key = entry.get("key", entry["file_name"])
            places[key] = (file.tell() - len(raw), len(raw))
            file_names[key], numbers[key] = entry["file_name"], entry["id"]
    return Index(head["categories"], places, file_names, numbers, count - len(places))


def _line(file: IO[bytes]) -> bytes:
    """Returns the next complete line; b"" at the end of the file."""
    raw = file.readline(MAX_LINE)
    if len(raw) == MAX_LINE:
        raise ValueError(f"a line has more than {MAX_LINE:,} bytes")
    return raw if raw.endswith(b"\n") else b""


def _parsed(raw: bytes) -> dict:
    try:
        found = parse_json(raw)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _image_entry(raw: bytes) -> dict | None:
    """Returns the entry of the image of a line, without reading its masks if possible; None if it is damaged."""
    found: Any = None
    if raw.startswith(_START):
        try:
            found, _ = json.JSONDecoder().raw_decode(raw[:_PREFIX].decode("utf-8", "replace"), len(_START))
        except (ValueError, RecursionError):
            found = None
    if found is None:  # written by another program, or a very long name
        found = _parsed(raw).get("image")
    good = isinstance(found, dict) and type(found.get("id")) is int and isinstance(found.get("file_name"), str)
    return found if good and isinstance(found.get("key", ""), str) else None
