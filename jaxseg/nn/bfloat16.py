"""Fast bfloat16 convolutions on CPUs, as matrix products accumulated in float32; arrays are (B, H, W, C).

Processors with units for bfloat16 matrix products (Intel's AMX) compute such a product in a third to a fifth of the
time of float32. XLA uses these units only for products whose result is float32, and not in its convolutions.
`benchmarks/convolutions.py` measured this for the forward pass on such a processor. On other processors bfloat16 was
not measured, and float32 is the better choice.
"""

import jax
import jax.numpy as jnp

_CHANNELS = 2**14  # C * C' from which nine products are faster than XLA's convolution


def is_faster(kernel: jax.Array | jax.ShapeDtypeStruct) -> bool:
    """Returns whether a CPU convolves faster with `by_taps` than with XLA's convolution.

    Args:
      kernel: (h, w, C, C'), any dtype. The answer is False unless it is a bfloat16 kernel (3, 3, C, C').
    """
    many = kernel.shape[:2] == (3, 3) and kernel.shape[2] * kernel.shape[3] >= _CHANNELS
    return many and kernel.dtype == jnp.bfloat16


@jax.custom_vjp
def product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Returns a matrix product, accumulated in float32 on CPUs. Only reverse-mode derivatives are supported.

    Args:
      x: (N, C) bfloat16.
      matrix: (C, C') bfloat16.

    Returns:
      (N, C') bfloat16.
    """
    return jax.lax.platform_dependent(x, matrix, cpu=_rounded, default=jnp.matmul)


def _rounded(x: jax.Array, matrix: jax.Array) -> jax.Array:
    return _sums(x, matrix).astype(x.dtype)


def _forward(x: jax.Array, matrix: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return product(x, matrix), (x, matrix)


def _backward(kept: tuple[jax.Array, jax.Array], change: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, matrix = kept
    return product(change, matrix.T), jnp.matmul(x.T, change)


product.defvjp(_forward, _backward)


def by_taps(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns a 3x3 convolution with stride 1 and padding 1, as nine matrix products accumulated in float32.

    Args:
      x: (B, H, W, C) bfloat16.
      kernel: (3, 3, C, C') bfloat16.

    Returns:
      (B, H, W, C') bfloat16.
    """
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
