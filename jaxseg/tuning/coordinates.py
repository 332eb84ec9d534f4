"""Parallel coordinates: an axis a parameter, a line a trial, coloured by the last axis. Drawn with Pillow alone."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from jaxseg.draw.legend import BACKGROUND, FAINT, TEXT, cut, font_of, line_height
from jaxseg.palette import OKABE_ITO

SCALE = tuple(np.array(OKABE_ITO[i]) for i in (4, 1, 3))  # blue, sky, yellow: darker is lower, to all kinds of eyes
_HEIGHT, _STEP, _LEFT, _GAP, _FINE = 360, 170, 90, 16, 3  # pixels; _FINE times as large while lines are drawn
_TICKS = 6  # the most along an axis of numbers
_BAR, _PAD = 10, 4  # width of the scale of colours; room above and below the axes for the width of lines


@dataclasses.dataclass(frozen=True)
class Axis:
    """What an axis shows.

    Attributes:
      name: above it.
      values: a line's value each: numbers, or some of `choices`.
      low, high: of the axis' lower and upper end; None: of the values.
      log: the logarithm is drawn.
      choices: names, from below, evenly spaced; none: the values are numbers.
    """

    name: str
    values: tuple[float | str, ...]
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[str, ...] = ()


def parallel_coordinates(axes: Sequence[Axis], *, title: str = "", faint: Sequence[bool] | None = None) -> Image.Image:
    """Draws a line for every entry of the axes' values; higher ones of the last axis are brighter and drawn later.

    Args:
      axes: two at least, with equally many values; the last is of numbers.
      title: above.
      faint: which lines are thin and pale, such as those of trials that were cut short.

    Returns:
      An RGB picture.

    Raises:
      ValueError: there is nothing to draw, numbers differ, or a value has no place on its axis.
    """
    counts = {len(axis.values) for axis in axes}
    if len(axes) < 2 or len(counts) != 1 or 0 in counts:
        raise ValueError(f"two or more axes with equally many values are needed, got {[len(a.values) for a in axes]}")
    if axes[-1].choices:
        raise ValueError(f"the last axis gives the colours, so it is of numbers; {axes[-1].name} has choices")
    faint = [False] * len(axes[0].values) if faint is None else list(faint)
    if len(faint) != len(axes[0].values):
        raise ValueError(f"{len(axes[0].values)} lines need as many entries of faint, got {len(faint)}")
    places = np.array([_places(axis) for axis in axes])  # (axes, lines), from 0 below to 1
    font = font_of(14)
    line = line_height(font)
    top, width = 2 * line + 2 * _GAP, _LEFT + (len(axes) - 1) * _STEP + _LEFT
    picture = Image.new("RGB", (width, top + _HEIGHT + _GAP), BACKGROUND)
    picture.paste(_lines(places, faint), (_LEFT, top - _PAD))
    pen = ImageDraw.Draw(picture)
    pen.text((_GAP, _GAP), cut(title, font, width - 2 * _GAP), TEXT, font)
    for i, axis in enumerate(axes):
        x = _LEFT + i * _STEP
        pen.text((x, top - _GAP // 2), cut(axis.name, font, _STEP - _GAP // 2), TEXT, font, anchor="ms")
        pen.line([x, top, x, top + _HEIGHT - 1], fill=FAINT)
        for text, place in _ticks(axis):
            y = top + round((1 - place) * (_HEIGHT - 1))
            pen.line([x - 4, y, x, y], fill=FAINT)
            box = pen.textbbox((x - 7, y), cut(text, font, _LEFT - _GAP), font=font, anchor="rm")
            pen.rectangle(box, fill=BACKGROUND)  # lines would cross the text
            pen.text((x - 7, y), cut(text, font, _LEFT - _GAP), FAINT, font, anchor="rm")
    picture.paste(_colour_bar(), (width - _LEFT + 4, top))
    return picture


def colour_of(place: float) -> tuple[int, int, int]:
    """Returns the colour of a value that is so high between the lowest, 0, and the highest, 1."""
    steps = np.clip(place, 0, 1) * (len(SCALE) - 1)
    i = min(int(steps), len(SCALE) - 2)
    return tuple(int(c) for c in np.rint(SCALE[i] + (steps - i) * (SCALE[i + 1] - SCALE[i])))


def _places(axis: Axis) -> list[float]:
    if axis.choices:
        unknown = [value for value in axis.values if value not in axis.choices]
        if unknown:
            raise ValueError(f"{axis.name}: {unknown[0]!r} is not one of {', '.join(axis.choices)}")
        return [_choice_place(axis.choices.index(value), len(axis.choices)) for value in axis.values]
    low, high = _ends(axis)
    if not (np.isfinite([low, high, *axis.values]).all() and low <= min(axis.values) <= max(axis.values) <= high):
        raise ValueError(f"{axis.name}: values must be finite and from {low:g} to {high:g}")
    if axis.log and low <= 0:
        raise ValueError(f"{axis.name}: an axis of logarithms needs values above 0, got {low:g}")
    return [_number_place(axis, value) for value in axis.values]


def _ends(axis: Axis) -> tuple[float, float]:
    low = min(axis.values) if axis.low is None else axis.low
    high = max(axis.values) if axis.high is None else axis.high
    return low, high


def _choice_place(index: int, count: int) -> float:
    return 0.5 if count == 1 else index / (count - 1)


def _number_place(axis: Axis, value: float) -> float:
    ends = (*_ends(axis), value)
    low, high, value = (math.log(end) for end in ends) if axis.log else ends
    return (value - low) / (high - low) if high > low else 0.5


def _ticks(axis: Axis) -> list[tuple[str, float]]:
    """Texts along an axis, with their places."""
    if axis.choices:
        return [(text, _choice_place(i, len(axis.choices))) for i, text in enumerate(axis.choices)]
    low, high = _ends(axis)
    if low == high:
        return [(f"{low:.4g}", 0.5)]
    if axis.log:
        powers = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
        numbers = [10.0**power for power in powers][:: math.ceil(len(powers) / _TICKS) or 1]
        near = [number for number in numbers if 0.06 < _number_place(axis, number) < 0.94]  # ends have texts too
        numbers = [low, *near, high]
    else:
        numbers = np.linspace(low, high, _TICKS).tolist()
    return [(f"{number:.4g}", _number_place(axis, number)) for number in numbers]


def _lines(places: np.ndarray, faint: Sequence[bool]) -> Image.Image:
    """The lines between the axes; the brightest and those that are not faint lie above."""
    count = len(places)
    size = ((count - 1) * _STEP, _HEIGHT + 2 * _PAD)
    plot = Image.new("RGB", (size[0] * _FINE, size[1] * _FINE), BACKGROUND)
    pen = ImageDraw.Draw(plot, "RGBA")
    for i in sorted(range(places.shape[1]), key=lambda i: (not faint[i], places[-1, i])):
        colour = (*colour_of(places[-1, i]), 90 if faint[i] else 230)
        points = [(k * _STEP * _FINE, (_PAD + (1 - places[k, i]) * (_HEIGHT - 1)) * _FINE) for k in range(count)]
        pen.line(points, fill=colour, width=_FINE if faint[i] else 2 * _FINE, joint="curve")
    return plot.resize(size, Image.Resampling.LANCZOS)


def _colour_bar() -> Image.Image:
    column = np.array([colour_of(1 - i / (_HEIGHT - 1)) for i in range(_HEIGHT)], np.uint8)
    return Image.fromarray(np.repeat(column[:, None], _BAR, 1))
