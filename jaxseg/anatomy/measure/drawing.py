"""Images of measurements: lines over the X-ray, and below it the values, or the reasons why there are none.

Images are uint8, (H, W) or (H, W, 3). Every line has a dark rim, so that it is visible on dark and bright areas.
"""

import functools
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxseg.anatomy.measure.features import FEATURES, Measurements
from jaxseg.anatomy.measure.shapes import Line
from jaxseg.anatomy.measure.table import summary
from jaxseg.palette import OKABE_ITO, class_colours

_YELLOW, _VERMILION, _PURPLE = (OKABE_ITO[k] for k in (3, 5, 6))
_HEART, _LUNG, _SPINE = map(tuple, class_colours(["heart", "lung", "spine"]).tolist())  # lines of organs
COLOURS = {
    "midline": _YELLOW,
    "heart right": _HEART,
    "heart left": _HEART,
    "thorax": _LUNG,
    "line": _VERMILION,
    "centres": _SPINE,
    "distance": _PURPLE,
}
_BACKGROUND, _TEXT = (18, 20, 24), (235, 235, 235)
_MIN_SIDE = 768  # pixels of the longer side; smaller images are enlarged, so that text fits
_MIN_WIDTH = 320  # pixels; narrower images get a dark margin
_MAX_NAMED = 12  # largest number of classes whose names are written; more names would hide the image
_MAX_LISTED = 6  # largest number of classes whose values are listed


