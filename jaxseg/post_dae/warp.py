"""Random smooth deformations of masks, on the device: what makes few masks into more to train on.

As with corruptions, one function draws what is to be done, from a key first; one does it, and draws nothing. Lengths
are in half sides of the image: a shift of 0.1 moves a mask by a twentieth of the side.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.interpolate import CubicSpline

KNOTS = 5  # a row and a column, of the elastic part
_SOFTEST, _HARDEST = 0.99, 0.05  # what a step of 1 at an edge becomes in `sharpen`, as a share of it


class Warp(NamedTuple):
    """Where each pixel of an answer comes from: (B, 2, 2) minus identity, (B, 2) shift, (B, 2, 5, 5) of the knots.

    Rows come before columns; all are 0 where nothing moves.
    """

    matrix: jax.Array
    shift: jax.Array
    knots: jax.Array


def warp(key: jax.Array, masks: jax.Array, *, affine: float, elastic: float) -> jax.Array:
    """Returns masks, each deformed by a draw of its own, with edges of a random softness.

    Args:
      key: of all draws.
      masks: (B, H, W, C) in [0, 1].
      affine: the most of a rotation (radians), of a shear and of the change of each scale; shifts go up to half of it.
      elastic: standard deviation of the shifts at 5 x 5 knots, between which they are smooth.

    Returns:
      The same shape, float32 in [0, 1]; what comes from beyond the image is 0. Where both strengths are 0, `masks`.
    """
    if not affine and not elastic:
        return masks
    for_warp, for_edges = jax.random.split(key)
    moved = apply_warp(masks, draw_warp(for_warp, len(masks), affine=affine, elastic=elastic))
    return sharpen(moved, jax.random.uniform(for_edges, (len(masks),)))


def draw_warp(key: jax.Array, count: int, *, affine: float, elastic: float) -> Warp:
    """Draws `count` deformations of the strengths that `warp` explains."""
    for_numbers, for_knots = jax.random.split(key)
    drawn = affine * jax.random.uniform(for_numbers, (6, count), minval=-1, maxval=1)
    angle, shear, *scales = drawn[:4]
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    first = jnp.stack([(1 + scales[0]) * cosine - 1, shear - sine], -1)
    second = jnp.stack([sine, (1 + scales[1]) * cosine - 1], -1)
    knots = elastic * jax.random.normal(for_knots, (count, 2, KNOTS, KNOTS))
    return Warp(jnp.stack([first, second], -2), drawn[4:].T / 2, knots)


def apply_warp(masks: jax.Array, how: Warp) -> jax.Array:
    """Returns (B, H, W, C) masks deformed, interpolated bilinearly; 0 comes from beyond the image. float32."""
    height, width = masks.shape[1:3]
    rows, columns = (np.linspace(-1, 1, side) for side in (height, width))
    grid = jnp.asarray(np.stack(np.meshgrid(rows, columns, indexing="ij")), jnp.float32)
    down, across = (jnp.asarray(_between(places), jnp.float32) for places in (rows, columns))
    offsets = jnp.einsum("bij,jhw->bihw", how.matrix, grid, precision="highest")
    offsets += how.shift[:, :, None, None] + jnp.einsum("hk,bikl,wl->bihw", down, how.knots, across)
    half_sides = jnp.asarray([(height - 1) / 2, (width - 1) / 2], jnp.float32)
    pixels = jnp.asarray(np.indices((height, width)), jnp.float32)  # so that an offset of 0 moves nothing at all
    places = pixels[None] + offsets * half_sides[None, :, None, None]

    def one(mask: jax.Array, places: jax.Array) -> jax.Array:
        return jax.scipy.ndimage.map_coordinates(mask, [places[0], places[1]], order=1)

    over_channels = jax.vmap(one, in_axes=(2, None), out_axes=2)
    return jnp.clip(jax.vmap(over_channels)(masks.astype(jnp.float32), places), 0, 1)


def sharpen(masks: jax.Array, drawn: jax.Array) -> jax.Array:
    """Returns (B, H, W, C) masks with steeper edges, each of its own steepness; what is 0 or 1 stays so.

    Also what interpolation made of 1, and is a little less: corruptions find their borders by it.

    Args:
      masks: in [0, 1].
      drawn: (B,) in [0, 1): 0 makes edges of hardly a pixel, 1 leaves them nearly as they are.
    """
    share = _HARDEST + (_SOFTEST - _HARDEST) * drawn[:, None, None, None]
    return jnp.clip((masks - 0.5) / share + 0.5, 0, 1)


def _between(places: np.ndarray) -> np.ndarray:
    """Returns (N, 5) weights of the knots, spread evenly over [-1, 1], at N places: those of a natural cubic spline."""
    return CubicSpline(np.linspace(-1, 1, KNOTS), np.eye(KNOTS), bc_type="natural")(places)
