"""Damages of masks that no configuration trains with, to measure whether a network restores what it never saw.

`jaxseg.post_dae.damage` cuts along lines and arcs, adds ellipses, displaces borders smoothly and moves parts rigidly.
The kinds here differ from these in their form: cuts are wavy, islands are stars and bars, borders are shifted line by
line, a side is sheared, and salt comes in grains. All lengths are relative to the size of the organ.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

Kind = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def lobe_cut(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Deletes the lower part of one side, 35 to 60 % of its height, below a wavy line."""
    side, (top, height) = _one_side(mask, rng)
    return mask & ~(side & (_height(mask, rng, height) > top + rng.uniform(0.4, 0.65) * height))


def lobe_missing(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Deletes a third of one side, the upper, the middle or the lower one, between two wavy lines."""
    side, (top, height) = _one_side(mask, rng)
    place = (_height(mask, rng, height) - top) / height
    first = rng.integers(3) / 3
    return mask & ~(side & (place > (first or -1)) & (place <= (first + 1 / 3 if first < 0.6 else 2)))


def side_lost(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Deletes one side, except for a rest at a random place, about a twelfth of it."""
    side, (top, height) = _one_side(mask, rng)
    place = (_height(mask, rng, height) - top) / height
    start = rng.uniform(0, 0.9)
    return mask & ~(side & ~((place > start) & (place < start + 1 / 12)))


def side_moved(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shifts one side by an eighth of its height in a random direction, and shears it."""
    side, (_, height) = _one_side(mask, rng)
    part = mask & side
    centre = np.asarray(ndimage.center_of_mass(part))
    angle, shear = rng.uniform(0, 2 * np.pi), rng.uniform(-0.25, 0.25)
    matrix = np.asarray([[1, 0], [shear, 1]])
    shift = height / 8 * np.asarray([np.sin(angle), np.cos(angle)])
    offset = centre - matrix @ (centre + shift)
    return (mask & ~side) | (ndimage.affine_transform(part.astype(np.float32), matrix, offset, order=1) > 0.5)


def ragged(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shifts every row and then every column by a random number of pixels, up to a fortieth of the organ's height."""
    reach = max(1, round(_extent(mask)[1] / 40))
    for axis in (0, 1):
        lines = np.moveaxis(mask, axis, 0)
        shifts = rng.integers(-reach, reach + 1, len(lines))
        mask = np.moveaxis(np.stack([_shifted(line, n) for line, n in zip(lines, shifts, strict=True)]), 0, axis)
    return mask


def islands(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds from two to four false stars and bars anywhere in the picture."""
    rows, columns = np.indices(mask.shape)
    height = _extent(mask)[1]
    for _ in range(rng.integers(2, 5)):
        down, across = rows - rng.uniform(0, mask.shape[0]), columns - rng.uniform(0, mask.shape[1])
        angle, size = rng.uniform(0, 2 * np.pi), height * rng.uniform(0.06, 0.16)
        if rng.random() < 0.5:
            radius = size * (1 + 0.45 * np.cos(rng.integers(3, 7) * (np.arctan2(down, across) - angle)))
            mask = mask | (np.hypot(down, across) < radius)
        else:
            along = down * np.sin(angle) + across * np.cos(angle)
            beside = down * np.cos(angle) - across * np.sin(angle)
            mask = mask | ((np.abs(along) < 1.5 * size) & (np.abs(beside) < size / 2))
    return mask


def grains(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Inverts 2 % of the picture in grains of 2 x 2 pixels."""
    coarse = rng.random(tuple(-(-side // 2) for side in mask.shape)) < 0.02
    return mask ^ np.kron(coarse, np.ones((2, 2), bool))[: mask.shape[0], : mask.shape[1]]


def several(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Applies three different kinds: a cut or missing lobe, and two of the others."""
    chosen = [(lobe_cut, lobe_missing)[rng.integers(2)]]
    others = (side_moved, ragged, islands, grains)
    chosen += [others[i] for i in sorted(rng.permutation(len(others))[:2])]
    for kind in chosen:
        mask = kind(mask, rng)
    return mask


KINDS: dict[str, Kind] = {
    "lobe cut": lobe_cut,
    "lobe missing": lobe_missing,
    "side lost": side_lost,
    "side moved": side_moved,
    "ragged": ragged,
    "islands": islands,
    "grains": grains,
    "several": several,
}


def apply_kind(kind: str, mask: np.ndarray, seed: int) -> np.ndarray:
    """Returns a mask with a kind of damage.

    Args:
      kind: key of `KINDS`.
      mask: (H, W, C) in [0, 1]; every channel is damaged separately. An empty channel stays as it is.
      seed: chooses the random numbers together with the kind.

    Returns:
      (H, W, C) float32 of 0 and 1.
    """
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    planes = np.moveaxis(mask > 0.5, 2, 0)
    return np.stack([KINDS[kind](plane, rng) if plane.any() else plane for plane in planes], 2).astype(np.float32)


def _extent(mask: np.ndarray) -> tuple[int, int]:
    """Returns the first row of a mask and its number of rows."""
    rows = np.flatnonzero(mask.any(1))
    return int(rows[0]), int(rows[-1] - rows[0] + 1)


def _one_side(mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, tuple[int, int]]:
    """Returns the pixels on a random side of the middle of a mask, (H, W) bool, and the extent of the mask there."""
    middle = ndimage.center_of_mass(mask)[1]
    columns = np.arange(mask.shape[1])[None] < middle
    side = np.broadcast_to(columns if rng.random() < 0.5 else ~columns, mask.shape)
    side = side if (mask & side).any() else ~side
    return side, _extent(mask & side)


def _height(mask: np.ndarray, rng: np.random.Generator, height: int) -> np.ndarray:
    """Returns the row of every pixel, (H, W), seen along slanted and wavy lines."""
    rows, columns = np.indices(mask.shape)
    slope, phase, wave = rng.uniform(-0.4, 0.4), rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.5) * height
    waves = height * rng.uniform(0.02, 0.06) * np.sin(2 * np.pi * columns / wave + phase)
    return rows + slope * (columns - columns[mask].mean()) * 0.5 + waves


def _shifted(line: np.ndarray, count: int) -> np.ndarray:
    """Returns a line moved by a number of pixels; what enters is empty."""
    moved = np.zeros_like(line)
    if count >= 0:
        moved[count:] = line[: len(line) - count]
    else:
        moved[:count] = line[-count:]
    return moved
