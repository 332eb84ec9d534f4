"""What needs no network: the mean shape of the training masks, and the mean of those most like the given mask.

A network that restores masks should be better than both. They stand beside it in every table of `evaluate`.
"""

import contextlib
from collections.abc import Sequence

import numpy as np

from jaxseg.images.picture import ImageError
from jaxseg.nn.indices import bilinear_array

NEAREST = 7  # training masks whose mean is taken
MOST = 1000  # training masks that are kept, evenly spread over all
_SEARCHED = 64  # pixels per side at which masks are compared


class Shapes:
    """The training masks, and what they say about a damaged mask.

    Args:
      masks: records {"mask": (H, W, C) in [0, 1]}, at least one.
      on_error: "stop" raises if a record is bad, "skip" leaves it out.

    Raises:
      ValueError: there is no mask, or with "stop" a mask is bad.
    """

    def __init__(self, masks: Sequence, *, on_error: str = "stop"):
        chosen = np.unique(np.linspace(0, len(masks) - 1, min(MOST, len(masks))).round().astype(int))
        found = []
        for i in chosen if len(masks) else ():
            with contextlib.suppress(*([ImageError] if on_error == "skip" else [])):
                found.append(masks[i]["mask"] > 0.5)
        if not found:
            raise ValueError("at least one training mask is needed for the baselines")
        self._masks = np.stack(found)
        self._mean = self._masks.mean(0, dtype=np.float32) >= 0.5
        self._small = _searchable(self._masks)

    def mean(self, given: np.ndarray) -> np.ndarray:
        """Returns the pixels that at least half of the training masks have, for every given mask, (B, H, W, C)."""
        return np.broadcast_to(self._mean, given.shape)

    def nearest(self, given: np.ndarray) -> np.ndarray:
        """Returns the pixels that most of the seven training masks with the highest Dice have, (B, H, W, C) bool."""
        small = _searchable(given > 0.5)
        total = small.sum(1)[:, None] + self._small.sum(1)[None]
        dice = 2 * small @ self._small.T / np.maximum(total, 1)
        order = np.argsort(-dice, axis=1, kind="stable")[:, :NEAREST]
        return np.stack([self._masks[chosen].mean(0) > 0.5 for chosen in order])


def _searchable(masks: np.ndarray) -> np.ndarray:
    """Returns masks (N, H, W, C) bool as rows of small masks, (N, P) float32."""
    size = tuple(min(side, _SEARCHED) for side in masks.shape[1:3])
    planes = np.moveaxis(masks, 3, 1)
    small = [[bilinear_array(plane.astype(np.uint8), size) > 0.5 for plane in mask] for mask in planes]
    return np.asarray(small, np.float32).reshape(len(masks), -1)
