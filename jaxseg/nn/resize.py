"""Resizing, padding and pooling on the device with PyTorch's arithmetic; arrays are (B, H, W, C)."""

import functools
from collections.abc import Callable
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

    >>> bilinear(jax.numpy.arange(2.0).reshape(1, 2, 1, 1), (4, 1)).ravel().tolist()
    [0.0, 0.25, 0.75, 1.0]
    """
    dtype = x.dtype
    x = _widened(x)  # as PyTorch does; CPUs are slow at sums of bfloat16
    for axis, length in ((1, size[0]), (2, size[1])):
        if length % x.shape[axis]:
            x = _by_gathers(x, axis, length)
        elif length != x.shape[axis]:
            x = _by_factor(x, axis, length // x.shape[axis])
    return x.astype(dtype)


def _widened(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x


def _by_gathers(x: jax.Array, axis: int, length: int) -> jax.Array:
    # Two gathers and a weighted sum: XLA fuses them with what follows. Interpolation as a matrix product took 7 times
    # as long on a CPU for (1, 128, 128, 159) -> 512 x 512.
    low, high, upper = bilinear_taps(x.shape[axis], length)
    weight = jnp.asarray(np.expand_dims(upper, [a for a in range(4) if a != axis]), x.dtype)
    return jnp.take(x, low, axis=axis) * (1 - weight) + jnp.take(x, high, axis=axis) * weight


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _by_factor(x: jax.Array, axis: int, factor: int) -> jax.Array:
    return _by_gathers(x, axis, factor * x.shape[axis])


@_by_factor.defjvp
def _(axis: int, factor: int, given: tuple[jax.Array], changes: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    # The gradient of a gather is a scatter; on a CPU the gradient of slices takes a quarter of its time. A map that is
    # kept for the backward pass is also computed faster by slices, while gathers fuse with a threshold after them.
    return _by_slices(*given, axis, factor), _by_slices(*changes, axis, factor)


def _by_slices(x: jax.Array, axis: int, factor: int) -> jax.Array:
    length = x.shape[axis]
    first, last = (jax.lax.slice_in_dim(x, k, k + 1, axis=axis) for k in (0, length - 1))
    previous = jnp.concatenate([first, jax.lax.slice_in_dim(x, 0, length - 1, axis=axis)], axis)
    following = jnp.concatenate([jax.lax.slice_in_dim(x, 1, length, axis=axis), last], axis)
    places = [(place + 0.5) / factor - 0.5 for place in range(factor)]  # of the new centres, from the old one
    parts = [x * (1 - abs(place)) + (previous if place < 0 else following) * abs(place) for place in places]
    return jnp.stack(parts, axis + 1).reshape(*x.shape[:axis], factor * length, *x.shape[axis + 1 :])


def double_aligned(x: jax.Array) -> jax.Array:
    """Returns `x` enlarged to twice its height and width, bilinearly with the corners aligned.

    Args:
      x: (B, H, W, C), any float dtype.

    Returns:
      (B, 2H, 2W, C), the dtype of `x`; equals `torch.nn.functional.interpolate(scale_factor=2, mode="bilinear",
      align_corners=True)`.
    """
    # Output 2k lies k / (2n - 1) before input k, and output 2k + 1 lies (n - 1 - k) / (2n - 1) after it. So slices are
    # enough, and they are faster than gathers: the gradient of a gather is a scatter.
    for axis in (1, 2):
        length = x.shape[axis]
        weights = np.arange(length) / (2 * length - 1)
        shape = [-1 if a == axis else 1 for a in range(4)]
        before, after = (jnp.asarray(weight.reshape(shape), x.dtype) for weight in (weights, weights[::-1]))
        first, last = (jax.lax.slice_in_dim(x, k, k + 1, axis=axis) for k in (0, length - 1))
        previous = jnp.concatenate([first, jax.lax.slice_in_dim(x, 0, length - 1, axis=axis)], axis)
        following = jnp.concatenate([jax.lax.slice_in_dim(x, 1, length, axis=axis), last], axis)
        pairs = jnp.stack([x + (previous - x) * before, x + (following - x) * after], axis + 1)
        x = pairs.reshape(*x.shape[:axis], 2 * length, *x.shape[axis + 1 :])
    return x


def pad_or_crop(x: jax.Array, size: tuple[int, int], *, odd: Odd = "floor") -> jax.Array:
    """Returns `x` padded with zeros or cropped to a size; its centre stays in the centre.

    Args:
      x: (B, H, W, C).
      size: height and width of the result.
      odd: how an odd number of rows or columns is split. "floor": the part before the map is half of the number,
        rounded down, so that cropping 7 removes 4 before and 3 after; so the originals do under PyTorch >= 1.13.
        "truncate": it is rounded towards zero, so that cropping 7 removes 3 before and 4 after; so the originals do
        under the older PyTorch that they name.

    Returns:
      (B, *size, C).

    Raises:
      ValueError: `odd` is unknown.
    """
    if odd not in get_args(Odd):
        raise ValueError(f"odd is {odd!r}; known: {', '.join(get_args(Odd))}")
    padding = [(0, 0, 0)] * 4  # before, after and between
    for axis, length in ((1, size[0]), (2, size[1])):
        missing = length - x.shape[axis]  # negative if the map is cropped
        before = missing // 2 if odd == "floor" else int(missing / 2)
        padding[axis] = (before, missing - before, 0)
    return jax.lax.pad(x, jnp.zeros((), x.dtype), padding)


def halve(x: jax.Array) -> jax.Array:
    """Returns the means of 2x2 pixels: (B, H, W, C) -> (B, ceil(H/2), ceil(W/2), C).

    If a size is odd, the last row or column holds means of the pixels inside the map, as PyTorch's `avg_pool2d` with
    `ceil_mode=True` computes them.
    """
    batch, height, width, channels = x.shape
    rows, columns = -(-height // 2), -(-width // 2)
    x = jnp.pad(x, ((0, 0), (0, 2 * rows - height), (0, 2 * columns - width), (0, 0)))
    sums = x.reshape(batch, rows, 2, columns, 2, channels).sum((2, 4))
    counts = [np.minimum(2, length - np.arange(0, length, 2)) for length in (height, width)]
    return sums / jnp.asarray(np.outer(*counts).reshape(1, rows, columns, 1), x.dtype)


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """Returns the 3x3 max-pooling with stride 2 and padding 1: (B, H, W, C) -> (B, ceil(H/2), ceil(W/2), C).

    The first of equal pixels gets the gradient, as in PyTorch. Only reverse-mode derivatives (`jax.grad`, not
    `jax.jvp`) are supported.
    """
    by_pairs = functools.partial(_pool_by_pairs, jnp.maximum)
    return jax.lax.platform_dependent(x, cpu=by_pairs, default=_pool_by_windows)


def _max_pool_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return max_pool(x), x


def _max_pool_backward(x: jax.Array, change: jax.Array) -> tuple[jax.Array]:
    def by(pool: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array, jax.Array], jax.Array]:
        return lambda x, change: jax.vjp(pool, x)[1](change)[0]

    # XLA's gradient of a window's maximum takes four times as long on a CPU, because it keeps the places of all pixels.
    by_pairs = functools.partial(_pool_by_pairs, first_larger)
    return (jax.lax.platform_dependent(x, change, cpu=by(by_pairs), default=by(_pool_by_windows)),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _pool_by_windows(x: jax.Array) -> jax.Array:
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)


def _pool_by_pairs(larger: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """Pools on CPUs, which compare float32 several times as fast as bfloat16."""
    dtype, x = x.dtype, _widened(x)
    return _pool_axis(larger, _pool_axis(larger, x, 2), 1).astype(dtype)


def _pool_axis(larger: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, axis: int) -> jax.Array:
    """Returns the largest of each pair of pixels along an axis and of the pixel before it."""
    x = jnp.pad(x, [(0, x.shape[axis] % 2 if i == axis else 0) for i in range(4)], constant_values=-jnp.inf)
    pairs = x.reshape(*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
    first, second = (jax.lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in range(2))
    shifted = [(int(i == axis), -int(i == axis), 0) for i in range(4)]
    before = jax.lax.pad(second, jnp.asarray(-jnp.inf, x.dtype), shifted)
    return larger(larger(before, first), second)


def first_larger(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the larger values of two arrays of one shape; of equal ones, the first gets the gradient.

    Unlike the gradient of `max`, this one does not search for the values again, which XLA may have rounded otherwise.
    """
    return jnp.where((a >= b) | jnp.isnan(a), a, b)
