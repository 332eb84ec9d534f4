"""Post-DAE's corruptions of masks, on the device. Masks are (H, W) or (B, H, W[, C]), values in [0, 1].

Each corruption has two functions: the first samples its parameters from a key, the second applies them and is
deterministic. `corrupt` applies all three corruptions to a batch in the original's order: swaps, patches, discs.

Source: Larrazabal et al. 2020 (Post-DAE), doi 10.1109/TMI.2020.3005297; balazsborsos/dae_postprocessing.
"""

import dataclasses
import functools
import math
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.settings import Range, verify

Count = Annotated[int, Range(0, 100_000)]
Length = Annotated[int, Range(1, 8192)]


@dataclasses.dataclass(frozen=True)
class Corruption:
    """The strength of the corruptions. Lengths are in pixels; the defaults are the original's for 512 x 512.

    Attributes:
      swaps: number of border pixels at which the label above and the label below are exchanged.
      max_distance: largest distance of the exchanged pixels from the border; each distance is sampled from 1 to it.
      patch: side of the square patches that are deleted.
      max_patches: largest number of deleted patches.
      radius: radius of the added discs.
      max_discs: largest number of added discs; their number is sampled from 0 to it.
      fidelity: "original" keeps three peculiarities of the original. A swap copies the label above to the pixel below,
        and then replaces the label above by one minus itself. If at most `max_patches` patches hold foreground, all of
        them are deleted, which empties small masks. A disc's centre may lie one pixel outside the image. "better":
        a swap exchanges the two labels, at most half of the patches with foreground are deleted, and the centres lie
        in the image.
      as_original: older keyword for `fidelity`: True means "original", False means "better". It is not stored.

    Raises:
      ValueError: a value is out of range, or `fidelity` is unknown.
    """

    RENAMED: ClassVar[dict[str, Any]] = {"as_original": ("fidelity", {True: "original", False: "better"})}

    swaps: Count = 300
    max_distance: Length = 20
    patch: Length = 32
    max_patches: Count = 15
    radius: Annotated[float, Range(0, 8192)] = 8
    max_discs: Annotated[int, Range(0, 1000)] = 10
    fidelity: Literal["original", "better"] = "original"
    as_original: dataclasses.InitVar[bool | None] = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self, as_original: bool | None):
        if as_original is not None:
            object.__setattr__(self, "fidelity", "original" if as_original else "better")
        verify(self)

    def scaled(self, factor: float) -> "Corruption":
        """Returns the same corruption for images whose sides are `factor` times as long.

        The factor multiplies all lengths, and the number of swaps, because the number of border pixels grows with the
        side. The numbers of patches and discs stay. The original does not scale: at 128 x 128 pixels it deletes nearly
        all of every mask.

        Raises:
          ValueError: the factor is not above 0.
        """
        if not factor > 0:
            raise ValueError(f"the factor must be above 0, got {factor}")
        lengths = {name: max(1, round(getattr(self, name) * factor)) for name in ("max_distance", "patch")}
        return dataclasses.replace(self, swaps=round(self.swaps * factor), radius=self.radius * factor, **lengths)


HEAVY = Corruption(
    swaps=2000, max_distance=80, patch=128, max_patches=5, radius=64, max_discs=8, fidelity="better"
)  # missing lobes and large false islands: the Dice of lung masks falls to about 0.7

# Levels by name, for 512 x 512 pixels; `.scaled` adapts them to other sizes. None leaves the mask unchanged.
LEVELS = {
    "clean": None,
    "light": Corruption(swaps=150, max_patches=7, max_discs=5),
    "original": Corruption(),
    "strong": Corruption(
        swaps=600, max_distance=60, patch=128, max_patches=3, radius=40, max_discs=6, fidelity="better"
    ),
    "heavy": HEAVY,
}
SIDE = 512  # image side of the levels, in pixels


