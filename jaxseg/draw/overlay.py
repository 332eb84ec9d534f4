"""Masks over an image: translucent fills and contours.

Images are uint8, (H, W) or (H, W, 3); masks are bool, (K, H, W), and may overlap; colours are uint8 RGB.
"""

import dataclasses

import numpy as np

from jaxseg.palette import palette

_CONTOUR_2_PX = 768  # images at least this large get contours of two pixels


@dataclasses.dataclass(frozen=True)
class Region:
    """Where a mask is not empty: the smallest box around it, and the (h, w) bool mask inside that box."""

    box: tuple[slice, slice]
    inside: np.ndarray


def region(mask: np.ndarray) -> Region | None:
    """Returns the Region of an (H, W) bool mask; None of an empty one."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return None
    part = mask[rows[0] : rows[-1] + 1]
    columns = np.flatnonzero(part.any(axis=0))
    across = slice(columns[0], columns[-1] + 1)
    return Region((slice(rows[0], rows[-1] + 1), across), part[:, across])


def overlay(
    image: np.ndarray, masks: np.ndarray, *, alpha: float = 0.35, colors: np.ndarray | None = None
) -> np.ndarray:
    """Paints masks over an image: translucent fills, small ones on top, then contours inside their edges.

    Args:
      image: (H, W) or (H, W, 3) uint8.
      masks: (K, H, W) bool; classes without a pixel are skipped.
      alpha: opacity of the fills, from 0 (contours only) to 1.
      colors: (K, 3) uint8; `palette(K)` if not given.

    Returns:
      (H, W, 3) uint8; pixels outside all masks are those of the image.

    Raises:
      ValueError: a shape, a dtype, the number of colours, or alpha is not as said above.
    """
    picture, masks = to_rgb(image), np.asarray(masks)
    if masks.dtype != bool:
        raise ValueError(f"masks must be bool, got {masks.dtype}; threshold probabilities first, as in probs > 0.5")
    if masks.ndim != 3 or masks.shape[1:] != picture.shape[:2]:
        raise ValueError(f"masks must be (K, H, W) with the image's {picture.shape[:2]}, got {masks.shape}")
    colors = check_colors(colors, len(masks))
    regions = [region(mask) for mask in masks]
    paint(picture, regions, colors, check_alpha(alpha))
    return picture


def paint(picture: np.ndarray, regions: list[Region | None], colors: np.ndarray, alpha: float) -> None:
    """Paints regions over a picture, in place, as `overlay` does.

    Args:
      picture: (H, W, 3) uint8.
      regions: K of them, in the picture's pixels; None is skipped.
      colors: (K, 3) uint8.
      alpha: opacity of the fills, from 0 to 1.
    """
    found = [(part, colour) for part, colour in zip(regions, colors, strict=True) if part is not None]
    found.sort(key=lambda one: -np.count_nonzero(one[0].inside))  # large ones first: small ones stay in sight
    grey = np.arange(256)[:, None]
    for part, colour in found:
        mixed = np.rint((1 - alpha) * grey + alpha * colour.astype(float)).astype(
            np.uint8
        )  # of every value a pixel has
        target = picture[part.box]
        for channel in range(3):
            np.copyto(target[..., channel], mixed[:, channel][target[..., channel]], where=part.inside)
    width = 2 if min(picture.shape[:2]) >= _CONTOUR_2_PX else 1
    for part, colour in found:
        picture[part.box][_contour(part.inside, width)] = colour


def to_rgb(image: np.ndarray) -> np.ndarray:
    """Returns a new (H, W, 3) image of an (H, W) or (H, W, 3) uint8 one; ValueError of anything else."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ValueError(f"image must be uint8 (H, W) or (H, W, 3), got {image.dtype} {image.shape}")
    if not image.size:
        raise ValueError(f"image must have pixels, got {image.shape}")
    return np.array(image) if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def check_alpha(alpha: float) -> float:
    """Returns an opacity; ValueError unless it is from 0 to 1."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be from 0 to 1, got {alpha}")
    return alpha


def check_colors(colors: np.ndarray | None, count: int) -> np.ndarray:
    """Returns (count, 3) colours, those of `palette` if None was given; ValueError of another shape or type."""
    colors = palette(count) if colors is None else np.asarray(colors)
    fits = colors.shape == (count, 3) and colors.dtype.kind in "iu"
    if not fits or (colors.size and (colors.min() < 0 or colors.max() > 255)):
        raise ValueError(f"colors must be ({count}, 3) integers from 0 to 255, got {colors.dtype} {colors.shape}")
    return colors


def _contour(mask: np.ndarray, width: int) -> np.ndarray:
    """Returns the pixels of a mask within `width` steps of its outside; the edge of its box counts as outside."""
    inner = mask
    for _ in range(width):
        p = np.pad(inner, 1)
        inner = inner & p[:-2, 1:-1] & p[2:, 1:-1] & p[1:-1, :-2] & p[1:-1, 2:]
    return mask & ~inner
