"""Masks of blocks, and their names, for the tests of the formats of masks."""

import numpy as np

from jaxseg.masks.segmentation import Segmentation

NAMES = ("lung", "heart", "L/R: odd name")


def blocks(count=3, size=(24, 40), seed=0) -> np.ndarray:
    """Returns (K, H, W) bool masks of 8 x 8 blocks, which JPEG preserves."""
    small = np.random.default_rng(seed).random((count, size[0] // 8, size[1] // 8)) > 0.5
    return small.repeat(8, 1).repeat(8, 2)


def segmentation(masks: np.ndarray, names) -> Segmentation:
    return Segmentation(tuple(names), tuple(range(len(names))), masks.shape[1:], np.packbits(masks, axis=2))
