"""Parquet tables of masks: one row per mask that is not empty, of all images of a run in one file.

The columns are those of `COLUMNS`. `rle` holds COCO's compressed run lengths, so that pycocotools decodes a row with
`decode({"size": [height, width], "counts": rle})`. An image without any mask has one row, in which `class` and `rle`
are missing. The file's metadata hold the names of the classes.

A Parquet file cannot grow. While a run works, its masks are in a hidden file of COCO lines beside the table, which is
written as a whole at the end.
"""

import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxseg.journal import journal_of
from jaxseg.masks import coco, lines
from jaxseg.masks.segmentation import Masks
from jaxseg.parquet import Groups, check_group, require_pyarrow, schema_of, table_writer

COLUMNS = {
    "image": "string",
    "key": "string",
    "class": "string",
    "height": "int32",
    "width": "int32",
    "rle": "string",
    "area": "int64",
    "box_x": "int32",
    "box_y": "int32",
    "box_width": "int32",
    "box_height": "int32",
    "mean_probability": "float",
}
CATEGORIES = "jaxseg_categories"  # name of the metadata with the classes
_NEEDED = ("image", "class", "height", "width", "rle")
BOX = ("box_x", "box_y", "box_width", "box_height")
_DICTIONARY = ("image", "key", "class")  # columns in which few texts are repeated often


@dataclasses.dataclass(frozen=True)
class Index:
    """Where the masks of each image are in a table.

    Attributes:
      categories: COCO's entries of the classes; None if the file does not list them.
      groups: key of an image -> the groups of rows that hold its masks.
      file_names: key of an image -> its file name.
      column: that of the keys.
    """

    categories: list | None
    groups: dict[str, tuple[int, ...]]
    file_names: dict[str, str]
    column: str


class MaskTable:
    """The table of a run's masks; it has the methods of `jaxseg.masks.lines.MaskLines`.

    Args:
      path: the table; it is written at the end of a run.
      classes: index of a class in the model's label set -> its name, of all classes that are segmented.

    Raises:
      ValueError: pyarrow is not installed.
    """

    def __init__(self, path: Path, classes: Mapping[int, str]):
        require_pyarrow()
        self.path, self.classes = path, dict(classes)
        self._lines, self._stored = lines.MaskLines(journal_of(path), classes), frozenset[str]()

    @property
    def mean_size(self) -> float:
        """Mean number of bytes of the images that were added, before they are compressed; 0 before the first."""
        return self._lines.mean_size

    def open(self) -> None:
        """Finds out which images the table and the lines of an interrupted run hold."""
        index = known_index(self.path, self.classes)
        self._stored = frozenset(index.groups) if index else frozenset()
        self._lines.open()

    def has(self, key: str) -> bool:
        """Returns whether the table, or what an interrupted run left, holds masks of an image."""
        return key in self._stored or self._lines.has(key)

    def add(self, key: str, file_name: str, masks: Masks) -> None:
        """Keeps the masks of an image, as `MaskLines.add` does."""
        self._lines.add(key, file_name, masks)

    def finish(self) -> None:
        """Writes the table with all masks, if there are new ones; called at the end of a run.

        Raises:
          OSError: the file cannot be written.
        """
        if len(self._lines) == 0:
            return
        sources = [self.path] if known_index(self.path, self.classes) else []
        join([*sources, self._lines.path], self.path, self.classes)
        self._lines.path.unlink()
        self.open()


def join(
    paths: Iterable[Path],
    path: Path,
    classes: Mapping[int, str] | None = None,
    *,
    holders: Mapping[str, Path] | None = None,
) -> None:
    """Writes the masks of several files into one table; a table at `path` is replaced as a whole.

    Args:
      paths: tables, and files of COCO lines.
      path: the table to write, which may be one of `paths`.
      classes: names of the classes by index; None: those of the first file.
      holders: as in `jaxseg.masks.lines.join`.

    Raises:
      ValueError: a file is not such a table, or its classes are others.
      OSError: a file cannot be read or written.
    """
    paths = list(paths)
    indices = [read_index(part) if part.suffix == ".parquet" else lines.read_index(part) for part in paths]
    categories = indices[0].categories if classes is None else coco.categories(classes)
    for part, index in zip(paths, indices, strict=True):
        if index.categories != categories:
            raise ValueError(f"{part} has other classes than {paths[0]}; they cannot be joined")
    if holders is None:
        holders = {key: part for part, index in zip(paths, indices, strict=True) for key in index.file_names}
    with _writer(path, categories) as table:
        for part, wanted in lines.keys_of(paths, holders).items():
            if part.suffix == ".parquet":
                for kept in _tables_of(part, wanted):
                    table.add_table(kept)
                continue
            for line in lines.images(part):
                if line["image"]["key"] in wanted:
                    _add(table, line, categories)


def write_masks(path: Path, key: str, file_name: str, masks: Masks) -> None:
    """Writes a table with the masks of one image; a file at `path` is replaced as a whole.

    Raises:
      ValueError: pyarrow is not installed.
      OSError: the file cannot be written.
    """
    categories = coco.categories(dict(zip(masks.indices, masks.names, strict=True)))
    with _writer(path, categories) as table:
        _add(table, lines.line_of(key, file_name, masks), categories)


