"""Sheets of sampled masks: image, clean mask, agreement, entropy, confusion matrices, and the first samples."""

import numpy as np
from PIL import Image

from jaxseg.draw.overlay import overlay
from jaxseg.draw.pictures import BACKGROUND
from jaxseg.draw.sheet import contact_sheet
from jaxseg.palette import class_colours

_CELL = 256  # side of a cell in pixels
_LINE = 2  # pixels between the pictures of the matrices
_SEPARATOR = 90  # grey value of the pixels between them


def samples_sheet(
    image: np.ndarray,
    clean: np.ndarray,
    masks: np.ndarray,
    agreement: np.ndarray,
    entropy: np.ndarray,
    confusion: np.ndarray | None = None,
    *,
    classes: int = 2,
    title: str = "",
) -> Image.Image:
    """Draws one image with its samples, as `jaxseg.sample` returns them, in two rows.

    Args:
      image: (H, W, C) finite numbers. Values from the 1st to the 99th percentile are stretched to black to white; three
        channels are shown as colours.
      clean: (H, W) uint8 classes; class 0 is not outlined.
      masks: (n, H, W) uint8 classes; as many are shown as fit into one row.
      agreement: (H, W), from 1 / classes (black) to 1 (white).
      entropy: (H, W) in bits, from 0 (black) to log2(classes) (white).
      confusion: (K, K, H, W) in [0, 1], shown as K x K pictures; None: not shown.
      classes: K, at least two.
      title: first words of the caption.

    Returns:
      An RGB image.
    """
    picture = enlarged(shown_image(image))
    names = [f"class {k}" for k in range(1, classes)]
    colours = class_colours(names)

    def outlined(mask: np.ndarray, alpha: float) -> np.ndarray:
        large = enlarged(mask)
        return overlay(picture, np.stack([large == k for k in range(1, classes)]), alpha=alpha, colors=colours)

    low = 1 / classes
    cells = {"image": picture, "clean": outlined(clean, 0)}
    cells["agreement"] = enlarged(grey((agreement - low) / (1 - low)))
    cells["entropy"] = enlarged(grey(entropy / np.log2(classes)))
    if confusion is not None:
        cells["confusion matrix"] = enlarged(confusion_picture(confusion))
    legend = [(name, tuple(map(int, colour))) for name, colour in zip(names, colours, strict=True)]
    legend = legend if classes > 2 else []
    caption = _caption(masks, classes, title, has_confusion=confusion is not None)
    maps = contact_sheet([list(cells.values())], titles=list(cells), legend=[], cell=_CELL)
    shown = [outlined(mask, 0.35) for mask in masks[: len(cells)]]
    missing = len(cells) - len(shown)
    titles = [f"sample {i + 1}" for i in range(len(shown))] + [""] * missing
    shown += [np.full((1, 1, 3), BACKGROUND, np.uint8)] * missing
    drawn = contact_sheet([shown], titles=titles, legend=legend, caption=caption, cell=_CELL)
    sheet = Image.new("RGB", (maps.width, maps.height + drawn.height), BACKGROUND)
    sheet.paste(maps, (0, 0))
    sheet.paste(drawn, (0, maps.height))
    return sheet


def _caption(masks: np.ndarray, classes: int, title: str, *, has_confusion: bool) -> str:
    """Returns the sentence that explains the grey values of the maps."""
    parts = [title] if title else []
    parts.append(f"{len(masks)} samples; agreement: black {1 / classes:.0%}, white 100%")
    if not masks.any():
        parts.append("all samples are empty")
    parts.append(f"entropy in bits: black 0, white {np.log2(classes):.3g}")
    if has_confusion:
        parts.append("confusion matrix: one row per annotated class, one column per true class; black 0, white 1")
    return "; ".join(parts)


def confusion_picture(confusion: np.ndarray) -> np.ndarray:
    """Returns confusion matrices as one picture, (K * (H + 2) - 2, K * (W + 2) - 2) uint8; 0 is black and 1 is white.

    Args:
      confusion: (K, K, H, W) in [0, 1]; the first axis is the row of pictures, the second the column.
    """
    rows, columns, height, width = confusion.shape
    size = rows * (height + _LINE) - _LINE, columns * (width + _LINE) - _LINE
    found = np.full(size, _SEPARATOR, np.uint8)
    for i in range(rows):
        for j in range(columns):
            top, left = i * (height + _LINE), j * (width + _LINE)
            found[top : top + height, left : left + width] = grey(confusion[i, j])
    return found


def grey(values: np.ndarray) -> np.ndarray:
    """Returns values in [0, 1] as uint8 from 0 to 255; values outside are clipped."""
    return np.rint(255 * np.clip(np.asarray(values, np.float64), 0, 1)).astype(np.uint8)


def shown_image(image: np.ndarray) -> np.ndarray:
    """Returns an (H, W, C) image as a uint8 picture: (H, W, 3) for three channels, else the mean channel, (H, W)."""
    values = np.asarray(image, np.float64)
    values = values if values.shape[2] == 3 else values.mean(-1)
    low, high = np.percentile(values, (1, 99))
    if high <= low:  # nearly all pixels are background
        low, high = values.min(), values.max()
    return grey((values - low) / (high - low) if high > low else np.zeros_like(values))


def enlarged(picture: np.ndarray) -> np.ndarray:
    """Returns a small picture with each pixel repeated, so that outlines are thin; large pictures are unchanged."""
    times = max(1, _CELL // max(picture.shape[:2]))
    return picture.repeat(times, axis=0).repeat(times, axis=1)
