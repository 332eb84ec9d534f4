"""Tables of counts as bars: a panel a table, a row a class. Drawn with Pillow alone."""

from collections.abc import Mapping

from PIL import Image, ImageDraw

from jaxseg.draw.legend import BACKGROUND, FAINT, TEXT, cut, font_of, line_height, wrap
from jaxseg.palette import OKABE_ITO

MAX_ROWS = 24  # of a panel; what is beyond is summed up in the last
_GAP, _BARS, _NAMES, _NUMBERS = 16, 260, 110, 60  # pixels


def count_bars(tables: Mapping[str, Mapping[str, int]], *, caption: str = "", columns: int = 2) -> Image.Image:
    """Draws tables beside and below each other.

    Args:
      tables: title -> class -> its number, not negative; classes in the order in which they are drawn.
      caption: below, wrapped.
      columns: panels beside each other.

    Returns:
      An RGB picture.

    Raises:
      ValueError: there is no table, or no column.
    """
    if not tables or columns < 1:
        raise ValueError(f"one table and one column at least, got {len(tables)} and {columns}")
    font = font_of(15)
    line = line_height(font)
    panels = [(title, _rows(table)) for title, table in tables.items()]
    bands = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    heights = [(2 + max(max(len(rows), 1) for _, rows in band)) * line for band in bands]
    width = _GAP + columns * (_NAMES + _BARS + _NUMBERS + _GAP)
    words = wrap(caption, font, width - 2 * _GAP)
    picture = Image.new("RGB", (width, 2 * _GAP + sum(heights) + len(words) * line), BACKGROUND)
    pen = ImageDraw.Draw(picture)
    y = _GAP
    for band, height in zip(bands, heights, strict=True):
        for column, (title, rows) in enumerate(band):
            _draw_panel(pen, title, rows, _GAP + column * (_NAMES + _BARS + _NUMBERS + _GAP), y, font)
        y += height
    for text in words:
        pen.text((_GAP, y), text, FAINT, font)
        y += line
    return picture


def _rows(table: Mapping[str, int]) -> list[tuple[str, int]]:
    rows = list(table.items())
    if len(rows) <= MAX_ROWS:
        return rows
    shown, rest = rows[: MAX_ROWS - 1], rows[MAX_ROWS - 1 :]
    return [*shown, (f"{rest[0][0]} and on", sum(number for _, number in rest))]


def _draw_panel(pen: ImageDraw.ImageDraw, title: str, rows: list[tuple[str, int]], x: int, y: int, font) -> None:
    line = line_height(font)
    pen.text((x, y), cut(title, font, _NAMES + _BARS + _NUMBERS), TEXT, font)
    left, top = x + _NAMES, max((number for _, number in rows), default=0) or 1
    for place, (name, number) in enumerate(rows, 1):
        middle = y + place * line + line // 2
        pen.text((left - 8, middle), cut(name, font, _NAMES - 8), FAINT, font, anchor="rm")
        right = left + round(_BARS * number / top)
        if number:
            pen.rectangle([left, middle - 6, right, middle + 6], fill=OKABE_ITO[1])
        pen.text((right + 6, middle), str(number), TEXT, font, anchor="lm")
    if not rows:
        pen.text((x, y + line), "none", FAINT, font)
