"""Contact sheets: pictures in rows and columns, with titles, a legend and a caption."""

import numpy as np
from PIL import Image, ImageDraw

from jaxseg.draw.overlay import to_rgb
from jaxseg.draw.pictures import (
    BACKGROUND,
    FAINT,
    TEXT,
    Entry,
    cut,
    draw_entry,
    entry_width,
    font_of,
    line_height,
    mark_sides,
    wrap,
)

_GAP = 12  # pixels between the cells


def contact_sheet(
    rows: list[list[np.ndarray]],
    *,
    titles: list[str],
    legend: list[Entry],
    caption: str = "",
    cell: int = 256,
    sides: bool = False,
) -> Image.Image:
    """Returns pictures in a grid, with a title above each column, and a legend and a caption below the grid.

    Args:
      rows: rows of pictures, (H, W) or (H, W, 3) uint8 of any size. Each picture is scaled to fit its cell and centred.
      titles: one title per column; a title that is too long ends with "...".
      legend: names and their colours; may be empty.
      caption: text below, wrapped to the width of the sheet.
      cell: side of a cell in pixels, at least 64.
      sides: whether to mark the patient's right and left, "R" and "L", in the lower corners of frontal pictures.

    Returns:
      An RGB picture, `columns * (cell + 12) + 12` pixels wide.

    Raises:
      ValueError: there are no rows, a row has another length than `titles`, a picture has the wrong shape or dtype, or
        the cell is too small.
    """
    if cell < 64:
        raise ValueError(f"cell must be at least 64 pixels, got {cell}")
    lengths = {len(row) for row in rows}
    if not titles or lengths != {len(titles)}:
        raise ValueError(f"each row must hold {len(titles)} pictures, one per title, got {sorted(lengths)}")
    font = font_of(max(12, cell // 16))
    grid = _grid(rows, titles, font, cell, sides)
    notes = _notes(legend, caption, font, grid.width)
    sheet = Image.new("RGB", (grid.width, grid.height + notes.height), BACKGROUND)
    sheet.paste(grid, (0, 0))
    sheet.paste(notes, (0, grid.height))
    return sheet


def _grid(rows, titles, font, cell, sides) -> Image.Image:
    """Returns the upper part of a sheet: the titles, and the pictures in rows and columns."""
    top = line_height(font) + _GAP
    size = len(titles) * (cell + _GAP) + _GAP, top + len(rows) * (cell + _GAP)
    grid = Image.new("RGB", size, BACKGROUND)
    pen = ImageDraw.Draw(grid)
    for i, title in enumerate(titles):
        x = _GAP + i * (cell + _GAP)
        pen.text((x + cell // 2, top // 2), cut(title, font, cell), TEXT, font, anchor="mm")
        for j, row in enumerate(rows):
            _paste(grid, row[i], x, top + j * (cell + _GAP), cell, sides)
    return grid


def _notes(legend, caption, font, width) -> Image.Image:
    """Returns the lower part of a sheet: legend and caption. Its height is 0 if there are none."""
    line = line_height(font)
    entries, top = _flow(legend, font, line, width)
    words = wrap(caption, font, width - 2 * _GAP)
    notes = Image.new("RGB", (width, top + len(words) * line + (_GAP if legend or words else 0)), BACKGROUND)
    pen = ImageDraw.Draw(notes)
    for entry, x, y in entries:
        draw_entry(pen, entry, x, y, font)
    for n, text in enumerate(words):
        pen.text((_GAP, top + n * line), text, FAINT, font)
    return notes


def _flow(legend, font, line, width):
    """Returns legend entries (entry, x, y) in lines that fit the width, and the height of all lines together."""
    entries, x, y = [], _GAP, 0
    for name, colour in legend:
        text = cut(name, font, width - 2 * _GAP - line)
        length = entry_width([text], font) + line
        if x > _GAP and x + length - line > width - _GAP:
            x, y = _GAP, y + line
        entries.append(((text, colour), x, y))
        x += length
    return entries, y + line + _GAP // 2 if legend else 0


def _paste(sheet, picture, x, y, cell, sides) -> None:
    """Pastes a picture into the cell at (x, y); with `sides`, marks the patient's sides in its lower corners."""
    image = Image.fromarray(to_rgb(picture))
    scale = cell / max(image.size)
    image = image.resize([max(1, round(scale * length)) for length in image.size], Image.Resampling.LANCZOS)
    x, y = x + (cell - image.width) // 2, y + (cell - image.height) // 2
    sheet.paste(image, (x, y))
    if sides:
        mark_sides(sheet, x + 5, y + image.height - 4, image.width - 10, max(10, cell // 20))
