"""Transposed 3x3 convolutions with stride 2 as one small convolution and a rearrangement; arrays are (B, H, W, C).

The small convolution has four times the output channels, one part for each of four neighbouring output pixels. Along an
axis, an even pixel reads only the middle of the kernel; an odd pixel reads the kernel's end at the same input pixel and
its start at the next one. XLA's own form, a convolution over the input with zeros between its pixels, multiplies four
times as much.
"""

import jax
import jax.numpy as jnp

from jaxseg.nn.fused import Pairs

PADDING: Pairs = ((0, 1), (0, 1))  # of the small convolution


def small_kernel(kernel: jax.Array) -> jax.Array:
    """Returns the kernel of the small convolution, (2, 2, C, 4 C'), for the kernel (3, 3, C', C)."""
    for axis in (0, 2):  # the first axis has become two
        start, middle, end = jnp.split(kernel, 3, axis)
        even = jnp.concatenate([middle, jnp.zeros_like(middle)], axis)
        odd = jnp.concatenate([end, start], axis)
        kernel = jnp.stack([even, odd], axis + 1)
    small = kernel.transpose(0, 2, 5, 1, 3, 4)  # row, column, C, row and column of the output pixel, C'
    return small.reshape(*small.shape[:3], -1)


def rearranged(x: jax.Array) -> jax.Array:
    """Returns the result of the small convolution, (B, H, W, 4 C'), as (B, 2H, 2W, C')."""
    batch, height, width, _ = x.shape
    pixels = x.reshape(batch, height, width, 2, 2, -1).transpose(0, 1, 3, 2, 4, 5)
    return pixels.reshape(batch, 2 * height, 2 * width, -1)