def rows_of(line: dict, names: Mapping[int, str]) -> Iterator[dict]:
    """Yields the rows of an image: name of a column -> value.

    Args:
      line: the masks of the image, as `jaxseg.masks.lines.line_of` returns them.
      names: names of the classes by index.
    """
    entry = line["image"]
    image = {"image": entry["file_name"], "key": entry["key"], "height": entry["height"], "width": entry["width"]}
    for annotation in line["annotations"]:
        row = {"class": names[annotation["category_id"]], "rle": annotation["segmentation"]["counts"]}
        row |= dict(zip(BOX, map(int, annotation["bbox"]), strict=True))
        yield image | row | {"area": annotation["area"], "mean_probability": annotation.get("score")}
    if not line["annotations"]:
        yield image | {"area": 0}


def read_index(path: Path) -> Index:
    """Returns the index of a table, which is untrusted; it is kept in memory until the file changes.

    Raises:
      ValueError: the file is not a table of masks, or pyarrow is not installed.
      OSError: it cannot be read.
    """
    status = path.stat()
    return _index(path, status.st_size, status.st_mtime_ns)


def known_index(path: Path, classes: Mapping[int, str]) -> Index | None:
    """Returns the index of a table with these classes; None if there is none, or it is damaged or has others."""
    try:
        index = read_index(path)
    except (ValueError, FileNotFoundError):
        return None
    return index if index.categories == coco.categories(classes) else None


def read_image(path: Path, key: str) -> dict:
    """Returns the masks of one image as the content of a COCO file with this image.

    Raises:
      ValueError: the file is not a table of masks.
      OSError: it cannot be read.
    """
    index, status = read_index(path), path.stat()
    found: list[dict] = []
    for group in index.groups[key]:
        found += _group(path, status.st_size, status.st_mtime_ns, group).get(key, [])
    categories, masks = index.categories, [row for row in found if row["class"] is not None]
    if categories is None:
        names = dict.fromkeys(row["class"] for row in masks)
        categories = coco.categories(dict(enumerate(names)))
    ids = {category["name"]: category["id"] for category in categories}
    size = {name: found[0][name] for name in ("height", "width")}
    annotations = []
    for row in masks:
        rle = {"size": [row["height"], row["width"]], "counts": row["rle"]}
        annotations.append({"image_id": 1, "category_id": ids[row["class"]], "segmentation": rle})
    image = {"id": 1, "file_name": index.file_names[key]} | size
    return {"images": [image], "categories": categories, "annotations": annotations}


def _writer(path: Path, categories: Any) -> Any:
    schema = schema_of(COLUMNS, {CATEGORIES: json.dumps(categories)})
    return table_writer(path, schema, dictionary=_DICTIONARY)


def _add(table: Groups, line: dict, categories: Any) -> None:
    names = {category["id"]: category["name"] for category in categories}
    for row in rows_of(line, names):
        table.add(row)


def _tables_of(path: Path, wanted: set[str]) -> Iterator[Any]:
    """Yields the rows of these images, one group at a time."""
    arrow = require_pyarrow()
    with arrow.parquet.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            keys = table["key"]
            if not set(keys.unique().to_pylist()) <= wanted:
                table = table.filter(arrow.compute.is_in(keys, arrow.array(sorted(wanted), arrow.string())))
            yield table


@functools.lru_cache(maxsize=4)
def _index(path: Path, _size: int, _time: int) -> Index:
    arrow = require_pyarrow()
    groups: dict[str, list[int]] = {}
    file_names: dict[str, str] = {}
    try:
        with arrow.parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            missing = [name for name in _NEEDED if name not in columns]
            if missing:
                raise ValueError(f"it has no column {', '.join(missing)}")
            column = "key" if "key" in columns else "image"
            for group in range(file.num_row_groups):
                check_group(file, group)
                found = file.read_row_group(group, columns=sorted({column, "image"}))
                pairs = found.group_by(found.column_names).aggregate([])
                for key, name in dict(zip(_texts(pairs[column]), _texts(pairs["image"]), strict=True)).items():
                    groups.setdefault(key, []).append(group)
                    file_names[key] = name
            listed = (file.schema_arrow.metadata or {}).get(CATEGORIES.encode())
    except (arrow.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"it is not a Parquet table of masks, or damaged ({error})") from None
    categories = json.loads(listed) if listed else None
    return Index(categories, {key: tuple(found) for key, found in groups.items()}, file_names, column)


def _texts(column: Any) -> list[str]:
    found = column.to_pylist()
    if not all(isinstance(text, str) for text in found):
        raise ValueError("a name of an image is not a text")
    return found


@functools.lru_cache(maxsize=2)  # one group holds several images, which are often read one after the other
def _group(path: Path, _size: int, _time: int, group: int) -> dict[str, list[dict]]:
    """Returns the rows of a group by the key of their image."""
    arrow, index = require_pyarrow(), read_index(path)
    try:
        with arrow.parquet.ParquetFile(path) as file:
            check_group(file, group)
            table = file.read_row_group(group, columns=sorted({index.column, *_NEEDED}))
    except arrow.ArrowException as error:
        raise ValueError(f"it is damaged ({error})") from None
    found: dict[str, list[dict]] = {}
    for row in table.to_pylist():
        found.setdefault(row[index.column], []).append(row)
    return found
