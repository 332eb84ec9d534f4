"""The chest phantoms of the parity kit, the original's measurements of them, and tables of measurements."""

import csv
import json
import math

import numpy as np
from parity_kit import DATA

from jaxseg.anatomy.measure import table
from jaxseg.vocabulary.labels import CXAS

NAMES = ("plausible", "awkward", "no_hemidiaphragm", "one_vertebra", "shifted_heart")
GOLDEN = json.loads((DATA / "goldens" / "cxas_features.json").read_text())


def phantom(kit, name: str) -> np.ndarray:
    """Returns the masks of a phantom, (159, 512, 512) bool."""
    drawn = json.loads((kit.folder / "phantoms" / "phantoms.json").read_text())[name]
    shapes = [drawn["shapes"].get(str(k), []) for k in range(len(CXAS))]
    return kit.fill.rasterise(shapes, drawn["height"], drawn["width"])


def write_table(rows, path) -> None:
    """Writes a table by `merge`; a row is a file name, and measurements or the reason why there are none."""
    parts = []
    for i, (name, found) in enumerate(rows):
        if not isinstance(found, str):
            part = path.parent / f"{path.stem}.{i}.part.json"
            part.write_text(json.dumps(table.to_json(found), allow_nan=False), encoding="utf-8")
            found = part
        parts.append((name, found))
    table.merge(parts, path)
    for _, found in parts:
        if not isinstance(found, str):
            found.unlink()


def read_rows(path) -> list[list[str]]:
    """Returns the rows of a CSV file, the header first."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, strict=True))


def read_table(path) -> list[dict[str, float | str]]:
    """Returns one dict per image of a table of measurements: whole numbers as int, empty cells as NaN."""
    head, *rows = ([cell.removeprefix("'") for cell in row] for row in read_rows(path))
    assert (head[0], head[-1], len(set(head))) == ("filename", "reason", len(head))
    texts = ("filename", "reason")
    return [{n: c if n in texts else number(c) for n, c in zip(head, row, strict=True)} for row in rows]


def number(cell: str) -> float:
    if not cell:
        return math.nan
    return int(cell) if cell.removeprefix("-").isdecimal() else float(cell)
