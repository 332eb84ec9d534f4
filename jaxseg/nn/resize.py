"""Resizing on the device with PyTorch's arithmetic; arrays are (B, H, W, C), sizes are (height, width)."""

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.nn.indices import bilinear_taps

Odd = Literal["floor", "truncate"]


def bilinear(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns `x` resized bilinearly without antialiasing, corners not aligned.

    Args:
      x: (B, H, W, C), any float dtype.
      size: height and width of the result.

    Returns:
      (B, *size, C), the dtype of `x`; equals `torch.nn.functional.interpolate(mode="bilinear",
      align_corners=False)`.
    """
    for axis, length in ((1, size[0]), (2, size[1])):
        if length % x.shape[axis]:
            x = _by_gathers(x, axis, length)
        elif length != x.shape[axis]:
            x = _whole_times(x, axis, length // x.shape[axis])
    return x


def _by_gathers(x: jax.Array, axis: int, length: int) -> jax.Array:
    # Two gathers and a weighted sum: XLA fuses them with what follows. Interpolation as a matrix product took 7 times
    # as long on a CPU for (1, 128, 128, 159) -> 512 x 512.
    low, high, weight = bilinear_taps(x.shape[axis], length)
    weight = jnp.asarray(np.expand_dims(weight, [a for a in range(4) if a != axis]), x.dtype)
    return jnp.take(x, low, axis=axis) * (1 - weight) + jnp.take(x, high, axis=axis) * weight


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _whole_times(x: jax.Array, axis: int, factor: int) -> jax.Array:
    return _by_gathers(x, axis, factor * x.shape[axis])


@_whole_times.defjvp
def _(axis: int, factor: int, given: tuple[jax.Array], changes: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    # The gradient of a gather is a scatter, which is slow; that of slices a quarter of it on a CPU. There a map that is
    # kept for the backward pass is also made faster by slices, while gathers fuse with a threshold after them.
    return _by_slices(*given, axis, factor), _by_slices(*changes, axis, factor)


def _by_slices(x: jax.Array, axis: int, factor: int) -> jax.Array:
    length = x.shape[axis]
    first, last = (jax.lax.slice_in_dim(x, k, k + 1, axis=axis) for k in (0, length - 1))
    previous = jnp.concatenate([first, jax.lax.slice_in_dim(x, 0, length - 1, axis=axis)], axis)
    following = jnp.concatenate([jax.lax.slice_in_dim(x, 1, length, axis=axis), last], axis)
    places = [(place + 0.5) / factor - 0.5 for place in range(factor)]  # of the new pixels, from the old one's middle
    parts = [x * (1 - abs(place)) + (previous if place < 0 else following) * abs(place) for place in places]
    return jnp.stack(parts, axis + 1).reshape(*x.shape[:axis], factor * length, *x.shape[axis + 1 :])


def double_aligned(x: jax.Array) -> jax.Array:
    """Returns `x` at twice its height and width, bilinearly with the corners aligned.

    Args:
      x: (B, H, W, C), any float dtype.

    Returns:
      (B, 2H, 2W, C), the dtype of `x`; equals `torch.nn.functional.interpolate(scale_factor=2, mode="bilinear",
      align_corners=True)`.
    """
    # Output 2k lies k / (2n - 1) before input k, output 2k + 1 lies (n - 1 - k) / (2n - 1) after it. So slices do,
    # where `bilinear` gathers: the gradient of a gather is a scatter, which is slow.
    for axis in (1, 2):
        length = x.shape[axis]
        before = np.arange(length) / (2 * length - 1)
        shape = [-1 if a == axis else 1 for a in range(4)]
        before, after = (jnp.asarray(weight.reshape(shape), x.dtype) for weight in (before, before[::-1]))
        first, last = (jax.lax.slice_in_dim(x, k, k + 1, axis=axis) for k in (0, length - 1))
        previous = jnp.concatenate([first, jax.lax.slice_in_dim(x, 0, length - 1, axis=axis)], axis)
        following = jnp.concatenate([jax.lax.slice_in_dim(x, 1, length, axis=axis), last], axis)
        pairs = jnp.stack([x + (previous - x) * before, x + (following - x) * after], axis + 1)
        x = pairs.reshape(*x.shape[:axis], 2 * length, *x.shape[axis + 1 :])
    return x


def pad_or_crop(x: jax.Array, size: tuple[int, int], *, odd: Odd = "floor") -> jax.Array:
    """Returns `x` with zeros around it, or cropped, to a size; the middle stays in the middle.

    Args:
      x: (B, H, W, C).
      size: height and width of the result.
      odd: where an odd number of rows or columns goes. "floor": half, rounded down, before the map, so that cropping 7
        takes 4 before and 3 after it, as the originals under PyTorch >= 1.13; "truncate": half, rounded towards zero,
        so that cropping 7 takes 3 before and 4 after it, as under the older PyTorch that they name.

    Returns:
      (B, *size, C).

    Raises:
      ValueError: `odd` is unknown.
    """
    if odd not in get_args(Odd):
        raise ValueError(f"odd is {odd!r}; known: {', '.join(get_args(Odd))}")
    padding = [(0, 0, 0)] * 4
    for axis, length in ((1, size[0]), (2, size[1])):
        missing = length - x.shape[axis]  # below zero: cropped
        before = missing // 2 if odd == "floor" else int(missing / 2)
        padding[axis] = (before, missing - before, 0)
    return jax.lax.pad(x, jnp.zeros((), x.dtype), padding)


def halve(x: jax.Array) -> jax.Array:
    """Returns the means of 2x2 pixels: (B, H, W, C) -> (B, ceil(H/2), ceil(W/2), C).

    At odd sizes the last row and column have means of the pixels that there are, as PyTorch's `avg_pool2d` with
    `ceil_mode=True`.
    """
    batch, height, width, channels = x.shape
    rows, columns = -(-height // 2), -(-width // 2)
    x = jnp.pad(x, ((0, 0), (0, 2 * rows - height), (0, 2 * columns - width), (0, 0)))
    sums = x.reshape(batch, rows, 2, columns, 2, channels).sum((2, 4))
    counts = [np.minimum(2, length - np.arange(0, length, 2)) for length in (height, width)]
    return sums / jnp.asarray(np.outer(*counts).reshape(1, rows, columns, 1), x.dtype)
