"""Plots of numbers in the colours of the package: bars, scatter plots, parallel coordinates. Drawn with matplotlib.

Every function returns an RGB picture, or None if matplotlib, the extra `plot`, is not installed.
"""

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from jaxseg.draw.figures import (
    draw_caption,
    draw_legend,
    make_panels,
    mpl_colour,
    picture_of,
    plain_text,
    short_text,
    text_style,
)
from jaxseg.draw.pictures import BACKGROUND, FAINT, TEXT
from jaxseg.palette import OKABE_ITO

GREY = (128, 132, 140)  # for everything without a specific colour
PAIR = (GREY, OKABE_ITO[1])  # colours of the first and the second bar of a pair
SCALE = (OKABE_ITO[4], OKABE_ITO[1], OKABE_ITO[3])  # blue, sky blue, yellow: brighter is higher for all readers
MAX_ROWS = 24  # rows in a panel of counts; the last one sums up all that follow

Bar = tuple[float | None, float | None]  # a mean and its standard deviation; None: it is not known


@dataclasses.dataclass(frozen=True)
class Panel:
    """One measure, with one pair of bars per row.

    Attributes:
      title: text above the panel.
      pairs: two bars per row.
      top: right end of the axis; None: the largest mean plus its deviation.
      digits: decimal places of the means.
    """

    title: str
    pairs: tuple[tuple[Bar, Bar], ...]
    top: float | None = None
    digits: int = 2


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis of a plot of parallel coordinates.

    Attributes:
      name: text above the axis.
      values: one value per line: numbers, or members of `choices`.
      low, high: ends of the axis; None: the smallest and the largest value.
      log: whether the axis is logarithmic.
      choices: names on the axis from below, evenly spaced; empty: the values are numbers.
    """

    name: str
    values: tuple[float | str, ...]
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[str, ...] = ()


def paired_bars(
    panels: Sequence[Panel], rows: Sequence[str], *, title: str, series: tuple[str, str], caption: str = ""
) -> Image.Image | None:
    """Draws pairs of horizontal bars, such as before and after, with one panel per measure.

    Args:
      panels: at least one, each with one pair per row.
      rows: names of the rows.
      title: text above the names of the rows.
      series: names of the first and the second bar of each pair.
      caption: text below the panels.

    Returns:
      An RGB picture; None without matplotlib.

    Raises:
      ValueError: there is nothing to draw, or the number of pairs in a panel is not the number of rows.
    """
    if not panels or not rows or any(len(panel.pairs) != len(rows) for panel in panels):
        raise ValueError(f"each of one or more panels needs a pair for each of {len(rows)} rows, one at least")
    return picture_of(lambda figure: _draw_paired_bars(figure, panels, rows, title, series, caption))


def count_bars(tables: Mapping[str, Mapping[str, int]], *, caption: str = "", columns: int = 2) -> Image.Image | None:
    """Draws tables of counts as horizontal bars, with one panel per table.

    Args:
      tables: title -> name -> count, at least 0; the order of the names is kept.
      caption: text below the panels.
      columns: number of panels beside each other.

    Returns:
      An RGB picture; None without matplotlib.

    Raises:
      ValueError: there is no table, or no column.
    """
    if not tables or columns < 1:
        raise ValueError(f"at least one table and one column are needed, got {len(tables)} and {columns}")
    return picture_of(lambda figure: _draw_count_bars(figure, tables, caption, columns))


def scatter(
    true: np.ndarray,
    predicted: np.ndarray,
    *,
    groups: Sequence[str] | None = None,
    title: str = "",
    axes: tuple[str, str] = ("true Dice", "predicted Dice"),
) -> Image.Image | None:
    """Draws one point per pair of values, and the diagonal on which both are equal.

    Both axes reach from 0 to 1, and further if a value lies outside. The more points there are, the fainter they are.

    Args:
      true: (N,) values along the horizontal axis.
      predicted: (N,) values along the vertical axis.
      groups: N names; the most frequent names get colours, the others are grey.
      title: text above the plot.
      axes: names of the horizontal and the vertical axis.

    Returns:
      An RGB picture; None without matplotlib.

    Raises:
      ValueError: there is nothing to draw, the lengths differ, or a value is not finite.
    """
    true, predicted = np.asarray(true, np.float64), np.asarray(predicted, np.float64)
    if true.ndim != 1 or true.shape != predicted.shape or not true.size:
        raise ValueError(f"points need as many true as predicted values, got {true.shape} and {predicted.shape}")
    if not np.isfinite([true, predicted]).all():
        raise ValueError("points must be finite")
    groups = [""] * len(true) if groups is None else list(groups)
    if len(groups) != len(true):
        raise ValueError(f"{len(true)} points need as many groups, got {len(groups)}")
    return picture_of(lambda figure: _draw_scatter(figure, true, predicted, groups, title, axes))


def parallel_coordinates(
    axes: Sequence[Axis], *, title: str = "", faint: Sequence[bool] | None = None
) -> Image.Image | None:
    """Draws one line per trial over one axis per parameter; the value on the last axis gives the colour of the line.

    Args:
      axes: at least two, with equally many values; the last one holds numbers.
      title: text above the plot.
      faint: which lines are thin and pale, such as those of trials that were stopped early.

    Returns:
      An RGB picture; None without matplotlib.

    Raises:
      ValueError: there is nothing to draw, the numbers of values differ, or a value does not lie on its axis.
    """
    counts = {len(axis.values) for axis in axes}
    if len(axes) < 2 or len(counts) != 1 or 0 in counts:
        raise ValueError(f"two or more axes with equally many values are needed, got {[len(a.values) for a in axes]}")
    if axes[-1].choices:
        raise ValueError(f"the last axis gives the colours, so it needs numbers; {axes[-1].name} has choices")
    faint = [False] * len(axes[0].values) if faint is None else list(faint)
    if len(faint) != len(axes[0].values):
        raise ValueError(f"{len(axes[0].values)} lines need as many entries of faint, got {len(faint)}")
    positions = np.array([_positions(axis) for axis in axes])  # (axes, lines), from 0 (low end) to 1
    return picture_of(lambda figure: _draw_coordinates(figure, axes, positions, title, faint))


def _draw_paired_bars(figure, panels: Sequence[Panel], rows: Sequence[str], title: str, series, caption: str) -> None:
    from matplotlib.patches import Patch

    names = [short_text(row) for row in rows]
    figure.set_size_inches(2 + 3.2 * len(panels), 1.3 + 0.5 * len(rows) + 0.2 * bool(caption))
    for number, (axes, panel) in enumerate(zip(make_panels(figure, 1, len(panels)), panels, strict=True)):
        bars = [bar for pair in panel.pairs for bar in pair if _is_known(bar[0])]
        top = panel.top or max((mean + (deviation or 0) for mean, deviation in bars), default=1) or 1
        for k, colour in enumerate(PAIR):
            places = np.arange(len(rows)) + (0.19 if k else -0.19)
            _draw_bars(axes, places, [pair[k] for pair in panel.pairs], top, panel.digits, colour)
        axes.set(xlim=(0, 1.22 * top), ylim=(len(rows) - 0.5, -0.5), yticks=range(len(rows)))
        axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= top])
        axes.set_yticklabels(names if number == 0 else [""] * len(rows))
        axes.set_title(plain_text(panel.title), fontsize=10, color=mpl_colour(TEXT), loc="left")
        if number == 0:
            axes.set_ylabel(plain_text(title), fontsize=9, color=mpl_colour(FAINT))
    handles = [
        Patch(color=mpl_colour(colour), label=plain_text(name)) for name, colour in zip(series, PAIR, strict=True)
    ]
    draw_legend(figure, handles, loc="outside upper right", ncols=2)
    draw_caption(figure, caption)


def _draw_bars(axes, places: np.ndarray, bars: Sequence[Bar], top: float, digits: int, colour) -> None:
    for place, (mean, deviation) in zip(places, bars, strict=True):
        if not _is_known(mean):
            axes.text(0.01 * top, place, "-", va="center", fontsize=9, color=mpl_colour(FAINT))
            continue
        length, spread = min(max(mean, 0), top), deviation or 0
        axes.barh(place, length, 0.36, color=mpl_colour(colour))
        ends = np.clip([mean - spread, mean + spread], 0, 1.02 * top)
        axes.plot(ends, [place, place], color=mpl_colour(TEXT), linewidth=1)
        axes.text(max(*ends, length) + 0.02 * top, place, f"{mean:.{digits}f}", va="center", **text_style())


def _draw_count_bars(figure, tables: Mapping[str, Mapping[str, int]], caption: str, columns: int) -> None:
    panels = [(title, _counts(table)) for title, table in tables.items()]
    bands = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    heights = [0.6 + 0.2 * max(max(len(rows), 1) for _, rows in band) for band in bands]
    figure.set_size_inches(4.4 * columns, sum(heights) + 0.3 + 0.2 * bool(caption))
    cells = iter(make_panels(figure, len(bands), columns, height_ratios=heights))
    for title, rows in panels:
        axes = next(cells)
        numbers = [number for _, number in rows]
        top = max(numbers, default=0) or 1
        places = range(len(rows))
        axes.barh(places, numbers, 0.7, color=mpl_colour(OKABE_ITO[1]))
        for place, number in zip(places, numbers, strict=True):
            axes.text(number + 0.02 * top, place, str(number), va="center", **text_style())
        axes.set(xlim=(0, 1.2 * top), ylim=(max(len(rows), 1) - 0.4, -0.6), xticks=[])
        axes.set_yticks(places, [short_text(name) for name, _ in rows])
        axes.set_title(
            plain_text(title) if rows else f"{plain_text(title)}: none", fontsize=10, color=mpl_colour(TEXT), loc="left"
        )
    for axes in cells:
        axes.set_visible(False)
    draw_caption(figure, caption)


def _counts(table: Mapping[str, int]) -> list[tuple[str, int]]:
    rows = list(table.items())
    if len(rows) <= MAX_ROWS:
        return rows
    shown, rest = rows[: MAX_ROWS - 1], rows[MAX_ROWS - 1 :]
    return [*shown, (f"{rest[0][0]} and later", sum(number for _, number in rest))]


def _draw_scatter(figure, true, predicted, groups: list[str], title: str, names: tuple[str, str]) -> None:
    from matplotlib.lines import Line2D

    colours = _group_colours(groups)
    has_legend = len(colours) > 1 or "" not in colours
    figure.set_size_inches(5.2 + 1.9 * has_legend, 5.2)
    (axes,) = make_panels(figure, 1, 1)
    low, high = min(0.0, true.min(), predicted.min()), max(1.0, true.max(), predicted.max())
    low, high = low - 0.03 * (high - low), high + 0.03 * (high - low)  # no point is cut at the border
    axes.plot([low, high], [low, high], color=mpl_colour(FAINT), linewidth=1, zorder=1)
    order = np.random.default_rng(0).permutation(len(true))  # no group covers all others
    alpha = float(np.clip((300 / len(true)) ** 0.5, 0.25, 0.85))
    points = [mpl_colour(colours.get(groups[i], GREY)) for i in order]
    size = 40 if len(true) < 1000 else 22
    axes.scatter(true[order], predicted[order], s=size, c=points, alpha=alpha, linewidths=0, zorder=2)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set_xlabel(plain_text(names[0]), color=mpl_colour(TEXT))
    axes.set_ylabel(plain_text(names[1]), color=mpl_colour(TEXT))
    axes.set_title(short_text(title, 60), fontsize=10, color=mpl_colour(TEXT), loc="left")
    if has_legend:
        style = {"linestyle": "", "marker": "s"}
        handles = [Line2D([], [], color=mpl_colour(c), label=short_text(name), **style) for name, c in colours.items()]
        draw_legend(figure, handles, loc="outside right upper")


def _group_colours(groups: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Returns the colours of the groups by frequency; the last entry is for all groups without a colour."""
    counts = collections.Counter(groups)
    common = [name for name, _ in counts.most_common(len(OKABE_ITO))]
    found = dict(zip(common, OKABE_ITO, strict=False))
    return found | ({f"{len(counts) - len(common)} others": GREY} if len(counts) > len(common) else {})


