"""One convolution with what follows it: bias, residual and ReLU. The description, and the form that XLA computes."""

import dataclasses

import jax
import jax.numpy as jnp

Pair = tuple[int, int]
Pairs = tuple[Pair, Pair]

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


@dataclasses.dataclass(frozen=True)
class Fusion:
    """What is computed besides the products, in the order of the attributes.

    Attributes:
      strides: strides of the rows and of the columns.
      padding: number of zeros before and after the rows, and before and after the columns.
      precision: precision of the products; None: the default of the device.
      bias: whether (C',) is added.
      residual: whether an array of the result's shape is added.
      relu: whether negative values become 0.
    """

    strides: Pair = (1, 1)
    padding: Pairs = ((0, 0), (0, 0))
    precision: jax.lax.Precision | None = None
    bias: bool = False
    residual: bool = False
    relu: bool = False

    def result_shape(self, image: tuple, kernel: tuple) -> tuple:
        """Returns (B, H', W', C') for the shapes (B, H, W, C) and (h, w, C, C')."""
        rows, columns = (
            (image[1 + axis] + sum(self.padding[axis]) - kernel[axis]) // self.strides[axis] + 1 for axis in (0, 1)
        )
        return image[0], rows, columns, kernel[3]

    def keeps_size(self, kernel: tuple) -> bool:
        """Returns whether the result is as large as the image, for a kernel (h, w, C, C') with odd sides."""
        return self.strides == (1, 1) and self.padding == tuple((side // 2, side // 2) for side in kernel[:2])

    def by_xla(self, x: jax.Array, kernel: jax.Array, *more: jax.Array) -> jax.Array:
        """Returns the result as XLA computes it. A 1x1 kernel is a product of matrices, which is faster on CPUs.

        Args:
          x: (B, H, W, C).
          kernel: (h, w, C, C').
          *more: the bias (C',) and the residual (B, H', W', C'), as far as they are used.
        """
        if kernel.shape[:2] == (1, 1) and self.padding == ((0, 0), (0, 0)):
            x = x[:, :: self.strides[0], :: self.strides[1]]
            rows = x.reshape(-1, x.shape[-1])  # on four axes the gradient takes three times as long
            found = jnp.matmul(rows, kernel[0, 0], precision=self.precision).reshape(*x.shape[:-1], -1)
        else:
            found = jax.lax.conv_general_dilated(
                x, kernel, self.strides, self.padding, dimension_numbers=_DIMENSIONS, precision=self.precision
            )
        return self.finish(found, *more)

    def finish(self, found: jax.Array, *more: jax.Array) -> jax.Array:
        """Returns the products (B, H', W', C') with bias and residual added, after the ReLU."""
        for place, array in enumerate(more):
            found = found + (array.reshape(1, 1, 1, -1) if self.bias and not place else array)
        return jnp.maximum(found, 0) if self.relu else found


def sum_dtype(x: jax.Array) -> jnp.dtype:
    """Returns the dtype in which numbers of an array are added: float32 or more."""
    return jnp.dtype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)
