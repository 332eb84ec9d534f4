"""What all plots share: figures without a window system, panels, legends and text in the colours of the package.

matplotlib is the extra `plot`. Every plot is drawn with a separate figure and canvas, without `pyplot`, so that
plots can be drawn in any thread. If matplotlib is not installed, the log names the extra, once per process.
"""

import functools
import importlib
import logging
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from jaxseg.draw.pictures import BACKGROUND, FAINT, TEXT
from jaxseg.files import printable

_DPI = 100
_LONGEST_NAME = 34  # characters

_log = logging.getLogger(__name__)


def picture_of(draw: Callable) -> Image.Image | None:
    """Runs `draw` on an empty figure and returns it as a picture; None without matplotlib."""
    if not _has_matplotlib():
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(dpi=_DPI, facecolor=mpl_colour(BACKGROUND), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    draw(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


@functools.cache
def _has_matplotlib() -> bool:
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError:
        _log.warning("no plot was drawn, since matplotlib is not installed: pip install 'jaxseg[plot]'")
        return False
    return True


def make_panels(figure, rows: int, columns: int, **options) -> list:
    """Returns the axes of a grid of plots, row by row, in the colours of the package."""
    found = figure.subplots(rows, columns, squeeze=False, gridspec_kw=options).ravel()
    for axes in found:
        axes.set_facecolor(mpl_colour(BACKGROUND))
        axes.tick_params(colors=mpl_colour(FAINT), labelsize=9)
        for spine in axes.spines.values():
            spine.set_color(mpl_colour(FAINT))
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return list(found)


def draw_legend(figure, handles: list, **options) -> None:
    """Draws the legend of a figure; `options` say where, as `Figure.legend` takes them."""
    figure.legend(handles=handles, frameon=False, fontsize=9, labelcolor=mpl_colour(TEXT), **options)


def draw_caption(figure, caption: str) -> None:
    """Draws a text below all panels; nothing if it is empty."""
    if caption:
        figure.supxlabel(plain_text(caption), fontsize=9, color=mpl_colour(FAINT), wrap=True)


def text_style() -> dict:
    """Returns size and colour of text inside a panel, as arguments of matplotlib."""
    return {"fontsize": 9, "color": mpl_colour(TEXT)}


def mpl_colour(rgb: Sequence[int]) -> tuple[float, ...]:
    """Returns a colour of three numbers up to 255 as matplotlib takes it."""
    return tuple(int(part) / 255 for part in rgb)


def plain_text(text: str) -> str:
    """Returns a text that matplotlib draws unchanged: no control characters, no formulas, only letters of its font."""
    known = _letters()
    text = printable(" ".join(text.split()))
    return "".join(letter if ord(letter) in known else "?" for letter in text).replace("$", r"\$")


@functools.cache
def _letters() -> frozenset[int]:
    """Returns the code points of matplotlib's own font."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def short_text(text: str, longest: int = _LONGEST_NAME) -> str:
    """Returns a text as `plain_text` does, shortened to at most `longest` characters."""
    text = " ".join(text.split())
    return plain_text(text if len(text) <= longest else f"{text[: longest - 3].rstrip()}...")
