"""Pictures of results: masks over an image, and sheets of pictures with titles and a legend.

Images are uint8, (H, W) or (H, W, 3); masks are bool, (K, H, W), and may overlap; colours are uint8 RGB.
"""

from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Okabe and Ito 2008, "Color Universal Design", without black, which no radiograph shows.
_OKABE_ITO = [tuple(bytes.fromhex(c)) for c in ("e69f00", "56b4e9", "009e73", "f0e442", "0072b2", "d55e00", "cc79a7")]
_CONTOUR_2_PX = 768  # images at least this large get contours of two pixels
_GAP = 12  # pixels between the cells of a sheet
_BACKGROUND, _TEXT, _FAINT = (18, 20, 24), (235, 235, 235), (165, 168, 175)


def palette(num_classes: int) -> np.ndarray:
    """Returns distinct colours for usual and for red-green colour-blind eyes.

    The first seven are those of Okabe and Ito; each further one is the bright colour that stands out most from all
    before it, to the eyes (usual, red-blind, green-blind) that see least of the difference. A shorter palette is the
    start of a longer one.

    Args:
      num_classes: from 0 to 1000.

    Returns:
      (K, 3) uint8, no two rows the same.

    Raises:
      ValueError: num_classes is out of range.
    """
    if not 0 <= num_classes <= 1000:
        raise ValueError(f"num_classes must be from 0 to 1000, got {num_classes}")
    return np.array(_colours(int(num_classes)), np.uint8).reshape(-1, 3)


def overlay(
    image: np.ndarray,
    masks: np.ndarray,
    *,
    names: list[str] | tuple[str, ...] | None = None,
    alpha: float = 0.35,
    colors: np.ndarray | None = None,
) -> np.ndarray:
    """Paints masks over an image: translucent fills, small ones on top, then contours inside their edges.

    Args:
      image: (H, W) or (H, W, 3) uint8.
      masks: (K, H, W) bool; classes without a pixel are skipped.
      names: K names; if given, those of the classes present are listed in an upper corner, over the image.
      alpha: opacity of the fills, from 0 (contours only) to 1.
      colors: (K, 3) uint8; `palette(K)` if not given.

    Returns:
      (H, W, 3) uint8; without names, pixels outside all masks are those of the image.

    Raises:
      ValueError: a shape, a dtype, the number of names or colours, or alpha is not as said above.
    """
    picture, masks = _rgb(image), np.asarray(masks)
    _check(picture, masks, names, alpha)
    colors = palette(len(masks)) if colors is None else np.asarray(colors)
    if colors.shape != (len(masks), 3) or colors.dtype.kind not in "iu":
        raise ValueError(f"colors must be ({len(masks)}, 3) integers from 0 to 255, got {colors.dtype} {colors.shape}")
    areas = [np.count_nonzero(mask) for mask in masks]
    boxes = {k: _box(masks[k]) for k in sorted(range(len(masks)), key=lambda k: -areas[k]) if areas[k]}
    for k, box in boxes.items():
        part, inside = picture[box], masks[k][box]
        part[inside] = np.rint((1 - alpha) * part[inside] + alpha * colors[k]).astype(np.uint8)
    width = 2 if min(masks.shape[1:]) >= _CONTOUR_2_PX else 1
    for k, box in boxes.items():
        picture[box][_contour(masks[k][box], width)] = colors[k]
    if names is None or not boxes:
        return picture
    return _list_names(picture, [(names[k], colors[k]) for k in sorted(boxes)], masks.any(axis=0))


