"""Transposed 3x3 convolutions that double the height and width of a map; arrays are (B, H, W, C).

Each of the four pixels that replace a pixel reads another part of the kernel, so that four small convolutions compute
them: 1x1 for the even rows and columns, 1x2, 2x1 and 2x2 for the others. XLA's own form, one convolution over a map
with zeros between its pixels, multiplies four times as much (`benchmarks/convolutions.py`). On CPUs with instructions
for bfloat16, one 2x2 convolution with four times the channels is faster in bfloat16. Nearly half of its kernel is zero,
so that a pixel that is not finite makes all four pixels of the neighbouring squares not finite, too.
"""

import functools

import jax
import jax.numpy as jnp

from jaxseg import cpu
from jaxseg.nn.engine import fused
from jaxseg.nn.fused import Fusion, sum_dtype

HALVING = Fusion((2, 2), ((1, 1), (1, 1)))  # the convolution that is transposed

Precision = jax.lax.Precision | None


def doubling(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    relu: bool = False,
    precision: Precision = None,
) -> jax.Array:
    """Returns PyTorch's `conv_transpose2d(stride=2, padding=1, output_padding=1)` with bias and ReLU.

    Only first-order reverse-mode derivatives (`jax.grad`, not `jax.jvp`) are supported.

    Args:
      x: (B, H, W, C).
      kernel: (3, 3, C', C), the dtype of `x`.
      bias: (C',), the dtype of `x`; None: none.
      relu: whether negative values become 0.
      precision: precision of the products.

    Returns:
      (B, 2H, 2W, C'), the dtype of `x`.
    """
    return _doubling(relu, precision, x, kernel, *([] if bias is None else [bias]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _doubling(relu: bool, precision: Precision, x: jax.Array, kernel: jax.Array, *bias: jax.Array) -> jax.Array:
    return doubled(x, kernel, *bias, relu=relu, precision=precision)


def _forward(
    relu: bool, precision: Precision, x: jax.Array, kernel: jax.Array, *bias: jax.Array
) -> tuple[jax.Array, tuple]:
    x = jax.lax.optimization_barrier(x)  # as in `jaxseg.nn.convolution`
    result = doubled(x, kernel, *bias, relu=relu, precision=precision)
    return result, (x, kernel, result if relu else None, bool(bias))


def _backward(relu: bool, precision: Precision, kept: tuple, change: jax.Array) -> tuple[jax.Array, ...]:
    x, kernel, result, with_bias = kept
    if relu:
        change = jnp.where(result > 0, change, 0)
    change = jax.lax.optimization_barrier(change)
    halving = Fusion(HALVING.strides, HALVING.padding, precision)
    found = fused(halving, change, kernel), halving_gradient(change, x, precision=precision)
    if not with_bias:
        return found
    return *found, change.reshape(-1, change.shape[-1]).astype(sum_dtype(change)).sum(0).astype(change.dtype)


_doubling.defvjp(_forward, _backward)


def doubled(
    x: jax.Array, kernel: jax.Array, *bias: jax.Array, relu: bool = False, precision: Precision = None
) -> jax.Array:
    """Returns what `doubling` returns, without derivatives; the bias follows the kernel."""
    in_parts = functools.partial(doubled_in_parts, relu=relu, precision=precision)
    if x.dtype != jnp.bfloat16 or not cpu.computes_bfloat16():
        return in_parts(x, kernel, *bias)
    at_once = functools.partial(doubled_at_once, relu=relu, precision=precision)
    return jax.lax.platform_dependent(x, kernel, *bias, cpu=at_once, default=in_parts)


def doubled_in_parts(x: jax.Array, kernel: jax.Array, *bias: jax.Array, relu: bool, precision: Precision) -> jax.Array:
    """Returns what `doubled` returns, by a convolution for each pixel of a square."""
    batch, height, width, _ = x.shape
    parts = {}
    for row, column in _PLACES:
        fusion = Fusion((1, 1), ((0, row), (0, column)), precision, bias=bool(bias), relu=relu)
        parts[row, column] = fused(fusion, x, _part(_part(kernel, 0, row), 1, column).swapaxes(2, 3), *bias)
    rows = [jnp.stack([parts[row, 0], parts[row, 1]], 3) for row in (0, 1)]
    return jnp.stack(rows, 2).reshape(batch, 2 * height, 2 * width, -1)


def doubled_at_once(x: jax.Array, kernel: jax.Array, *bias: jax.Array, relu: bool, precision: Precision) -> jax.Array:
    """Returns what `doubled` returns, by one convolution whose channels are those of all pixels of a square."""
    batch, height, width, _ = x.shape
    fusion = Fusion((1, 1), ((0, 1), (0, 1)), precision, bias=bool(bias), relu=relu)
    found = fused(fusion, x, _all_parts(kernel), *(jnp.tile(array, 4) for array in bias))
    squares = found.reshape(batch, height, width, 2, -1)
    return squares.swapaxes(2, 3).reshape(batch, 2 * height, 2 * width, -1)


def halving_gradient(large: jax.Array, change: jax.Array, *, precision: Precision = None) -> jax.Array:
    """Returns the gradient of the kernel of a 3x3 convolution with a stride of 2 and a padding of 1.

    Args:
      large: (B, 2H, 2W, C), the input of the convolution.
      change: (B, H, W, C'), the gradient of its output.
      precision: precision of the products.

    Returns:
      (3, 3, C, C'), the dtype of `large`.
    """
    parts = {}
    for row, column in _PLACES:
        fusion = Fusion((1, 1), ((0, row), (0, column)), precision)
        part = jnp.zeros((1 + row, 1 + column, change.shape[3], large.shape[3]), large.dtype)
        gradient = jax.vjp(functools.partial(fusion.by_xla, change), part)[1]
        (parts[row, column],) = gradient(large[:, row::2, column::2])
    rows = [_joined(parts[row, 0], parts[row, 1], 1) for row in (0, 1)]
    return _joined(rows[0], rows[1], 0).swapaxes(2, 3)


_PLACES = ((0, 0), (0, 1), (1, 0), (1, 1))  # row and column of a pixel in its 2x2 square


def _part(kernel: jax.Array, axis: int, place: int) -> jax.Array:
    """Returns what a pixel reads along an axis: the middle; or the end at the same pixel, and the start at the next."""
    start, middle, end = jnp.split(kernel, 3, axis)
    return jnp.concatenate([end, start], axis) if place else middle


def _all_parts(kernel: jax.Array) -> jax.Array:
    """Returns a (2, 2, C, 4C') kernel that computes all four pixels of a square, filled up with zeros."""
    found = []
    for row, column in _PLACES:
        part = _part(_part(kernel, 0, row), 1, column)
        found.append(jnp.pad(part, ((0, 1 - row), (0, 1 - column), (0, 0), (0, 0))))
    return jnp.concatenate(found, 2).swapaxes(2, 3)


def _joined(middle: jax.Array, ends: jax.Array, axis: int) -> jax.Array:
    """Returns the kernel whose two parts `_part` returns."""
    end, start = jnp.split(ends, 2, axis)
    return jnp.concatenate([start, middle, end], axis)