def _draw_coordinates(figure, axes: Sequence[Axis], positions: np.ndarray, title: str, faint: list[bool]) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    figure.set_size_inches(1.8 * len(axes) + 1.2, 4.6)
    (plot,) = make_panels(figure, 1, 1)
    scale = LinearSegmentedColormap.from_list("jaxseg", [mpl_colour(colour) for colour in SCALE])
    x = np.arange(len(axes))
    for i in sorted(range(positions.shape[1]), key=lambda i: (not faint[i], positions[-1, i])):
        alpha, width = (0.35, 1) if faint[i] else (0.9, 2)
        plot.plot(x, positions[:, i], color=scale(positions[-1, i]), alpha=alpha, linewidth=width)
    box = {"facecolor": mpl_colour(BACKGROUND), "edgecolor": "none", "pad": 1}
    for place, axis in enumerate(axes):
        plot.axvline(place, color=mpl_colour(FAINT), linewidth=1)
        plot.text(place, 1.06, short_text(axis.name, 26), ha="center", va="bottom", **text_style())
        for text, height in _ticks(axis):
            style = {"fontsize": 8, "color": mpl_colour(FAINT), "bbox": box}
            plot.text(place - 0.04, height, short_text(text, 14), ha="right", va="center", zorder=3, **style)
    bar = {"aspect": "auto", "origin": "lower", "extent": (x[-1] + 0.04, x[-1] + 0.1, 0, 1)}
    plot.imshow(np.linspace(0, 1, 256)[:, None], cmap=scale, **bar)
    plot.spines[:].set_visible(False)
    plot.set(xlim=(-0.5, len(axes) - 0.8), ylim=(-0.03, 1.16), xticks=[], yticks=[])
    plot.set_title(short_text(title, 90), fontsize=10, color=mpl_colour(TEXT), loc="left")


