"""Resizing on the device with PyTorch's arithmetic; arrays are (B, H, W, C), sizes are (height, width)."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.ops.indices import bilinear_taps


def bilinear(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns `x` resized bilinearly without antialiasing, corners not aligned.

    Args:
      x: (B, H, W, C), any float dtype.
      size: height and width of the result.

    Returns:
      (B, *size, C), the dtype of `x`; equals `torch.nn.functional.interpolate(mode="bilinear",
      align_corners=False)`.
    """
    # Two gathers and a weighted sum per axis: XLA fuses them with what follows. Interpolation as a
    # matrix product took 7 times as long on a CPU for (1, 128, 128, 159) -> 512 x 512.
    for axis, length in ((1, size[0]), (2, size[1])):
        if x.shape[axis] != length:
            low, high, weight = bilinear_taps(x.shape[axis], length)
            weight = jnp.asarray(np.expand_dims(weight, [a for a in range(4) if a != axis]), x.dtype)
            x = jnp.take(x, low, axis=axis) * (1 - weight) + jnp.take(x, high, axis=axis) * weight
    return x