class Swaps(NamedTuple):
    """Border pixels as (N,) int32 rows and columns, (N,) int32 distances, and an (N,) bool mask of the used entries."""

    rows: jax.Array
    columns: jax.Array
    distances: jax.Array
    used: jax.Array


class Discs(NamedTuple):
    """Disc centres as (N,) int32 rows and columns, and an (N,) bool mask of the used entries."""

    rows: jax.Array
    columns: jax.Array
    used: jax.Array


@functools.partial(jax.jit, static_argnames="how")
def corrupt(key: jax.Array, masks: jax.Array, how: Corruption = Corruption()) -> jax.Array:
    """Corrupts masks; random parameters are sampled separately for every mask.

    Args:
      key: PRNG key of all random parameters.
      masks: (B, H, W) or (B, H, W, C) in [0, 1], any dtype; every channel is a separate mask.
      how: the strength of the corruptions.

    Returns:
      Corrupted masks of the same shape, float32 in [0, 1].

    Raises:
      ValueError: `masks` has another number of axes.
    """
    if masks.ndim not in (3, 4):
        raise ValueError(f"masks must be (B, H, W) or (B, H, W, C), got {masks.shape}")
    planes = masks[..., None] if masks.ndim == 3 else masks
    planes = jnp.moveaxis(planes.astype(jnp.float32), 3, 1)  # (B, C, H, W)
    keys = jax.random.split(key, planes.shape[:2])
    one = functools.partial(_corrupt_one, how=how)
    return jnp.moveaxis(jax.vmap(jax.vmap(one))(keys, planes), 1, 3).reshape(masks.shape)


def _corrupt_one(key: jax.Array, mask: jax.Array, *, how: Corruption) -> jax.Array:
    for_swaps, for_patches, for_discs = jax.random.split(key, 3)
    if how.swaps:
        swaps = draw_swaps(for_swaps, mask, count=how.swaps, max_distance=how.max_distance)
        mask = swap_labels(mask, swaps, fidelity=how.fidelity)
    if how.max_patches:
        chosen = draw_patches(for_patches, mask, size=how.patch, max_patches=how.max_patches, fidelity=how.fidelity)
        mask = delete_patches(mask, chosen, size=how.patch)
    if how.max_discs:
        discs = draw_discs(for_discs, mask.shape, max_discs=how.max_discs, fidelity=how.fidelity)
        mask = add_discs(mask, discs, radius=how.radius)
    return mask


def border(mask: jax.Array) -> jax.Array:
    """Returns the pixels along the border of a mask, on either side of it: Canny edges of the mask's foreground.

    Args:
      mask: (H, W); only values of at least 1 are foreground, so soft edges are background.

    Returns:
      (H, W) bool, equal to `cv2.Canny(mask.astype(uint8), 0, 1)`. The two thresholds have no effect, because every
      gradient magnitude of a mask of 0 and 1 is either 0 or at least 2.

    Source: Canny 1986, doi 10.1109/TPAMI.1986.4767851.
    """
    height, width = mask.shape
    padded = jnp.pad((mask >= 1).astype(jnp.int8), 1, mode="edge")  # int8 is 5 times as fast as int32 on a CPU
    smooth_down = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    smooth_across = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    across, down = smooth_down[:, 2:] - smooth_down[:, :-2], smooth_across[2:] - smooth_across[:-2]
    flat, steep = jnp.abs(across), jnp.abs(down)
    size = flat + steep
    sizes = jnp.pad(size, 1)

    def near(rows: int, columns: int) -> jax.Array:
        return sizes[1 + rows : 1 + rows + height, 1 + columns : 1 + columns + width]

    # A pixel is kept if neither neighbour across the border has a larger gradient; of two equal ones the first is kept.
    horizontal = (size > near(0, -1)) & (size >= near(0, 1))
    vertical = (size > near(-1, 0)) & (size >= near(1, 0))
    falling = (size > near(-1, -1)) & (size > near(1, 1))
    rising = (size > near(-1, 1)) & (size > near(1, -1))
    diagonal = jnp.where((across < 0) != (down < 0), rising, falling)
    # Both are at most 4, so steep / flat is below tan(22.5 degrees) if and only if it is below 1 / 2.
    return (size > 0) & jnp.where(2 * steep < flat, horizontal, jnp.where(steep > 2 * flat, vertical, diagonal))


