"""Draws a sheet of masks on their CT slices with their predicted Dice, to review the worst masks first.

Slices are shown in the radiological convention: the patient's right is on the left, and anterior is at the top.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from jaxseg.draw.pictures import BACKGROUND, FAINT, TEXT, cut, font_of, line_height
from jaxseg.palette import OKABE_ITO
from jaxseg.segae.cases import Case
from jaxseg.segae.score_table import Row
from jaxseg.volumes.read import read_labels, read_volume
from jaxseg.volumes.volume import ends_of_axes

CONTOUR, EXPECTED = OKABE_ITO[:2]
MOST = 60  # largest number of masks on a sheet
MOST_COLUMNS = 6
_CELL, _GAP, _MARGIN = 220, 12, 0.6  # in pixels; _MARGIN around the mask is a fraction of its longer side


@dataclasses.dataclass(frozen=True)
class WorstMask:
    """One tile of a sheet.

    Attributes:
      ct: (h, w) Hounsfield units.
      mask: (h, w) bool.
      title: text below the tile, such as case and organ.
      score: predicted Dice.
      truth: true Dice; None if it is not known.
      sides: letters of the patient's sides at the left, right, top and bottom of the slice; "" if they are not known.
      pixel_mm: height and width of a pixel in mm.
      expected: (h, w) bool, where the model expects the organ; None if it does not say.
    """

    ct: np.ndarray
    mask: np.ndarray
    title: str
    score: float
    truth: float | None = None
    sides: str = ""
    pixel_mm: tuple[float, float] = (1.0, 1.0)
    expected: np.ndarray | None = None


def worst_sheet(rows: Sequence[WorstMask], *, window: tuple[float, float] = (40.0, 400.0)) -> Image.Image:
    """Draws the outlines of masks on their slices, each zoomed to the mask, and where the model expects the organ.

    Args:
      rows: at least one mask, in the order of the sheet.
      window: centre and width of the grey values in HU.

    Returns:
      An RGB image.

    Raises:
      ValueError: there is no mask, or a mask and its slice are not (h, w) of one shape.

    Example:
      >>> mask = np.zeros((64, 64), bool)
      >>> mask[20:40, 20:40] = True
      >>> worst_sheet([WorstMask(np.zeros((64, 64)), mask, "s0001, liver", 0.42)]).width
      244
    """
    if not rows:
        raise ValueError("there is no mask to draw")
    columns = min(MOST_COLUMNS, len(rows)) if len(rows) < 4 else min(MOST_COLUMNS, math.ceil(math.sqrt(len(rows))))
    font = font_of(14)
    line = line_height(font)
    high = _CELL + 2 * line + _GAP
    size = columns * (_CELL + _GAP) + _GAP, math.ceil(len(rows) / columns) * high + _GAP
    sheet = Image.new("RGB", size, BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    for i, row in enumerate(rows):
        x, y = _GAP + i % columns * (_CELL + _GAP), _GAP + i // columns * high
        tile = _tile(row, window)
        corner = x + (_CELL - tile.width) // 2, y + (_CELL - tile.height) // 2
        sheet.paste(tile, corner)
        _letter(pen, row.sides, (*corner, corner[0] + tile.width, corner[1] + tile.height))
        pen.text((x, y + _CELL + line // 2 + 2), cut(row.title, font, _CELL), TEXT, font, anchor="lm")
        known = "" if row.truth is None else f", true {row.truth:.2f}"
        pen.text((x, y + _CELL + line + line // 2), f"predicted {row.score:.2f}{known}", FAINT, font, anchor="lm")
    return sheet


def _tile(row: WorstMask, window: tuple[float, float]) -> Image.Image:
    if row.ct.shape != row.mask.shape or row.ct.ndim != 2 or not row.ct.size:
        raise ValueError(f"slice and mask must be (h, w) of one shape, got {row.ct.shape} and {row.mask.shape}")
    part = _zoom(row.mask)
    ct, mask = row.ct[part].astype(np.float64), row.mask[part].astype(bool)
    centre, width = window
    grey = np.clip((np.nan_to_num(ct) - centre) / width + 0.5, 0, 1)
    extent = np.multiply(ct.shape, row.pixel_mm)
    size = [max(1, round(length)) for length in (_CELL / extent.max() * extent[::-1]).tolist()]
    shown = Image.fromarray(np.rint(255 * grey).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    picture = np.array(shown.convert("RGB"))
    outlines = [(mask, CONTOUR)] if row.expected is None else [(row.expected[part], EXPECTED), (mask, CONTOUR)]
    for found, colour in outlines:
        large = np.array(Image.fromarray(found.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)) > 0
        picture[large & ~ndimage.binary_erosion(large, iterations=2)] = colour
    return Image.fromarray(picture)


def _letter(pen: ImageDraw.ImageDraw, sides: str, box: tuple[int, int, int, int]) -> None:
    """Writes the letters of the patient's sides inside the edges of a tile: left, right, top, bottom."""
    left, top, right, bottom = box
    x, y = (left + right) // 2, (top + bottom) // 2
    places = [((left + 3, y), "lm"), ((right - 3, y), "rm"), ((x, top + 2), "mt"), ((x, bottom - 3), "mb")]
    for letter, (place, anchor) in zip(sides, places, strict=False):
        pen.text(place, letter, TEXT, font_of(14), anchor, stroke_width=2, stroke_fill=BACKGROUND)


