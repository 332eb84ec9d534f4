"""The one convolution of all networks; arrays are (B, H, W, C).

The forward pass takes bias, residual and ReLU along (`jaxseg.nn.engine` chooses its form). On CPUs gradients have their
own forms, as `benchmarks/README.md` says: the gradient of the input is a convolution with the flipped kernel,
or with a stride of 2 small ones (`jaxseg.nn.doubling`). That of a 1x1 kernel is a product of matrices; that of a
larger one is a product for each of its columns if the maps are small.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxseg.nn import winograd
from jaxseg.nn.doubling import HALVING, doubled, halving_gradient
from jaxseg.nn.engine import fused
from jaxseg.nn.fused import Fusion, Pair, Pairs, sum_dtype

_COPIES = 4 * 2**20  # numbers in the copies of the maps up to which products are faster for a kernel's gradient
_PAIRS = 2**13  # C * C' up to which they are
_FEW = 8  # channels of an image that is halved from which four small gradients are faster


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


def _forward(fusion: Fusion, x: jax.Array, *rest: jax.Array) -> tuple[jax.Array, tuple]:
    x = jax.lax.optimization_barrier(x)  # else XLA computes it again for the backward pass; see `keeping_barriers`
    result = fused(fusion, x, *rest)
    return result, (x, rest[0], result if fusion.relu else None)


def _backward(fusion: Fusion, kept: tuple, change: jax.Array) -> tuple[jax.Array, ...]:
    x, kernel, result = kept
    if result is not None:
        change = jnp.where(result > 0, change, 0)
    change = jax.lax.optimization_barrier(change)  # else XLA computes it for each of the two gradients
    found: list[jax.Array] = [
        *jax.lax.platform_dependent(
            x,
            kernel,
            change,
            cpu=functools.partial(gradients_on_cpus, fusion),
            default=functools.partial(_by_xla, fusion),
        )
    ]
    if fusion.bias:
        found.append(change.astype(sum_dtype(change)).reshape(-1, change.shape[-1]).sum(0).astype(change.dtype))
    if fusion.residual:
        found.append(change)
    return tuple(found)


_fused.defvjp(_forward, _backward)


def _products(fusion: Fusion) -> Any:
    """Returns XLA's convolution without what follows it."""
    return Fusion(fusion.strides, fusion.padding, fusion.precision).by_xla


def _by_xla(fusion: Fusion, x: jax.Array, kernel: jax.Array, change: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.vjp(_products(fusion), x, kernel)[1](change)


def gradients_on_cpus(
    fusion: Fusion, x: jax.Array, kernel: jax.Array, change: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the gradients of the images and of the kernel in the forms that are fastest on CPUs.

    Args:
      fusion: what is computed; the gradients of what follows the products are not part of this.
      x: (B, H, W, C).
      kernel: (h, w, C, C').
      change: (B, H', W', C'), the gradient of the products.
    """
    if fusion.keeps_size(kernel.shape) and winograd.is_faster(kernel, x.shape[:3]):
        form = functools.partial(winograd.at_once, precision=fusion.precision)
        return jax.vjp(form, x, kernel)[1](change)
    size, halves = (kernel.shape[0], kernel.shape[1]), _halves(fusion, x.shape, kernel.shape)
    flippable = fusion.strides == (1, 1) and all(
        n < k for pair, k in zip(fusion.padding, size, strict=True) for n in pair
    )
    if flippable:
        of_x = fused(_flipped(fusion, kernel), change, kernel[::-1, ::-1].swapaxes(2, 3))
    elif halves:
        of_x = doubled(change, kernel, precision=fusion.precision)
    else:
        of_x = jax.vjp(lambda x: _products(fusion)(x, kernel), x)[1](change)[0]
    if size == (1, 1) and fusion.padding == ((0, 0), (0, 0)):
        x = x[:, :: fusion.strides[0], :: fusion.strides[1]]
        return of_x, _product(x, change).reshape(kernel.shape).astype(kernel.dtype)
    pairs = kernel.shape[2] * kernel.shape[3]
    if fusion.strides == (1, 1) and pairs <= _PAIRS and _copies(change, kernel) <= _COPIES:
        return of_x, kernel_gradient(x, change, size, fusion.padding)
    if flippable and kernel.shape[3] < kernel.shape[2]:  # XLA is faster if its image has fewer channels than its change
        return of_x, exchanged_gradient(fusion, x, kernel, change)
    if halves and kernel.shape[2] >= _FEW:
        return of_x, halving_gradient(x, change, precision=fusion.precision)
    return of_x, jax.vjp(lambda kernel: _products(fusion)(x, kernel), kernel)[1](change)[0]


def _flipped(fusion: Fusion, kernel: jax.Array) -> Fusion:
    """Returns the convolution over the change of the result which gives that of the images, for strides of 1."""
    around = [
        (side - 1 - before, side - 1 - after)
        for side, (before, after) in zip(kernel.shape[:2], fusion.padding, strict=True)
    ]
    return Fusion(padding=(around[0], around[1]), precision=fusion.precision)


def exchanged_gradient(fusion: Fusion, x: jax.Array, kernel: jax.Array, change: jax.Array) -> jax.Array:
    """Returns the gradient of the kernel for strides of 1, computed by XLA with the images and the change exchanged.

    Args:
      fusion: what is computed; the padding is smaller than the kernel.
      x: (B, H, W, C).
      kernel: (h, w, C, C').
      change: (B, H', W', C').
    """
    form = functools.partial(_flipped(fusion, kernel).by_xla, change)
    return jax.vjp(form, kernel.swapaxes(2, 3))[1](x)[0][::-1, ::-1].swapaxes(2, 3)


def _halves(fusion: Fusion, image: tuple, kernel: tuple) -> bool:
    """Returns whether a 3x3 convolution halves the height and width of an image, so that its transpose doubles them."""
    even = all(isinstance(length, int) and length % 2 == 0 for length in image[1:3])
    halving = (fusion.strides, fusion.padding) == (HALVING.strides, HALVING.padding)
    return even and halving and kernel[:2] == (3, 3)


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


def _product(x: jax.Array, change: jax.Array) -> jax.Array:
    """Returns the sum over all pixels of the outer products of the channels of two maps, (C, C')."""
    if x.shape[-1] > change.shape[-1]:  # XLA takes up to 1.6 times as long if the first has more channels
        return _product(change, x).T
    x, change = x.reshape(-1, x.shape[-1]), change.reshape(-1, change.shape[-1])
    precision = jax.lax.Precision.HIGHEST
    dimensions = (((0,), (0,)), ((), ()))
    return jax.lax.dot_general(x, change, dimensions, precision=precision, preferred_element_type=sum_dtype(x))