def contact_sheet(
    rows: list[list[np.ndarray]],
    *,
    titles: list[str],
    legend: list[tuple[str, tuple[int, int, int]]],
    caption: str = "",
    cell: int = 256,
    sides: bool = False,
) -> Image.Image:
    """Lays pictures out in a grid, with a title over each column, and a legend and a caption below.

    Args:
      rows: rows of pictures, (H, W) or (H, W, 3) uint8 of any size; each is scaled to fit its cell, whole and centred.
      titles: one for each column; too long ones are cut short with an ellipsis.
      legend: names and their colours; may be empty.
      caption: wrapped to the width of the sheet.
      cell: side of a cell in pixels, at least 64.
      sides: whether to mark the patient's right and left, "R" and "L", in the lower corners of frontal pictures.

    Returns:
      An RGB picture, columns * (cell + 12) + 12 pixels wide.

    Raises:
      ValueError: rows are empty or not as long as titles, a picture has the wrong shape or dtype, or the cell is small.
    """
    if cell < 64:
        raise ValueError(f"cell must be at least 64 pixels, got {cell}")
    lengths = {len(row) for row in rows}
    if not titles or lengths != {len(titles)}:
        raise ValueError(f"each row must hold {len(titles)} pictures, one for each title, got {sorted(lengths)}")
    font = ImageFont.load_default(size=max(12, cell // 16))
    grid = _grid(rows, titles, font, cell, sides)
    notes = _notes(legend, caption, font, grid.width)
    sheet = Image.new("RGB", (grid.width, grid.height + notes.height), _BACKGROUND)
    sheet.paste(grid, (0, 0))
    sheet.paste(notes, (0, grid.height))
    return sheet


def _grid(rows, titles, font, cell, sides) -> Image.Image:
    """Returns the upper part of a sheet: titles, and pictures in rows and columns."""
    top = _line(font) + _GAP
    size = len(titles) * (cell + _GAP) + _GAP, top + len(rows) * (cell + _GAP)
    grid = Image.new("RGB", size, _BACKGROUND)
    pen = ImageDraw.Draw(grid)
    for i, title in enumerate(titles):
        x = _GAP + i * (cell + _GAP)
        pen.text((x + cell // 2, top // 2), _cut(title, font, cell), _TEXT, font, anchor="mm")
        for j, row in enumerate(rows):
            _paste(grid, row[i], x, top + j * (cell + _GAP), cell, sides)
    return grid


def _notes(legend, caption, font, width) -> Image.Image:
    """Returns the lower part of a sheet: legend and caption, of no height if there are none."""
    line = _line(font)
    entries, top = _flow(legend, font, line, width)
    words = _wrap(caption, font, width - 2 * _GAP)
    notes = Image.new("RGB", (width, top + len(words) * line + (_GAP if legend or words else 0)), _BACKGROUND)
    pen = ImageDraw.Draw(notes)
    for text, colour, x, y in entries:
        _entry(pen, text, colour, x, y, font, line)
    for n, text in enumerate(words):
        pen.text((_GAP, top + n * line), text, _FAINT, font)
    return notes


def _line(font) -> int:
    """Returns the height of a line of text."""
    return sum(font.getmetrics()) + 4


def _rgb(image: np.ndarray) -> np.ndarray:
    """Returns a new (H, W, 3) image."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ValueError(f"image must be uint8 (H, W) or (H, W, 3), got {image.dtype} {image.shape}")
    if not image.size:
        raise ValueError(f"image must have pixels, got {image.shape}")
    return np.array(image) if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def _check(picture, masks, names, alpha) -> None:
    if masks.dtype != bool:
        raise ValueError(f"masks must be bool, got {masks.dtype}; threshold probabilities first, as in probs > 0.5")
    if masks.ndim != 3 or masks.shape[1:] != picture.shape[:2]:
        raise ValueError(f"masks must be (K, H, W) with the image's {picture.shape[:2]}, got {masks.shape}")
    if names is not None and len(names) != len(masks):
        raise ValueError(f"names must be as many as the {len(masks)} masks, got {len(names)}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be from 0 to 1, got {alpha}")


def _box(mask) -> tuple[slice, slice]:
    """Returns the smallest box that holds a mask which is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _contour(mask, width: int) -> np.ndarray:
    """Returns the pixels of a mask within `width` steps of its outside; the edge of its box counts as outside."""
    inner = mask
    for _ in range(width):
        p = np.pad(inner, 1)
        inner = inner & p[:-2, 1:-1] & p[2:, 1:-1] & p[1:-1, :-2] & p[1:-1, 2:]
    return mask & ~inner


def _list_names(picture, entries, covered) -> np.ndarray:
    """Returns the picture with names and their colours on a dark plate, in the upper corner where it hides less."""
    font = ImageFont.load_default(size=max(9, min(picture.shape[:2]) // 32))
    line = _line(font) - 2
    room = max((picture.shape[0] - 8) // line, 1)
    if len(entries) > room:
        entries = [*entries[: room - 1], (f"and {len(entries) - room + 1} more", _TEXT)]
    width = round(line + max(font.getlength(text) for text, _ in entries)) + 8
    height = len(entries) * line + 4
    left, far_left = 2, max(picture.shape[1] - width - 2, 2)
    if covered[:height, far_left:].sum() < covered[:height, :width].sum():
        left = far_left
    image = Image.fromarray(picture)
    image.paste(Image.new("RGB", (width, height), _BACKGROUND), (left, 2))
    pen = ImageDraw.Draw(image)
    for n, (text, colour) in enumerate(entries):
        _entry(pen, text, colour, left + 3, 4 + n * line, font, line)
    return np.array(image)


def _entry(pen, text, colour, x, y, font, line) -> None:
    """Draws one name behind a square of its colour."""
    side = round(0.55 * line)
    top = y + (line - side) // 2
    pen.rectangle([x, top, x + side, top + side], fill=tuple(int(part) for part in colour))
    pen.text((x + line, y + line // 2), text, _TEXT, font, anchor="lm")


def _flow(legend, font, line, width):
    """Returns legend entries (text, colour, x, y) in lines no wider than the sheet, and the height of those lines."""
    entries, x, y = [], _GAP, 0
    for name, colour in legend:
        text = _cut(name, font, width - 2 * _GAP - line)
        length = line + round(font.getlength(text)) + line
        if x > _GAP and x + length - line > width - _GAP:
            x, y = _GAP, y + line
        entries.append((text, colour, x, y))
        x += length
    return entries, y + line + _GAP // 2 if legend else 0


def _wrap(text, font, width) -> list[str]:
    lines = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(_cut(word, font, width))
    return lines


def _cut(text, font, width) -> str:
    """Returns the text, or as much of it with an ellipsis as fits the width."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text.rstrip()}..."


def _paste(sheet, picture, x, y, cell, sides) -> None:
    """Puts a picture into the cell at (x, y), and the letters of the patient's sides into its lower corners."""
    image = Image.fromarray(_rgb(picture))
    scale = cell / max(image.size)
    image = image.resize([max(1, round(scale * length)) for length in image.size], Image.Resampling.LANCZOS)
    x, y = x + (cell - image.width) // 2, y + (cell - image.height) // 2
    sheet.paste(image, (x, y))
    if sides:
        font = ImageFont.load_default(size=max(10, cell // 20))
        style = {"fill": _TEXT, "font": font, "stroke_width": 1, "stroke_fill": _BACKGROUND}
        pen, bottom = ImageDraw.Draw(sheet), y + image.height - 4
        pen.text((x + 5, bottom), "R", anchor="ls", **style)
        pen.text((x + image.width - 5, bottom), "L", anchor="rs", **style)


@cache
def _colours(count: int) -> tuple[tuple[int, int, int], ...]:
    """Returns the first colours of the palette: Okabe-Ito, then each time the candidate farthest from all chosen."""
    levels = np.arange(0, 256, 17)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    light, green_red, blue_yellow = np.moveaxis(_oklab(candidates)[:, 0], -1, 0)
    candidates = candidates[(light > 0.45) & (np.hypot(green_red, blue_yellow) > 0.06)]
    seen = _oklab(candidates)
    chosen, nearest = list(_OKABE_ITO), np.inf
    for colour in _OKABE_ITO:
        nearest = np.minimum(nearest, _distance(seen, _oklab(np.array([colour]))))
    while len(chosen) < count:
        best = int(np.argmax(nearest))
        chosen.append(tuple(candidates[best].tolist()))
        nearest = np.minimum(nearest, _distance(seen, seen[best : best + 1]))
    return tuple(chosen[:count])


def _distance(seen, other) -> np.ndarray:
    """Returns how far apart colours look, (N,), to those of the three kinds of eyes that tell them apart least."""
    return np.linalg.norm(seen - other, axis=-1).min(axis=1)


def _oklab(colours) -> np.ndarray:
    """Returns (N, 3 kinds of eyes, 3) OKLab values of (N, 3) sRGB colours: usual, red-blind, green-blind.

    Source: Ottosson 2020 (OKLab); Vienot, Brettel and Mollon 1999 (the colours that the colour-blind see).
    """
    srgb = np.asarray(colours) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    cones = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    red_blind = np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]])
    green_blind = np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]])
    eyes = [np.eye(3), *(np.linalg.inv(cones) @ blind @ cones for blind in (red_blind, green_blind))]
    linear = np.clip(np.stack([linear @ eye.T for eye in eyes], 1), 0, 1)
    to_cones = np.array([[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]])
    to_lab = np.array([[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868]])
    return np.cbrt(linear @ to_cones.T) @ to_lab.T
