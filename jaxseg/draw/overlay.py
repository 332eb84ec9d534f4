"""Paints masks over an image: translucent fills and contours.

Images are uint8, (H, W) or (H, W, 3). Masks are bool, (K, H, W), and may overlap. Colours are uint8 RGB.
"""

import dataclasses

import numpy as np

from jaxseg.palette import palette

_CONTOUR_2_PX = 768  # contours are two pixels wide in images whose shorter side has at least this many pixels


@dataclasses.dataclass(frozen=True)
class Region:
    """The part of a mask that is not empty.

    Attributes:
      box: rows and columns of the smallest box around the mask.
      inside: (h, w) bool mask inside that box.
    """

    box: tuple[slice, slice]
    inside: np.ndarray


def region(mask: np.ndarray) -> Region | None:
    """Returns the `Region` of an (H, W) bool mask, or None if the mask is empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return None
    part = mask[rows[0] : rows[-1] + 1]
    columns = np.flatnonzero(part.any(axis=0))
    width = slice(columns[0], columns[-1] + 1)
    return Region((slice(rows[0], rows[-1] + 1), width), part[:, width])


def overlay(
    image: np.ndarray, masks: np.ndarray, *, alpha: float = 0.35, colors: np.ndarray | None = None
) -> np.ndarray:
    """Returns an image with masks painted over it: translucent fills, and contours inside the edges of the masks.

    Small masks are painted over large ones.

    Args:
      image: (H, W) or (H, W, 3) uint8; it is not changed.
      masks: (K, H, W) bool; empty masks are skipped.
      alpha: opacity of the fills, from 0 (contours only) to 1.
      colors: (K, 3) integers from 0 to 255; None means `palette(K)`.

    Returns:
      (H, W, 3) uint8; pixels outside all masks are those of the image.

    Raises:
      ValueError: a shape, a dtype, the number of colours or alpha differs from the above.

    >>> overlay(np.zeros((2, 2), np.uint8), np.array([[[True, False], [False, False]]]))[0].tolist()
    [[230, 159, 0], [0, 0, 0]]
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
    """Paints regions over a picture as `overlay` does, but in place.

    Args:
      picture: (H, W, 3) uint8, changed in place.
      regions: K regions, in pixels of the picture; None is skipped.
      colors: (K, 3) uint8.
      alpha: opacity of the fills, from 0 to 1.
    """
    found = [(part, colour) for part, colour in zip(regions, colors, strict=True) if part is not None]
    found.sort(key=lambda one: -np.count_nonzero(one[0].inside))  # large ones first, so that small ones stay visible
    grey = np.arange(256)[:, None]
    for part, colour in found:
        mixed = np.rint((1 - alpha) * grey + alpha * colour.astype(float)).astype(np.uint8)  # by the pixel's value
        target = picture[part.box]
        for channel in range(3):
            np.copyto(target[..., channel], mixed[:, channel][target[..., channel]], where=part.inside)
    width = 2 if min(picture.shape[:2]) >= _CONTOUR_2_PX else 1
    for part, colour in found:
        picture[part.box][_contour(part.inside, width)] = colour


def to_rgb(image: np.ndarray) -> np.ndarray:
    """Returns a copy of an (H, W) or (H, W, 3) uint8 image as (H, W, 3) uint8.

    Raises:
      ValueError: the image has another shape or dtype, or no pixels.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ValueError(f"image must be uint8 (H, W) or (H, W, 3), got {image.dtype} {image.shape}")
    if not image.size:
        raise ValueError(f"image must have pixels, got {image.shape}")
    return np.array(image) if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def check_alpha(alpha: float) -> float:
    """Returns an opacity unchanged.

    Raises:
      ValueError: it is not from 0 to 1.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be from 0 to 1, got {alpha}")
    return alpha


def check_colors(colors: np.ndarray | None, count: int) -> np.ndarray:
    """Returns `count` colours, (count, 3): the given ones, or those of `palette` for None.

    Raises:
      ValueError: the shape or dtype is wrong, or a value is not from 0 to 255.
    """
    colors = palette(count) if colors is None else np.asarray(colors)
    fits = colors.shape == (count, 3) and colors.dtype.kind in "iu"
    if not fits or (colors.size and (colors.min() < 0 or colors.max() > 255)):
        raise ValueError(f"colors must be ({count}, 3) integers from 0 to 255, got {colors.dtype} {colors.shape}")
    return colors


def _contour(mask: np.ndarray, width: int) -> np.ndarray:
    """Returns the pixels of a mask that are at most `width` steps from its outside; the border counts as outside."""
    inner = mask
    for _ in range(width):
        p = np.pad(inner, 1)
        inner = inner & p[:-2, 1:-1] & p[2:, 1:-1] & p[1:-1, :-2] & p[1:-1, 2:]
    return mask & ~inner
