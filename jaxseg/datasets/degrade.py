"""Degrades masks to a given Dice, with errors that are typical of segmentation networks.

Masks are (H, W) or (D, H, W) bool. All random numbers come from the given generator.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from jaxseg.nn.metrics import dice

Family = Callable[[float], np.ndarray]  # strength in [0, 1] -> mask; strength 0 changes nothing

STEPS = 9  # steps of bisection, which find the strength to 1/512
_LARGEST = 2.5  # largest displacement of the boundary, in radii of the ball of the same volume


def shift(rng: np.random.Generator, mask: np.ndarray) -> Family:
    """Moves a mask in a random direction by up to its extent; parts that leave the array are lost."""
    direction = _direction(rng, mask.ndim)
    extent = np.array([np.ptp(places) + 1 for places in np.nonzero(mask)])

    def moved(strength: float) -> np.ndarray:
        steps = np.rint(strength * direction * extent).astype(int)
        found = np.zeros_like(mask)
        to = tuple(slice(max(0, s), n + min(0, s)) for s, n in zip(steps, mask.shape, strict=True))
        source = tuple(slice(max(0, -s), n + min(0, -s)) for s, n in zip(steps, mask.shape, strict=True))
        found[to] = mask[source]
        return found

    return moved


def dilate(rng: np.random.Generator, mask: np.ndarray) -> Family:
    """Dilates a mask evenly, up to irregularities of about one voxel."""
    outside, reach = _outside(mask), _LARGEST * _radius(mask)
    ordered = np.where(mask, 0, outside + _ties(rng, mask.shape))
    return lambda strength: ordered <= strength * reach


def erode(rng: np.random.Generator, mask: np.ndarray) -> Family:
    """Erodes a mask evenly, up to irregularities of about one voxel, at most to its innermost voxels."""
    ordered = np.where(mask, ndimage.distance_transform_edt(mask) + _ties(rng, mask.shape), 0)
    deepest = ordered.max()
    return lambda strength: ordered > strength * deepest * (1 - 1e-6)


def lose(rng: np.random.Generator, mask: np.ndarray) -> Family:
    """Cuts off a part at a straight line or plane; in volumes, half of the planes lie between two slices."""
    direction = _direction(rng, mask.ndim)
    if mask.ndim == 3 and rng.random() < 0.5:
        direction = np.array([rng.choice([-1.0, 1.0]), 0.0, 0.0])
    along = sum(d * x for d, x in zip(direction, np.ogrid[tuple(map(slice, mask.shape))], strict=True))
    low, high = along[mask].min(), along[mask].max()
    return lambda strength: mask & (along >= low + strength * (high - low))


def roughen(rng: np.random.Generator, mask: np.ndarray) -> Family:
    """Moves the boundary inwards and outwards in random waves."""
    depth = ndimage.distance_transform_edt(mask) - _outside(mask)
    waves = _noise(rng, mask.shape, max(0.25 * _radius(mask), 1.0)) * _LARGEST * _radius(mask)
    return lambda strength: depth + strength * waves > 0


def lump(rng: np.random.Generator, mask: np.ndarray) -> Family:
    """Adds lumps at and near a mask."""
    radius = _radius(mask)
    near = _outside(mask) <= 2 * radius
    lumps = np.where(near, _noise(rng, mask.shape, max(0.5 * radius, 1.0)), -np.inf)
    highest = lumps.max()
    return lambda strength: mask | (lumps > (1 - strength) * highest + strength * -1.5)


def pierce(rng: np.random.Generator, mask: np.ndarray) -> Family:
    """Removes holes from a mask."""
    holes = _noise(rng, mask.shape, max(0.3 * _radius(mask), 0.7))
    low, high = holes[mask].min(), holes[mask].max()
    return lambda strength: mask & (holes <= high - strength * (high - low))


KINDS = {
    "shift": shift,
    "dilate": dilate,
    "erode": erode,
    "part": lose,
    "boundary": roughen,
    "lumps": lump,
    "holes": pierce,
}


def degrade(
    rng: np.random.Generator, mask: np.ndarray, wanted: float, kinds: Sequence[str] = tuple(KINDS)
) -> tuple[np.ndarray, str]:
    """Degrades a mask in one way that is sampled from `kinds`.

    The strength of the change is found by bisection. If the Dice cannot be reached (a mask of a few voxels cannot be
    eroded by a third), the result has the closest Dice that was found. It is never empty.

    Args:
      rng: generator of all random numbers.
      mask: (H, W) or (D, H, W) bool, not empty.
      wanted: Dice of the result with the given mask, in (0, 1].
      kinds: keys of `KINDS`.

    Returns:
      The degraded mask, with the shape of the given one, and the key of its kind.

    Raises:
      ValueError: the mask is empty or has another type, or an option is out of range.

    Example:
      >>> mask = np.zeros((64, 64), bool)
      >>> mask[20:40, 20:40] = True
      >>> found, kind = degrade(np.random.default_rng(0), mask, 0.8, ("erode",))
      >>> kind, round(float(dice(mask, found, axes=None)), 1)
      ('erode', 0.8)
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(f"unknown ways to degrade a mask: {', '.join(unknown) or 'none'}; known: {', '.join(KINDS)}")
    if not 0 < wanted <= 1:
        raise ValueError(f"the Dice must be in (0, 1], got {wanted}")
    if mask.ndim not in (2, 3) or mask.dtype != bool or not mask.any():
        raise ValueError("a mask to degrade must be (H, W) or (D, H, W) bool, and not empty")
    kind = kinds[int(rng.integers(len(kinds)))]
    part = _room(mask)
    inner = mask[part]
    family = KINDS[kind](rng, inner)
    best, apart = inner, abs(dice(inner, inner, axes=None) - wanted)
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        strength = (low + high) / 2
        found = family(strength)
        reached = float(dice(inner, found, axes=None))
        if abs(reached - wanted) < apart and found.any():
            best, apart = found, abs(reached - wanted)
        low, high = (strength, high) if reached > wanted else (low, strength)
    whole = np.zeros_like(mask)
    whole[part] = best
    return whole, kind


