"""Convolutions as XLA computes them, but for some on CPUs; arrays are (B, H, W, C).

There XLA's convolution for the kernel's gradient takes up to five times as long as a product of matrices for each of
the kernel's columns; up to 16 channels it is the faster one (`benchmarks/kernel_gradient.py`). And 3x3 convolutions of
many channels are faster by Winograd's algorithm, forward and backward (`benchmarks/winograd.py`); in bfloat16 these and
1x1 convolutions are faster as products that sum in float32 (`jaxseg.nn.bfloat16`).
"""

import functools

import jax
import jax.numpy as jnp

from jaxseg.nn import bfloat16 as half
from jaxseg.nn import winograd

_FEW = 16  # channels, up to which XLA's gradient of a kernel is the faster one
_BLOCKS = 48  # channels, from which that gradient is faster in blocks of rows
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
Pairs = tuple[tuple[int, int], tuple[int, int]]


def convolution(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Pairs, *, precision=None, **_
) -> jax.Array:
    """Returns a convolution; a 1x1 one is a product of matrices, which on CPUs takes XLA half the time.

    The signature is that of `jax.lax.conv_general_dilated`, so that `nnx.Conv` takes it; options other than the
    precision are taken to be as `jaxseg.nn.layers.conv` has them. Derivatives are those of reverse mode alone
    (`jax.grad`, not `jax.jvp`) where the kernel has 2 to 9 pixels and more than 16 channels in and out, or, in
    bfloat16, one pixel.

    Args:
      x: (B, H, W, C).
      kernel: (h, w, C, C').
      strides: of the rows and columns.
      padding: zeros before and after the rows and the columns; a 1x1 kernel has none.
      precision: of the products.

    Returns:
      (B, H', W', C'), of the same dtype.
    """
    pixels = kernel.shape[0] * kernel.shape[1]
    if pixels == 1:
        x = x[:, :: strides[0], :: strides[1]]  # flat for the product: of four axes its gradient takes thrice as long
        product = half.product if x.dtype == jnp.bfloat16 else functools.partial(jnp.matmul, precision=precision)
        rows = product(x.reshape(-1, x.shape[-1]), kernel[0, 0])
        return rows.reshape(*x.shape[:-1], kernel.shape[-1])
    padding = tuple(map(tuple, padding))
    if pixels <= 9 and min(kernel.shape[2:]) > _FEW:
        return _dense(x, kernel, padding, precision, tuple(strides))
    return _plain(x, kernel, padding, precision, strides)


def _plain(x: jax.Array, kernel: jax.Array, padding: Pairs, precision, strides: tuple[int, int]) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_DIMENSIONS, precision=precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _dense(x: jax.Array, kernel: jax.Array, padding: Pairs, precision, strides: tuple[int, int]) -> jax.Array:
    by_xla = functools.partial(_plain, padding=padding, precision=precision, strides=strides)
    form = _form_on_cpus(x, kernel, padding, strides)
    if form == "xla":
        return by_xla(x, kernel)
    on_cpus = half.by_taps if form == "taps" else functools.partial(_winograd, precision=precision)
    return jax.lax.platform_dependent(x, kernel, cpu=on_cpus, default=by_xla)


def _form_on_cpus(x: jax.Array, kernel: jax.Array, padding: Pairs, strides: tuple[int, int]) -> str:
    if strides != (1, 1) or padding != ((1, 1), (1, 1)):
        return "xla"
    if half.is_faster(kernel):
        return "taps"
    return "winograd" if winograd.is_faster(kernel, x.shape[:3]) else "xla"


def _winograd(x: jax.Array, kernel: jax.Array, precision) -> jax.Array:
    # of a kernel that is a constant of the program XLA would compute the transform while it compiles, for a minute
    transformed = winograd.transformed(jax.lax.optimization_barrier(kernel))
    return winograd.winograd(x, transformed, precision=precision)


def _forward(x: jax.Array, kernel: jax.Array, padding: Pairs, precision, strides: tuple[int, int]):
    return _dense(x, kernel, padding, precision, strides), (x, kernel)


