"""Convolutions as XLA computes them, but for the gradient of the kernel on CPUs; arrays are (B, H, W, C).

On CPUs XLA's convolution for that gradient takes up to five times as long as a product of matrices for each of the
kernel's columns; up to 16 channels it is the faster one (`benchmarks/kernel_gradient.py`).
"""

import functools

import jax
import jax.numpy as jnp

_FEW = 16  # channels
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
Pairs = tuple[tuple[int, int], tuple[int, int]]


def convolution(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Pairs, *, precision=None, **_
) -> jax.Array:
    """Returns a convolution; a 1x1 one is a product of matrices, which on CPUs takes XLA half the time.

    The signature is that of `jax.lax.conv_general_dilated`, so that `nnx.Conv` takes it; options other than the
    precision are taken to be as `jaxseg.models.layers.conv` has them. Derivatives are those of reverse mode alone
    (`jax.grad`, not `jax.jvp`) where the kernel has 2 to 9 pixels, more than 16 channels in and out, and strides of 1.

    Args:
      x: (B, H, W, C).
      kernel: (h, w, C, C').
      strides: of the rows and columns.
      padding: zeros before and after the rows and the columns.
      precision: of the products.

    Returns:
      (B, H', W', C'), of the same dtype.
    """
    pixels = kernel.shape[0] * kernel.shape[1]
    if pixels == 1:
        return jnp.matmul(x[:, :: strides[0], :: strides[1]], kernel[0, 0], precision=precision)
    padding = tuple(map(tuple, padding))
    if pixels <= 9 and min(kernel.shape[2:]) > _FEW and tuple(strides) == (1, 1):
        return _dense(x, kernel, padding, precision)
    return _plain(x, kernel, padding, precision, strides)


def _plain(x: jax.Array, kernel: jax.Array, padding: Pairs, precision, strides: tuple[int, int]) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_DIMENSIONS, precision=precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _dense(x: jax.Array, kernel: jax.Array, padding: Pairs, precision) -> jax.Array:
    return _plain(x, kernel, padding, precision, (1, 1))


def _forward(x: jax.Array, kernel: jax.Array, padding: Pairs, precision):
    return _dense(x, kernel, padding, precision), (x, kernel)


def _backward(padding: Pairs, precision, kept, change: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    of_x = jax.vjp(lambda x: _plain(x, kernel, padding, precision, (1, 1)), x)[1](change)[0]

    def by_xla(x: jax.Array, change: jax.Array) -> jax.Array:
        return jax.vjp(lambda kernel: _plain(x, kernel, padding, precision, (1, 1)), kernel)[1](change)[0]

    by_products = functools.partial(kernel_gradient, size=kernel.shape[:2], padding=padding)
    return of_x, jax.lax.platform_dependent(x, change, cpu=by_products, default=by_xla)


_dense.defvjp(_forward, _backward)


def kernel_gradient(x: jax.Array, change: jax.Array, size: tuple[int, int], padding: Pairs) -> jax.Array:
    """Returns the gradient (h, w, C, C') of the kernel of a convolution with strides of 1, by products of matrices.

    Args:
      x: (B, H, W, C), what was convolved.
      change: (B, H', W', C'), the gradient of the result.
      size: (h, w) of the kernel.
      padding: zeros before and after the rows and the columns.
    """
    # A pixel of the kernel sees x moved by its row and column. Here x is moved by the columns alone, and `change` by
    # the rows, the other way: h + w copies in place of h w.
    rows, columns = size
    width, channels = change.shape[2], change.shape[3]
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    moved = [jnp.pad(change, ((0, 0), (row, rows - 1 - row), (0, 0), (0, 0))) for row in range(rows)]
    moved = jnp.concatenate(moved, -1).reshape(-1, rows * channels)
    products = []
    for column in range(columns):
        seen = x[:, :, column : column + width].reshape(-1, x.shape[-1])
        products.append(
            jax.lax.dot_general(
                seen,
                moved,
                (((0,), (0,)), ((), ())),
                precision=jax.lax.Precision.HIGHEST,
                preferred_element_type=jnp.float32,
            )
        )
    found = jnp.stack(products).reshape(columns, x.shape[-1], rows, channels)
    return found.transpose(2, 0, 1, 3).astype(x.dtype)