def _positions(axis: Axis) -> list[float]:
    """Returns where the values lie on an axis, from 0 at its low end to 1."""
    if axis.choices:
        unknown = [value for value in axis.values if value not in axis.choices]
        if unknown:
            raise ValueError(f"{axis.name}: {unknown[0]!r} is not one of {', '.join(axis.choices)}")
        return [_choice_position(axis.choices.index(str(value)), len(axis.choices)) for value in axis.values]
    low, high = _ends(axis)
    if not (np.isfinite([low, high, *axis.values]).all() and low <= min(axis.values) <= max(axis.values) <= high):
        raise ValueError(f"{axis.name}: values must be finite and from {low:g} to {high:g}")
    if axis.log and low <= 0:
        raise ValueError(f"{axis.name}: a logarithmic axis needs values above 0, got {low:g}")
    return [_number_position(axis, value) for value in axis.values]


def _ends(axis: Axis) -> tuple[float, float]:
    low = min(axis.values) if axis.low is None else axis.low
    high = max(axis.values) if axis.high is None else axis.high
    return low, high


def _choice_position(index: int, count: int) -> float:
    return 0.5 if count == 1 else index / (count - 1)


def _number_position(axis: Axis, value: float) -> float:
    ends = (*_ends(axis), value)
    low, high, value = (math.log(end) for end in ends) if axis.log else ends
    return (value - low) / (high - low) if high > low else 0.5


def _ticks(axis: Axis) -> list[tuple[str, float]]:
    """Returns the labels along an axis with their positions; an axis of numbers has labels at both ends."""
    if axis.choices:
        return [(text, _choice_position(i, len(axis.choices))) for i, text in enumerate(axis.choices)]
    low, high = _ends(axis)
    if low == high:
        return [(f"{low:.4g}", 0.5)]
    if axis.log:
        powers = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
        numbers = [10.0**power for power in powers][:: math.ceil(len(powers) / 6) or 1]
        numbers = [low, *(n for n in numbers if 0.06 < _number_position(axis, n) < 0.94), high]
    else:
        numbers = np.linspace(low, high, 6).tolist()
    return [(f"{number:.4g}", _number_position(axis, number)) for number in numbers]


def _is_known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
