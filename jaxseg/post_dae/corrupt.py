"""Post-DAE's corruptions of masks, on the device. Masks are (H, W) or (B, H, W[, C]), values in [0, 1].

Each corruption is two functions: one draws what is to be done, from a key first; one does it, and draws nothing.
`corrupt` does all three to a batch, in the original's order: swaps, patches, discs.

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
    """How much is corrupted; lengths are in pixels and the defaults the original's, at its size of 512 x 512.

    Attributes:
      swaps: pixels of the border at which two labels are exchanged, one above and one below.
      max_distance: the farthest of these from the border; each is drawn from 1 up to it.
      patch: side of the patches that are deleted.
      max_patches: the most that are deleted.
      radius: of the discs that are added.
      max_discs: the most that are added; their number is drawn from 0 up to it.
      fidelity: "original" keeps the original's oddities. A swap copies the label above to the pixel below, and then
        turns the one above to one minus itself. If no more than `max_patches` patches hold foreground, all of them
        are deleted, which empties small masks. A disc's centre may lie one pixel outside the image. "better": a swap
        exchanges the two labels, at most half of the patches with foreground are deleted, and centres lie in the image.
    """

    RENAMED: ClassVar[dict[str, Any]] = {"as_original": ("fidelity", {True: "original", False: "better"})}

    swaps: Count = 300
    max_distance: Length = 20
    patch: Length = 32
    max_patches: Count = 15
    radius: Annotated[float, Range(0, 8192)] = 8
    max_discs: Annotated[int, Range(0, 1000)] = 10
    fidelity: Literal["original", "better"] = "original"

    def __post_init__(self):
        verify(self)

    @property
    def as_original(self) -> bool:
        """Whether the original's oddities are kept."""
        return self.fidelity == "original"

    def scaled(self, factor: float) -> "Corruption":
        """Returns the same corruption for images `factor` times as large.

        All lengths are multiplied, and the number of swaps, since a border has so many pixels; the numbers of patches
        and discs stay. The original does not scale: at 128 x 128 it deletes nearly all of every mask.
        """
        if not factor > 0:
            raise ValueError(f"the factor must be above 0, got {factor}")
        lengths = {name: max(1, round(getattr(self, name) * factor)) for name in ("max_distance", "patch")}
        return dataclasses.replace(self, swaps=round(self.swaps * factor), radius=self.radius * factor, **lengths)


HEAVY = Corruption(
    swaps=2000, max_distance=80, patch=128, max_patches=5, radius=64, max_discs=8, fidelity="better"
)  # missing lobes, large false islands: a Dice of about 0.7 is left of lungs

# By name, at 512 x 512: `.scaled` fits them to other sizes. None: the mask as it is.
LEVELS = {
    "clean": None,
    "light": Corruption(swaps=150, max_patches=7, max_discs=5),
    "original": Corruption(),
    "strong": Corruption(
        swaps=600, max_distance=60, patch=128, max_patches=3, radius=40, max_discs=6, fidelity="better"
    ),
    "heavy": HEAVY,
}
SIDE = 512  # for which they are written


class Swaps(NamedTuple):
    """Pixels of a border, (N,) int32 rows and columns; distances, (N,) int32; which of them to use, (N,) bool."""

    rows: jax.Array
    columns: jax.Array
    distances: jax.Array
    used: jax.Array


class Discs(NamedTuple):
    """Centres, (N,) int32 rows and columns, and which of them to use, (N,) bool."""

    rows: jax.Array
    columns: jax.Array
    used: jax.Array