def radiological(tile: WorstMask, affine: np.ndarray) -> WorstMask:
    """Returns a tile turned as radiologists look at it, without interpolation, and with the letters of its sides.

    The patient's right is on the left; if the slice does not run from right to left, anterior is. Superior is at the
    top; if the slice does not run from feet to head, anterior is.

    Args:
      tile: the slice as stored, in rows and columns of the volume.
      affine: (4, 4), of the volume, as in `jaxseg.volumes.volume.Volume`.
    """
    columns, rows, _ = ends_of_axes(affine)
    column_mm, row_mm, _ = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    ct, mask, pixel_mm = tile.ct, tile.mask, (row_mm, column_mm)
    if _rank(columns) < _rank(rows):
        columns, rows, ct, mask, pixel_mm = rows, columns, ct.T, mask.T, pixel_mm[::-1]
    if rows[0] not in "SA":
        rows, ct, mask = rows[::-1], ct[::-1], mask[::-1]
    if columns[0] not in "RA":
        columns, ct, mask = columns[::-1], ct[:, ::-1], mask[:, ::-1]
    return dataclasses.replace(tile, ct=ct, mask=mask, sides="".join((*columns, *rows)), pixel_mm=pixel_mm)


def _rank(ends: tuple[str, str]) -> int:
    """Returns how strongly an axis is meant to be vertical: 0 for superior-inferior, 1 for anterior-posterior, 2."""
    return ["IS", "AP", "LR"].index("".join(sorted(ends)))


def _zoom(mask: np.ndarray) -> tuple[slice, slice]:
    """Returns the part around a mask, which is about square; the whole slice if the mask is empty."""
    if not mask.any():
        return slice(None), slice(None)
    ends = [np.flatnonzero(mask.any(axis))[[0, -1]] for axis in (1, 0)]
    half = (0.5 + _MARGIN) * max(last - first + 1 for first, last in ends) + 4
    middle = [(first + last + 1) / 2 for first, last in ends]
    return tuple(
        slice(max(0, round(centre - half)), min(length, round(centre + half)))
        for centre, length in zip(middle, mask.shape, strict=True)
    )


def worst_picture(rows: Sequence[Row], cases: Sequence[Case], *, canonical: bool = False) -> Image.Image | None:
    """Returns a sheet of scored masks, each on its slice with the lowest predicted Dice; None if none can be read.

    Args:
      rows: scored masks in the order of the sheet; only the first 60 are drawn.
      cases: the cases of these masks. Their volumes are read again, each CT once.
      canonical: whether to reorient volumes to the patient's axes, as when they were scored.
    """
    rows, known, found = rows[:MOST], {case.name: case for case in cases}, {}
    for name in dict.fromkeys(row.case for row in rows):
        mine = [row for row in rows if row.case == name and name in known]
        try:
            found |= _of_case(known[name], mine, canonical=canonical) if mine else {}
        except (ValueError, OSError, IndexError, KeyError):  # it was removed or changed after it was scored
            continue
    tiles = [found[row.case, row.organ] for row in rows if (row.case, row.organ) in found]
    return worst_sheet(tiles) if tiles else None


def _of_case(case: Case, rows: Sequence[Row], *, canonical: bool) -> dict[tuple[str, str], WorstMask]:
    volume, found = read_volume(case.ct, canonical=canonical), {}
    ct = volume.array
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
            raise ValueError(f"{row.organ} no longer has the shape of its CT")
        tile = WorstMask(ct[z], mask, title, row.score.mean)
        found[row.case, row.organ] = tile if volume.affine is None else radiological(tile, volume.affine)
    return found