def draw_swaps(key: jax.Array, mask: jax.Array, *, count: int, max_distance: int) -> Swaps:
    """Samples distinct border pixels of a mask in random order, each with a distance from 1 to `max_distance`.

    Args:
      key: PRNG key.
      mask: (H, W) in [0, 1].
      count: N. If the border has fewer pixels, all of them are used; the original fails in this case.
      max_distance: largest distance in pixels.

    Returns:
      Swaps with arrays of shape (N,).
    """
    for_pixels, for_order, for_distances = jax.random.uniform(key, (3, count))
    edges = border(mask)
    numbers = _different(for_pixels, edges.sum(dtype=jnp.int32))[jnp.argsort(for_order)]
    # The border pixel of each number: first its row, from the counts per row, and then its position in the row.
    counts = edges.sum(1, dtype=jnp.int32)
    ends = jnp.cumsum(counts)
    rows = jnp.minimum(jnp.searchsorted(ends, numbers, side="right"), mask.shape[0] - 1)
    place = numbers - (ends - counts)[rows]
    columns = (jnp.cumsum(edges[rows], 1, dtype=jnp.int32) <= place[:, None]).sum(1)
    return Swaps(rows, columns, 1 + _whole(for_distances, max_distance), numbers >= 0)


def swap_labels(mask: jax.Array, swaps: Swaps, *, fidelity: str = "original") -> jax.Array:
    """Exchanges the labels above and below each border pixel, at the pixel's distance, one swap after the other.

    Args:
      mask: (H, W) float32.
      swaps: pixels and distances; rows outside the image are moved to its first or last row.
      fidelity: "original": the pixel below gets the label above, and then the label above becomes one minus itself.
        "better": the two labels are exchanged.

    Returns:
      (H, W) float32.
    """
    above = jnp.maximum(swaps.rows - swaps.distances, 0)
    below = jnp.minimum(swaps.rows + swaps.distances, mask.shape[0] - 1)

    def swap(i: int, mask: jax.Array) -> jax.Array:
        pair = jnp.stack([below[i], above[i]])
        column = swaps.columns[i]
        low, high = mask[pair, column]
        new = jnp.stack([high, 1 - high if fidelity == "original" else low])
        new = jnp.where(pair[0] == pair[1], new[1], new)  # both are the same pixel
        return mask.at[pair, column].set(jnp.where(swaps.used[i], new, jnp.stack([low, high])))

    return jax.lax.fori_loop(0, len(swaps.rows), swap, mask)


def occupied_patches(mask: jax.Array, *, size: int) -> jax.Array:
    """Returns which complete patches of an (H, W) mask hold foreground, (H // size, W // size) bool."""
    rows, columns = mask.shape[0] // size, mask.shape[1] // size
    whole = mask[: rows * size, : columns * size].reshape(rows, size, columns, size)
    return (whole != 0).any((1, 3))


