"""Normalisation in each image on its own, and PReLU, as PyTorch has them; arrays are (B, H, W, C)."""

import jax
import jax.numpy as jnp
from flax import nnx


class GroupNorm(nnx.Module):
    """Normalises every image by the mean and biased variance of its groups of channels, then scales and shifts.

    With as many groups as channels it is PyTorch's `InstanceNorm2d` (affine, without running statistics). Training and
    evaluation are the same. Statistics are computed in float32 whatever the compute dtype.
    """

    def __init__(self, num_features: int, num_groups: int, *, epsilon: float = 1e-5):
        if num_groups < 1 or num_features % num_groups:
            raise ValueError(f"{num_features} channels do not divide into {num_groups} groups")
        self.scale = nnx.Param(jnp.ones((num_features,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((num_features,), jnp.float32))
        self.num_groups = num_groups
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises (B, H, W, C); same shape and dtype."""
        batch, height, width, channels = x.shape
        size = channels // self.num_groups
        groups = x.astype(jnp.float32).reshape(batch, height * width, self.num_groups, size)
        mean = groups.mean((1, 3), keepdims=True)  # (B, 1, G, 1)
        factor = jax.lax.rsqrt(groups.var((1, 3), keepdims=True) + self.epsilon)
        scale, bias = (array[...].reshape(1, 1, self.num_groups, size) for array in (self.scale, self.bias))
        factor = factor * scale
        return (groups * factor + (bias - mean * factor)).reshape(x.shape).astype(x.dtype)


def instance_norm(num_features: int) -> GroupNorm:
    """Returns the normalisation of every channel of every image on its own."""
    return GroupNorm(num_features, num_features)


class PReLU(nnx.Module):
    """`x` where it is positive, `slope * x` elsewhere; one learned slope, 0.25 at first, as PyTorch's `PReLU()`."""

    def __init__(self):
        self.slope = nnx.Param(jnp.full((1,), 0.25, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        slope = self.slope[...].astype(x.dtype).reshape((1,) * x.ndim)
        return jnp.where(x > 0, x, slope * x)