def draw_lines(image: np.ndarray, measurements: Measurements) -> np.ndarray:
    """Draws measurements over an image, with the values, or the reasons why there are none, in a strip below it.

    For CTR it shows the midline, the extent of the heart on both sides of it, and the width of the thorax; for SCD the
    centres of the vertebrae, the fitted line, and the distances; for classes the box, the centroid, the traced contour
    and its convex hull.

    Args:
      image: (H, W) or (H, W, 3) uint8 of any size; the grid of the masks is stretched to it.
      measurements: the result of `measure`; measurements that were read from JSON have no lines.

    Returns:
      (H', W', 3) uint8: the image, enlarged if its longer side has less than 768 pixels, and the strip.

    Raises:
      ValueError: the image has another shape or dtype, or no pixels.
    """
    picture = _canvas(image)
    pen = _Pen(picture, measurements.size)
    labels = list(dict.fromkeys(line.label for line in measurements.lines if line.label))
    colours = dict(zip(labels, map(tuple, class_colours(labels).tolist()), strict=True))
    for line in measurements.lines:
        if line.label:
            _draw_class(pen, line, colours[line.label])
        else:
            _DRAWN[line.kind](pen, line.points, COLOURS[line.kind])
    if len(labels) <= _MAX_NAMED:
        _name_classes(pen, measurements.lines, colours)
    strip = _strip(_captions(measurements, colours), max(picture.width, _MIN_WIDTH), pen.size)
    whole = Image.new("RGB", (strip.width, picture.height + strip.height), _BACKGROUND)
    whole.paste(picture, ((strip.width - picture.width) // 2, 0))
    whole.paste(strip, (0, picture.height))
    return np.array(whole)


class _Pen:
    """Draws lines and text on a picture, in the coordinates of the masks."""

    def __init__(self, picture: Image.Image, grid: tuple[int, int]):
        self.draw = ImageDraw.Draw(picture)
        self.picture = picture
        self.scale = np.divide(picture.size, (grid[1] or 1, grid[0] or 1))  # x, y
        side = max(picture.size)
        self.width = max(2, round(side / 400))
        self.rim = max(1, round(side / 800))
        self.size = max(13, round(min(side / 36, max(picture.width, _MIN_WIDTH) / 20)))
        self.font = ImageFont.load_default(size=self.size)

    def place(self, points: np.ndarray) -> np.ndarray:
        """Converts points of the masks' grid to points of the picture; pixel centres stay pixel centres."""
        return (np.asarray(points, np.float64) + 0.5) * self.scale - 0.5

    def path(self, points, colour, *, width: int | None = None) -> None:
        """Draws straight lines through points of the picture."""
        path, width = [tuple(point) for point in points], width or self.width
        self.draw.line(path, _BACKGROUND, width + 2 * self.rim, joint="curve")
        self.draw.line(path, colour, width, joint="curve")

    def ticked(self, points, colour) -> None:
        """Draws a horizontal line between two points of the picture, with a tick at each end."""
        tick = 3 * self.width
        ticks = [[(x, y - tick), (x, y + tick)] for x, y in points]
        strokes = [[tuple(point) for point in stroke] for stroke in (points, *ticks)]
        for stroke in strokes:
            self.draw.line(stroke, _BACKGROUND, self.width + 2 * self.rim)
        for stroke in strokes:
            self.draw.line(stroke, colour, self.width)

    def dot(self, point, colour, radius: float) -> None:
        """Draws a disc at a point of the picture."""
        (x, y), wide = point, radius + self.rim
        self.draw.ellipse([x - wide, y - wide, x + wide, y + wide], _BACKGROUND)
        self.draw.ellipse([x - radius, y - radius, x + radius, y + radius], colour)

    def write(self, point, text: str, colour, anchor: str) -> None:
        """Writes text at a point of the picture, moved so that it is completely inside."""
        rim = max(2, self.size // 8)
        box = self.draw.textbbox(tuple(point), text, font=self.font, anchor=anchor, stroke_width=rim)
        x = point[0] + max(0, -box[0]) - max(0, box[2] - self.picture.width)
        y = point[1] + max(0, -box[1]) - max(0, box[3] - self.picture.height)
        self.draw.text((x, y), text, colour, self.font, anchor, stroke_width=rim, stroke_fill=_BACKGROUND)


def _midline(pen: _Pen, points, colour) -> None:
    """Draws the midline as a dashed line, because it is not a length."""
    (x, top), (_, bottom) = pen.place(points)
    dash = 6 * pen.width
    for y in np.arange(top, bottom, 2 * dash):
        pen.path([(x, y), (x, min(y + dash, bottom))], colour)


def _length(pen: _Pen, points, colour, label_at: float = 0.5) -> None:
    """Draws the width of heart or thorax, and its length in pixels of the masks at the share `label_at` of it."""
    length = abs(int(points[1][0] - points[0][0]))
    if not length:
        return
    ends = pen.place(points)
    pen.ticked(ends, colour)
    x, y = ends[0] + label_at * (ends[1] - ends[0])
    pen.write((x, y - 3 * pen.width), str(length), colour, "mb")


def _fitted(pen: _Pen, points, colour) -> None:
    pen.path(pen.place(points), colour)


def _centres(pen: _Pen, points, colour) -> None:
    for point in pen.place(points):
        pen.dot(point, colour, 1.5 * pen.width)


def _distance(pen: _Pen, points, colour) -> None:
    pen.path(pen.place(points), colour)


_DRAWN = {
    "midline": _midline,
    "heart right": _length,
    "heart left": _length,
    "thorax": functools.partial(_length, label_at=0.25),  # in the middle, the midline would cross the number
    "line": _fitted,
    "centres": _centres,
    "distance": _distance,
}


def _draw_class(pen: _Pen, line: Line, colour) -> None:
    points = pen.place(line.points)
    if line.kind == "centroid":
        pen.dot(points[0], colour, 2 * pen.width)
        return
    closed = line.kind in ("box", "hull")  # the step that closes a contour is not measured
    thin = max(1, pen.width // 2) if line.kind == "contour" else pen.width
    pen.path([*points, points[0]] if closed or len(points) == 1 else points, colour, width=thin)


def _name_classes(pen: _Pen, lines: tuple[Line, ...], colours: dict) -> None:
    """Writes each class's name once: to the right of its centroid, or at the top of its other lines."""
    centroids = {line.label: line for line in lines if line.kind == "centroid"}
    names = {label: _short(label) for label in colours}
    shown = {line.label: line for line in reversed(lines) if line.label} | centroids
    for label, line in shown.items():
        points = pen.place(line.points)
        if line.kind == "centroid":
            pen.write(points[0] + [4 * pen.width, 0], names[label], colours[label], "lm")
        else:
            pen.write(points[points[:, 1].argmin()] + [0, -2 * pen.width], names[label], colours[label], "lb")


def _captions(measurements: Measurements, colours: dict) -> list[tuple[str, tuple[int, int, int]]]:
    """Returns lines of text with their colours: the values, and the reasons for missing ones."""
    found = []
    for feature in FEATURES:
        if feature.name not in measurements.features:
            continue
        if feature.kind == "score":
            found += _of_score(feature, measurements)
        else:
            found += _of_classes(feature, measurements, colours)
    if measurements.lines:
        height, width = measurements.size
        found.append(
            (f"Lengths are in pixels of the grid of {width} x {height} on which the masks were measured.", _TEXT)
        )
    of_scores = {column for f in FEATURES if f.kind == "score" for column in f.columns + f.columns_mm}
    missing = {column: reason for column, reason in measurements.reasons.items() if column not in of_scores}
    return found + ([(f"not measured: {summary(missing, most=8)}", _TEXT)] if missing else [])


def _of_score(feature, measurements: Measurements) -> list[tuple]:
    value = measurements.values[feature.name]
    name = f"{feature.name}, {feature.aliases[0]}"
    if math.isnan(value):
        return [(f"{name}: not measured, {measurements.reasons[feature.name]}", _TEXT)]
    if value == -1:
        return [(f"{name}: -1, the original's value for what it cannot measure", _TEXT)]
    if feature.name == "SCD":
        millimetres = measurements.values.get("SCD_mm")
        length = f"{value:.1f} pixels" + (f", {millimetres:.1f} mm" if millimetres is not None else "")
        explained = [("centres of vertebrae", "centres"), ("line fitted to them", "line"), ("distances", "distance")]
        return [(f"{name}: {length}", _TEXT)] + [(f"- {text}", COLOURS[kind]) for text, kind in explained]
    found = [(f"{name}: {value:.3f}", _TEXT)]
    lines = {line.kind: line.points[:, 0] for line in measurements.lines if line.feature == feature.name}
    texts = {"heart right": "heart, picture's left", "heart left": "heart, picture's right", "thorax": "thorax"}
    if lines:
        found.append(("- midline, from the end of the right hemidiaphragm", COLOURS["midline"]))
        found += [(f"- {texts[kind]} {np.ptp(lines[kind])} pixels", COLOURS[kind]) for kind in texts]
    heart, thorax = (measurements.values.get(f"CTR_{part}_width_mm") for part in ("heart", "thorax"))
    if heart is not None:
        found.append((f"- heart {heart:.0f} mm, thorax {thorax:.0f} mm", _TEXT))
    return found


def _of_classes(feature, measurements: Measurements, colours: dict) -> list[tuple]:
    """Returns a feature's values for the classes that have any; for many classes, only their number."""
    found = {}
    for column, value in measurements.values.items():
        label = next((column[: -len(end) - 1] for end in feature.columns if column.endswith(f"_{end}")), None)
        if label is not None and not math.isnan(value):
            found.setdefault(label, []).append(f"{value:.4g}" if isinstance(value, float) else str(value))
    if len(found) > _MAX_LISTED:
        return [(f"{feature.name} of {len(found)} classes", _TEXT)]
    columns = "" if len(feature.columns) == 1 else f" ({', '.join(feature.columns)})"
    return [
        (f"{_short(label)}, {feature.name}{columns}: {', '.join(values)}", colours.get(label, _TEXT))
        for label, values in found.items()
    ]


def _short(label: str) -> str:
    """Returns a label as one line of at most 60 characters."""
    return " ".join(label.split())[:60]


def _strip(captions: list[tuple], width: int, size: int) -> Image.Image:
    """Returns a strip with lines of text, wrapped to the width."""
    font = ImageFont.load_default(size=size)
    gap, line = size // 2, sum(font.getmetrics()) + 2
    wrapped = [(part, colour) for text, colour in captions for part in _wrap(text, font, width - 2 * gap)]
    strip = Image.new("RGB", (width, len(wrapped) * line + 2 * gap), _BACKGROUND)
    pen = ImageDraw.Draw(strip)
    for n, (text, colour) in enumerate(wrapped):
        pen.text((gap, gap + n * line), text, colour, font)
    return strip


def _wrap(text: str, font, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _canvas(image: np.ndarray) -> Image.Image:
    """Returns the image in RGB, enlarged if it is small."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ValueError(f"image must be uint8 (H, W) or (H, W, 3), got {image.dtype} {image.shape}")
    if not image.size:
        raise ValueError(f"image must have pixels, got {image.shape}")
    picture = Image.fromarray(image).convert("RGB")
    if (factor := _MIN_SIDE / max(picture.size)) > 1:
        size = [max(1, round(side * factor)) for side in picture.size]
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    return picture