def _room(mask: np.ndarray) -> tuple[slice, ...]:
    """Returns the part of the array around a mask into which the mask can grow; only this part is computed."""
    margin = int(np.ceil(3 * _radius(mask))) + 2
    places = [np.flatnonzero(mask.any(tuple(a for a in range(mask.ndim) if a != axis))) for axis in range(mask.ndim)]
    return tuple(slice(max(0, int(found[0]) - margin), int(found[-1]) + margin + 1) for found in places)


def _radius(mask: np.ndarray) -> float:
    """Returns the radius of the disc or ball with as many voxels as the mask."""
    count = np.count_nonzero(mask)
    return float(np.sqrt(count / np.pi) if mask.ndim == 2 else np.cbrt(count * 0.75 / np.pi))


def _outside(mask: np.ndarray) -> np.ndarray:
    """Returns the distance of every voxel to the mask; 0 inside it."""
    return ndimage.distance_transform_edt(~mask)


def _ties(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Returns offsets that give voxels with equal distances an order, in which neighbours are together.

    Thin masks have only a few different distances.
    """
    return 0.49 * np.tanh(_noise(rng, shape, 2.0))


def _direction(rng: np.random.Generator, axes: int) -> np.ndarray:
    found = rng.normal(size=axes)
    return found / np.linalg.norm(found)


def _noise(rng: np.random.Generator, shape: tuple[int, ...], width: float) -> np.ndarray:
    """Returns smooth noise with mean 0 and standard deviation 1, with bumps of the given width in voxels."""
    coarse = tuple(int(np.ceil(length / width)) + 3 for length in shape)
    start = rng.random(len(shape))
    axes = [start[axis] + np.arange(length) / width for axis, length in enumerate(shape)]
    values = rng.normal(size=coarse)
    for axis, places in enumerate(axes):  # interpolates a coarse grid, axis by axis
        low = np.floor(places).astype(int)
        weight = (places - low).reshape([-1 if a == axis else 1 for a in range(len(shape))])
        weight = weight * weight * (3 - 2 * weight)
        values = values.take(low, axis) * (1 - weight) + values.take(low + 1, axis) * weight
    return (values - values.mean()) / (values.std() + 1e-9)
