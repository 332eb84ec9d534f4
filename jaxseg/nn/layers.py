"""Layers that behave as PyTorch's where flax's differ; arrays are (B, H, W, C)."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from jaxseg.nn.convolution import convolution
from jaxseg.nn.doubling import doubling

Init = Literal["torch", "lecun"]
Dtype = Literal["float32", "bfloat16"]
_NHWC = ("NHWC", "HWIO", "NHWC")


class BatchNorm(nnx.Module):
    """Batch normalisation with PyTorch's running statistics.

    Training normalises by the biased variance of the batch and stores the unbiased one. The momentum is PyTorch's: the
    weight of the new batch. Statistics are computed in float32 for every dtype of the input.
    `nnx.view(model, use_running_average=True)` gives the evaluation mode. In training, only first-order gradients are
    supported.

    Args:
      num_features: C, the number of channels.
      momentum: weight of the new batch in the running statistics, in [0, 1].
      epsilon: added to the variance.
    """

    def __init__(self, num_features: int, *, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        self.scale = nnx.Param(jnp.ones((num_features,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((num_features,), jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros((num_features,), jnp.float32))
        self.var = nnx.BatchStat(jnp.ones((num_features,), jnp.float32))
        self.momentum = momentum
        self.epsilon = epsilon
        self.use_running_average = False
        self.axis: str | None = None  # pmap axis of the devices that share one batch; see `over_devices`

    def set_view(self, use_running_average: bool | None = None) -> None:
        """Sets the mode; `nnx.view` calls this method."""
        if use_running_average is not None:
            self.use_running_average = use_running_average

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns (..., C) normalised over all axes except the last, in the same shape and dtype."""
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
            mean = x.mean(axes)
            var = _variance(x, mean)
        else:
            count *= jax.lax.axis_size(self.axis)
            mean = jax.lax.pmean(x.mean(axes), self.axis)
            var = jax.lax.pmean(jnp.square(x - mean.reshape((1,) * len(axes) + (-1,))).mean(axes), self.axis)
        unbiased = var * (count / max(count - 1, 1))
        self.mean.set_value((1 - self.momentum) * self.mean[...] + self.momentum * mean)
        self.var.set_value((1 - self.momentum) * self.var[...] + self.momentum * unbiased)
        return mean, var


@jax.custom_vjp
def _variance(x: jax.Array, mean: jax.Array) -> jax.Array:
    """Returns the biased variance (C,) of (..., C) from its mean, by which its derivative is 0."""
    axes = tuple(range(x.ndim - 1))
    return jnp.square(x - mean.reshape((1,) * len(axes) + (-1,))).mean(axes)


