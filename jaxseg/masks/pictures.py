"""Reads masks from PNG and JPEG files: black and white pictures, and label maps with one grey level per class.

A picture that is neither is refused: a photograph, a coloured picture, and a label map whose levels have no names.
Cutting such a picture at half would give a mask without any sign that it is wrong.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxseg.images.picture import ImageError
from jaxseg.images.raster import check_upright, open_raster

PICTURES = (".png", ".jpg", ".jpeg")
_DARK, _BRIGHT = 32, 223  # values of a lossy mask lie between these only at its edges
_GREY = 1 / 4  # largest share of pixels between these in a mask
_PLATEAU = 1 / 4  # smallest share of even areas among the grey pixels of a label map; edges have almost none
_FEW = 8  # levels: more of them close to black or white are noise of a lossy file that was stored again
_RANGE, _SIDE = 24, 5  # largest range of grey values in an even area of a lossy picture, and the side of its squares
_SHOWN = 12  # levels in a message
HINT = (
    'name its classes with --label LEVEL=NAME (data.labels: ["LEVEL=NAME"] in a configuration, levels={LEVEL: "NAME"} '
    "in Python), or write one picture per class"
)


@dataclasses.dataclass(frozen=True)
class MaskPicture:
    """A picture of masks, decoded.

    Attributes:
      pixels: (H, W) uint8 or uint16, the grey values; of a palette, the indices if it is read as a label map.
      exact: whether the format keeps exact values (PNG).
      notes: remarks for the user.
    """

    pixels: np.ndarray
    exact: bool
    notes: tuple[str, ...] = ()


def picture_size(path: Path, *, levels: bool = False) -> tuple[int, int]:
    """Returns the height and width of a picture from its header.

    Args:
      path: a PNG or JPEG file.
      levels: whether it is read as a label map, which may have 16 bits.

    Raises:
      ImageError: it is damaged, too large, or of a kind that cannot be a mask.
      OSError: it cannot be opened.
    """
    with _errors(path), open_raster(path) as (image, _):
        if getattr(image, "n_frames", 1) > 1:
            raise ImageError("a mask must be one picture, this file has several")
        if image.mode.startswith(("I", "F")) and not levels:
            raise ImageError(f"a mask must be one picture of 1 or 8 bits, black and white; for a label map, {HINT}")
        return image.height, image.width


def read_mask(path: Path, *, threshold: bool = False) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the (H, W) bool mask of a picture, and remarks for the user.

    The mask is the pixels brighter than 127. A PNG may hold 0 and 1 instead. If only the alpha channel carries a shape,
    its opaque pixels are the mask, with a remark.

    Args:
      path: a PNG or JPEG file.
      threshold: accept any picture, and cut it at 127.

    Raises:
      ImageError: it is damaged, or is not a mask; a label map is refused with its levels.
      OSError: it cannot be opened.
    """
    with _errors(path):
        picture = _decoded(path, photograph=threshold)
        if not threshold:
            check_mask(picture)
        return _is_bright(picture.pixels), picture.notes


def read_brightness(path: Path, *, threshold: bool = False) -> np.ndarray:
    """Returns the mask of a picture with its soft edges, (H, W) uint8 from 0 to 255; bool if it has only two levels.

    A mask that only the alpha channel carries is refused.

    Args:
      path: a PNG or JPEG file.
      threshold: accept any picture, and cut it at 127.

    Raises:
      ImageError, OSError: as in `read_mask`.
    """
    with _errors(path):
        picture = _decoded(path, photograph=threshold)
        if picture.notes:
            raise ImageError("only the alpha channel carries a shape; write the mask as a black and white picture")
        if not threshold:
            check_mask(picture)
            picture = picture if picture.exact else _decoded(path, photograph=True)
        pixels = picture.pixels
        return _is_bright(pixels) if threshold or pixels.max() == 1 else pixels


