"""Distinct colours, also for readers with red-green colour blindness."""

from functools import cache

import numpy as np

# Okabe and Ito 2008, "Color Universal Design", without black, which is invisible on radiographs.
OKABE_ITO = [tuple(bytes.fromhex(c)) for c in ("e69f00", "56b4e9", "009e73", "f0e442", "0072b2", "d55e00", "cc79a7")]
_LEAST_LIGHT, _LEAST_CHROMA = 0.55, 0.06  # in OKLab: visible on dark lungs, and clearly not grey


def palette(num_classes: int) -> np.ndarray:
    """Returns colours that differ for normal, red-blind and green-blind vision.

    The first seven colours are those of Okabe and Ito. Each further colour is the bright colour that is farthest from
    all colours before it, where the distance of two colours is the smallest one among the three kinds of vision. A
    shorter palette is the start of a longer one.

    Args:
      num_classes: number K of colours, from 0 to 1000.

    Returns:
      (K, 3) uint8, all rows different.

    Raises:
      ValueError: `num_classes` is out of range.

    >>> palette(2).tolist()
    [[230, 159, 0], [86, 180, 233]]
    """
    if not 0 <= num_classes <= 1000:
        raise ValueError(f"num_classes must be from 0 to 1000, got {num_classes}")
    return np.array(_colours(int(num_classes)), np.uint8).reshape(-1, 3)


@cache
def _colours(count: int) -> tuple[tuple[int, int, int], ...]:
    """Returns the first colours: those of Okabe and Ito, then repeatedly the candidate farthest from all chosen."""
    levels = np.arange(0, 256, 17)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    light, green_red, blue_yellow = np.moveaxis(_oklab(candidates)[:, 0], -1, 0)
    candidates = candidates[(light > _LEAST_LIGHT) & (np.hypot(green_red, blue_yellow) > _LEAST_CHROMA)]
    seen = _oklab(candidates)
    chosen, nearest = list(OKABE_ITO), np.inf
    for colour in OKABE_ITO:
        nearest = np.minimum(nearest, _distance(seen, _oklab(np.array([colour]))))
    while len(chosen) < count:
        best = int(np.argmax(nearest))
        chosen.append(tuple(candidates[best].tolist()))
        nearest = np.minimum(nearest, _distance(seen, seen[best : best + 1]))
    return tuple(chosen[:count])


def _distance(seen, other) -> np.ndarray:
    """Returns the distances of colours, (N,): for each, the smallest one among the three kinds of vision."""
    return np.linalg.norm(seen - other, axis=-1).min(axis=1)


def _oklab(colours) -> np.ndarray:
    """Returns the OKLab values of (N, 3) sRGB colours for three kinds of vision: normal, red-blind, green-blind.

    Returns:
      (N, 3, 3) floats; the second axis is the kind of vision.

    Source:
      Ottosson 2020 (OKLab); Vienot, Brettel and Mollon 1999 (simulation of colour blindness).
    """
    srgb = np.asarray(colours) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    cones = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    red_blind = np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]])
    green_blind = np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]])
    visions = [np.eye(3), *(np.linalg.inv(cones) @ blind @ cones for blind in (red_blind, green_blind))]
    linear = np.clip(np.stack([linear @ vision.T for vision in visions], 1), 0, 1)
    to_cones = np.array([[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]])
    to_lab = np.array([[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868]])
    return np.cbrt(linear @ to_cones.T) @ to_lab.T
