"""Box plots of scores by class, with one panel per measure, in the colours of the classes. Drawn with matplotlib."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image

from jaxseg.draw.figures import draw_caption, make_panels, mpl_colour, picture_of, plain_text, short_text
from jaxseg.draw.pictures import BACKGROUND, FAINT, TEXT

MANY = 30  # rows; more of them are drawn closer together
_MOST_POINTS = 300  # outliers that are drawn of one box
_FEWEST = 5  # values; fewer are drawn as points, without a box
_WHISKER = 1.5  # length of a whisker, as a multiple of the box


@dataclasses.dataclass(frozen=True)
class BoxPanel:
    """One measure.

    Attributes:
      title: text above the panel.
      values: one array per row; NaN and infinite values are left out.
      top: right end of the axis, such as 1 for shares; None: the end of the longest whisker.
    """

    title: str
    values: tuple[np.ndarray, ...]
    top: float | None = None


@dataclasses.dataclass(frozen=True)
class _Box:
    """Quartiles, ends of the whiskers, and the values beyond them."""

    low: float
    first: float
    median: float
    third: float
    high: float
    outliers: np.ndarray


def boxes(
    panels: Sequence[BoxPanel],
    rows: Sequence[str],
    *,
    colours: Sequence[Sequence[int]] | np.ndarray,
    title: str = "",
    caption: str = "",
) -> Image.Image | None:
    """Draws one horizontal box for each row in every panel.

    A box reaches from the first to the third quartile, with a line at the median. Its whiskers reach to the last values
    within 1.5 lengths of the box. Values beyond them are points, and those beyond the axis are marks at its end. Fewer
    than five values are points without a box.

    Args:
      panels: at least one, each with one array per row.
      rows: names of the rows.
      colours: one per row.
      title: text above the panels.
      caption: text below the panels.

    Returns:
      An RGB picture; None without matplotlib.

    Raises:
      ValueError: there is nothing to draw, or the numbers of rows, arrays and colours differ.
    """
    if not panels or not rows or len(colours) != len(rows) or any(len(p.values) != len(rows) for p in panels):
        raise ValueError(f"each of one or more panels needs values and a colour for each of {len(rows)} rows")
    return picture_of(lambda figure: _draw(figure, panels, rows, colours, title, caption))


def _draw(figure, panels: Sequence[BoxPanel], rows: Sequence[str], colours, title: str, caption: str) -> None:
    many = len(rows) > MANY
    height, size = (0.16, 6.5) if many else (0.36, 9)
    figure.set_size_inches(2.4 + 2.9 * len(panels), 1.1 + height * len(rows) + 0.25 * bool(caption) + 0.3 * bool(title))
    faces = [mpl_colour(colour) for colour in colours]
    for number, (axes, panel) in enumerate(zip(make_panels(figure, 1, len(panels)), panels, strict=True)):
        found = [_box(values) for values in panel.values]
        low, high = _limits(panel, found)
        _draw_panel(axes, found, faces, low, high, small=many)
        axes.set(ylim=(len(rows) - 0.4, -0.6), xlim=(low - 0.02 * (high - low), high + 0.02 * (high - low)))
        axes.set_yticks(range(len(rows)), [short_text(row) for row in rows] if number == 0 else [""] * len(rows))
        axes.tick_params(axis="y", labelsize=size, length=0)
        axes.grid(axis="x", color=mpl_colour(FAINT), alpha=0.2, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_title(plain_text(panel.title), fontsize=10, color=mpl_colour(TEXT), loc="left")
        if many:
            axes.tick_params(axis="x", labeltop=True, top=True)
    if title:
        figure.suptitle(short_text(title, 110), fontsize=11, color=mpl_colour(TEXT), x=0.01, ha="left")
    draw_caption(figure, caption)


def _draw_panel(axes, found: Sequence[_Box | None], faces: Sequence, low: float, high: float, *, small: bool) -> None:
    places = [place for place, box in enumerate(found) if box is not None]
    kept = [box for box in found if box is not None]
    drawn = [(place, box) for place, box in zip(places, kept, strict=True) if not np.isnan(box.first)]
    if drawn:
        y = [place for place, _ in drawn]
        ends = np.array([[box.low, box.first, box.median, box.third, box.high] for _, box in drawn])
        colour = [faces[place] for place in y]
        axes.hlines(y, ends[:, 0], ends[:, 4], colors=mpl_colour(FAINT), lw=0.8 if small else 1.2, zorder=1)
        widths, edge = ends[:, 3] - ends[:, 1], mpl_colour(TEXT)
        axes.barh(y, widths, 0.62, left=ends[:, 1], color=colour, ec=edge, lw=0.4, zorder=2)
        middle = np.array(y, float)
        axes.vlines(ends[:, 2], middle - 0.36, middle + 0.36, colors=mpl_colour(BACKGROUND), lw=3, zorder=3)
        axes.vlines(ends[:, 2], middle - 0.36, middle + 0.36, colors=mpl_colour(TEXT), lw=1.2, zorder=3)
    points = [(value, place) for place, box in zip(places, kept, strict=True) for value in _thinned(box.outliers)]
    values, rows = (np.array(part, float) for part in zip(*points, strict=True)) if points else (np.empty(0),) * 2
    inside = (values >= low) & (values <= high)
    for chosen, marker, size in ((inside, "o", 14), (values > high, ">", 24), (values < low, "<", 24)):
        colour = [faces[int(place)] for place in rows[chosen]]
        style = {"s": size / 3 if small else size, "marker": marker, "color": colour, "linewidths": 0, "zorder": 3}
        axes.scatter(np.clip(values[chosen], low, high), rows[chosen], **style)
    for place, box in enumerate(found):
        if box is None:
            axes.text(low, place, "-", va="center", fontsize=7 if small else 9, color=mpl_colour(FAINT))


def _box(values: np.ndarray) -> _Box | None:
    """Returns the box of the values that are finite; None if there are none."""
    values = np.sort(values[np.isfinite(values)])
    if not values.size:
        return None
    if values.size < _FEWEST:
        return _Box(*[np.nan] * 5, values)
    first, median, third = np.quantile(values, (0.25, 0.5, 0.75))
    reach = _WHISKER * (third - first)
    inside = values[(values >= first - reach) & (values <= third + reach)]
    low, high = min(inside[0], first), max(inside[-1], third)
    return _Box(low, first, median, third, high, values[(values < low) | (values > high)])


def _limits(panel: BoxPanel, found: Sequence[_Box | None]) -> tuple[float, float]:
    """Returns the ends of the axis: shares from the tenth below the lowest whisker, distances from 0."""
    ends = [end for box in found if box is not None for end in _ends(box)]
    if panel.top is None:
        high = max(ends, default=1.0)
        return 0.0, float(high) if high > 0 else 1.0
    low = np.floor(10 * min(ends, default=0.0) - 1e-9) / 10
    return float(np.clip(low, 0.0, panel.top - 0.1)), panel.top


def _ends(box: _Box) -> tuple[float, float]:
    return (box.outliers[0], box.outliers[-1]) if np.isnan(box.first) else (box.low, box.high)


def _thinned(points: np.ndarray) -> np.ndarray:
    if len(points) <= _MOST_POINTS:
        return points
    return points[np.linspace(0, len(points) - 1, _MOST_POINTS).astype(int)]
