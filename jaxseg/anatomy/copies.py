"""Changed copies of images, under which masks should stay, and what the results of a `ForwardWithConfidence` mean.

A network that is sure of a mask finds it again in a copy that is mirrored, moved, scaled or has other grey values. The
changes are always the same: those of N copies are the first N of every larger number.
"""

import dataclasses
from typing import Any

import numpy as np

from jaxseg.anatomy.forward import Copy
from jaxseg.images.picture import Picture
from jaxseg.images.preprocess import PREPROCESSING
from jaxseg.masks.confidence import Confidence
from jaxseg.masks.segmentation import Segmentation
from jaxseg.vocabulary.labels import mirrored

MOST = 64  # copies
SCALE, SHIFT = 0.05, 0.03  # largest change of the size, and largest shift as a share of the side
GAMMA, CONTRAST = 0.3, 0.2  # largest change of the logarithm of both


def copies(
    count: int, size: tuple[int, int], names: tuple[str, ...], indices: tuple[int, ...], preprocessing: str
) -> list[Copy]:
    """Returns changes of images, every second of which mirrors them.

    Args:
      count: number of copies, from 0 to `MOST`.
      size: height and width of the network's input.
      names: (N,) classes of the network.
      indices: (K,) output channels of the masks.
      preprocessing: key of `PREPROCESSING`.

    Raises:
      ValueError: the number is out of range.
    """
    if type(count) is not int or not 0 <= count <= MOST:
        raise ValueError(f"tta must be a whole number of copies from 0 to {MOST}, got {count!r}")
    rng, found = np.random.default_rng(0), []
    partners = mirrored(names)
    black, white = (_input_for(value, preprocessing) for value in (0, 255))
    for number in range(count):
        scale, rows, columns, gamma, contrast = rng.uniform(-1, 1, 5)
        flip, zoom = number % 2 == 1, 1 + SCALE * scale
        channels = [partners[i] if flip else i for i in indices]
        found.append(
            Copy(
                *_places(size[0], zoom, SHIFT * rows * size[0], mirror=False),
                *_places(size[1], zoom, SHIFT * columns * size[1], mirror=flip),
                np.array([0 if channel is None else channel for channel in channels], np.int32),
                np.array([channel is not None for channel in channels]),
                np.float32(np.exp(GAMMA * gamma)),
                np.float32(np.exp(CONTRAST * contrast)),
                black,
                white,
            )
        )
    return found


def _places(length: int, zoom: float, shift: float, *, mirror: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns where the pixels of a copy lie in the image, and those of the image in the copy, (length,) float32."""
    centre, pixels = (length - 1) / 2, np.arange(length)
    there = (pixels - centre - shift) / zoom + centre
    here = centre + shift + zoom * ((length - 1 - pixels if mirror else pixels) - centre)
    return (length - 1 - there if mirror else there).astype(np.float32), here.astype(np.float32)


def _input_for(value: int, preprocessing: str) -> np.ndarray:
    """Returns the network's input for a grey value, (3,) float32."""
    return PREPROCESSING[preprocessing](Picture(np.full((1, 1, 3), value, np.uint8)), (1, 1))[0, 0]


def settled(answer: tuple) -> tuple:
    """Returns the results of a network as arrays with one row per image: packed masks, probabilities, sure, pooled.

    Args:
      answer: the result of a `Forward`; or that of a `ForwardWithConfidence`, in which the numbers (B, K, 3) are paired
        with the list of the results (B, K) of `dice_of_copy`.

    Returns:
      The same; for a `ForwardWithConfidence` with the mean over the copies as fourth number.
    """
    bits, scores, sure, pooled = answer
    if not isinstance(sure, tuple):
        return answer
    sure, results = sure
    return bits, scores, np.concatenate([sure, _mean_of(results, sure.shape[:2])[..., None]], axis=-1), pooled


def _mean_of(results: list[Any], shape: tuple[int, ...]) -> np.ndarray:
    """Returns the mean of the results that are not NaN, (B, K) float32; NaN if there is none."""
    stacked = np.stack([np.full(shape, np.nan, np.float32), *results])
    known = ~np.isnan(stacked)
    count = known.sum(0)
    total = np.where(known, stacked, 0).sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


def with_confidence(found: list[Segmentation], sure: np.ndarray, shape_check: Any) -> list[Segmentation]:
    """Returns Segmentations with their confidence.

    Args:
      found: the Segmentations of a batch.
      sure: (B, K, 4), the numbers that `settled` returns.
      shape_check: has a method `agreement`, as `jaxseg.Denoiser.postprocess` returns it; None: there is none.
    """
    shapes = [None] * len(found) if shape_check is None else shape_check.agreement(found)
    judged = []
    for masks, numbers, shape in zip(found, sure, shapes, strict=True):
        pixels = np.unpackbits(masks.bits, axis=2).sum((1, 2), dtype=int)
        probability, entropy, between, copies = numbers.T
        confidence = Confidence(masks.names, pixels, probability, entropy, copies, between, shape)
        judged.append(dataclasses.replace(masks, confidence=confidence))
    return judged
