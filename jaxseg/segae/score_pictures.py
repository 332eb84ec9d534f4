"""Pictures of the masks to look at first: the human in the loop."""

from collections.abc import Sequence

from PIL import Image

from jaxseg.segae.cases import Case
from jaxseg.segae.table import Row
from jaxseg.segae.worst import WorstMask, worst_sheet
from jaxseg.volumes.read import read_labels, read_volume

MOST = 60  # masks of a picture


def worst_picture(rows: Sequence[Row], cases: Sequence[Case], *, canonical: bool = False) -> Image.Image | None:
    """Returns a sheet of masks, each on its slice with the lowest predicted Dice; None where none can be read.

    Args:
      rows: in the order of the sheet, which has the first 60.
      cases: whose volumes are read again, each CT once.
      canonical: as they were scored.
    """
    rows, known, found = rows[:MOST], {case.name: case for case in cases}, {}
    for name in dict.fromkeys(row.case for row in rows):
        mine = [row for row in rows if row.case == name and name in known]
        try:
            found |= _of_case(known[name], mine, canonical=canonical) if mine else {}
        except (ValueError, OSError, IndexError, KeyError):  # it has gone or changed since it was scored
            continue
    tiles = [found[row.case, row.organ] for row in rows if (row.case, row.organ) in found]
    return worst_sheet(tiles) if tiles else None


def _of_case(case: Case, rows: Sequence[Row], *, canonical: bool) -> dict[tuple[str, str], WorstMask]:
    ct, found = read_volume(case.ct, canonical=canonical).array, {}
    labels = read_labels(case.labels, canonical=canonical).array if case.labels else None
    numbers = {organ.name: label for label, organ in case.table.items()}
    for row in rows:
        z = row.worst_slice
        if labels is not None:
            mask = labels[z] == numbers[row.organ]
        else:
            mask = read_volume(case.masks[row.organ], canonical=canonical).array[z] > 0
        title = f"{case.name}, {row.organ}, slice {z}"
        if mask.shape != ct[z].shape:
            raise ValueError(f"{row.organ} is no longer of the shape that was scored")
        found[row.case, row.organ] = WorstMask(ct[z], mask, title, row.score.mean)
    return found
