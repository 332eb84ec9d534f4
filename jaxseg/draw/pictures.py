"""What all pictures share: the colours of text, legend entries, marks of the patient's sides, and their files.

Text is drawn with Pillow. Names come from files, so control characters in them are drawn as escapes.
"""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from jaxseg.files import atomic_file, printable

BACKGROUND, TEXT, FAINT = (18, 20, 24), (235, 235, 235), (165, 168, 175)
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}

Entry = tuple[str, tuple[int, int, int]]  # a name and its colour


def font_of(size: int) -> ImageFont.FreeTypeFont:
    """Returns Pillow's own font of `size` pixels; it makes pictures the same on every machine."""
    return ImageFont.load_default(size=size)


def line_height(font: ImageFont.FreeTypeFont) -> int:
    """Returns the height of a line of text, in pixels."""
    return sum(font.getmetrics()) + 4


def cut(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Returns the text on one line, shortened to end with "..." if it is wider than `width` pixels."""
    text = printable(" ".join(text.split()))
    if font.getlength(text) <= width:
        return text
    fits, fails = 0, len(text)  # numbers of characters; a binary search, because a name may be long
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if font.getlength(f"{text[:middle]}...") <= width:
            fits = middle
        else:
            fails = middle
    return f"{text[:fits].rstrip()}..."


def wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Returns the text in lines of at most `width` pixels; a word that is wider than a line is shortened."""
    lines = []
    for word in printable(" ".join(text.split())).split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(cut(word, font, width))
    return lines


def draw_entry(pen: ImageDraw.ImageDraw, entry: Entry, x: int, y: int, font: ImageFont.FreeTypeFont) -> None:
    """Draws a square of the entry's colour and its name, on the line whose upper left corner is (x, y)."""
    text, colour = entry
    line = line_height(font)
    side = round(0.55 * line)
    top = y + (line - side) // 2
    pen.rectangle([x, top, x + side, top + side], fill=tuple(int(part) for part in colour))
    pen.text((x + line, y + line // 2), text, TEXT, font, anchor="lm")


def entry_width(texts: Sequence[str], font: ImageFont.FreeTypeFont) -> int:
    """Returns the width in pixels of a legend column that holds these names."""
    return line_height(font) + round(max((font.getlength(text) for text in texts), default=0))


def mark_sides(picture: Image.Image, x: int, y: int, width: int, size: int) -> None:
    """Writes "R" and "L" at the two ends of a line: the patient's sides in a frontal picture.

    Args:
      picture: the picture, changed in place.
      x: left end of the line, in pixels.
      y: base line of the letters, in pixels from the top.
      width: length of the line, in pixels.
      size: height of the font, in pixels.
    """
    style = {"fill": TEXT, "font": font_of(size), "stroke_width": max(1, size // 16), "stroke_fill": BACKGROUND}
    pen = ImageDraw.Draw(picture)
    pen.text((x, y), "R", anchor="ls", **style)
    pen.text((x + width, y), "L", anchor="rs", **style)


def save_picture(picture: Image.Image, path: Path) -> None:
    """Writes a picture to a file, completely or not at all; an existing file is replaced.

    Args:
      picture: the picture.
      path: the file; its suffix, one of `FORMATS`, chooses the format.

    Raises:
      ValueError: the suffix is unknown.
      OSError: the file cannot be written.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path} must end in {', '.join(FORMATS)}")
    content = io.BytesIO()  # Pillow ignores short writes to a file: a full disk would truncate it
    picture.save(content, kind, **({"quality": 92} if kind == "JPEG" else {}))
    with atomic_file(path) as temporary:
        temporary.write_bytes(content.getvalue())
