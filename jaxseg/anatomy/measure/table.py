"""Tables of measurements: JSON files with one image each, and CSV or Parquet tables with one row per image.

A table has the columns `filename`, the columns of the features, and `reason`. A score that is the only feature has the
column `score`; with several features it has its own name. Columns whose names end in `_mm` or `_mm2` are in mm or mm²;
all other areas and lengths are in pixels of the network's grid, as in the original. The cell of a missing measurement
is empty, and `reason` says why. It also holds remarks that concern all values of an image, such as that it looks upside
down.

In a Parquet table, all columns except `filename` and `reason` are floating-point numbers, and text is written as it is.

Spreadsheets evaluate text that looks like a formula. Text that starts with = + - @, a tab, a line break or an
apostrophe is therefore written with an apostrophe before it. Characters of a file name that UTF-8 cannot encode are
written as escapes.
"""

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from jaxseg import files
from jaxseg.anatomy.measure.features import FEATURES, Measurements
from jaxseg.parquet import is_parquet, write_table

FILENAME, REASON, SCORE = "filename", "reason", "score"
MAX_BYTES = 2**28  # largest size of one image's JSON

_FORMULA = tuple("=+-@\t\r\n'") + (
    "\uff1d",
    "\uff0b",
    "\uff0d",
    "\uff20",
)  # full-width forms too
_SCORES = tuple(feature.name for feature in FEATURES if feature.kind == "score")
_OF_SCORE = {column: f.name for f in FEATURES if f.kind == "score" for column in f.columns + f.columns_mm}
_ENDINGS = sorted((c for f in FEATURES if f.kind != "score" for c in f.columns + f.columns_mm), key=len, reverse=True)


def merge(parts: Sequence[tuple[str, Path | str]], path: Path, *, features: Sequence[str] = ()) -> None:
    """Writes one table of the measurements of many images, atomically; a file at `path` is replaced.

    Only one image's measurements are in memory at a time.

    Args:
      parts: for each image, its file name and either the path of its measurements (the JSON of `to_json`) or a
        sentence that says why there are none.
      path: the table: .csv (UTF-8, comma-separated, RFC 4180) or .parquet.
      features: names of the requested features; a requested score has a column even if no image could be read.

    Raises:
      ValueError: a file does not hold measurements, or pyarrow is not installed.
      OSError: a file cannot be read or written.
    """
    parts, asked = list(parts), set(features)

    def images() -> Iterator[Measurements]:
        for _, part in parts:
            if isinstance(part, Path):
                measured = read_json(part)
                asked.update(measured.features)
                yield measured

    columns = columns_of(images())
    columns += [name for name in _SCORES if name in asked and name not in columns]
    head = [FILENAME, *(SCORE if column in _SCORES and asked == {column} else column for column in columns), REASON]
    rows = _rows(parts, columns)
    if is_parquet(path):
        kinds = {name: "string" if name in (FILENAME, REASON) else "double" for name in head}
        write_table(path, kinds, rows)
        return
    options = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    with files.atomic_file(path) as temporary, temporary.open("w", **options) as file:
        writer = csv.writer(file)
        writer.writerow(map(_safe, head))
        for name, *values, reason in rows:
            writer.writerow([_safe(name), *map(_number, values), _safe(reason)])


def _rows(parts: Sequence[tuple[str, Path | str]], columns: Sequence[str]) -> Iterator[list]:
    """Yields the rows of a table: the file name, the values in the order of the columns or None, and the reason."""
    for name, part in parts:
        if isinstance(part, str):
            yield [name, *[None] * len(columns), part]
            continue
        measured = read_json(part)
        values = (measured.values.get(column) for column in columns)
        remarks = [text for text in (summary(measured.reasons), *measured.notes) if text]
        yield [name, *(None if value is None or math.isnan(value) else value for value in values), "; ".join(remarks)]


def columns_of(images: Iterable[Measurements]) -> list[str]:
    """Returns the columns of several images, each once: a new column follows the one before it in its image.

    A new column that is the first of its image is placed after all known columns.
    """
    columns: list[str] = []
    seen: set[tuple[str, ...]] = set()
    for image in images:
        names = tuple(image.values)
        if names in seen:
            continue
        seen.add(names)
        known, place = set(columns), len(columns)
        for name in names:
            if name in known:
                place = columns.index(name) + 1
            else:
                columns.insert(place, name)
                place += 1
    return columns


def to_json(measurements: Measurements) -> dict:
    """Returns measurements in a form that JSON can hold: NaN as null, and without the lines for drawing."""
    values = {name: None if math.isnan(value) else value for name, value in measurements.values.items()}
    content = {"features": list(measurements.features), "values": values, "reasons": dict(measurements.reasons)}
    return content | ({"notes": list(measurements.notes)} if measurements.notes else {})


def from_json(content: dict) -> Measurements:
    """Returns the measurements from the result of `to_json`; they have no lines.

    Raises:
      ValueError: the content does not have the form of `to_json`.
    """
    fields = content if isinstance(content, dict) else {}
    features, values, reasons = (fields.get(name) for name in ("features", "values", "reasons"))
    notes = fields.get("notes", [])
    good = all(isinstance(texts, list) and all(isinstance(t, str) for t in texts) for texts in (features, notes))
    good = good and isinstance(values, dict) and all(_is_value(value) for value in values.values())
    good = good and isinstance(reasons, dict) and all(isinstance(reason, str) for reason in reasons.values())
    if not good:
        raise ValueError("measurements must be features (names), values (numbers or null) and reasons (text)")
    values = {name: math.nan if value is None else value for name, value in values.items()}
    return Measurements(values, reasons, tuple(features), notes=tuple(notes))


def read_json(path: Path) -> Measurements:
    """Returns the measurements of one image from a JSON file with the content of `to_json`.

    Raises:
      ValueError: the file holds something else.
      OSError: it cannot be read.
    """
    try:
        return from_json(files.read_json(path, most=MAX_BYTES))
    except ValueError as error:
        raise ValueError(f"{path} holds no measurements: {error}") from None


def summary(reasons: dict[str, str], *, most: int | None = None) -> str:
    """Returns one line on why columns are empty: "heart_perimeter: reason; reason: lung, spine, CTR; ...".

    Args:
      reasons: the reasons by column.
      most: largest number of names per reason; the number of further names is stated instead. None: no limit.
    """
    groups: dict[str, dict[str, list[str]]] = {}
    for column, reason in reasons.items():
        groups.setdefault(reason, {}).setdefault(_subject(column), []).append(column)
    parts = []
    for reason, subjects in groups.items():
        columns = [column for names in subjects.values() for column in names]
        names = list(subjects)[:most]
        more = f" and {len(subjects) - len(names)} more" if len(subjects) > len(names) else ""
        parts.append(f"{columns[0]}: {reason}" if len(columns) == 1 else f"{reason}: {', '.join(names)}{more}")
    return "; ".join(parts)


def _subject(column: str) -> str:
    """Returns the label or the score that a column belongs to."""
    if column in _OF_SCORE:
        return _OF_SCORE[column]
    ending = next((ending for ending in _ENDINGS if column.endswith(f"_{ending}")), None)
    return column[: -len(ending) - 1] if ending else column


def _number(value: float | None) -> str:
    return "" if value is None else repr(value)


def _safe(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def _is_value(value) -> bool:
    """Returns whether a value from JSON is null or a number that a measurement can be."""
    if value is None:
        return True
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