def draw_patches(
    key: jax.Array, mask: jax.Array, *, size: int, max_patches: int, fidelity: str = "original"
) -> jax.Array:
    """Samples patches that hold foreground.

    Args:
      key: PRNG key.
      mask: (H, W) in [0, 1].
      size: side of the patches in pixels.
      max_patches: the number of patches is sampled from 0 to this number.
      fidelity: "original": if at most `max_patches` patches hold foreground, all of them are chosen. "better": at most
        half of the patches with foreground are chosen.

    Returns:
      (H // size, W // size) bool, True for chosen patches.
    """
    occupied = occupied_patches(mask, size=size)
    draws = jax.random.uniform(key, (1 + occupied.size,))
    total = occupied.sum()
    most = max_patches if fidelity == "original" else jnp.minimum(max_patches, total // 2)
    number = _whole(draws[0], most + 1)
    if fidelity == "original":
        number = jnp.where(total > max_patches, number, total)
    score = jnp.where(occupied.ravel(), draws[1:], 2)
    rank = jnp.argsort(jnp.argsort(score)).reshape(occupied.shape)
    return rank < number


def delete_patches(mask: jax.Array, chosen: jax.Array, *, size: int) -> jax.Array:
    """Returns (H, W) `mask` with the chosen patches, (H // size, W // size) bool, set to 0.

    Pixels outside complete patches, at the lower and right edge, keep their values.
    """
    gone = jnp.repeat(jnp.repeat(chosen, size, 0), size, 1)
    rest = [(0, length - covered) for length, covered in zip(mask.shape, gone.shape, strict=True)]
    return jnp.where(jnp.pad(gone, rest), 0, mask)


def draw_discs(key: jax.Array, shape: tuple[int, int], *, max_discs: int, fidelity: str = "original") -> Discs:
    """Samples the number of discs, from 0 to `max_discs`, and their centres.

    Args:
      key: PRNG key.
      shape: H and W.
      max_discs: N.
      fidelity: "original": centres lie in rows 0 to H and columns 0 to W, both included. "better": centres lie in the
        image.

    Returns:
      Discs with arrays of shape (N,).
    """
    draws = jax.random.uniform(key, (1 + 2 * max_discs,))
    beyond = 1 if fidelity == "original" else 0
    rows, columns = (_whole(draws[1 + i :: 2], shape[i] + beyond) for i in (0, 1))
    return Discs(rows, columns, jnp.arange(max_discs) < _whole(draws[0], max_discs + 1))


def add_discs(mask: jax.Array, discs: Discs, *, radius: float) -> jax.Array:
    """Returns (H, W) `mask` with 1 at every pixel whose distance to a used centre is at most `radius` pixels."""
    reach = math.floor(radius)
    offsets = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.int32)
    down, across = offsets[:, np.square(offsets).sum(0) <= radius**2]
    # A scatter: XLA would fuse a comparison of every pixel with the random numbers and generate them again per pixel.
    rows, columns = discs.rows[:, None] + down[None], discs.columns[:, None] + across[None]
    inside = discs.used[:, None] & (rows >= 0) & (columns >= 0)  # a negative index would count from the end
    return mask.at[jnp.where(inside, rows, mask.shape[0]), columns].set(1, mode="drop")


def _whole(uniform: jax.Array, end: jax.Array | int) -> jax.Array:
    """Returns int32 numbers from 0 to below `end` from uniform numbers in [0, 1).

    Random generators compile slowly, so each sampling function calls one generator for all its numbers.
    """
    end = jnp.asarray(end, jnp.int32)
    return jnp.minimum((uniform * end.astype(jnp.float32)).astype(jnp.int32), end - 1)


def _different(uniform: jax.Array, total: jax.Array) -> jax.Array:
    """Returns N distinct numbers below `total` from N uniform numbers in [0, 1).

    If `total` is below N, the remaining entries are -1. The order of the numbers is not random.

    Source: Bentley and Floyd 1987, doi 10.1145/30401.315746.
    """
    last = total - len(uniform) + jnp.arange(len(uniform))
    candidates = _whole(uniform, jnp.maximum(last, 0) + 1)

    def take(i: int, taken: jax.Array) -> jax.Array:
        number = jnp.where((taken == candidates[i]).any(), last[i], candidates[i])
        return taken.at[i].set(jnp.where(last[i] >= 0, number, -1))

    return jax.lax.fori_loop(0, len(uniform), take, jnp.full(len(uniform), -1))
