"""bfloat16 on CPUs: convolutions as products of matrices that sum in float32; arrays are (B, H, W, C).

Processors with units for products of bfloat16 matrices (Intel's AMX) take a third to a fifth of float32's time there,
but XLA uses them in products whose result is float32 alone, not in its convolutions (`benchmarks/half.py`, forward, on
such a processor; on others bfloat16 was not measured, and float32 is the better choice).
"""

import jax
import jax.numpy as jnp

_CHANNELS = 2**14  # in times out, from which nine products are faster than XLA's convolution


def is_faster(kernel: jax.Array) -> bool:
    """Whether a CPU convolves faster `by_taps` with this kernel; others than (3, 3, C, C') never do."""
    many = kernel.shape[:2] == (3, 3) and kernel.shape[2] * kernel.shape[3] >= _CHANNELS
    return many and kernel.dtype == jnp.bfloat16


@jax.custom_vjp
def product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Returns the product of (N, C) with (C, C'), in bfloat16 summed in float32; it has reverse derivatives."""
    return jax.lax.platform_dependent(x, matrix, cpu=_rounded, default=jnp.matmul)


def _rounded(x: jax.Array, matrix: jax.Array) -> jax.Array:
    return _sums(x, matrix).astype(x.dtype)


def _forward(x: jax.Array, matrix: jax.Array) -> tuple:
    return product(x, matrix), (x, matrix)


def _backward(kept: tuple, change: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, matrix = kept
    return product(change, matrix.T), jnp.matmul(x.T, change)


product.defvjp(_forward, _backward)


def by_taps(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the convolution of (B, H, W, C) with (3, 3, C, C'), strides and padding of 1, as nine products."""
    height, width, channels = x.shape[1:]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    total = jnp.float32(0)
    for row in range(3):
        for column in range(3):
            seen = padded[:, row : row + height, column : column + width]
            total += _sums(seen.reshape(-1, channels), kernel[row, column])
    return total.astype(x.dtype).reshape(*x.shape[:3], kernel.shape[-1])


def _sums(x: jax.Array, matrix: jax.Array) -> jax.Array:
    return jax.lax.dot_general(x, matrix, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)
