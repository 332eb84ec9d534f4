"""Tables that map the labels of a volume to organs."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxseg.files import parse_json, printable, text_of
from jaxseg.vocabulary import organs
from jaxseg.volumes.label_names import LabelNamesError, read_label_names

MAX_TABLE_BYTES = 2**20
_ASSUMED = "has no table of labels, so its numbers are taken for classes of the DAP-Atlas"
_OPTION = "name the labels of other programs, such as TotalSegmentator, with --label-names (prepare: --names-table)"
_NOT_ORGANS = (0, 1)  # classes of the DAP-Atlas: "Background" and "Left to annotate"


@dataclasses.dataclass(frozen=True)
class LabelTable:
    """The meaning of the labels of a volume.

    Attributes:
      organs: label -> organ.
      others: label -> (name, reason) of the labels that are named, but have no class in the DAP-Atlas.
      note: remark for the user if the table was assumed; "" if a file states it.
    """

    organs: Mapping[int, organs.Organ]
    others: Mapping[int, tuple[str, str]] = dataclasses.field(default_factory=dict)
    note: str = ""


def table_of(labels: Path, label_names: str | Path | None = None, *, names: str = "right") -> LabelTable:
    """Returns the table of a volume of labels: a given one, else that in its header, else the DAP-Atlas, with a note.

    Args:
      labels: file of the volume; only its header is read.
      label_names: a file for `read_table`; it takes precedence.
      names: how names in the header are read, as in `jaxseg.vocabulary.organs.find`.

    Raises:
      ValueError: a table is damaged, or names no organ or one organ twice.
      OSError: a file cannot be opened.
    """
    if label_names is not None:
        return LabelTable(read_table(Path(label_names)))
    if found := _names_in(labels):
        return _named(found, printable(labels.name), names)
    return LabelTable(dap_table(), note=f"{printable(labels.name)}: {_ASSUMED}; {_OPTION}")


def shared_table(labels: Sequence[Path], label_names: str | Path | None = None) -> LabelTable:
    """Returns the table that several volumes of labels have in common, as `table_of` does for one.

    Raises:
      ValueError: as in `table_of`, or the volumes have different tables.
      OSError: a file cannot be opened.
    """
    if label_names is not None:
        return LabelTable(read_table(Path(label_names)))
    found = {path: names for path in labels if (names := _names_in(path)) is not None}
    first = next(iter(found), labels[0])
    for path, names in found.items():
        if names != found[first]:
            shown = " and ".join(printable(str(each)) for each in (first, path))
            raise ValueError(f"{shown} have different tables of labels in their headers; {_OPTION}")
    return table_of(first)


def _names_in(path: Path) -> dict[int, str] | None:
    """Returns the names in the header of a volume; None if it cannot be read, which reading its voxels will report."""
    try:
        return read_label_names(path)
    except LabelNamesError:
        raise
    except (ValueError, OSError):
        return None


def _named(found: Mapping[int, str], file: str, names: str) -> LabelTable:
    """Returns the table of names in the header of a file."""
    table: dict[int, organs.Organ] = {}
    others: dict[int, tuple[str, str]] = {}
    for label, name in found.items():
        try:
            organ = organs.find(name, names=names)
        except ValueError as error:
            others[label] = name, str(error)
            continue
        if organ in table.values():
            raise ValueError(f"{file}: two labels of the table in its header mean {organ.name}; {_OPTION}")
        table[label] = organ
    if not table:
        shown = ", ".join(list(found.values())[:5])
        raise ValueError(f"{file}: the table in its header names no organ ({shown}, ...); {_OPTION}")
    return LabelTable(table, others)


def dap_table() -> dict[int, organs.Organ]:
    """Returns label -> organ for labels that are classes of the DAP-Atlas.

    Example:
      >>> dap_table()[13].name
      'liver'
    """
    return {organ.id: organ for organ in organs.ORGANS if organ.id not in _NOT_ORGANS}


def read_table(path: Path) -> dict[int, organs.Organ]:
    """Reads a table from a JSON or CSV file.

    Args:
      path: JSON object that maps labels to names, or names to labels (as in "labels" of nnU-Net's dataset.json); or CSV
        with one label and its name per line, after an optional header line. Label 0 is the background and is ignored.

    Returns:
      Label -> organ.

    Raises:
      ValueError: the file has another format, or an organ is unknown or appears twice.
      OSError: the file cannot be opened.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp()) / "names.json"
      >>> _ = path.write_text('{"1": "left kidney", "2": "spleen"}')
      >>> {label: organ.id for label, organ in read_table(path).items()}
      {1: 15, 2: 26}
    """
    with path.open("rb") as file:
        content = file.read(MAX_TABLE_BYTES + 1)
    if len(content) > MAX_TABLE_BYTES:
        raise ValueError(f"{path.name}: more than {MAX_TABLE_BYTES:,} bytes; this is not a table of labels")
    try:
        text = text_of(content)
        pairs = _from_json(parse_json(content)) if path.suffix.lower() == ".json" else _from_csv(text)
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path.name}: not a table of labels and names ({printable(str(error))[:150]})") from None
    table: dict[int, organs.Organ] = {}
    problems = []
    for label, name in pairs:
        if label == 0:
            continue
        try:
            organ = organs.find(name)
        except ValueError as error:
            problems.append(f"label {label}: {error}")
            continue
        if label in table or organ in table.values():
            problems.append(f"label {label}: {printable(name)!r} or its label appears twice")
        table[label] = organ
    if problems or not table:
        raise ValueError(f"{path.name}: {'; '.join(problems[:5]) or 'names no organ'}")
    return table


def _from_json(table: Any) -> list[tuple[int, str]]:
    if isinstance(table, dict) and isinstance(table.get("labels"), dict):
        table = table["labels"]
    if not isinstance(table, dict):
        raise ValueError("it must be an object")
    pairs = []
    for key, value in table.items():
        label, name = (value, key) if isinstance(value, int) else (key, value)
        if not isinstance(name, str) or isinstance(label, bool):
            raise ValueError(f"{key!r}: {value!r} is not a label and a name")
        pairs.append((_label(label), name))
    return pairs


def _from_csv(text: str) -> list[tuple[int, str]]:
    rows = [
        [cell.strip() for cell in row] for row in csv.reader(io.StringIO(text)) if any(cell.strip() for cell in row)
    ]
    if rows and not rows[0][0].isdecimal():
        rows = rows[1:]
    short = [row for row in rows if len(row) < 2]
    if short:
        raise ValueError(f"the line {','.join(short[0])!r} has no name")
    return [(_label(row[0]), row[1]) for row in rows]


def _label(value: int | str) -> int:
    label = int(value)
    if not 0 <= label < 2**16:
        raise ValueError(f"label {label} is out of range; labels are 0 to 65535")
    return label
