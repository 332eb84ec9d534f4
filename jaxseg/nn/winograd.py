"""Winograd's convolution F(2x2, 3x3) as products of matrices: 3x3 kernels, strides and padding of 1; arrays are NHWC.

Four pixels of the result take 16 products of the inputs' and outputs' channels in place of 36. On CPUs that is up to
2.5 times as fast as XLA's convolution where there are many channels (`benchmarks/winograd.py`).
Source: Lavin and Gray 2016, arXiv:1509.09308.
"""

import jax
import jax.numpy as jnp

_CHANNELS = 2**17  # in times out, from which it pays; with fewer it gains little and compiles longer
_PIXELS = 512  # of a batch, from which it pays although the kernel is transformed anew


def is_faster(kernel: jax.Array, image: tuple[int, ...] | None = None) -> bool:
    """Whether a CPU convolves faster so.

    Args:
      kernel: (3, 3, C, C'); others never do.
      image: (B, H, W), where the kernel is transformed at every call; a symbolic B counts as 1.
    """
    if kernel.shape[:2] != (3, 3) or kernel.shape[2] * kernel.shape[3] < _CHANNELS or kernel.dtype != jnp.float32:
        return False
    if image is None:
        return True
    pixels = 1
    for length in image:
        pixels *= length if isinstance(length, int) else 1
    return pixels >= _PIXELS


def transformed(kernel: jax.Array) -> jax.Array:
    """Returns a kernel (3, 3, C, C') as `winograd` takes it, (4, 4, C, C')."""

    def four(a: jax.Array, b: jax.Array, c: jax.Array) -> list[jax.Array]:
        return [a, (a + b + c) / 2, (a - b + c) / 2, c]

    return jnp.stack([jnp.stack(four(*row)) for row in four(*kernel)])


def winograd(x: jax.Array, kernel: jax.Array, *, precision=None) -> jax.Array:
    """Returns the convolution of (B, H, W, C) with a transformed kernel (4, 4, C, C'): (B, H, W, C')."""
    batch, height, width, channels = x.shape
    rows, columns = (height + 1) // 2, (width + 1) // 2  # of tiles of 2x2; the last reach over odd sizes
    tiles = _tiles(x).reshape(16, batch * rows * columns, channels)
    outputs = kernel.shape[-1]
    kernel = kernel.reshape(16, channels, outputs)
    products = jax.lax.dot_general(tiles, kernel, (((2,), (1,)), ((0,), (0,))), precision=precision)
    products = products.reshape(4, 4, batch, rows, columns, outputs)

    def two(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> list[jax.Array]:
        return [a + b + c, b - c - d]

    pairs = [jnp.stack(two(*row), 3) for row in two(*products)]  # (B, rows, columns, 2, C')
    found = jnp.stack(pairs, 2).reshape(batch, 2 * rows, 2 * columns, outputs)
    return found[:, :height, :width]


def _tiles(x: jax.Array) -> jax.Array:
    """Returns the overlapping 4x4 tiles of an image, transformed: (4, 4, B, rows, columns, C)."""
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1 + height % 2), (1, 1 + width % 2), (0, 0)))
    last_row, last_column = x.shape[1] - 3, x.shape[2] - 3  # where a tile starts

    def four(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> list[jax.Array]:
        return [a - c, b + c, c - b, b - d]

    rows = four(*(x[:, place : place + last_row : 2] for place in range(4)))
    return jnp.stack(
        [jnp.stack(four(*(row[:, :, place : place + last_column : 2] for place in range(4)))) for row in rows]
    )
