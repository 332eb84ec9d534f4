"""Shows masks of any origin over their image, with a legend beside it. Only Pillow is needed."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageDraw

from jaxseg.draw.overlay import Region, check_alpha, check_colors, paint, region, to_rgb
from jaxseg.draw.pictures import BACKGROUND, FAINT, TEXT, cut, draw_entry, entry_width, font_of, line_height, mark_sides
from jaxseg.images.preprocess import display
from jaxseg.images.read import Picture, from_array, read_under_masks
from jaxseg.masks.formats import Stack
from jaxseg.masks.read import LoadedMasks, open_masks, select
from jaxseg.masks.results import turned_in_run
from jaxseg.palette import class_colours
from jaxseg.vocabulary import labels as label_sets

# The 159 classes of CXAS overlap. These show the chest without hiding each other.
PREVIEW_CLASSES = (
    "lung upper lobe right",
    "lung middle lobe right",
    "lung lower lobe right",
    "lung upper lobe left",
    "lung lower lobe left",
    "heart",
    "aorta",
    "trachea",
    "clavicle right",
    "clavicle left",
    "scapula right",
    "scapula left",
    "right hemidiaphragm",
    "left hemidiaphragm",
    "thoracic spine",
    "lumbar spine",
    "cervical spine",
)
MANY_CLASSES = 30  # if there are more classes of CXAS, only PREVIEW_CLASSES are shown by default
MIN_SIDE, MAX_SIDE = 768, 1600  # pixels of the longer side of a picture; images are enlarged or reduced to it
_SMALLEST_FONT = 11  # pixels
_WIDEST_LEGEND = 0.8  # share of the picture's width


class Masks(Protocol):
    """Masks with names, such as `LoadedMasks` or `Segmentation`.

    Attributes:
      names: (K,) names of the masks.
      size: height and width in pixels.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def size(self) -> tuple[int, int]: ...

    def mask(self, k: int) -> np.ndarray:
        """Returns mask `k`, (H, W) bool."""


def visualize(
    image: str | Path | np.ndarray | Picture,
    masks: str | Path | np.ndarray | Masks,
    *,
    labels: Sequence[str] | None = None,
    classes: str | Sequence[str] | None = None,
    colors: np.ndarray | None = None,
    alpha: float = 0.35,
    sides: bool = True,
    title: str = "",
    width: int | None = None,
) -> Image.Image:
    """Returns a picture of masks over their image, with a legend beside it.

    Small classes are painted over large ones. Empty classes are not in the legend, unless they were named in `classes`.
    Contours are drawn at the resolution of the result.

    Args:
      image: a file (png, jpg, dcm), whose grey values are shown as a viewer does, in the orientation of the masks; an
        array that `jaxseg.images.read.from_array` accepts; or a `Picture`.
      masks: a (K, H, W) or (H, W) array of 0 and 1, the result of `jaxseg.segment`, a file or folder that `read_masks`
        reads, or the result of `open_masks`.
      labels: names of the K masks; None means their own names, or class_000, class_001, ... if they have none.
      classes: labels or groups to show, as a list or separated by commas; "all" means all. None means all as well, but
        only `PREVIEW_CLASSES` if there are more than 30 classes of CXAS, which hide each other.
      colors: (K, 3) integers from 0 to 255, one colour per mask; None means
        `jaxseg.palette.class_colours`, which depend only on the names.
      alpha: opacity of the fills, from 0 (contours only) to 1.
      sides: whether to mark the patient's right and left; correct for frontal pictures that are not mirrored.
      title: text above the picture.
      width: width of the picture without the legend, from 64 to 4096 pixels. None means the size of the image; if its
        longer side is shorter than 768 pixels it is enlarged by a whole number, and above 1600 pixels it is reduced.

    Returns:
      An RGB picture.

    Raises:
      ValueError: sizes, labels, colours or classes do not match, or a file is damaged.
      OSError: a file does not exist or cannot be read.

    Example:
      >>> import jaxseg
      >>> from jaxseg.datasets import phantom
      >>> image, masks = phantom.draw(0, 64)
      >>> picture = jaxseg.visualize(image, masks, labels=phantom.CLASSES, classes="heart, spine", width=128)
      >>> picture.mode, picture.height >= 128
      ('RGB', True)
    """
    found = _masks(masks, image, labels)
    if isinstance(masks, str | Path):
        turned = turned_in_run(Path(masks))
    else:
        turned = getattr(masks, "turned", None)
    picture = _image(image, found.size, turned)
    if tuple(found.size) != picture.shape[:2]:
        raise ValueError(f"the masks are {_by(found.size)}, but the image is {_by(picture.shape)}: they do not match")
    chosen = _selection(found.names, classes)
    all_colors = None if colors is None else check_colors(colors, len(found.names))
    names = [found.names[k] for k in chosen]
    colours = class_colours(names) if all_colors is None else all_colors[list(chosen)]
    size = _output_size(picture.shape[:2], width)
    regions = _regions(found, chosen, size)
    picture = _resized(picture, size)
    paint(picture, regions, colours, check_alpha(alpha))
    entries = list(zip(chosen, regions, map(tuple, colours.tolist()), strict=True))
    legend: list[tuple[str, Any]] = [(found.names[k], colour) for k, part, colour in entries if part]
    if classes is not None and classes != "all" and len(legend) < len(chosen):
        legend += [("not found:", None), *((found.names[k], None) for k, part, _ in entries if not part)]
    note = "" if len(chosen) == len(found.names) else f"{len(chosen)} of {len(found.names)} classes"
    return _page(Image.fromarray(picture), legend, note, title, sides=sides)


