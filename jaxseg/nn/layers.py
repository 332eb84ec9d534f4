"""Layers that follow PyTorch where flax differs; arrays are (B, H, W, C)."""

import functools
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxseg.nn.convolution import convolution

Init = Literal["torch", "lecun"]
Dtype = Literal["float32", "bfloat16"]
_NHWC = ("NHWC", "HWIO", "NHWC")


class BatchNorm(nnx.Module):
    """Batch normalisation with PyTorch's running statistics.

    Training normalises by the biased batch variance and stores the unbiased one, with PyTorch's
    momentum (the share of the new batch). Statistics are computed in float32 whatever the compute
    dtype. `nnx.view(model, use_running_average=True)` gives the evaluation mode. Derivatives of first order alone are
    right in training.
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
            mean = x.mean(axes)
            # the variance does not change with the mean that is taken: one sum less in the gradient
            var = jnp.square(x - jax.lax.stop_gradient(mean).reshape((1,) * len(axes) + (-1,))).mean(axes)
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


class Table(nnx.Variable):
    """An array that a user gives to a model: zeros until then, stored with the model, never trained."""


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
        conv_general_dilated=convolution,
        rngs=rngs,
    )


class ConvTranspose(nnx.Module):
    """PyTorch's `ConvTranspose2d(kernel_size=3, padding=1, output_padding=1)`; (B, H, W, C) to (B, 2H, 2W, C').

    That is under stride 2; under another stride s the output has (H - 1) s + 2 rows. The kernel is (3, 3, C', C).
    """

    def __init__(
        self,
        num_in: int,
        num_out: int,
        *,
        stride: int = 2,
        init: str = "torch",
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        bound = (num_out * 9) ** -0.5  # PyTorch takes the outputs for the inputs here
        kernel_init = _uniform(bound) if init == "torch" else nnx.initializers.lecun_normal(in_axis=-1, out_axis=-2)
        bias_init = _uniform(bound) if init == "torch" else nnx.initializers.zeros_init()
        self.kernel = nnx.Param(kernel_init(rngs.params(), (3, 3, num_out, num_in)))
        self.bias = nnx.Param(bias_init(rngs.params(), (num_out,)))
        self.stride = stride
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        x, kernel, bias = (a.astype(self.dtype) for a in (x, self.kernel[...], self.bias[...]))
        upscale = sub_pixel_transpose if self.stride == 2 else functools.partial(dilated_transpose, stride=self.stride)
        return upscale(x, kernel) + bias.reshape(1, 1, 1, -1)


def dilated_transpose(x: jax.Array, kernel: jax.Array, *, stride: int = 2) -> jax.Array:
    """Transposes a 3x3 convolution as XLA has it: over the input with zeros between its pixels.

    Args:
      x: (B, H, W, C).
      kernel: (3, 3, C', C).
      stride: of the convolution that is transposed.

    Returns:
      (B, (H - 1) stride + 2, (W - 1) stride + 2, C').
    """
    padding = ((1, 2), (1, 2))  # PyTorch's padding and output_padding of 1
    return jax.lax.conv_transpose(
        x, kernel, (stride, stride), padding, transpose_kernel=True, dimension_numbers=_NHWC, precision=_precision(x)
    )


def sub_pixel_transpose(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`dilated_transpose` with stride 2 as four small convolutions, one for each of four neighbouring pixels.

    Of each axis an even pixel sees the kernel's middle alone, an odd one its end here and its start one pixel on.
    `benchmarks/transposed_conv.py` measures the two forms.
    """
    batch, height, width, _ = x.shape
    x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    taps = {0: slice(1, 2), 1: slice(None, None, -2)}  # slices, for XLA makes gathers of lists of numbers
    parts = []
    for row in (0, 1):
        for column in (0, 1):
            small = kernel[taps[row], taps[column]]
            seen = x[:, : height + row, : width + column]
            parts.append(
                jax.lax.conv_general_dilated(
                    seen,
                    small.swapaxes(2, 3),
                    (1, 1),
                    "VALID",
                    dimension_numbers=_NHWC,
                    precision=_precision(x),
                )
            )
    pixels = jnp.stack(parts, 3).reshape(batch, height, width, 2, 2, -1)
    return pixels.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, -1)


def linear(
    num_in: int, num_out: int, *, init: str = "torch", dtype: jnp.dtype = jnp.float32, rngs: nnx.Rngs
) -> nnx.Linear:
    """Returns a linear layer with bias, initialised and computed as `conv` is."""
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
