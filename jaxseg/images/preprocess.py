"""Computes the networks' input from pictures, (H, W, 3) float32, exactly as each original does."""

from collections.abc import Callable

import numpy as np

from jaxseg.images.fit import FITS, Fit, Placement
from jaxseg.images.picture import Picture, luminance
from jaxseg.nn.indices import bilinear_taps, nearest_indices

MEAN = (0.485, 0.456, 0.406)  # of ImageNet's channels
STD = (0.229, 0.224, 0.225)


def cxas(picture: Picture, size: tuple[int, int]) -> np.ndarray:
    """Returns CXAS's input: values in [0, 1], normalised by ImageNet's statistics, resized by nearest neighbour.

    Values of PNG and JPEG files are divided by 255. DICOM values are scaled by the picture's limits, or by their
    minimum and maximum if it has none. The aspect ratio is not kept.

    Args:
      picture: an X-ray.
      size: height and width of the result.

    Returns:
      (*size, 3) float32.

    Source: ConstantinSeibold/ChestXRayAnatomySegmentation.
    """
    rows = nearest_indices(picture.size[0], size[0])
    columns = nearest_indices(picture.size[1], size[1])
    x = picture.pixels[rows][:, columns]  # sampling may come first: the other steps work pixel by pixel
    return _normalise(_unit(x, picture))


def paxray(picture: Picture, size: tuple[int, int]) -> np.ndarray:
    """Returns PAX-Ray's input: values in [0, 255], resized bilinearly, then normalised by statistics meant for [0, 1].

    The original trains and evaluates so (its oddity P1), and its weights expect it.

    Args:
      picture: an X-ray.
      size: height and width of the result.

    Returns:
      (*size, 3) float32.

    Source: ConstantinSeibold/multilabel_segmentation_paxray.
    """
    return _normalise(paxray_folder(picture, size))


def paxray_folder(picture: Picture, size: tuple[int, int]) -> np.ndarray:
    """Returns the input of PAX-Ray's folder inference: values in [0, 255], resized bilinearly and not normalised.

    The weights were trained with normalised input. Use this only to reproduce the original's figures.

    Args:
      picture: an X-ray.
      size: height and width of the result.

    Returns:
      (*size, 3) float32 in [0, 255].

    Source: ConstantinSeibold/multilabel_segmentation_paxray.
    """
    x = picture.pixels.astype(np.float32)
    if x.ndim == 2:  # the original does not read DICOM: scale it to the range of a PNG file
        x = _unit(picture.pixels, picture) * np.float32(255)
    for axis in (0, 1):
        low, high, weight = bilinear_taps(x.shape[axis], size[axis])
        weight = weight.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        x = x.take(low, axis) * (1 - weight) + x.take(high, axis) * weight
    return x


def _fitted(prepare: Callable[[Picture, tuple[int, int]], np.ndarray], fit: Fit) -> Callable:
    """Returns a preprocessing that keeps the aspect ratio; the surroundings of a padded picture are black."""

    def prepared(picture: Picture, size: tuple[int, int]) -> np.ndarray:
        place = Placement.of(picture.size, size, fit)
        black = prepare(Picture(np.zeros((1, 1, 3), np.uint8)), (1, 1))[0, 0]
        return place.placed(prepare(picture, place.content), black)

    return prepared


PREPROCESSING = {"cxas": cxas, "paxray": paxray, "paxray_folder": paxray_folder}
PREPROCESSING |= {
    f"{name}_{fit}": _fitted(PREPROCESSING[name], fit)
    for name in ("cxas", "paxray")
    for fit in FITS
    if fit != "stretch"
}


def fit_of(preprocessing: str) -> Fit:
    """Returns how pictures lie on the network's grid under a preprocessing.

    >>> fit_of("paxray_pad"), fit_of("paxray_folder")
    ('pad', 'stretch')
    """
    return next((fit for fit in FITS if preprocessing.endswith(f"_{fit}")), "stretch")


def of_whole_image(
    bits: np.ndarray, scores: np.ndarray | None, size: tuple[int, int], preprocessing: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns packed masks and probabilities of an image as if it had been stretched to the network's grid.

    Args:
      bits: (K, h, w / 8) uint8, the masks on the grid on which the preprocessing has placed the image.
      scores: (K, h, w) float32, or None.
      size: height and width of the image.
      preprocessing: key of `PREPROCESSING`.
    """
    fit = fit_of(preprocessing)
    if fit == "stretch":
        return bits, scores
    place = Placement.of(size, (bits.shape[1], 8 * bits.shape[2]), fit)
    bits = np.packbits(place.stretched(np.unpackbits(bits, axis=2)), axis=2)
    return bits, None if scores is None else place.stretched(scores)


def display(picture: Picture) -> np.ndarray:
    """Returns a picture for display, (H, W) uint8.

    Colours are converted to their brightness. Other values are scaled by the picture's limits, or by their minimum and
    maximum if it has none.
    """
    if picture.pixels.ndim == 3:
        return np.rint(luminance(picture.pixels)).astype(np.uint8)
    return np.rint(_scaled(picture.pixels, picture) * np.float32(255)).astype(np.uint8)


def colours(picture: Picture) -> np.ndarray:
    """Returns a picture as CXAS writes it: (H, W, 3) uint8.

    Values of PNG and JPEG files stay. Other values are scaled to [0, 255] by the picture's limits, or by their minimum
    and maximum if it has none, and rounded down.
    """
    if picture.pixels.ndim == 3:
        return picture.pixels
    return np.floor(_unit(picture.pixels, picture) * np.float32(255)).astype(np.uint8)


def _unit(x: np.ndarray, picture: Picture) -> np.ndarray:
    """Returns values `x` of a picture in [0, 1] with three channels."""
    if x.ndim == 3:
        return x.astype(np.float32) / np.float32(255)
    return np.repeat(_scaled(x, picture)[:, :, None], 3, axis=2)


def _scaled(x: np.ndarray, picture: Picture) -> np.ndarray:
    """Returns grey values `x` of a picture, scaled to [0, 1]."""
    limits = picture.limits or (picture.pixels.min(), picture.pixels.max())
    low, high = np.float32(limits[0]), np.float32(limits[1])
    unit = (x.astype(np.float32) - low) / (high - low)
    return unit if picture.limits is None else np.clip(unit, 0, 1)


def _normalise(x: np.ndarray) -> np.ndarray:
    return (x - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)
