"""Convolutions as XLA computes them, except the cases where CPUs have a faster way; arrays are (B, H, W, C).

On CPUs, as `benchmarks/convolutions.py` measures:
- XLA takes up to five times as long for the gradient of a kernel as one matrix product per column of the kernel does.
  With up to 16 channels XLA is faster.
- 3x3 convolutions of many channels are faster by Winograd's algorithm, forward and backward.
- In bfloat16, these and 1x1 convolutions are faster as products accumulated in float32 (`jaxseg.nn.bfloat16`).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxseg.nn import bfloat16, winograd

_FEW = 16  # number of channels up to which XLA's gradient of a kernel is faster
_BLOCKS = 48  # number of channels from which that gradient is faster in blocks of rows
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
Pair = tuple[int, int]
Pairs = tuple[Pair, Pair]
Precision = jax.lax.PrecisionLike


def convolution(
    x: jax.Array, kernel: jax.Array, strides: Pair, padding: Pairs, *, precision: Precision = None, **_: Any
) -> jax.Array:
    """Returns a convolution. A 1x1 convolution is a matrix product, which takes half the time on CPUs.

    The signature is that of `jax.lax.conv_general_dilated`, so that `nnx.Conv` accepts it. Of its options only the
    precision is used; the others must be as `jaxseg.nn.layers.conv` sets them. Only reverse-mode derivatives
    (`jax.grad`, not `jax.jvp`) are supported if the kernel has 2 to 9 pixels and more than 16 channels in and out, or
    if it is 1x1 in bfloat16.

    Args:
      x: (B, H, W, C).
      kernel: (h, w, C, C').
      strides: strides of the rows and of the columns.
      padding: number of zeros before and after the rows, and before and after the columns. 1x1 kernels ignore it.
      precision: precision of the products, as `jax.lax.conv_general_dilated` takes it.

    Returns:
      (B, H', W', C'), the dtype of `x`.
    """
    pixels = kernel.shape[0] * kernel.shape[1]
    if pixels == 1:
        x = x[:, :: strides[0], :: strides[1]]  # flattened below: on four axes the gradient takes three times as long
        product = bfloat16.product if x.dtype == jnp.bfloat16 else functools.partial(jnp.matmul, precision=precision)
        rows = product(x.reshape(-1, x.shape[-1]), kernel[0, 0])
        return rows.reshape(*x.shape[:-1], kernel.shape[-1])
    (top, bottom), (left, right) = padding
    padding, strides = ((top, bottom), (left, right)), (strides[0], strides[1])  # hashable for all given types
    if pixels <= 9 and min(kernel.shape[2:]) > _FEW:
        return _dense(x, kernel, padding, precision, strides)
    return _plain(x, kernel, padding, precision, strides)


def _plain(x: jax.Array, kernel: jax.Array, padding: Pairs, precision: Precision, strides: Pair) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_DIMENSIONS, precision=precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _dense(x: jax.Array, kernel: jax.Array, padding: Pairs, precision: Precision, strides: Pair) -> jax.Array:
    by_xla = functools.partial(_plain, padding=padding, precision=precision, strides=strides)
    form = _form_on_cpus(x, kernel, padding, strides)
    if form == "xla":
        return by_xla(x, kernel)
    on_cpus = bfloat16.by_taps if form == "taps" else functools.partial(_winograd, precision=precision)
    return jax.lax.platform_dependent(x, kernel, cpu=on_cpus, default=by_xla)


def _form_on_cpus(x: jax.Array, kernel: jax.Array, padding: Pairs, strides: Pair) -> str:
    if strides != (1, 1) or padding != ((1, 1), (1, 1)):
        return "xla"
    if bfloat16.is_faster(kernel):
        return "taps"
    return "winograd" if winograd.is_faster(kernel, x.shape[:3]) else "xla"


def _winograd(x: jax.Array, kernel: jax.Array, precision: Precision) -> jax.Array:
    # Without the barrier XLA would transform a constant kernel while it compiles, which takes a minute.
    transformed = winograd.transformed(jax.lax.optimization_barrier(kernel))
    return winograd.winograd(x, transformed, precision=precision)


def _forward(
    x: jax.Array, kernel: jax.Array, padding: Pairs, precision: Precision, strides: Pair
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _dense(x, kernel, padding, precision, strides), (x, kernel)


def _backward(
    padding: Pairs, precision: Precision, strides: Pair, kept: tuple[jax.Array, jax.Array], change: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    form = _form_on_cpus(x, kernel, padding, strides)
    plain = functools.partial(_plain, padding=padding, precision=precision, strides=strides)

    def by_xla(x: jax.Array, kernel: jax.Array, change: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(plain, x, kernel)[1](change)

    def by_winograd(x: jax.Array, kernel: jax.Array, change: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(functools.partial(_winograd, precision=precision), x, kernel)[1](change)

    def by_products(x: jax.Array, kernel: jax.Array, change: jax.Array) -> tuple[jax.Array, jax.Array]:
        if form == "taps":
            of_x = bfloat16.by_taps(change, kernel[::-1, ::-1].swapaxes(2, 3))
        else:
            of_x = jax.vjp(lambda x: plain(x, kernel), x)[1](change)[0]
        size = (kernel.shape[0], kernel.shape[1])
        return of_x, kernel_gradient(x, change, size, padding, strides)

    on_cpus = by_winograd if form == "winograd" else by_products
    return jax.lax.platform_dependent(x, kernel, change, cpu=on_cpus, default=by_xla)


_dense.defvjp(_forward, _backward)


def kernel_gradient(x: jax.Array, change: jax.Array, size: Pair, padding: Pairs, strides: Pair = (1, 1)) -> jax.Array:
    """Returns the gradient of a convolution's kernel, computed by matrix products.

    Args:
      x: (B, H, W, C), the input of the convolution.
      change: (B, H', W', C'), the gradient of its output.
      size: height and width of the kernel, (h, w).
      padding: number of zeros before and after the rows, and before and after the columns.
      strides: strides of the rows and of the columns.

    Returns:
      (h, w, C, C'), the dtype of `x`.
    """
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    if strides != (1, 1):
        return _by_pixels(x, change, size, strides).astype(x.dtype)
    rows = max(rows for rows in range(1, 33) if change.shape[1] % rows == 0)
    few = min(x.shape[-1], change.shape[-1]) < _BLOCKS or rows < 8
    if few or jax.device_count() > 1:  # a loop over images would gather the images of all devices
        return _by_columns(x, change, size).astype(x.dtype)
    return _by_blocks(x, change, size, rows).astype(x.dtype)


def _by_blocks(x: jax.Array, change: jax.Array, size: Pair, rows: int) -> jax.Array:
    # The copies of up to 32 rows of one image stay in the processor's cache.
    batch, height, width, _ = change.shape

    def add(place: jax.Array, total: jax.Array) -> jax.Array:
        start = (place // (height // rows), place % (height // rows) * rows, 0, 0)
        block = jax.lax.dynamic_slice(change, start, (1, rows, width, change.shape[-1]))
        seen = jax.lax.dynamic_slice(x, start, (1, rows + size[0] - 1, *x.shape[2:]))
        return total + _by_columns(seen, block, size)

    empty = jnp.zeros((*size, x.shape[-1], change.shape[-1]), jnp.float32)
    return jax.lax.fori_loop(0, batch * (height // rows), add, empty)


def _by_columns(x: jax.Array, change: jax.Array, size: Pair) -> jax.Array:
    # A pixel of the kernel reads x shifted by its row and column. Here x is shifted only by the columns, and `change`
    # by the rows in the other direction: h + w copies instead of h * w.
    rows, columns = size
    width, channels = change.shape[2], change.shape[3]
    shifted = [jnp.pad(change, ((0, 0), (row, rows - 1 - row), (0, 0), (0, 0))) for row in range(rows)]
    joined = jnp.concatenate(shifted, -1)
    products = [_product(x[:, :, column : column + width], joined) for column in range(columns)]
    found = jnp.stack(products).reshape(columns, x.shape[-1], rows, channels)
    return found.transpose(2, 0, 1, 3)


def _by_pixels(x: jax.Array, change: jax.Array, size: Pair, strides: Pair) -> jax.Array:
    height, width = ((n - 1) * stride + 1 for n, stride in zip(change.shape[1:3], strides, strict=True))
    products = [
        _product(x[:, row : row + height : strides[0], column : column + width : strides[1]], change)
        for row in range(size[0])
        for column in range(size[1])
    ]
    return jnp.stack(products).reshape(*size, x.shape[-1], -1)


def _product(x: jax.Array, change: jax.Array) -> jax.Array:
    """Returns the sum over all pixels of the outer products of the channels of two maps, (C, C') float32."""
    x, change = x.reshape(-1, x.shape[-1]), change.reshape(-1, change.shape[-1])
    precision = jax.lax.Precision.HIGHEST
    dimensions = (((0,), (0,)), ((), ()))
    return jax.lax.dot_general(x, change, dimensions, precision=precision, preferred_element_type=jnp.float32)
