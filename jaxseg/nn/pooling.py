"""Max-pooling with a gradient that is fast on CPUs; arrays are (B, H, W, C)."""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """Max-pools 3x3 with stride 2 and padding 1: (B, H, W, C) -> (B, ceil(H/2), ceil(W/2), C).

    As in PyTorch the first of equal pixels has the gradient. Only reverse mode (`jax.grad`, not `jax.jvp`).
    """
    return _by_windows(x)


def _forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return max_pool(x), x


def _backward(x: jax.Array, change: jax.Array) -> tuple[jax.Array]:
    def by(pool):
        return lambda x, change: jax.vjp(pool, x)[1](change)[0]

    # XLA's gradient of a window's maximum keeps the places of all pixels: four times as long on a CPU.
    return (jax.lax.platform_dependent(x, change, cpu=by(_by_pairs), default=by(_by_windows)),)


max_pool.defvjp(_forward, _backward)


def _by_windows(x: jax.Array) -> jax.Array:
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)


def _by_pairs(x: jax.Array) -> jax.Array:
    odd = x.shape[1] % 2, x.shape[2] % 2
    x = jnp.pad(x, ((0, 0), (1, odd[0]), (1, odd[1]), (0, 0)), constant_values=-jnp.inf)
    x = _larger(_larger(x[:, :, :-1:2], x[:, :, 1::2]), x[:, :, 2::2])
    return _larger(_larger(x[:, :-1:2], x[:, 1::2]), x[:, 2::2])


def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.where((a >= b) | jnp.isnan(a), a, b)