def _backward(padding: Pairs, precision, strides: tuple[int, int], kept, change: jax.Array):
    x, kernel = kept
    form = _form_on_cpus(x, kernel, padding, strides)
    plain = functools.partial(_plain, padding=padding, precision=precision, strides=strides)

    def by_xla(x: jax.Array, kernel: jax.Array, change: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(plain, x, kernel)[1](change)

    def by_winograd(x: jax.Array, kernel: jax.Array, change: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(functools.partial(_winograd, precision=precision), x, kernel)[1](change)

    def by_products(x: jax.Array, kernel: jax.Array, change: jax.Array) -> tuple[jax.Array, jax.Array]:
        if form == "taps":
            of_x = half.by_taps(change, kernel[::-1, ::-1].swapaxes(2, 3))
        else:
            of_x = jax.vjp(lambda x: plain(x, kernel), x)[1](change)[0]
        return of_x, kernel_gradient(x, change, kernel.shape[:2], padding, strides)

    on_cpus = by_winograd if form == "winograd" else by_products
    return jax.lax.platform_dependent(x, kernel, change, cpu=on_cpus, default=by_xla)


_dense.defvjp(_forward, _backward)


def kernel_gradient(
    x: jax.Array, change: jax.Array, size: tuple[int, int], padding: Pairs, strides: tuple[int, int] = (1, 1)
) -> jax.Array:
    """Returns the gradient (h, w, C, C') of the kernel of a convolution, by products of matrices.

    Args:
      x: (B, H, W, C), what was convolved.
      change: (B, H', W', C'), the gradient of the result.
      size: (h, w) of the kernel.
      padding: zeros before and after the rows and the columns.
      strides: of the rows and columns.
    """
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    if strides != (1, 1):
        return _by_pixels(x, change, size, strides).astype(x.dtype)
    rows = max(rows for rows in range(1, 33) if change.shape[1] % rows == 0)
    few = min(x.shape[-1], change.shape[-1]) < _BLOCKS or rows < 8
    if few or jax.device_count() > 1:  # a loop over images would gather those of all devices
        return _by_columns(x, change, size).astype(x.dtype)
    return _by_blocks(x, change, size, rows).astype(x.dtype)


def _by_blocks(x: jax.Array, change: jax.Array, size: tuple[int, int], rows: int) -> jax.Array:
    # The copies of 32 rows of one image stay in the processor's cache.
    batch, height, width, _ = change.shape

    def add(place: jax.Array, total: jax.Array) -> jax.Array:
        start = (place // (height // rows), place % (height // rows) * rows, 0, 0)
        block = jax.lax.dynamic_slice(change, start, (1, rows, width, change.shape[-1]))
        seen = jax.lax.dynamic_slice(x, start, (1, rows + size[0] - 1, *x.shape[2:]))
        return total + _by_columns(seen, block, size)

    empty = jnp.zeros((*size, x.shape[-1], change.shape[-1]), jnp.float32)
    return jax.lax.fori_loop(0, batch * (height // rows), add, empty)


def _by_columns(x: jax.Array, change: jax.Array, size: tuple[int, int]) -> jax.Array:
    # A pixel of the kernel sees x moved by its row and column. Here x is moved by the columns alone, and `change` by
    # the rows, the other way: h + w copies in place of h w.
    rows, columns = size
    width, channels = change.shape[2], change.shape[3]
    moved = [jnp.pad(change, ((0, 0), (row, rows - 1 - row), (0, 0), (0, 0))) for row in range(rows)]
    moved = jnp.concatenate(moved, -1)
    products = [_product(x[:, :, column : column + width], moved) for column in range(columns)]
    found = jnp.stack(products).reshape(columns, x.shape[-1], rows, channels)
    return found.transpose(2, 0, 1, 3)


def _by_pixels(x: jax.Array, change: jax.Array, size: tuple[int, int], strides: tuple[int, int]) -> jax.Array:
    height, width = ((n - 1) * stride + 1 for n, stride in zip(change.shape[1:3], strides, strict=True))
    products = [
        _product(x[:, row : row + height : strides[0], column : column + width : strides[1]], change)
        for row in range(size[0])
        for column in range(size[1])
    ]
    return jnp.stack(products).reshape(*size, x.shape[-1], -1)


def _product(x: jax.Array, change: jax.Array) -> jax.Array:
    """Returns the sum over all pixels of the outer products of two maps' channels, in float32."""
    flat = [array.reshape(-1, array.shape[-1]) for array in (x, change)]
    options = {"precision": jax.lax.Precision.HIGHEST, "preferred_element_type": jnp.float32}
    return jax.lax.dot_general(*flat, (((0,), (0,)), ((), ())), **options)
