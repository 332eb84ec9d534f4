"""The one convolution of all networks; arrays are (B, H, W, C).

The forward pass takes bias, residual and ReLU along (`jaxseg.nn.engine` chooses its form). On CPUs gradients have their
own forms, as `benchmarks/convolutions.py` measures: the gradient of the input is a convolution with the flipped kernel,
or with a stride of 2 a small one (`sub_pixel_kernel`). That of the kernel is a product of matrices for each of its
columns if the maps are small.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxseg.nn import winograd
from jaxseg.nn.engine import fused
from jaxseg.nn.fused import Fusion, Pair, Pairs

SUB_PIXEL_PADDING: Pairs = ((0, 1), (0, 1))
_COPIES = 4 * 2**20  # numbers in the copies of the maps up to which products are faster for a kernel's gradient


def convolution(
    x: jax.Array,
    kernel: jax.Array,
    strides: Pair = (1, 1),
    padding: Pairs = ((0, 0), (0, 0)),
    *,
    bias: jax.Array | None = None,
    residual: jax.Array | None = None,
    relu: bool = False,
    precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
    """Returns `relu(convolution + bias + residual)`, in one pass over the result where the device allows it.

    Only first-order reverse-mode derivatives (`jax.grad`, not `jax.jvp`) are supported.

    Args:
      x: (B, H, W, C).
      kernel: (h, w, C, C'), the dtype of `x`.
      strides: strides of the rows and of the columns.
      padding: number of zeros before and after the rows, and before and after the columns.
      bias: (C',), the dtype of `x`; None: none.
      residual: (B, H', W', C'), the dtype of `x`; None: none.
      relu: whether negative values become 0.
      precision: precision of the products, as `jax.lax.conv_general_dilated` takes it.

    Returns:
      (B, H', W', C'), the dtype of `x`.
    """
    (top, bottom), (left, right) = padding
    fusion = Fusion(
        strides=(strides[0], strides[1]),  # hashable for all given types
        padding=((top, bottom), (left, right)),
        precision=None if precision is None else jax.lax.Precision(precision),
        bias=bias is not None,
        residual=residual is not None,
        relu=relu,
    )
    return _fused(fusion, x, kernel, *(array for array in (bias, residual) if array is not None))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(fusion: Fusion, x: jax.Array, kernel: jax.Array, *more: jax.Array) -> jax.Array:
    return fused(fusion, x, kernel, *more)


def _forward(fusion: Fusion, *arrays: jax.Array) -> tuple[jax.Array, tuple]:
    result = fused(fusion, *arrays)
    return result, (*arrays[:2], result if fusion.relu else None)


def _backward(fusion: Fusion, kept: tuple, change: jax.Array) -> tuple[jax.Array, ...]:
    x, kernel, result = kept
    if result is not None:
        change = jnp.where(result > 0, change, 0)
    found: list[jax.Array] = [
        *jax.lax.platform_dependent(
            x, kernel, change, cpu=functools.partial(_on_cpus, fusion), default=functools.partial(_by_xla, fusion)
        )
    ]
    if fusion.bias:
        found.append(change.astype(_sum_dtype(change)).reshape(-1, change.shape[-1]).sum(0).astype(change.dtype))
    if fusion.residual:
        found.append(change)
    return tuple(found)


_fused.defvjp(_forward, _backward)


def _products(fusion: Fusion) -> Any:
    """Returns XLA's convolution without what follows it."""
    return Fusion(fusion.strides, fusion.padding, fusion.precision).by_xla


def _by_xla(fusion: Fusion, x: jax.Array, kernel: jax.Array, change: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.vjp(_products(fusion), x, kernel)[1](change)


def _on_cpus(fusion: Fusion, x: jax.Array, kernel: jax.Array, change: jax.Array) -> tuple[jax.Array, jax.Array]:
    if fusion.keeps_size(kernel.shape) and winograd.is_faster(kernel, x.shape[:3]):
        form = functools.partial(winograd.at_once, precision=fusion.precision)
        return jax.vjp(form, x, kernel)[1](change)
    size = (kernel.shape[0], kernel.shape[1])
    if fusion.strides == (1, 1) and all(n < k for pair, k in zip(fusion.padding, size, strict=True) for n in pair):
        (top, bottom), (left, right) = fusion.padding
        rows, columns = size[0] - 1, size[1] - 1
        around = (rows - top, rows - bottom), (columns - left, columns - right)
        flipped = Fusion(padding=around, precision=fusion.precision)
        of_x = fused(flipped, change, kernel[::-1, ::-1].swapaxes(2, 3))
    elif _halves(fusion, x.shape, kernel.shape):
        small = Fusion(padding=SUB_PIXEL_PADDING, precision=fusion.precision)
        of_x = sub_pixels(fused(small, change, sub_pixel_kernel(kernel)))
    else:
        of_x = jax.vjp(lambda x: _products(fusion)(x, kernel), x)[1](change)[0]
    if fusion.strides == (1, 1) and _copies(change, kernel) <= _COPIES:
        return of_x, kernel_gradient(x, change, size, fusion.padding)
    return of_x, jax.vjp(lambda kernel: _products(fusion)(x, kernel), kernel)[1](change)[0]


def _halves(fusion: Fusion, image: tuple, kernel: tuple) -> bool:
    """Returns whether a 3x3 convolution halves the height and width of an image, so that its transpose doubles them."""
    even = all(isinstance(length, int) and length % 2 == 0 for length in image[1:3])
    return even and kernel[:2] == (3, 3) and fusion.strides == (2, 2) and fusion.padding == ((1, 1), (1, 1))


def _copies(change: jax.Array, kernel: jax.Array) -> int:
    """Returns how many numbers `kernel_gradient` copies; an open batch size counts as 1."""
    rows, _, num_in, num_out = kernel.shape
    pixels = math.prod(length for length in change.shape[:3] if isinstance(length, int))
    return pixels * (num_in + rows * num_out)


def kernel_gradient(x: jax.Array, change: jax.Array, size: Pair, padding: Pairs) -> jax.Array:
    """Returns the gradient of a convolution's kernel for strides of 1, as one matrix product per column of the kernel.

    Args:
      x: (B, H, W, C), the input of the convolution.
      change: (B, H', W', C'), the gradient of its output.
      size: height and width of the kernel, (h, w).
      padding: number of zeros before and after the rows, and before and after the columns.

    Returns:
      (h, w, C, C'), the dtype of `x`, summed in float32 or more.
    """
    # A pixel of the kernel reads x shifted by its row and column. Here x is shifted only by the columns, and `change`
    # by the rows in the other direction: h + w copies instead of h * w.
    rows, columns = size
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    width, channels = change.shape[2:]
    shifted = [jnp.pad(change, ((0, 0), (row, rows - 1 - row), (0, 0), (0, 0))) for row in range(rows)]
    joined = jnp.concatenate(shifted, -1)
    products = [_product(x[:, :, column : column + width], joined) for column in range(columns)]
    found = jnp.stack(products).reshape(columns, x.shape[-1], rows, channels)
    return found.transpose(2, 0, 1, 3).astype(x.dtype)


def sub_pixel_kernel(kernel: jax.Array) -> jax.Array:
    """Returns the kernel of a small convolution that computes a transposed one with a stride of 2, with `sub_pixels`.

    The small convolution has four times the output channels, one part for each of four neighbouring output pixels.
    Along an axis, an even pixel reads only the middle of the kernel; an odd pixel reads the kernel's end at the same
    input pixel and its start at the next one. XLA's own form, a convolution over the input with zeros between its
    pixels, multiplies four times as much.

    Args:
      kernel: (3, 3, C', C), of the transposed convolution.

    Returns:
      (2, 2, C, 4 C'); the padding is `SUB_PIXEL_PADDING`.
    """
    for axis in (0, 2):  # the first axis has become two
        start, middle, end = jnp.split(kernel, 3, axis)
        even = jnp.concatenate([middle, jnp.zeros_like(middle)], axis)
        odd = jnp.concatenate([end, start], axis)
        kernel = jnp.stack([even, odd], axis + 1)
    small = kernel.transpose(0, 2, 5, 1, 3, 4)  # row, column, C, row and column of the output pixel, C'
    return small.reshape(*small.shape[:3], -1)


def sub_pixels(x: jax.Array) -> jax.Array:
    """Returns the result of the small convolution, (B, H, W, 4 C'), as (B, 2H, 2W, C')."""
    batch, height, width, _ = x.shape
    pixels = x.reshape(batch, height, width, 2, 2, -1).transpose(0, 1, 3, 2, 4, 5)
    return pixels.reshape(batch, 2 * height, 2 * width, -1)


def _product(x: jax.Array, change: jax.Array) -> jax.Array:
    """Returns the sum over all pixels of the outer products of the channels of two maps, (C, C')."""
    x, change = x.reshape(-1, x.shape[-1]), change.reshape(-1, change.shape[-1])
    precision = jax.lax.Precision.HIGHEST
    dimensions = (((0,), (0,)), ((), ()))
    return jax.lax.dot_general(x, change, dimensions, precision=precision, preferred_element_type=_sum_dtype(x))


def _sum_dtype(x: jax.Array) -> jnp.dtype:
    return jnp.dtype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)
