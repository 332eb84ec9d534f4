"""A scatter plot of values that should be equal, such as true and predicted Dice. Drawn with Pillow alone."""

import collections
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from jaxseg.draw.legend import BACKGROUND, FAINT, TEXT, cut, draw_entry, font_of, line_height
from jaxseg.palette import OKABE_ITO

OTHERS = (128, 132, 140)
_SIDE, _GAP, _LEFT, _LEGEND, _FINE = 420, 16, 64, 240, 3  # pixels; _FINE times as large while points are drawn
_TICKS, _STEPS = 8, (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 100.0, 1000.0, 1e6)


def scatter(
    true: np.ndarray,
    predicted: np.ndarray,
    *,
    groups: Sequence[str] | None = None,
    title: str = "",
    axes: tuple[str, str] = ("true Dice", "predicted Dice"),
) -> Image.Image:
    """Draws a point for every pair, and the diagonal on which they are equal.

    The axes go from 0 to 1, and further where a value lies beyond. Points are the fainter the more there are.

    Args:
      true, predicted: (N,), along the horizontal and the vertical axis.
      groups: N names; the most frequent ones have colours, the others are grey.
      title: above.
      axes: what the two are.

    Returns:
      An RGB picture.

    Raises:
      ValueError: there is nothing to draw, lengths differ, or a value is not finite.
    """
    true, predicted = np.asarray(true, np.float64), np.asarray(predicted, np.float64)
    if true.ndim != 1 or true.shape != predicted.shape or not true.size:
        raise ValueError(f"points need as many true as predicted values, got {true.shape} and {predicted.shape}")
    if not np.isfinite([true, predicted]).all():
        raise ValueError("points must be finite")
    groups = [""] * len(true) if groups is None else list(groups)
    if len(groups) != len(true):
        raise ValueError(f"{len(true)} points need as many groups, got {len(groups)}")
    colours = _colours(groups)
    font = font_of(15)
    line = line_height(font)
    low, high = min(0.0, true.min(), predicted.min()), max(1.0, true.max(), predicted.max())
    low, high = low - 0.03 * (high - low), high + 0.03 * (high - low)  # so that no point is cut
    top = line + 2 * _GAP
    width = _LEFT + _SIDE + _GAP + (_LEGEND if len(colours) > 1 or "" not in colours else 0)
    picture = Image.new("RGB", (width, top + _SIDE + 2 * line + 2 * _GAP), BACKGROUND)
    pen = ImageDraw.Draw(picture)
    pen.text((_LEFT, _GAP + line // 2), cut(title, font, width - _LEFT - _GAP), TEXT, font, anchor="lm")
    picture.paste(_points(true, predicted, groups, colours, low, high), (_LEFT, top))
    _draw_axes(picture, font, top, low, high, axes)
    if width > _LEFT + _SIDE + _GAP:
        for i, (name, colour) in enumerate(colours.items()):
            shown = cut(name, font, _LEGEND - line - _GAP)
            draw_entry(pen, (shown, colour), _LEFT + _SIDE + _GAP, top + i * line, font)
    return picture


def _colours(groups: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """The colours of groups by frequency; "others" stands for those without one of their own."""
    counts = collections.Counter(groups)
    common = [name for name, _ in counts.most_common(len(OKABE_ITO))]
    found = dict(zip(common, OKABE_ITO, strict=False))
    return found | ({f"{len(counts) - len(common)} others": OTHERS} if len(counts) > len(common) else {})


def _points(true, predicted, groups, colours, low: float, high: float) -> Image.Image:
    side = _SIDE * _FINE
    plot = Image.new("RGB", (side, side), BACKGROUND)
    pen = ImageDraw.Draw(plot, "RGBA")
    alpha = int(np.clip(255 * (300 / len(true)) ** 0.5, 60, 220))
    radius = (4 if len(true) < 1000 else 3) * _FINE
    pen.line([*_place(low, low, low, high, side), *_place(high, high, low, high, side)], fill=FAINT, width=_FINE)
    for order in np.random.default_rng(0).permutation(len(true)):  # no group lies on all others
        x, y = _place(true[order], predicted[order], low, high, side)
        colour = colours.get(groups[order], OTHERS)
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=(*colour, alpha))
    return plot.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)


def _place(x: float, y: float, low: float, high: float, side: int) -> tuple[float, float]:
    return (x - low) / (high - low) * (side - 1), (high - y) / (high - low) * (side - 1)


def _draw_axes(picture: Image.Image, font, top: int, low: float, high: float, axes: tuple[str, str]) -> None:
    pen, line = ImageDraw.Draw(picture), line_height(font)
    pen.rectangle([_LEFT - 1, top - 1, _LEFT + _SIDE, top + _SIDE], outline=FAINT)
    step = next((step for step in _STEPS if (high - low) / step < _TICKS), _STEPS[-1])
    for value in np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step + 0.0:  # no -0
        x, y = _place(value, value, low, high, _SIDE)
        shown = f"{value:.1f}" if step < 1 else f"{value:g}"
        pen.line([_LEFT + x, top + _SIDE, _LEFT + x, top + _SIDE + 5], fill=FAINT)
        pen.text((_LEFT + x, top + _SIDE + 8), shown, FAINT, font, anchor="mt")
        pen.line([_LEFT - 6, top + y, _LEFT - 1, top + y], fill=FAINT)
        pen.text((_LEFT - 10, top + y), shown, FAINT, font, anchor="rm")
    pen.text((_LEFT + _SIDE // 2, top + _SIDE + 8 + line), axes[0], TEXT, font, anchor="mt")
    name = Image.new("RGB", (_SIDE, line), BACKGROUND)
    ImageDraw.Draw(name).text((_SIDE // 2, line // 2), axes[1], TEXT, font, anchor="mm")
    picture.paste(name.rotate(90, expand=True), (6, top))