def _variance_forward(x: jax.Array, mean: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _variance(x, mean), (x, mean)


def _variance_backward(kept: tuple[jax.Array, jax.Array], change: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, mean = kept
    factor = change * (2 * x.shape[-1] / x.size)
    shape = (1,) * (x.ndim - 1) + (-1,)
    # Not `x - mean`: XLA would keep the difference of the forward pass, which is another map.
    return x * factor.reshape(shape) - (mean * factor).reshape(shape), jnp.zeros_like(mean)


_variance.defvjp(_variance_forward, _variance_backward)


class GroupNorm(nnx.Module):
    """Group normalisation: every image and group of channels by its mean and biased variance, then scale and shift.

    With as many groups as channels it equals PyTorch's `InstanceNorm2d` (affine, without running statistics). Training
    and evaluation are the same. Statistics are computed in float32 for every dtype of the input.

    Args:
      num_features: C, the number of channels.
      num_groups: number of groups, a divisor of C.
      epsilon: added to the variance.

    Raises:
      ValueError: the channels do not divide into the groups.

    Source: Wu and He 2018, arXiv:1803.08494.
    """

    def __init__(self, num_features: int, num_groups: int, *, epsilon: float = 1e-5) -> None:
        if num_groups < 1 or num_features % num_groups:
            raise ValueError(f"{num_features} channels do not divide into {num_groups} groups")
        self.scale = nnx.Param(jnp.ones((num_features,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((num_features,), jnp.float32))
        self.num_groups = num_groups
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns (B, H, W, C) normalised, in the same shape and dtype."""
        pixels = x.astype(jnp.float32).reshape(x.shape[0], -1, x.shape[-1])  # on four axes XLA is slow
        mean = self._mean_of_groups(pixels.mean(1))
        factor = jax.lax.rsqrt(self._mean_of_groups(jnp.square(pixels - mean).mean(1)) + self.epsilon)
        factor = factor * self.scale[...].reshape(1, 1, -1)
        return (pixels * factor + (self.bias[...].reshape(1, 1, -1) - mean * factor)).reshape(x.shape).astype(x.dtype)

    def _mean_of_groups(self, means: jax.Array) -> jax.Array:
        """Returns the means of the groups, (B, 1, C), from the means of their channels, (B, C)."""
        groups = means.reshape(means.shape[0], self.num_groups, -1)
        return jnp.broadcast_to(groups.mean(-1, keepdims=True), groups.shape).reshape(means.shape[0], 1, -1)


def instance_norm(num_features: int) -> GroupNorm:
    """Returns the layer that normalises every channel of every image separately."""
    return GroupNorm(num_features, num_features)


class PReLU(nnx.Module):
    """PyTorch's `PReLU()`: `x` if it is positive, else `slope * x`, with one learned slope that starts at 0.25."""

    def __init__(self) -> None:
        self.slope = nnx.Param(jnp.full((1,), 0.25, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        slope = self.slope[...].astype(x.dtype).reshape((1,) * x.ndim)
        return jnp.where(x > 0, x, slope * x)


class EmbeddingTable(nnx.Variable):
    """Embeddings that a user supplies: zeros until then, stored with the model and never trained."""


class ConvNorm(nnx.Module):
    """A convolution followed by batch normalisation: (B, H, W, C) -> (B, H', W', C').

    `jaxseg.nn.inference.fold_batch_norm` merges the two for inference; `norm` is None afterwards, and `conv`
    may be another layer than `Conv`. The arguments are those of `Conv`.
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
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.conv: Any = Conv(
            num_in, num_out, kernel, stride=stride, use_bias=use_bias, init=init, dtype=dtype, rngs=rngs
        )
        self.norm: BatchNorm | None = nnx.data(BatchNorm(num_out))

    def __call__(self, x: jax.Array, residual: jax.Array | None = None, *, relu: bool = False) -> jax.Array:
        """Returns (B, H', W', C'); `residual` is added after the norm, and with `relu` negative values become 0."""
        if self.norm is None:
            return self.conv(x, residual, relu=relu)
        x = self.norm(self.conv(x))
        x = x if residual is None else x + residual
        # Without the barrier XLA computes the sums of all blocks before again for each of their readers.
        return jax.lax.optimization_barrier(nnx.relu(x) if relu else x)


class Conv(nnx.Module):
    """A square convolution with PyTorch's padding of `kernel // 2` on every side.

    It maps (B, H, W, num_in) to (B, ceil(H / stride), ceil(W / stride), num_out) for odd kernels. Parameters are
    float32; the kernel is (kernel, kernel, num_in, num_out).

    Args:
      num_in: number of input channels.
      num_out: number of output channels.
      kernel: height and width of the kernel.
      stride: stride of the rows and columns.
      use_bias: whether a bias is added.
      init: initial parameters: "torch" (PyTorch's default for `Conv2d`: kernel and bias uniform within
        1 / sqrt(fan_in)), "torchvision" (that of its ResNets: normal with variance 2 / fan_out, bias 0) or "lecun"
        (flax's default).
      dtype: dtype of the arithmetic. With float32, products are computed in full float32 on every device (no TF32, no
        bfloat16 passes).
      rngs: random keys for the initial parameters.
    """

    def __init__(
        self,
        num_in: int,
        num_out: int,
        kernel: int,
        *,
        stride: int = 1,
        use_bias: bool = True,
        init: str = "torch",
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        bound = (num_in * kernel * kernel) ** -0.5
        kernel_init = {
            "torch": _uniform(bound),
            "torchvision": _normal((2 / (num_out * kernel * kernel)) ** 0.5),
            "lecun": nnx.initializers.lecun_normal(),
        }[init]
        bias_init = _uniform(bound) if init == "torch" else nnx.initializers.zeros_init()
        self.kernel = nnx.Param(kernel_init(rngs.params(), (kernel, kernel, num_in, num_out), jnp.float32))
        bias = nnx.Param(bias_init(rngs.params(), (num_out,), jnp.float32)) if use_bias else None
        self.bias: nnx.Param | None = nnx.data(bias)
        self.strides = (stride, stride)
        self.padding = ((kernel // 2, kernel // 2),) * 2  # "SAME" would pad (0, 1) under stride 2
        self.dtype = jnp.dtype(dtype)

    def __call__(self, x: jax.Array, residual: jax.Array | None = None, *, relu: bool = False) -> jax.Array:
        """Returns the convolution of (B, H, W, C) with what follows it.

        Args:
          x: (B, H, W, num_in).
          residual: is added; it has the shape of the result.
          relu: whether negative values become 0.
        """
        x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
        bias = None if self.bias is None else self.bias[...].astype(self.dtype)
        residual = None if residual is None else residual.astype(self.dtype)
        return convolution(
            x, kernel, self.strides, self.padding, bias=bias, residual=residual, relu=relu, precision=_precision(x)
        )


class ConvTranspose(nnx.Module):
    """PyTorch's `ConvTranspose2d(kernel_size=3, padding=1, output_padding=1)`.

    With stride 2 it maps (B, H, W, C) to (B, 2H, 2W, C'); with another stride s the output has (H - 1) s + 2 rows and
    (W - 1) s + 2 columns. The kernel is (3, 3, C', C). The arguments are those of `Conv`.
    """

    def __init__(
        self,
        num_in: int,
        num_out: int,
        *,
        stride: int = 2,
        init: str = "torch",
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        bound = (num_out * 9) ** -0.5  # PyTorch counts the output channels as fan_in here
        kernel_init = _uniform(bound) if init == "torch" else nnx.initializers.lecun_normal(in_axis=-1, out_axis=-2)
        bias_init = _uniform(bound) if init == "torch" else nnx.initializers.zeros_init()
        self.kernel = nnx.Param(kernel_init(rngs.params(), (3, 3, num_out, num_in)))
        self.bias = nnx.Param(bias_init(rngs.params(), (num_out,)))
        self.stride = stride
        self.dtype = dtype

    def __call__(self, x: jax.Array, *, relu: bool = False) -> jax.Array:
        """Returns (B, 2H, 2W, C'); with `relu` negative values become 0."""
        x, kernel, bias = (a.astype(self.dtype) for a in (x, self.kernel[...], self.bias[...]))
        if self.stride == 2:
            return doubling(x, kernel, bias, relu=relu, precision=_precision(x))
        x = dilated_transpose(x, kernel, stride=self.stride) + bias.reshape(1, 1, 1, -1)
        return nnx.relu(x) if relu else x


def dilated_transpose(x: jax.Array, kernel: jax.Array, *, stride: int = 2) -> jax.Array:
    """Returns a transposed 3x3 convolution as XLA computes it: over the input with zeros between its pixels.

    Args:
      x: (B, H, W, C).
      kernel: (3, 3, C', C).
      stride: stride of the convolution that is transposed.

    Returns:
      (B, (H - 1) stride + 2, (W - 1) stride + 2, C').
    """
    padding = ((1, 2), (1, 2))  # PyTorch's padding and output_padding of 1
    return jax.lax.conv_transpose(
        x, kernel, (stride, stride), padding, transpose_kernel=True, dimension_numbers=_NHWC, precision=_precision(x)
    )


def linear(
    num_in: int, num_out: int, *, init: str = "torch", dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs
) -> nnx.Linear:
    """Returns a linear layer with bias, initialised and computed as `Conv` is.

    Args:
      num_in: number of input features.
      num_out: number of output features.
      init: "torch" (PyTorch's default: uniform within 1 / sqrt(num_in)) or "lecun" (flax's default).
      dtype: dtype of the arithmetic; parameters are float32.
      rngs: random keys for the initial parameters.
    """
    torch = init == "torch"
    return nnx.Linear(
        num_in,
        num_out,
        kernel_init=_uniform(num_in**-0.5) if torch else nnx.initializers.lecun_normal(),
        bias_init=_uniform(num_in**-0.5) if torch else nnx.initializers.zeros_init(),
        dtype=dtype,
        precision=jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None,
        rngs=rngs,
    )


def _precision(x: jax.Array) -> jax.lax.Precision | None:
    return jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None


def _uniform(bound: float) -> nnx.initializers.Initializer:
    return _sampled(
        lambda rng, shape: (2 * rng.random(shape, np.float32) - 1) * np.float32(bound),
        lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -bound, bound),
    )


def _normal(deviation: float) -> nnx.initializers.Initializer:
    return _sampled(
        lambda rng, shape: rng.standard_normal(shape, np.float32) * np.float32(deviation),
        lambda key, shape: deviation * jax.random.normal(key, shape, jnp.float32),
    )


def _sampled(by_numpy: Callable, by_jax: Callable) -> nnx.initializers.Initializer:
    """Returns an initialiser that samples with numpy, seeded by the key.

    JAX would compile one program per shape, which takes 8 s for a U-Net. Traced keys need JAX.
    """

    def init(
        key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32, out_sharding: object = None
    ) -> jax.Array:
        if _shapes_only.get():
            return jnp.zeros(shape, dtype)
        if isinstance(key, jax.core.Tracer):
            return by_jax(key, shape).astype(dtype)
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
        return jnp.asarray(by_numpy(rng, shape), dtype)

    return init


_shapes_only = contextvars.ContextVar("shapes_only", default=False)


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Makes layers start with zeros, if only the shapes are wanted: random numbers take longer to trace."""
    before = _shapes_only.set(True)
    try:
        yield
    finally:
        _shapes_only.reset(before)