def read_levels(path: Path, levels: Mapping[int, str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the (H, W) levels of a label map, and remarks for the user.

    Args:
      path: a PNG file. The levels are its grey values, or the indices of its palette.
      levels: level -> name of its class.

    Raises:
      ImageError: it is damaged, lossy or coloured, or none of its levels has a name.
      OSError: it cannot be opened.
    """
    with _errors(path):
        picture = _decoded(path, indices=True)
        if not picture.exact:
            raise ImageError("a lossy picture has no exact levels; write the label map as png")
        if picture.notes:
            raise ImageError("only the alpha channel carries a shape; write the label map as grey levels")
        return picture.pixels, check_levels(picture.pixels, levels)


def parse_levels(texts: Sequence[str]) -> dict[int, str]:
    """Returns the names of the levels of a label map, in the order of the levels.

    Args:
      texts: level and name each, such as "127=heart".

    Raises:
      ValueError: a text has another form, or a level or a name occurs twice.

    >>> parse_levels(["255=right lung", "127=heart"])
    {127: 'heart', 255: 'right lung'}
    """
    levels: dict[int, str] = {}
    for text in texts:
        level, _, name = (part.strip() for part in text.partition("="))
        if not name or not level.isascii() or not level.isdecimal() or int(level) >= 2**16:
            raise ValueError(f"{text!r} is not LEVEL=NAME, such as 127=heart; levels are 0 to 65535")
        if int(level) in levels or name in levels.values():
            raise ValueError(f"{text!r}: this level or this name occurs twice")
        levels[int(level)] = name
    return dict(sorted(levels.items()))


def check_levels(values: np.ndarray, levels: Mapping[int, str]) -> tuple[str, ...]:
    """Returns remarks on the levels of a label map, an array of whole numbers, that have no name.

    Raises:
      ImageError: values other than 0 occur, but none of them has a name.
    """
    found = np.unique(values).tolist()
    unnamed = [level for level in found if level and level not in levels]
    if unnamed and not set(found) & set(levels):
        raise ImageError(f"has the levels {listed(found)}, but names were given for {listed(sorted(levels))}")
    return (f"levels without a name are ignored: {listed(unnamed)}",) if unnamed else ()


def listed(levels: list[int]) -> str:
    """Returns levels as text, the first ones if there are many.

    >>> listed([0, 127, 255])
    '0, 127, 255'
    """
    return ", ".join(map(str, levels[:_SHOWN])) + (f", ... ({len(levels)} levels)" if len(levels) > _SHOWN else "")


def check_mask(picture: MaskPicture) -> None:
    """Raises ImageError if the grey values are not those of one mask: of a photograph, or of a label map."""
    pixels = picture.pixels
    counts = np.bincount(pixels.ravel(), minlength=256)
    found = np.flatnonzero(counts).tolist()
    if set(found) <= {0, 255} or set(found) <= {0, 1}:
        return
    if picture.exact and (len(found) == 2 and found[0] > _DARK or _has_plateaus(pixels, found, counts)):
        raise ImageError(f"is a label map with the grey levels {listed(found)}, not one mask: {HINT}")
    if found[-1] <= 127:
        raise ImageError(
            f"has values up to {found[-1]}: masks have 0 and 255, or 0 and 1; for a label map of the levels "
            f"{listed(found)}, {HINT}"
        )
    if counts[_DARK + 1 : _BRIGHT].sum() > _GREY * pixels.size:
        raise ImageError("has many shades of grey: it is a picture, not a mask")
    if not picture.exact and _has_even_areas(pixels, counts):
        raise ImageError("has even areas of grey: it may be a label map, which needs a lossless format (png)")


def check_array(values: np.ndarray) -> None:
    """Raises ImageError if an (H, W) array of numbers from 0 to 255, such as a decoded picture, is a label map."""
    if values.dtype.kind in "iu" and values.min() >= 0 and values.max() <= 255:
        check_mask(MaskPicture(values.astype(np.uint8, copy=False), exact=True))


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Adds the file name to errors."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{path.name}: {error}") from None


def _decoded(path: Path, *, indices: bool = False, photograph: bool = False) -> MaskPicture:
    """Returns the one channel of a picture that carries a shape.

    Args:
      path: the file.
      indices: return the indices of a palette instead of its grey values.
      photograph: accept colours, and return their brightness.
    """
    with open_raster(path) as (image, _):
        image.load()
        check_upright(image)
        exact = image.format == "PNG"
        if image.mode == "1":  # Pillow's own bool array stores True as 255
            return MaskPicture(np.asarray(image.convert("L")), exact)
        if image.mode.startswith("I"):
            values = np.asarray(image)
            if values.min() < 0 or values.max() >= 2**16:
                raise ImageError(f"has values from {values.min()} to {values.max()}; levels are 0 to 65535")
            return MaskPicture(values.astype(np.uint16), exact)
        if indices and image.mode == "P":
            return MaskPicture(np.asarray(image), exact)
        has_alpha = "A" in image.getbands() or "transparency" in image.info
        pixels = np.asarray(image.convert("RGBA" if has_alpha else "RGB") if has_alpha or image.mode != "L" else image)
        if has_alpha and np.ptp(pixels[..., 3]) and (pixels[..., :3] == pixels[0, 0, :3]).all():
            return _of_alpha(pixels[..., 3], exact)
        if photograph:
            image.info.pop("transparency", None)
            return MaskPicture(np.asarray(image.convert("L")), exact)
        if has_alpha:
            return _with_alpha(pixels, exact)
        return MaskPicture(_grey(pixels, exact), exact)


def _with_alpha(pixels: np.ndarray, exact: bool) -> MaskPicture:
    """Returns the colours of (H, W, 4) pixels as grey values; refuses an alpha channel with another shape."""
    grey, alpha = _grey(pixels[..., :3], exact), pixels[..., 3]
    if not np.ptp(alpha):
        return MaskPicture(grey, exact)
    opaque, bright = _is_bright(alpha), _is_bright(grey)
    sure = (alpha <= _DARK) | (alpha >= _BRIGHT) if alpha.max() > 1 else np.True_
    if (sure & (opaque != bright)).any():
        raise ImageError(
            "the colours and the alpha channel carry different shapes; write the mask as a black and white picture"
        )
    return MaskPicture(grey, exact)


def _of_alpha(alpha: np.ndarray, exact: bool) -> MaskPicture:
    opaque = alpha > alpha.max() / 2
    border = np.concatenate([opaque[0], opaque[-1], opaque[1:-1, 0], opaque[1:-1, -1]])
    if border.mean() > 0.5:
        raise ImageError(
            "only the alpha channel carries a shape, and the border of the picture is opaque, so that the mask may be "
            "the transparent pixels; write the mask as a black and white picture"
        )
    levels = np.unique(alpha).tolist()
    if exact and _has_plateaus(alpha, levels, np.bincount(alpha.ravel(), minlength=256)):
        raise ImageError(
            f"is a label map with the levels {listed(levels)} in its alpha channel, not one mask: write it again with "
            "one grey level per class, or write one picture per class"
        )
    return MaskPicture(alpha, exact, ("only the alpha channel carries a shape: its opaque pixels are the mask",))


def _grey(pixels: np.ndarray, exact: bool) -> np.ndarray:
    """Returns the brightness of grey pixels, (H, W) uint8; refuses coloured ones."""
    if pixels.ndim == 2:
        return pixels
    low, high = pixels.min(axis=2), pixels.max(axis=2)
    coloured = high - low > _DARK
    if not coloured.any() and (not exact or np.array_equal(low, high)):
        return high
    flat = pixels.reshape(-1, 3).astype(np.uint32)
    colours = np.unique((flat[:, 0] << 16) | (flat[:, 1] << 8) | flat[:, 2])
    if exact and 2 < len(colours) <= 256 and len(colours) > len(np.unique(high)):
        shown = ", ".join(f"#{colour:06x}" for colour in colours[:_SHOWN].tolist())
        raise ImageError(
            f"is a label map of {len(colours)} colours ({shown}), not one mask: write it again with one grey level per "
            "class, or write one picture per class; if the file has a palette, --label takes its indices"
        )
    if coloured.any():
        raise ImageError("the picture is coloured; masks are black and white, one picture per class")
    return high


def _is_bright(pixels: np.ndarray) -> np.ndarray:
    return pixels > (0 if pixels.max() == 1 else 127)


def _has_plateaus(pixels: np.ndarray, found: list[int], counts: np.ndarray) -> bool:
    """Returns whether grey values of a lossless picture fill areas, as in a label map, and not only soft edges.

    Grey values are those between the darkest and the brightest one. If there are many, those close to black and white
    do not count: they are the noise of a lossy file. In a label map, grey values form areas of one value, or lie far
    from black or white; at an edge they change from pixel to pixel, between black and white.
    """
    few = len(found) <= _FEW
    low, high = (found[0], found[-1]) if few else (_DARK, _BRIGHT)
    total = int(counts[low + 1 : high].sum())
    if not total:
        return False
    grey = (pixels > low) & (pixels < high)
    same = (pixels[1:, 1:] == pixels[:-1, :-1]) & (pixels[1:, 1:] == pixels[1:, :-1])
    blocks = same & (pixels[1:, 1:] == pixels[:-1, 1:]) & grey[1:, 1:]  # squares of 2 x 2 pixels of one grey value
    areas = np.zeros(pixels.shape, bool)
    for rows in (slice(1, None), slice(None, -1)):
        for columns in (slice(1, None), slice(None, -1)):
            areas[rows, columns] |= blocks
    reach = 2 if few else 6  # pixels; an edge with many levels may have been enlarged
    edge = _near(pixels <= low, reach) & _near(pixels >= high, reach)
    areas = areas | grey & ~edge if few else areas & ~edge
    return int(areas.sum()) > _PLATEAU * total


def _near(where: np.ndarray, reach: int) -> np.ndarray:
    """Returns the pixels that are at most `reach` rows and columns away from those given."""
    from scipy import ndimage  # it takes 0.2 s, and commands that only write masks do not need it

    return ndimage.maximum_filter(where, 2 * reach + 1)


def _has_even_areas(pixels: np.ndarray, counts: np.ndarray) -> bool:
    """Returns whether the greys of a lossy picture lie mostly in even areas, which soft edges do not have."""
    from scipy import ndimage

    total = int(counts[_DARK + 1 : _BRIGHT].sum())
    if not total:
        return False
    low, high = ndimage.minimum_filter(pixels, _SIDE), ndimage.maximum_filter(pixels, _SIDE)
    even = (low > _DARK) & (high < _BRIGHT) & (high - low <= _RANGE)
    return int(even.sum()) > _PLATEAU * total
