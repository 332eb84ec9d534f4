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
        pixels = x.astype(jnp.float32).reshape(x.shape[0], -1, x.shape[-1])  # four axes: XLA is slow
        mean = self._of_groups(pixels.mean(1))
        factor = jax.lax.rsqrt(self._of_groups(jnp.square(pixels - mean).mean(1)) + self.epsilon)
        factor = factor * self.scale[...].reshape(1, 1, -1)
        return (pixels * factor + (self.bias[...].reshape(1, 1, -1) - mean * factor)).reshape(x.shape).astype(x.dtype)

    def _of_groups(self, means: jax.Array) -> jax.Array:
        """(B, C) means of channels -> (B, 1, C) means of their groups."""
        groups = means.reshape(means.shape[0], self.num_groups, -1)
        return jnp.broadcast_to(groups.mean(-1, keepdims=True), groups.shape).reshape(means.shape[0], 1, -1)


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
