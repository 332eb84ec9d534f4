"""Text in pictures: class names behind squares of their colours, cut to the room there is. Drawn with Pillow alone."""

from collections.abc import Sequence

from PIL import ImageDraw, ImageFont

from jaxseg.files import printable

BACKGROUND, TEXT, FAINT = (18, 20, 24), (235, 235, 235), (165, 168, 175)

Entry = tuple[str, tuple[int, int, int]]  # a name and its colour


def font_of(size: int) -> ImageFont.FreeTypeFont:
    """Returns Pillow's own font, so that pictures are the same on every machine; `size` in pixels."""
    return ImageFont.load_default(size=size)


def line_height(font: ImageFont.FreeTypeFont) -> int:
    """Returns the height of a line of text, in pixels."""
    return sum(font.getmetrics()) + 4


def cut(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Returns the text on one line, or as much of it with an ellipsis as fits `width` pixels."""
    text = printable(" ".join(text.split()))
    if font.getlength(text) <= width:
        return text
    fits, fails = 0, len(text)  # so many characters fit, so many do not; a name may be long
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if font.getlength(f"{text[:middle]}...") <= width:
            fits = middle
        else:
            fails = middle
    return f"{text[:fits].rstrip()}..."


def wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Returns the text in lines of at most `width` pixels; a word that is longer is cut."""
    lines = []
    for word in printable(" ".join(text.split())).split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(cut(word, font, width))
    return lines


def draw_entry(pen: ImageDraw.ImageDraw, entry: Entry, x: int, y: int, font: ImageFont.FreeTypeFont) -> None:
    """Draws one name behind a square of its colour, on the line whose upper left corner is (x, y)."""
    text, colour = entry
    line = line_height(font)
    side = round(0.55 * line)
    top = y + (line - side) // 2
    pen.rectangle([x, top, x + side, top + side], fill=tuple(int(part) for part in colour))
    pen.text((x + line, y + line // 2), text, TEXT, font, anchor="lm")


def entry_width(texts: Sequence[str], font: ImageFont.FreeTypeFont) -> int:
    """Returns the width in pixels of a column that holds these names."""
    return line_height(font) + round(max((font.getlength(text) for text in texts), default=0))


def mark_sides(picture, x: int, y: int, width: int, size: int) -> None:
    """Writes "R" and "L", the patient's sides in frontal pictures, at both ends of a line.

    Args:
      picture: Pillow image, changed in place.
      x, y, width: the line on which the letters stand, in pixels: its left end, its height, its length.
      size: height of the font in pixels.
    """
    style = {"fill": TEXT, "font": font_of(size), "stroke_width": max(1, size // 16), "stroke_fill": BACKGROUND}
    pen = ImageDraw.Draw(picture)
    pen.text((x, y), "R", anchor="ls", **style)
    pen.text((x + width, y), "L", anchor="rs", **style)