@functools.partial(jax.jit, static_argnames="how")
def corrupt(key: jax.Array, masks: jax.Array, how: Corruption = Corruption()) -> jax.Array:
    """Returns masks, each corrupted by draws of its own.

    Args:
      key: of all draws.
      masks: (B, H, W) or (B, H, W, C) in [0, 1], any dtype; every channel is a mask of its own.
      how: what is done.

    Returns:
      The same shape, float32.
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
        mask = swap_labels(mask, swaps, as_original=how.as_original)
    if how.max_patches:
        chosen = draw_patches(
            for_patches, mask, size=how.patch, max_patches=how.max_patches, as_original=how.as_original
        )
        mask = delete_patches(mask, chosen, size=how.patch)
    if how.max_discs:
        discs = draw_discs(for_discs, mask.shape, max_discs=how.max_discs, as_original=how.as_original)
        mask = add_discs(mask, discs, radius=how.radius)
    return mask


def border(mask: jax.Array) -> jax.Array:
    """Returns the pixels along the border of a mask, on either side of it: Canny's edges of where it is 1.

    Args:
      mask: (H, W); only values of 1 and more are foreground, so soft edges are background.

    Returns:
      (H, W) bool, as `cv2.Canny(mask.astype(uint8), 0, 1)`. The two thresholds leave nothing to do: in a mask of 0 and
      1 every gradient's size is 0 or at least 2.

    Source: Canny 1986, doi 10.1109/TPAMI.1986.4767851.
    """
    height, width = mask.shape
    padded = jnp.pad((mask >= 1).astype(jnp.int8), 1, mode="edge")  # int8: 5 times as fast as int32 on a CPU
    smooth_down = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    smooth_across = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    across, down = smooth_down[:, 2:] - smooth_down[:, :-2], smooth_across[2:] - smooth_across[:-2]
    flat, steep = jnp.abs(across), jnp.abs(down)
    size = flat + steep
    sizes = jnp.pad(size, 1)

    def near(rows: int, columns: int) -> jax.Array:
        return sizes[1 + rows : 1 + rows + height, 1 + columns : 1 + columns + width]

    # A pixel stays where neither neighbour across the border has a larger gradient; of two equal ones the first.
    horizontal = (size > near(0, -1)) & (size >= near(0, 1))
    vertical = (size > near(-1, 0)) & (size >= near(1, 0))
    falling = (size > near(-1, -1)) & (size > near(1, 1))
    rising = (size > near(-1, 1)) & (size > near(1, -1))
    diagonal = jnp.where((across < 0) != (down < 0), rising, falling)
    # Both are at most 4, so that steep / flat is below the tangent of 22.5 degrees exactly where it is below 1 / 2.
    return (size > 0) & jnp.where(2 * steep < flat, horizontal, jnp.where(steep > 2 * flat, vertical, diagonal))


def draw_swaps(key: jax.Array, mask: jax.Array, *, count: int, max_distance: int) -> Swaps:
    """Draws different pixels of a mask's border, in random order, and a distance for each from 1 to `max_distance`.

    Args:
      key: of the draws.
      mask: (H, W).
      count: N; where the border has fewer pixels, all that it has are used. The original fails there.
      max_distance: in pixels.
    """
    for_pixels, for_order, for_distances = jax.random.uniform(key, (3, count))
    edges = border(mask)
    numbers = _different(for_pixels, edges.sum(dtype=jnp.int32))[jnp.argsort(for_order)]
    # The pixel of a number: first its row, by the rows' counts, and then its place in the row.
    counts = edges.sum(1, dtype=jnp.int32)
    ends = jnp.cumsum(counts)
    rows = jnp.minimum(jnp.searchsorted(ends, numbers, side="right"), mask.shape[0] - 1)
    place = numbers - (ends - counts)[rows]
    columns = (jnp.cumsum(edges[rows], 1, dtype=jnp.int32) <= place[:, None]).sum(1)
    return Swaps(rows, columns, 1 + _whole(for_distances, max_distance), numbers >= 0)


def swap_labels(mask: jax.Array, swaps: Swaps, *, as_original: bool = True) -> jax.Array:
    """Exchanges the label so far above each pixel with that so far below it, one swap after the other.

    Args:
      mask: (H, W) float32.
      swaps: where; rows beyond the image are its first or last.
      as_original: True: the pixel below gets the label above it, and then the one above becomes one minus itself.
        False: the two are exchanged.

    Returns:
      (H, W) float32.
    """
    above = jnp.maximum(swaps.rows - swaps.distances, 0)
    below = jnp.minimum(swaps.rows + swaps.distances, mask.shape[0] - 1)

    def swap(i: int, mask: jax.Array) -> jax.Array:
        pair = jnp.stack([below[i], above[i]])
        column = swaps.columns[i]
        low, high = mask[pair, column]
        new = jnp.stack([high, 1 - high if as_original else low])
        new = jnp.where(pair[0] == pair[1], new[1], new)  # of one row
        return mask.at[pair, column].set(jnp.where(swaps.used[i], new, jnp.stack([low, high])))

    return jax.lax.fori_loop(0, len(swaps.rows), swap, mask)


def occupied_patches(mask: jax.Array, *, size: int) -> jax.Array:
    """Returns which whole patches of (H, W) hold foreground: (H // size, W // size) bool."""
    rows, columns = mask.shape[0] // size, mask.shape[1] // size
    whole = mask[: rows * size, : columns * size].reshape(rows, size, columns, size)
    return (whole != 0).any((1, 3))


def draw_patches(
    key: jax.Array, mask: jax.Array, *, size: int, max_patches: int, as_original: bool = True
) -> jax.Array:
    """Draws patches that hold foreground.

    Args:
      key: of the draws.
      mask: (H, W).
      size: side of the patches.
      max_patches: their number is drawn from 0 up to it.
      as_original: True: where no more than `max_patches` hold foreground, all of them are chosen. False: at most half
        of those with foreground are.

    Returns:
      (H // size, W // size) bool.
    """
    occupied = occupied_patches(mask, size=size)
    draws = jax.random.uniform(key, (1 + occupied.size,))
    total = occupied.sum()
    most = max_patches if as_original else jnp.minimum(max_patches, total // 2)
    number = _whole(draws[0], most + 1)
    if as_original:
        number = jnp.where(total > max_patches, number, total)
    score = jnp.where(occupied.ravel(), draws[1:], 2)
    rank = jnp.argsort(jnp.argsort(score)).reshape(occupied.shape)
    return rank < number


def delete_patches(mask: jax.Array, chosen: jax.Array, *, size: int) -> jax.Array:
    """Returns (H, W) `mask` with the chosen patches, (H // size, W // size) bool, set to 0; what is left over stays."""
    gone = jnp.repeat(jnp.repeat(chosen, size, 0), size, 1)
    rest = [(0, length - covered) for length, covered in zip(mask.shape, gone.shape, strict=True)]
    return jnp.where(jnp.pad(gone, rest), 0, mask)


def draw_discs(key: jax.Array, shape: tuple[int, int], *, max_discs: int, as_original: bool = True) -> Discs:
    """Draws the number of discs, from 0 to `max_discs`, and their centres.

    Args:
      key: of the draws.
      shape: H and W.
      max_discs: N.
      as_original: True: centres lie in rows 0 to H and columns 0 to W, both included. False: in the image.
    """
    draws = jax.random.uniform(key, (1 + 2 * max_discs,))
    beyond = 1 if as_original else 0
    rows, columns = (_whole(draws[1 + i :: 2], shape[i] + beyond) for i in (0, 1))
    return Discs(rows, columns, jnp.arange(max_discs) < _whole(draws[0], max_discs + 1))


def add_discs(mask: jax.Array, discs: Discs, *, radius: float) -> jax.Array:
    """Returns (H, W) `mask` with 1 wherever a centre that is used is no farther than `radius`."""
    reach = math.floor(radius)
    offsets = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.int32)
    down, across = offsets[:, np.square(offsets).sum(0) <= radius**2]
    # A scatter, since XLA would fuse a comparison of every pixel with the draws, and draw anew for each.
    rows, columns = discs.rows[:, None] + down[None], discs.columns[:, None] + across[None]
    drawn = discs.used[:, None] & (rows >= 0) & (columns >= 0)  # a negative index would count from the end
    return mask.at[jnp.where(drawn, rows, mask.shape[0]), columns].set(1, mode="drop")


def _whole(drawn: jax.Array, end: jax.Array | int) -> jax.Array:
    """Returns whole numbers from 0 to below `end`, int32, of draws in [0, 1): a generator compiles slowly, one does."""
    end = jnp.asarray(end, jnp.int32)
    return jnp.minimum((drawn * end.astype(jnp.float32)).astype(jnp.int32), end - 1)


def _different(drawn: jax.Array, total: jax.Array) -> jax.Array:
    """Returns (N,) different numbers below `total`, of N draws in [0, 1); -1 for those that there are too few of.

    Their order is not random.

    Source: Bentley and Floyd 1987, doi 10.1145/30401.315746.
    """
    last = total - len(drawn) + jnp.arange(len(drawn))
    drawn = _whole(drawn, jnp.maximum(last, 0) + 1)

    def take(i: int, taken: jax.Array) -> jax.Array:
        number = jnp.where((taken == drawn[i]).any(), last[i], drawn[i])
        return taken.at[i].set(jnp.where(last[i] >= 0, number, -1))

    return jax.lax.fori_loop(0, len(drawn), take, jnp.full(len(drawn), -1))
