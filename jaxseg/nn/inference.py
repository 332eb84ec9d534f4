"""Models as they are computed when nothing is trained any more."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxseg.nn.layers import ConvNorm
from jaxseg.nn.winograd import is_faster, transformed, winograd


def for_inference(model: nnx.Module, platform: str | None = None) -> nnx.Module:
    """Returns a copy of `model` for inference on a device: `fold_batch_norm`, and what else is faster there.

    On CPUs 3x3 convolutions of many channels keep their kernel transformed for Winograd's algorithm. The result equals
    the evaluation mode of `model` up to rounding (1e-5 of the largest logit of the published U-Net in float32). Kernels
    of convolutions before a batch norm that compute in bfloat16 are kept in it.

    Args:
      model: any of the package's.
      platform: "cpu", "gpu" or "tpu"; None: that of the first device.
    """
    model = fold_batch_norm(model)
    on_cpu = (platform or jax.default_backend()) == "cpu"
    for _, module in nnx.iter_modules(model):
        if not isinstance(module, ConvNorm):
            continue
        if module.conv.dtype == jnp.bfloat16:  # it would be rounded so at every call
            kernel = np.asarray(module.conv.kernel.get_value()).astype(jnp.bfloat16)
            module.conv.kernel.set_value(jax.device_put(kernel))
        elif on_cpu and _suits(module.conv):
            module.conv = Winograd(module.conv)
    return model


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
            scale, shift, mean, var = (np.asarray(v.get_value()) for v in (norm.scale, norm.bias, norm.mean, norm.var))
            factor = scale / np.sqrt(var + np.float32(norm.epsilon))
            bias = np.float32(0) if layer.bias is None else np.asarray(layer.bias.get_value())
            layer.bias = nnx.Param(jnp.asarray((bias - mean) * factor + shift))
            layer.kernel.set_value(jax.device_put(np.asarray(layer.kernel.get_value()) * factor))
            layer.use_bias = True
            module.norm = None
    return model


class Winograd(nnx.Module):
    """A 3x3 convolution with strides and padding of 1 that keeps its kernel transformed: (B, H, W, C) -> (B, H, W, C').

    Args:
      conv: the convolution that it takes the place of.
    """

    def __init__(self, conv: nnx.Conv):
        # At once: each operation alone would compile.
        self.kernel = nnx.Param(jax.jit(transformed)(conv.kernel.get_value()))
        self.bias = nnx.Param(conv.bias.get_value())

    def __call__(self, x: jax.Array) -> jax.Array:
        return winograd(x, self.kernel[...], precision=jax.lax.Precision.HIGHEST) + self.bias[...].reshape(1, 1, 1, -1)


def _suits(layer: nnx.Module) -> bool:
    return (
        isinstance(layer, nnx.Conv)
        and layer.strides in (1, (1, 1))
        and layer.dtype == jnp.float32
        and is_faster(layer.kernel[...])
    )
