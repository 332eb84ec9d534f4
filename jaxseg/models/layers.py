"""Layers that follow PyTorch where flax differs; arrays are (B, H, W, C)."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

INITS = ("torch", "lecun")


class BatchNorm(nnx.Module):
    """Batch normalisation with PyTorch's running statistics.

    Training normalises by the biased batch variance and stores the unbiased one, with PyTorch's
    momentum (the share of the new batch). Statistics are computed in float32 whatever the compute
    dtype. `nnx.view(model, use_running_average=True)` gives the evaluation mode.
    """

    def __init__(self, num_features: int, *, momentum: float = 0.1, epsilon: float = 1e-5):
        self.scale = nnx.Param(jnp.ones((num_features,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((num_features,), jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros((num_features,), jnp.float32))
        self.var = nnx.BatchStat(jnp.ones((num_features,), jnp.float32))
        self.momentum = momentum
        self.epsilon = epsilon
        self.use_running_average = False
        self.axis = None  # of the devices whose batches are one, under pmap; see `across`

    def set_view(self, use_running_average: bool | None = None):
        """Called by `nnx.view`."""
        if use_running_average is not None:
            self.use_running_average = use_running_average

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises (..., C) over all axes but the last; same shape and dtype."""
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
        else:
            mean, var = self._batch_statistics(x.astype(jnp.float32))
        factor = self.scale[...] * jax.lax.rsqrt(var + self.epsilon)
        shape = (1,) * (x.ndim - 1) + (-1,)
        factor, shift = factor.reshape(shape), (self.bias[...] - mean * factor).reshape(shape)
        return (x.astype(jnp.float32) * factor + shift).astype(x.dtype)

    def _batch_statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        axes = tuple(range(x.ndim - 1))
        count = x.size // x.shape[-1]
        if self.axis is None:
            mean, var = x.mean(axes), x.var(axes)
        else:
            count *= jax.lax.axis_size(self.axis)
            mean = jax.lax.pmean(x.mean(axes), self.axis)
            var = jax.lax.pmean(jnp.square(x - mean.reshape((1,) * len(axes) + (-1,))).mean(axes), self.axis)
        unbiased = var * (count / max(count - 1, 1))
        self.mean.set_value((1 - self.momentum) * self.mean[...] + self.momentum * mean)
        self.var.set_value((1 - self.momentum) * self.var[...] + self.momentum * unbiased)
        return mean, var


def across(model: nnx.Module, axis: str) -> nnx.Module:
    """Returns a view of a model whose batch norms take their statistics over all devices of a `pmap` axis."""
    view = nnx.view(model)
    for _, module in nnx.iter_modules(view):
        if isinstance(module, BatchNorm):
            module.axis = axis
    return view


class ConvNorm(nnx.Module):
    """A convolution followed by batch normalisation, (B, H, W, C_in) -> (B, H', W', C_out).

    `fold_batch_norm` merges the two for inference; `norm` is None from then on.
    """

    def __init__(
        self,
        num_in: int,
        num_out: int,
        kernel: int,
        *,
        stride: int = 1,
        use_bias: bool = False,
        init: str = "torch",
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.conv = conv(num_in, num_out, kernel, stride=stride, use_bias=use_bias, init=init, dtype=dtype, rngs=rngs)
        self.norm = nnx.data(BatchNorm(num_out))

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv(x)
        return x if self.norm is None else self.norm(x)


def conv(
    num_in: int,
    num_out: int,
    kernel: int,
    *,
    stride: int = 1,
    use_bias: bool = True,
    init: str = "torch",
    dtype: jnp.dtype = jnp.float32,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """Returns a square convolution with PyTorch's padding of `kernel // 2` on every side.

    Args:
      init: "torch" (PyTorch's default for `Conv2d`: uniform within 1 / sqrt(fan_in), bias too),
        "torchvision" (its ResNets: normal with variance 2 / fan_out) or "lecun" (flax's default).
      dtype: dtype of the arithmetic; parameters are float32. float32 means full float32 products on
        every device (no TF32, no bfloat16 passes).
    """
    bound = (num_in * kernel * kernel) ** -0.5
    kernel_init = {
        "torch": _uniform(bound),
        "torchvision": _normal((2 / (num_out * kernel * kernel)) ** 0.5),
        "lecun": nnx.initializers.lecun_normal(),
    }[init]
    return nnx.Conv(
        num_in,
        num_out,
        (kernel, kernel),
        strides=stride,
        padding=kernel // 2,  # "SAME" would pad (0, 1) where PyTorch pads (1, 1) under stride 2
        use_bias=use_bias,
        kernel_init=kernel_init,
        bias_init=_uniform(bound) if init == "torch" else nnx.initializers.zeros_init(),
        dtype=dtype,
        precision=jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None,
        rngs=rngs,
    )


def _uniform(bound: float) -> nnx.initializers.Initializer:
    return _drawn(
        lambda rng, shape: (2 * rng.random(shape, np.float32) - 1) * np.float32(bound),
        lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -bound, bound),
    )


def _normal(deviation: float) -> nnx.initializers.Initializer:
    return _drawn(
        lambda rng, shape: rng.standard_normal(shape, np.float32) * np.float32(deviation),
        lambda key, shape: deviation * jax.random.normal(key, shape, jnp.float32),
    )


def _drawn(by_numpy: Callable, by_jax: Callable) -> nnx.initializers.Initializer:
    """Draws with numpy, seeded by the key: JAX compiles a program a shape, 8 s for a U-Net. Traced keys need JAX."""

    def init(key: jax.Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32, out_sharding=None) -> jax.Array:
        if isinstance(key, jax.core.Tracer):
            return by_jax(key, shape).astype(dtype)
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
        return jnp.asarray(by_numpy(rng, shape), dtype)

    return init


def max_pool(x: jax.Array) -> jax.Array:
    """Max-pools 3x3 with stride 2 and padding 1: (B, H, W, C) -> (B, ceil(H/2), ceil(W/2), C)."""
    return nnx.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))


def fold_batch_norm(model: nnx.Module) -> nnx.Module:
    """Returns a copy of `model` for inference with every batch norm merged into its convolution.

    The result equals the evaluation mode of `model` up to rounding, and shares no array with it that
    was changed. It cannot be trained further as a batch-normalised network.
    """
    graphdef, state = nnx.split(model)
    model = nnx.merge(graphdef, jax.tree.map(lambda a: a, state))  # new variables that hold the same arrays
    for _, module in nnx.iter_modules(model):
        if isinstance(module, ConvNorm) and module.norm is not None:
            layer, norm = module.conv, module.norm
            # In numpy: as separate JAX operations the many shapes took 2 s to compile.
            scale, shift, mean, var = (np.asarray(v[...]) for v in (norm.scale, norm.bias, norm.mean, norm.var))
            factor = scale / np.sqrt(var + np.float32(norm.epsilon))
            bias = np.float32(0) if layer.bias is None else np.asarray(layer.bias[...])
            layer.bias = nnx.Param(jnp.asarray((bias - mean) * factor + shift))
            layer.kernel.set_value(jnp.asarray(np.asarray(layer.kernel[...]) * factor))
            layer.use_bias = True
            module.norm = None
    return model
