"""From pixels to the networks' input: (H, W, 3) float32, as each original computes it, to the bit."""

import numpy as np

from jaxseg.images.picture import Picture, luminance
from jaxseg.nn.indices import bilinear_taps, nearest_indices

MEAN = (0.485, 0.456, 0.406)  # of ImageNet
STD = (0.229, 0.224, 0.225)


def cxas(picture: Picture, size: tuple[int, int]) -> np.ndarray:
    """Scales to [0, 1], normalises by ImageNet's mean and deviation, resizes by nearest neighbour.

    Picture files are divided by 255, DICOM values are scaled by the picture's limits, else by their minimum and
    maximum. The aspect ratio is not kept.
    """
    rows = nearest_indices(picture.size[0], size[0])
    columns = nearest_indices(picture.size[1], size[1])
    x = picture.pixels[rows][:, columns]  # the rest works pixel by pixel, so sampling may come first
    return _normalise(_unit(x, picture))


def paxray(picture: Picture, size: tuple[int, int]) -> np.ndarray:
    """Resizes values in 0..255 bilinearly, then subtracts and divides by mean and deviation meant for 0..1.

    So the original trains and evaluates (its oddity P1), hence its weights expect it.
    """
    return _normalise(paxray_folder(picture, size))


def paxray_folder(picture: Picture, size: tuple[int, int]) -> np.ndarray:
    """Resizes values in 0..255 bilinearly and does no more, as the original's folder inference.

    Its weights were trained on something else; for reproducing its figures only.
    """
    x = picture.pixels.astype(np.float32)
    if x.ndim == 2:  # the original reads no DICOM; bring its range to that of a picture
        x = np.repeat(_unit(picture.pixels, picture) * np.float32(255), 3, axis=2)
    for axis in (0, 1):
        low, high, weight = bilinear_taps(x.shape[axis], size[axis])
        weight = weight.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        x = x.take(low, axis) * (1 - weight) + x.take(high, axis) * weight
    return x


PREPROCESSING = {"cxas": cxas, "paxray": paxray, "paxray_folder": paxray_folder}


def display(picture: Picture) -> np.ndarray:
    """Returns a picture as a person should see it: (H, W) uint8.

    Colours become their brightness; other values are scaled by the picture's limits, else by their range.
    """
    if picture.pixels.ndim == 3:
        return np.rint(luminance(picture.pixels)).astype(np.uint8)
    return np.rint(_scaled(picture.pixels, picture) * np.float32(255)).astype(np.uint8)


def _unit(x: np.ndarray, picture: Picture) -> np.ndarray:
    """Values `x` of a picture in [0, 1] with three channels."""
    if x.ndim == 3:
        return x.astype(np.float32) / np.float32(255)
    return np.repeat(_scaled(x, picture)[:, :, None], 3, axis=2)


def _scaled(x: np.ndarray, picture: Picture) -> np.ndarray:
    """Grey values `x` of a picture in [0, 1]."""
    limits = picture.limits or (picture.pixels.min(), picture.pixels.max())
    low, high = np.float32(limits[0]), np.float32(limits[1])
    unit = (x.astype(np.float32) - low) / (high - low)
    return unit if picture.limits is None else np.clip(unit, 0, 1)


def _normalise(x: np.ndarray) -> np.ndarray:
    return (x - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)
