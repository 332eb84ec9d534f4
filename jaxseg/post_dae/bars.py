"""Bars in pairs, such as before and after: a row a case, a panel a measure. Drawn with Pillow alone."""

import dataclasses
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from jaxseg.draw.legend import BACKGROUND, FAINT, TEXT, cut, draw_entry, entry_width, font_of, line_height, wrap
from jaxseg.palette import OKABE_ITO

COLOURS = ((128, 132, 140), OKABE_ITO[1])  # of the two series
_GAP, _PANEL, _BAR, _NUMBERS, _NAMES = 16, 300, 14, 64, 260  # pixels; _NAMES is the most for the rows' names

Bar = tuple[float | None, float | None]  # a mean and its standard deviation; None: there is none


@dataclasses.dataclass(frozen=True)
class Panel:
    """A measure of all rows.

    Attributes:
      title: above it.
      pairs: two bars a row.
      top: value of a bar as long as the panel; None: the largest mean and deviation.
      digits: behind the decimal point of the means.
    """

    title: str
    pairs: tuple[tuple[Bar, Bar], ...]
    top: float | None = None
    digits: int = 2


def paired_bars(
    panels: Sequence[Panel], rows: Sequence[str], *, title: str, series: tuple[str, str], caption: str = ""
) -> Image.Image:
    """Draws panels beside each other.

    Args:
      panels: one at least, each with a pair a row.
      rows: names of the rows.
      title: above the names.
      series: names of the first and the second bar of every pair.
      caption: below, wrapped.

    Returns:
      An RGB picture.

    Raises:
      ValueError: there is nothing to draw, or a panel has more or fewer pairs than there are rows.
    """
    if not panels or not rows or any(len(panel.pairs) != len(rows) for panel in panels):
        raise ValueError(f"each of one or more panels needs a pair for each of {len(rows)} rows, one at least")
    font = font_of(15)
    line, row = line_height(font), 2 * _BAR + _GAP
    names = min(_NAMES, max(round(font.getlength(name)) for name in [*rows, title]) + 1)
    width = names + 2 * _GAP + len(panels) * (_PANEL + _GAP)
    words = wrap(caption, font, width - 2 * _GAP)
    bottom = line + _GAP + len(rows) * row
    picture = Image.new("RGB", (width, bottom + (1 + len(words)) * line + _GAP), BACKGROUND)
    pen = ImageDraw.Draw(picture)
    pen.text((_GAP, _GAP + line // 2), cut(title, font, names), FAINT, font, anchor="lm")
    for i, name in enumerate(rows):
        middle = line + _GAP + i * row + row // 2
        pen.text((_GAP, middle), cut(name, font, names), TEXT, font, anchor="lm")
    for i, panel in enumerate(panels):
        _draw_panel(pen, panel, 2 * _GAP + names + i * (_PANEL + _GAP), line + _GAP, row, font)
    x = _GAP
    for name, colour in zip(series, COLOURS, strict=True):
        draw_entry(pen, (name, colour), x, bottom, font)
        x += entry_width([name], font) + line
    for i, text in enumerate(words):
        pen.text((_GAP, bottom + (1 + i) * line), text, FAINT, font)
    return picture


def _draw_panel(pen: ImageDraw.ImageDraw, panel: Panel, x: int, y: int, row: int, font) -> None:
    """Draws a panel whose bars begin at x, and whose first row at y."""
    pen.text((x, y - _GAP + line_height(font) // 2 - 3), cut(panel.title, font, _PANEL), TEXT, font, anchor="lm")
    bars = [bar for pair in panel.pairs for bar in pair if bar[0] is not None]
    top = panel.top or max((mean + (deviation or 0) for mean, deviation in bars), default=1) or 1
    length = _PANEL - _NUMBERS
    for i, pair in enumerate(panel.pairs):
        for j, (mean, deviation) in enumerate(pair):
            upper = y + i * row + _GAP // 2 + j * (_BAR + 1)
            middle = upper + _BAR // 2
            if mean is None or not math.isfinite(mean):
                pen.text((x, middle), "-", FAINT, font, anchor="lm")
                continue
            ends = [x + round(length * min(max(value, 0), top) / top) for value in _values(mean, deviation)]
            pen.rectangle([x, upper, ends[1], upper + _BAR - 1], fill=COLOURS[j])
            pen.line([ends[0], middle, ends[2], middle], fill=TEXT, width=1)
            pen.text((max(ends) + 6, middle), f"{mean:.{panel.digits}f}", TEXT, font, anchor="lm")
    pen.line([x - 1, y, x - 1, y + len(panel.pairs) * row], fill=FAINT)


def _values(mean: float, deviation: float | None) -> tuple[float, float, float]:
    deviation = deviation or 0
    return mean - deviation, mean, mean + deviation
