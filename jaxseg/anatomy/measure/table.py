"""Tables of measurements: CSV with a row an image, and JSON of one image, from which tables are merged.

A table has the columns `filename`, those of the features, and `reason`. A score that is the only feature has the column
`score`; of several features it has its name. What could not be measured is an empty cell, and `reason` says why.

Spreadsheets run what looks like a formula. Text that starts with one of = + - @, a tab, a line break, or the
apostrophe itself is written behind an apostrophe, which `read_csv` takes off again. What cannot be UTF-8 in a file's
name is written as an escape.
"""

import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from jaxseg.anatomy.measure.features import FEATURES, Measurements
from jaxseg.files import atomic_file

FILENAME, REASON, SCORE = "filename", "reason", "score"
MAX_BYTES = 2**28  # of one image's JSON, or of a table to be read

_FORMULA = tuple("=+-@\t\r\n'") + ("\uff1d", "\uff0b", "\uff0d", "\uff20")  # full-width forms run too in some
_SCORES = tuple(feature.name for feature in FEATURES if feature.kind == "score")
_OF_SCORE = {column: f.name for f in FEATURES if f.kind == "score" for column in f.columns + f.columns_mm}
_ENDINGS = sorted((c for f in FEATURES if f.kind != "score" for c in f.columns + f.columns_mm), key=len, reverse=True)

Row = tuple[str, Measurements | str]  # the name of a file, and its measurements or why there are none


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Writes the table of images, whole or not at all; a file at `path` is replaced.

    Args:
      rows: for every image its file's name, and its measurements, or a sentence that says why there are none.
      path: of the table: UTF-8, commas, RFC 4180.
    """
    rows = list(rows)
    _write(lambda: iter(rows), path)


def merge(parts: Sequence[tuple[str, Path | str]], path: Path, *, features: Sequence[str] = ()) -> None:
    """Writes the table of images whose measurements lie in files, with one of them in memory at a time.

    Args:
      parts: for every image its file's name, and the file of its measurements (the JSON of `to_json`), or a sentence
        that says why there are none.
      path: of the table, as in `write_csv`.
      features: names of those asked for; scores have a column even where no image could be read.

    Raises:
      ValueError: a file holds no measurements; OSError: it cannot be read.
    """
    parts = list(parts)
    _write(
        lambda: ((name, read_json(part) if isinstance(part, Path) else part) for name, part in parts), path, features
    )


def columns_of(images: Iterable[Measurements]) -> list[str]:
    """Returns all columns of several images, each once: a new one stands behind the one before it in its image.

    A new one that is the first of its image stands behind all that are known.
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


def read_csv(path: Path) -> list[dict[str, float | str]]:
    """Returns the rows of a table that `write_csv` or `merge` wrote, by column; empty cells of features are NaN.

    Raises:
      ValueError: the file is no such table; OSError: it cannot be read.
    """
    try:
        with _small(path).open(encoding="utf-8", newline="") as file:
            head, *rows = list(csv.reader(file, strict=True)) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no table of measurements: {error}") from None
    head = [_bare(name) for name in head]
    if head[:1] != [FILENAME] or head[-1] != REASON or len(set(head)) < len(head):
        raise ValueError(f"{path} is no table of measurements: its columns do not go from {FILENAME} to {REASON}")
    if any(len(row) != len(head) for row in rows):
        raise ValueError(f"{path} has rows that are not as long as its first: it is damaged")
    return [{name: _cell(name, text, path) for name, text in zip(head, row, strict=True)} for row in rows]


def to_json(measurements: Measurements) -> dict:
    """Returns measurements as JSON can hold them: NaN as null, without the lines for drawing."""
    values = {name: None if math.isnan(value) else value for name, value in measurements.values.items()}
    return {"features": list(measurements.features), "values": values, "reasons": dict(measurements.reasons)}


def from_json(content: dict) -> Measurements:
    """Returns the measurements that `to_json` gave, without lines.

    Raises:
      ValueError: the content is not as `to_json` gives it.
    """
    fields = content if isinstance(content, dict) else {}
    features, values, reasons = (fields.get(name) for name in ("features", "values", "reasons"))
    good = isinstance(features, list) and all(isinstance(name, str) for name in features)
    good = good and isinstance(values, dict) and all(_is_value(value) for value in values.values())
    good = good and isinstance(reasons, dict) and all(isinstance(reason, str) for reason in reasons.values())
    if not good:
        raise ValueError("measurements must be features (names), values (numbers or null) and reasons (text)")
    values = {name: math.nan if value is None else value for name, value in values.items()}
    return Measurements(values, reasons, tuple(features))


def read_json(path: Path) -> Measurements:
    """Returns the measurements of one image from a file with the JSON of `to_json`.

    Raises:
      ValueError: it holds something else; OSError: it cannot be read.
    """
    try:
        return from_json(json.loads(_small(path).read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} holds no measurements: {error}") from None


def summary(reasons: dict[str, str], *, most: int | None = None) -> str:
    """Returns in one line why columns are empty: "heart_perimeter: why; why: lung, spine, CTR; ...".

    Args:
      reasons: by column.
      most: how many names a reason may hold; how many more there are is said instead of them. None: all.
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


def _write(rows: Callable[[], Iterator[Row]], path: Path, features: Sequence[str] = ()) -> None:
    asked = set(features)

    def images() -> Iterator[Measurements]:
        for _, measured in rows():
            if isinstance(measured, Measurements):
                asked.update(measured.features)
                yield measured

    columns = columns_of(images())
    columns += [name for name in _SCORES if name in asked and name not in columns]
    head = [FILENAME, *(SCORE if column in _SCORES and asked == {column} else column for column in columns), REASON]
    options = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    with atomic_file(path) as temporary, temporary.open("w", **options) as file:
        writer = csv.writer(file)
        writer.writerow(map(_safe, head))
        for name, measured in rows():
            if isinstance(measured, str):
                writer.writerow([_safe(name), *[""] * len(columns), _safe(measured)])
                continue
            cells = (_number(measured.values.get(column)) for column in columns)
            writer.writerow([_safe(name), *cells, _safe(summary(measured.reasons))])


def _subject(column: str) -> str:
    """Returns the label or the score feature that a column belongs to."""
    if column in _OF_SCORE:
        return _OF_SCORE[column]
    ending = next((ending for ending in _ENDINGS if column.endswith(f"_{ending}")), None)
    return column[: -len(ending) - 1] if ending else column


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(value)


def _safe(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def _bare(text: str) -> str:
    return text[1:] if text.startswith("'") else text


def _cell(column: str, text: str, path: Path) -> float | str:
    if column in (FILENAME, REASON):
        return _bare(text)
    if not text:
        return math.nan
    try:
        return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else float(text)
    except ValueError:
        raise ValueError(f"{path} has {text!r} in the column {column!r}, where a number belongs") from None


def _is_value(value) -> bool:
    """Whether JSON gave null or a number that a measurement can be."""
    if value is None:
        return True
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _small(path: Path) -> Path:
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} has more than {MAX_BYTES:,} bytes: it is no file of measurements")
    return path
