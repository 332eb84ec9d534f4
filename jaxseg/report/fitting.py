"""The blocks of one image in a page: as much content as there is room for."""

import math
from collections.abc import Iterator

import numpy as np

from jaxseg.draw.visualize import preview_classes
from jaxseg.palette import class_colours
from jaxseg.report.catalogue import Catalogue
from jaxseg.report.outlines import figure_size, jpeg, outline, painted, reduced, resized
from jaxseg.report.page import block
from jaxseg.report.reading import Reading

# From the best to the smallest: longer side of the picture, JPEG quality, and tolerance of the outlines.
LARGEST = 768
_OUTLINED = ((LARGEST, 82, 0.75), (640, 70, 1.0), (512, 55, 2.0), (256, 50, 3.0))
_PAINTED = ((256, 78), (256, 60), (192, 50), (128, 45))

WHOLE, SMALLER, NO_PICTURE, NO_VALUES = "whole", "smaller", "no picture", "no values"


def fit_blocks(
    record: dict, reading: Reading, catalogue: Catalogue, *, number: int, outlined: bool, room: float
) -> tuple[str, str]:
    """Returns the blocks of an image that fit a number of bytes.

    Args:
      record: name, links and other facts of the image.
      reading: the image with its masks and measurements.
      catalogue: classes and columns of the page; it contains those of the image.
      number: position of the image in the page.
      outlined: whether the masks are outlines that the reader can switch, or painted on the picture.
      room: number of bytes. The smallest blocks are returned even if they do not fit.

    Returns:
      The blocks, and what they lack: `WHOLE` (nothing), `SMALLER` (the picture is smaller or coarser), `NO_PICTURE`, or
      `NO_VALUES` (neither picture nor measurements).
    """
    rich = record | measured(reading, catalogue)
    text = block(rich, class_="record")
    for loss, picture in pictures(reading, catalogue, outlined=outlined):
        found = text + block(picture, id=f"picture-{number}")
        if len(found) <= room:
            return found, loss
    if len(text) <= room:
        return text, NO_PICTURE
    return block(record, class_="record"), NO_VALUES


def pictures(reading: Reading, catalogue: Catalogue, *, outlined: bool) -> Iterator[tuple[str, dict]]:
    """Yields pictures with their masks, each of fewer bytes than the one before, and what they lack.

    Args:
      reading: the image with its masks.
      catalogue: classes of the page; it contains those of the image.
      outlined: whether the masks are outlines, or painted on the picture.
    """
    shape, last = reading.pixels.shape, None
    if outlined:
        pixels = np.array([np.count_nonzero(reading.masks.mask(k)) for k in range(len(reading.names))])
        large_first = [k for k in np.argsort(-pixels, kind="stable") if pixels[k]]  # so that small ones stay visible
        for side, quality, tolerance in _OUTLINED:
            size = figure_size(shape, side)
            small = resized(reading.pixels, size)
            paths = [
                (catalogue.classes[reading.names[k]], outline(reduced(reading.masks.mask(k), size), tolerance))
                for k in large_first
            ]
            yield last or WHOLE, {"size": size, "jpeg": jpeg(small, quality), "outlines": paths}
            last = SMALLER
        return
    chosen = [reading.names.index(name) for name in preview_classes(reading.names)]
    colours = class_colours([reading.names[k] for k in chosen])
    for side, quality in _PAINTED:
        size = figure_size(shape, side)
        picture = painted(reading.pixels, [reading.masks.mask(k) for k in chosen], colours, size)
        yield last or WHOLE, {"size": size, "jpeg": jpeg(picture, quality)}
        last = SMALLER


def measured(reading: Reading, catalogue: Catalogue) -> dict:
    """Returns the values in the order of the columns (None if there is none), and the columns of each reason.

    Args:
      reading: the image with its measurements.
      catalogue: columns of the page; it contains those of the image.
    """
    values: list = [None] * (1 + max((catalogue.columns[column] for column in reading.values), default=-1))
    for column, value in reading.values.items():
        values[catalogue.columns[column]] = _rounded(value)
    reasons: dict[str, list[int]] = {}
    for column, reason in reading.reasons.items():
        reasons.setdefault(reason, []).append(catalogue.columns[column])
    return {"values": values, "reasons": list(reasons.items())}


def _rounded(value: float) -> float | int | None:
    """Returns a number with six significant digits, which suffice for a mask; None if it is not finite."""
    if isinstance(value, (int, np.integer)):
        return int(value)
    return float(f"{value:.6g}") if math.isfinite(value) else None
