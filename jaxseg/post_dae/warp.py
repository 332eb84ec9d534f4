"""Random smooth deformations of masks, on the device, which augment a small set of training masks.

As with the corruptions, one function samples the parameters from a key, and another applies them deterministically.
Lengths are in half sides of the image: a shift of 0.1 moves a mask by a twentieth of the side.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.interpolate import CubicSpline

KNOTS = 5  # knots per row and per column of the elastic deformation
_SOFTEST, _HARDEST = 0.99, 0.05  # in `sharpen`, widths of an edge relative to its old width


class Warp(NamedTuple):
    """Source position of each pixel of the result, relative to the pixel; all zeros move nothing.

    Row components come before column components.

    Attributes:
      matrix: (B, 2, 2), the linear map minus the identity.
      shift: (B, 2) in half sides.
      knots: (B, 2, 5, 5), the shifts at the knots in half sides.
    """

    matrix: jax.Array
    shift: jax.Array
    knots: jax.Array


def warp(key: jax.Array, masks: jax.Array, *, affine: float, elastic: float) -> jax.Array:
    """Deforms each mask by a separate random deformation, and gives its edges a random softness.

    Args:
      key: PRNG key.
      masks: (B, H, W, C) in [0, 1].
      affine: largest rotation (radians), shear, and relative change of each scale. The largest shift is half of it, in
        half sides.
      elastic: standard deviation of the shifts at 5 x 5 knots, in half sides; they are interpolated smoothly.

    Returns:
      (B, H, W, C) float32 in [0, 1]; pixels from outside the image are 0. If both strengths are 0, `masks` itself.
    """
    if not affine and not elastic:
        return masks
    for_warp, for_edges = jax.random.split(key)
    moved = apply_warp(masks, draw_warp(for_warp, len(masks), affine=affine, elastic=elastic))
    return sharpen(moved, jax.random.uniform(for_edges, (len(masks),)))


def draw_warp(key: jax.Array, count: int, *, affine: float, elastic: float) -> Warp:
    """Samples `count` deformations; `affine` and `elastic` are the strengths of `warp`."""
    for_numbers, for_knots = jax.random.split(key)
    numbers = affine * jax.random.uniform(for_numbers, (6, count), minval=-1, maxval=1)
    angle, shear, *scales = numbers[:4]
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    first = jnp.stack([(1 + scales[0]) * cosine - 1, shear - sine], -1)
    second = jnp.stack([sine, (1 + scales[1]) * cosine - 1], -1)
    knots = elastic * jax.random.normal(for_knots, (count, 2, KNOTS, KNOTS))
    return Warp(jnp.stack([first, second], -2), numbers[4:].T / 2, knots)


def apply_warp(masks: jax.Array, how: Warp) -> jax.Array:
    """Returns deformed masks, (B, H, W, C) float32, interpolated bilinearly; pixels from outside the image are 0."""
    height, width = masks.shape[1:3]
    rows, columns = (np.linspace(-1, 1, side) for side in (height, width))
    grid = jnp.asarray(np.stack(np.meshgrid(rows, columns, indexing="ij")), jnp.float32)
    down, across = (jnp.asarray(_between(places), jnp.float32) for places in (rows, columns))
    offsets = jnp.einsum("bij,jhw->bihw", how.matrix, grid, precision="highest")
    offsets += how.shift[:, :, None, None] + jnp.einsum("hk,bikl,wl->bihw", down, how.knots, across)
    half_sides = jnp.asarray([(height - 1) / 2, (width - 1) / 2], jnp.float32)
    pixels = jnp.asarray(np.indices((height, width)), jnp.float32)  # exact, so that an offset of 0 moves nothing
    places = pixels[None] + offsets * half_sides[None, :, None, None]

    def one(mask: jax.Array, places: jax.Array) -> jax.Array:
        return jax.scipy.ndimage.map_coordinates(mask, [places[0], places[1]], order=1)

    over_channels = jax.vmap(one, in_axes=(2, None), out_axes=2)
    return jnp.clip(jax.vmap(over_channels)(masks.astype(jnp.float32), places), 0, 1)


def sharpen(masks: jax.Array, softness: jax.Array) -> jax.Array:
    """Returns masks with steeper edges; values of 0 and 1 do not change.

    Values that interpolation left slightly below 1 become 1 again, because the corruptions find borders by that value.

    Args:
      masks: (B, H, W, C) in [0, 1].
      softness: (B,) in [0, 1): 0 makes edges about one pixel wide, values near 1 leave them almost unchanged.

    Returns:
      (B, H, W, C) in [0, 1].
    """
    share = _HARDEST + (_SOFTEST - _HARDEST) * softness[:, None, None, None]
    return jnp.clip((masks - 0.5) / share + 0.5, 0, 1)


def _between(places: np.ndarray) -> np.ndarray:
    """Returns the (N, 5) weights of knots evenly spaced in [-1, 1] at N places, for a natural cubic spline."""
    return CubicSpline(np.linspace(-1, 1, KNOTS), np.eye(KNOTS), bc_type="natural")(places)
