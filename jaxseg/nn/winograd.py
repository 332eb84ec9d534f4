"""Winograd's convolution F(2x2, 3x3) as matrix products: 3x3 kernels with stride 1 and padding 1; arrays are NHWC.

Four pixels of the result take 16 products of input and output channels instead of 36. On CPUs this is up to 2.5 times
as fast as XLA's convolution if there are many channels (`benchmarks/README.md`).

Source: Lavin and Gray 2016, arXiv:1509.09308.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_KEPT = 2**16  # C * C' from which it is faster if the kernel is transformed once
_CHANNELS = 2**19  # the same if it is transformed at every call; with fewer its gradients take longer
_PIXELS = 512  # pixels in a batch from which it is faster although the kernel is transformed at every call
_BLOCK = 2**13  # pairs of channels that numpy transforms at once, so that they stay in the processor's cache

Precision = jax.lax.PrecisionLike


def is_faster(kernel: jax.Array | jax.ShapeDtypeStruct, image: tuple[int, ...] | None = None) -> bool:
    """Returns whether a CPU convolves faster with `winograd` than in other ways.

    Args:
      kernel: (h, w, C, C'), any dtype. The answer is False unless it is a float32 kernel (3, 3, C, C').
      image: (B, H, W) if the kernel is transformed at every call; None if it is transformed once. A symbolic B counts
        as 1.
    """
    channels = kernel.shape[2] * kernel.shape[3]
    if kernel.shape[:2] != (3, 3) or channels < (_KEPT if image is None else _CHANNELS) or kernel.dtype != jnp.float32:
        return False
    if image is None:
        return True
    pixels = 1
    for length in image:
        pixels *= length if isinstance(length, int) else 1
    return pixels >= _PIXELS


def transformed(kernel: jax.Array) -> jax.Array:
    """Returns a kernel in the form that `winograd` takes.

    Args:
      kernel: (3, 3, C, C').

    Returns:
      (4, 4, C, C'), the same dtype.
    """
    return jnp.stack([jnp.stack(_four(*row)) for row in _four(*kernel)])


def transform_into(result: np.ndarray, kernel: np.ndarray, factor: np.ndarray | None = None) -> None:
    """Writes what `transformed` returns into an array of numpy.

    Args:
      result: (4, 4, C, C'), which is filled.
      kernel: (3, 3, C, C').
      factor: (C',), of the kernel; None: 1.
    """
    num_in, num_out = kernel.shape[2:]
    step = max(1, _BLOCK // num_out)
    for start in range(0, num_in, step):
        part = kernel[:, :, start : start + step]
        part = np.multiply(part, np.float32(1) if factor is None else factor, order="C")
        for row, places in zip(_four(*part), result[:, :, start : start + step], strict=True):
            for value, place in zip(_four(*row), places, strict=True):
                place[...] = value


def _four(a: Any, b: Any, c: Any) -> list:
    return [a, (a + b + c) / 2, (a - b + c) / 2, c]


def restored(kernel: np.ndarray) -> np.ndarray:
    """Returns the kernel (3, 3, C, C') from the result (4, 4, C, C') of `transformed`, equal up to rounding."""

    def three(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> list[np.ndarray]:
        return [a, b - c, d]

    return np.stack([np.stack(three(*row)) for row in three(*kernel)])


def at_once(x: jax.Array, kernel: jax.Array, *, precision: Precision = None) -> jax.Array:
    """Returns what `winograd` returns, for a kernel (3, 3, C, C') that is not transformed yet."""
    # Without the barrier XLA would transform a constant kernel while it compiles, which takes a minute.
    return winograd(x, transformed(jax.lax.optimization_barrier(kernel)), precision=precision)


def winograd(x: jax.Array, kernel: jax.Array, *, precision: Precision = None) -> jax.Array:
    """Returns a 3x3 convolution with stride 1 and padding 1.

    Args:
      x: (B, H, W, C), any height and width.
      kernel: (4, 4, C, C'), the result of `transformed`.
      precision: precision of the matrix products, as `jax.lax.dot_general` takes it.

    Returns:
      (B, H, W, C'), the dtype of `x`.
    """
    batch, height, width, channels = x.shape
    rows, columns = (height + 1) // 2, (width + 1) // 2  # number of 2x2 tiles; the last ones reach over odd sizes
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
    """Returns the overlapping 4x4 tiles of (B, H, W, C), transformed: (4, 4, B, rows, columns, C)."""
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1 + height % 2), (1, 1 + width % 2), (0, 0)))
    last_row, last_column = x.shape[1] - 3, x.shape[2] - 3  # where the last tile starts, plus one

    def four(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> list[jax.Array]:
        return [a - c, b + c, c - b, b - d]

    rows = four(*(x[:, place : place + last_row : 2] for place in range(4)))
    return jnp.stack(
        [jnp.stack(four(*(row[:, :, place : place + last_column : 2] for place in range(4)))) for row in rows]
    )
