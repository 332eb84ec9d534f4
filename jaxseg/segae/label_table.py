"""Tables that map the labels of a volume to organs."""

import csv
import io
from pathlib import Path
from typing import Any

from jaxseg.files import parse_json, printable, text_of
from jaxseg.vocabulary import organs

MAX_TABLE_BYTES = 2**20
_NOT_ORGANS = (0, 1)  # classes of the DAP-Atlas: "Background" and "Left to annotate"


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