def preview(image: str | Path | np.ndarray | Picture, masks: Masks) -> Image.Image:
    """Returns the picture that `visualize` makes by default."""
    return visualize(image, masks)


def preview_classes(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the classes that a picture shows by default.

    These are all classes. If there are more than 30 classes of CXAS, they are those of `PREVIEW_CLASSES`.

    >>> preview_classes(["heart", "lung"])
    ('heart', 'lung')
    """
    choice = tuple(name for name in PREVIEW_CLASSES if name in names)
    crowded = len(names) > MANY_CLASSES and set(names) <= set(label_sets.CXAS)
    return choice if crowded and choice else tuple(names)


def _by(shape: Sequence[int]) -> str:
    return f"{shape[0]} x {shape[1]}"


def _image(image: Any, size: tuple[int, int], turned: bool | None) -> np.ndarray:
    """Returns an image of any kind as (H, W, 3) uint8; `size` and `turned` are those of its masks."""
    if isinstance(image, str | Path):
        image = read_under_masks(image, size, turned=turned)
    elif not isinstance(image, Picture):
        array = np.asarray(image)
        if array.dtype == np.uint8:
            return to_rgb(array)
        image = from_array(array)
    return to_rgb(display(image))


def _masks(masks: Any, image: Any, names: Sequence[str] | None) -> Any:
    """Returns masks of any kind, with the given names."""
    if isinstance(names, str):
        raise ValueError("labels must be a list of strings, got one string")
    if isinstance(masks, str | Path):
        return open_masks(masks, names=names, image=image if isinstance(image, str | Path) else None)
    if not hasattr(masks, "names"):
        array = _binary(np.asarray(masks))
        masks = LoadedMasks(label_sets.numbered(len(array)), array)
    if names is None:
        return masks
    if len(names) != len(masks.names):
        raise ValueError(f"{len(masks.names)} masks need as many labels, got {len(names)}")
    if isinstance(masks, Stack):
        return dataclasses.replace(masks, names=tuple(names))
    return SimpleNamespace(names=tuple(names), size=masks.size, mask=masks.mask)


def _binary(array: np.ndarray) -> np.ndarray:
    """Returns an array of 0 and 1 as (K, H, W) bool."""
    if array.ndim not in (2, 3) or not array.size:
        raise ValueError(f"masks must be (K, H, W) or (H, W), got {array.shape}")
    if array.dtype == bool:
        array = array.view(np.uint8) > 0  # in arrays from Pillow, True is stored as the byte 255
    elif not (array.dtype.kind in "iuf" and ((array == 0) | (array == 1)).all()):
        raise ValueError(f"masks must be 0 and 1, got other values in {array.dtype}; threshold or split them first")
    return array.astype(bool, copy=False).reshape(-1, *array.shape[-2:])


def _selection(names: tuple[str, ...], classes: Any) -> tuple[int, ...]:
    if classes is None:
        wanted = preview_classes(names)
        return tuple(range(len(names))) if len(wanted) == len(names) else tuple(names.index(name) for name in wanted)
    return select(names, None if classes == "all" else classes)


def _output_size(size: tuple[int, int], width: int | None) -> tuple[int, int]:
    """Returns the height and width of the picture."""
    longer = max(size)
    scale = math.ceil(MIN_SIDE / longer) if longer < MIN_SIDE else min(1.0, MAX_SIDE / longer)
    if width is not None:
        if not 64 <= width <= 4096:
            raise ValueError(f"width must be from 64 to 4096 pixels, got {width}")
        scale = width / size[1]
        if size[0] * scale > 4 * 4096:
            raise ValueError(f"an image of {_by(size)} becomes too high at a width of {width}; choose a smaller width")
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _regions(masks: Masks | Stack, chosen: tuple[int, ...], size: tuple[int, int]) -> list[Region | None]:
    """Returns the regions of the chosen masks in the picture, with one mask in memory at a time."""
    order = sorted(chosen)
    decoded = masks.read(order) if isinstance(masks, Stack) else (masks.mask(k) for k in order)
    found = {k: _scaled(mask, size) for k, mask in zip(order, decoded, strict=True)}
    return [found[k] for k in chosen]


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if picture.shape[:2] == size:
        return picture
    return np.array(Image.fromarray(picture).resize(size[::-1], Image.Resampling.LANCZOS))


def _scaled(mask: np.ndarray, size: tuple[int, int]) -> Region | None:
    """Returns the region of a mask in a picture of another size; it is None only if the mask is empty."""
    part = region(mask)
    if part is None or mask.shape == size:
        return part
    scales = [new / old for new, old in zip(size, mask.shape, strict=True)]
    box = tuple(
        slice(max(0, math.floor((side.start - 1) * scale)), min(new, math.ceil((side.stop + 1) * scale)))
        for side, scale, new in zip(part.box, scales, size, strict=True)
    )
    rows, columns = box
    source = (columns.start / scales[1], rows.start / scales[0], columns.stop / scales[1], rows.stop / scales[0])
    source = (*source[:2], min(source[2], mask.shape[1]), min(source[3], mask.shape[0]))
    grey = Image.fromarray(mask.view(np.uint8) * np.uint8(255))
    target = (columns.stop - columns.start, rows.stop - rows.start)
    shades = np.asarray(grey.resize(target, Image.Resampling.BILINEAR, box=source))
    inside = shades > 127 if (shades > 127).any() else shades == shades.max()
    return Region((rows, columns), inside)


def _page(picture: Image.Image, legend: list, note: str, title: str, *, sides: bool) -> Image.Image:
    """Returns the picture with its title above and its legend beside it."""
    if sides:
        size = max(14, min(picture.size) // 28)
        mark_sides(picture, size // 2, picture.height - size // 2, picture.width - size, size)
    panel = _panel(legend, note, picture.width, max(picture.height, 240))
    font = font_of(max(14, min(26, picture.width // 48)))
    top = line_height(font) + 10 if title else 0
    page = Image.new("RGB", (picture.width + panel.width, top + max(picture.height, panel.height)), BACKGROUND)
    if title:
        pen = ImageDraw.Draw(page)
        pen.text((12, top // 2), cut(title, font, page.width - 24), TEXT, font, anchor="lm")
    page.paste(picture, (0, top))
    page.paste(panel, (picture.width, top))
    return page


def _panel(legend: list, note: str, picture_width: int, height: int) -> Image.Image:
    """Returns the legend in as many columns as it needs. Its width is 0 if there is no text."""
    if not legend and not note:
        return Image.new("RGB", (0, height), BACKGROUND)
    font, columns, widths = _fit(legend, note, max(240, round(_WIDEST_LEGEND * picture_width)), height)
    line, gap = line_height(font), line_height(font)
    panel = Image.new("RGB", (sum(widths) + gap * (len(widths) + 1), height), BACKGROUND)
    pen = ImageDraw.Draw(panel)
    x = gap
    for entries, column_width in zip(columns, widths, strict=True):
        for row, (text, colour) in enumerate(entries):
            y = gap // 2 + row * line
            text = cut(text, font, column_width - line)
            if colour is None:
                pen.text((x, y + line // 2), text, FAINT, font, anchor="lm")
            else:
                draw_entry(pen, (text, colour), x, y, font)
        x += column_width + gap
    if note:
        pen.text((gap, height - gap // 2 - line // 2), note, FAINT, font, anchor="lm")
    return panel


def _fit(legend: list, note: str, most: int, height: int) -> tuple:
    """Returns the largest font for which the legend fits, the entries of each column, and the widths of the columns."""
    largest = max(_SMALLEST_FONT, min(22, height // 44))
    for size in range(largest, _SMALLEST_FONT - 1, -1):
        font = font_of(size)
        line = line_height(font)
        rows = max(1, (height - line) // line - (1 if note else 0))
        columns = [legend[i : i + rows] for i in range(0, len(legend), rows)] or [[]]
        widths = [min(entry_width([text for text, _ in column], font), most) for column in columns]
        widths[0] = max(widths[0], min(most, round(font.getlength(note))))
        if sum(widths) + line * (len(widths) + 1) <= most:
            return font, columns, widths
    while len(columns) > 1 and sum(widths) + line * (len(widths) + 1) > most:
        columns, widths = columns[:-1], widths[:-1]
    left_out = len(legend) - sum(map(len, columns)) + 1
    if left_out > 1:
        columns[-1] = [*columns[-1][:-1], (f"and {left_out} more", None)]
    return font, columns, widths
