"""COCO lines: the masks of all images of a run in one file of JSON lines, which only grows while the run works.

The first line is the head; it holds the categories. Every other line holds the masks of one image:

    {"image": {"id": "ward/chest", "file_name": "ward/chest.png", "height": 2048, "width": 2500}, "annotations": [...]}

Image and annotations are COCO's, with compressed run lengths, and without empty masks. The `score` of an annotation is
the mean probability in its mask, if that is known. A later line of an image replaces an earlier one. A last line
without a line break is incomplete: readers ignore it.
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
      places: id of an image -> offset and length of its last line, in bytes.
      file_names: id of an image -> its file name.
      replaced: number of lines that a later line replaces.
    """

    categories: list
    places: dict[str, tuple[int, int]]
    file_names: dict[str, str]
    replaced: int


class MaskLines:
    """The file of COCO lines to which a run adds images. A run that is killed loses at most the image at hand.

    Args:
      path: the file; it is made with the first image.
      classes: index of a class in the model's label set -> its name, of all classes that are segmented.
    """

    def __init__(self, path: Path, classes: Mapping[int, str]):
        self.path, self.classes = path, dict(classes)
        self._lock, self._ids = threading.Lock(), set[str]()
        self._exists, self._replaced = False, 0

    def open(self) -> None:
        """Finds out which images the file holds. A file that is damaged or holds other classes is started again."""
        index = known_index(self.path, self.classes)
        self._exists = index is not None
        self._ids, self._replaced = (set(index.places), index.replaced) if index else (set(), 0)

    def has(self, image_id: str) -> bool:
        """Returns whether the file holds masks of an image."""
        return image_id in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, image_id: str, file_name: str, masks: Masks) -> None:
        """Appends the masks of an image, and syncs the file to disk; may be called from any thread.

        Args:
          image_id: identifies the image in the run.
          file_name: of the image.
          masks: the masks.

        Raises:
          OSError: the file cannot be written.
        """
        line = line_of(image_id, file_name, masks)
        with self._lock:
            if not self._exists:
                journal.create(self.path, head_of(self.classes))
                self._exists = True
            journal.append(self.path, line)
            self._replaced += image_id in self._ids
            self._ids.add(image_id)

    def finish(self) -> None:
        """Removes the lines that later ones replace; called at the end of a run."""
        if self._replaced:
            join([self.path], self.path)
            self._replaced = 0


def head_of(classes: Mapping[int, str]) -> dict:
    """Returns the first line of a file with these classes, by index."""
    info = {"description": "masks written by jaxseg"}
    return {MARK: 1, "info": info, "categories": coco.categories(classes)}


def line_of(image_id: str, file_name: str, masks: Masks) -> dict:
    """Returns the line of an image, as JSON holds it."""
    means = getattr(masks, "mean_probabilities", None)
    height, width = (int(side) for side in masks.size)
    annotations = []
    for k, index in enumerate(masks.indices):
        runs = runs_of(masks, k)
        if len(runs) < 2:
            continue  # an empty mask
        ids: dict[str, Any] = {"annotation_id": f"{image_id}:{index}", "image_id": image_id, "category_id": index}
        found = coco.annotation_of_runs(runs, (height, width), **ids)
        if means is not None and math.isfinite(means[k]):
            found["score"] = round(float(means[k]), 4)
        annotations.append(found)
    image = {"id": image_id, "file_name": file_name, "height": height, "width": width}
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


def read_image(path: Path, image_id: str) -> dict:
    """Returns the masks of one image as the content of a COCO file with this image.

    Raises:
      ValueError: the file is not one of COCO lines, or does not hold the image.
      OSError: it cannot be read.
    """
    index = read_index(path)
    offset, length = index.places[image_id]
    with path.open("rb") as file:
        file.seek(offset)
        line = parse_json(file.read(length))
    return {"images": [line["image"]], "categories": index.categories, "annotations": line["annotations"]}


def images(path: Path) -> Iterator[dict]:
    """Yields the last line of every image, in the order of the file, one at a time."""
    for raw in _last_lines(path):
        yield json.loads(raw)


def join(paths: Iterable[Path], path: Path) -> None:
    """Writes the last line of every image of several files into one; a file at `path` is replaced as a whole.

    Args:
      paths: files with the same categories; an image in a later file replaces one in an earlier file.
      path: the file to write, which may be one of `paths`.

    Raises:
      ValueError: a file is not one of COCO lines, or the categories differ.
      OSError: a file cannot be read or written.
    """
    paths = list(paths)
    indices = [read_index(part) for part in paths]
    for part, index in zip(paths, indices, strict=True):
        if index.categories != indices[0].categories:
            raise ValueError(f"{part} has other categories than {paths[0]}; they cannot be joined")
    last = {image_id: number for number, index in enumerate(indices) for image_id in index.places}
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        with paths[0].open("rb") as first:
            file.write(first.readline(MAX_LINE))
        for number, part in enumerate(paths):
            for raw in _last_lines(part, {image_id for image_id, holder in last.items() if holder == number}):
                file.write(raw)


def _last_lines(path: Path, wanted: set[str] | None = None) -> Iterator[bytes]:
    places = read_index(path).places
    with path.open("rb") as file:
        for image_id, (offset, length) in sorted(places.items(), key=lambda item: item[1]):
            if wanted is None or image_id in wanted:
                file.seek(offset)
                yield file.read(length)


@functools.lru_cache(maxsize=4)
def _index(path: Path, _size: int, _time: int) -> Index:
    places: dict[str, tuple[int, int]] = {}
    file_names: dict[str, str] = {}
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
            places[entry["id"]] = (file.tell() - len(raw), len(raw))
            file_names[entry["id"]] = entry["file_name"]
    return Index(head["categories"], places, file_names, count - len(places))


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
    good = isinstance(found, dict) and isinstance(found.get("id"), str) and isinstance(found.get("file_name"), str)
    return found if good else None
