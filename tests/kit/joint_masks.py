"""Segmentations of simple shapes, for tests of the files that hold the masks of all images of a run."""

import numpy as np

from jaxseg.masks.segmentation import Segmentation

CLASSES = {3: "heart", 5: "left lung", 7: "never found"}


def shapes(seed: int = 0, size: tuple[int, int] = (101, 83), means=(0.75, 0.5, np.nan), **more) -> Segmentation:
    """Returns three masks of 32 x 32 pixels for an image of this size: a rectangle, a disc, and an empty one."""
    rng = np.random.default_rng(seed)
    coarse = np.zeros((3, 32, 32), bool)
    y, x, cy, cx = *rng.integers(2, 12, 2), *rng.integers(10, 22, 2)
    coarse[0, y : y + 9, x : x + 14] = True
    rows, columns = np.mgrid[:32, :32]
    coarse[1] = (rows - cy) ** 2 + (columns - cx) ** 2 < 40
    found = None if means is None else np.array(means, np.float32)
    bits = np.packbits(coarse, axis=2)
    return Segmentation(tuple(CLASSES.values()), tuple(CLASSES), size, bits, mean_probabilities=found, **more)
