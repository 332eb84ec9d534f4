"""Models ready for inference, and the one runner that applies them to batches."""

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxseg.devices import all_devices, shardings
from jaxseg.nn.layers import Conv, ConvNorm
from jaxseg.nn.winograd import is_faster, transformed, winograd


class Runner:
    """Applies one function of a model to batches: compiled once, on one or several devices.

    `Segmenter`, `Denoiser`, `Scorer` and `Sampler` are built on it. The model is put into evaluation mode, made ready
    by `for_inference`, and copied to the devices when the Runner is made; a later change of the model has no effect.
    Two Runners of equal models and functions share one compiled program.

    Args:
      model: any of the package's.
      function: (model, *arrays) -> a pytree of arrays. The first axis of every array is the batch. It must be hashable,
        and equal functions must compute the same: a module-level function, or a frozen dataclass with `__call__`.
        An answer that concerns the batch as a whole has a first axis of length 1.
      devices: JAX devices to spread the batch over; None: the first.
      batch_size: number of items in one call; a multiple of the number of devices. None: `default`.
      default: the usual batch size, rounded up to a multiple of the number of devices.

    Attributes:
      devices: list of the devices.
      batch_size: number of items in one call.
      compile_seconds: seconds that `compile` took; 0 before.

    Raises:
      ValueError: the batch size cannot be split over the devices.
    """

    def __init__(
        self,
        model: nnx.Module,
        function: Callable,
        *,
        devices: Sequence[jax.Device] | None = None,
        batch_size: int | None = None,
        default: int = 1,
    ):
        self.devices = list(devices or all_devices()[:1])
        self.batch_size = self.round_up(default) if batch_size is None else batch_size
        if self.batch_size < 1 or self.batch_size % len(self.devices):
            raise ValueError(f"batch size {self.batch_size} cannot be split over {len(self.devices)} devices")
        self._replicated, self._split = shardings(self.devices)
        view = nnx.view(model, use_running_average=True, deterministic=True, raise_if_not_found=False)
        graphdef, state = nnx.split(for_inference(view, self.devices[0].platform))
        self._program = (function, graphdef)
        self._state = jax.device_put(state, self._replicated)
        self._compiled: dict[tuple, Callable] = {}
        self.compile_seconds = 0.0

    def __call__(self, *arrays: np.ndarray, shared: tuple = (), batch_size: int | None = None) -> Any:
        """Returns the function's answer for up to a batch of items, as numpy arrays.

        Args:
          *arrays: (B, ...) each. A batch with fewer items than the batch size is filled up with zeros, and the answer
            is cut to B items, so that only one shape is compiled.
          shared: arguments of the function, before the arrays, that all items have in common: pytrees of arrays, given
            to every device as a whole.
          batch_size: number of items in this call, instead of the Runner's.

        Raises:
          ValueError: there is no item, or there are more than the batch size.
        """
        return fetched(self.start(*arrays, shared=shared, batch_size=batch_size), len(arrays[0]))

    def start(
        self, *arrays: Any, shared: tuple = (), batch_size: int | None = None, function: Callable | None = None
    ) -> Any:
        """Returns the answer for a whole batch on the devices, without waiting for it; see `__call__`.

        The items that fill up a short batch are in it, at the end; `fetched` leaves them out. `function` replaces the
        Runner's function in this call. Arrays after the first one may be on the devices, with a whole batch each.
        """
        size = self.batch_size if batch_size is None else batch_size
        if not 1 <= len(arrays[0]) <= size:
            raise ValueError(f"between 1 and {size} items fit in a batch, got {len(arrays[0])}")
        arrays = jax.device_put(tuple(_filled(array, size) for array in arrays), self._split)
        shared = jax.device_put(tuple(shared), self._replicated)
        compiled = self._compiled.get(tuple((array.shape, array.dtype.name) for array in arrays))
        if compiled is not None and not shared and function is None:
            return compiled(self._state, (), arrays)
        usual, graphdef = self._program
        # Programs are cached by function and model, so that one-image calls after each other compile once.
        return _run(function or usual, graphdef, self._state, shared, arrays)

    def compile(self, *items: jax.ShapeDtypeStruct) -> None:
        """Compiles ahead of the first batch, so that a long run can report `compile_seconds` by itself.

        Args:
          *items: shape and dtype of one item of each array, without the batch axis.
        """
        start = time.perf_counter()
        shapes = [(self.batch_size, *item.shape) for item in items]
        arrays = tuple(
            jax.ShapeDtypeStruct(shape, item.dtype, sharding=self._split)
            for shape, item in zip(shapes, items, strict=True)
        )
        key = tuple((array.shape, jnp.dtype(array.dtype).name) for array in arrays)
        self._compiled[key] = _run.lower(*self._program, self._state, (), arrays).compile()
        self.compile_seconds = time.perf_counter() - start

    def round_up(self, count: int) -> int:
        """Returns the smallest multiple of the number of devices that is at least `count`."""
        return math.ceil(count / len(self.devices)) * len(self.devices)


def fetched(answer: Any, count: int) -> Any:
    """Waits for an answer of `Runner.start`, and returns its first `count` items as numpy arrays."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:count], answer)


# Nothing is donated: no answer has the size of the inputs, so XLA could not use their memory.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(function: Callable, graphdef: nnx.GraphDef, state: nnx.State, shared: tuple, arrays: tuple) -> Any:
    return function(nnx.merge(graphdef, state), *shared, *arrays)


def _filled(array: np.ndarray, size: int) -> np.ndarray:
    """The array with rows of zeros after its last, so that its length is `size`."""
    if len(array) == size:
        return array
    full = np.zeros((size, *array.shape[1:]), array.dtype)
    full[: len(array)] = array
    return full


def for_inference(model: nnx.Module, platform: str | None = None) -> nnx.Module:
    """Returns a copy of `model` for inference on a device, with all changes that make it faster there.

    Batch norms are merged into their convolutions (`fold_batch_norm`). On CPUs, 3x3 convolutions with many channels
    store their kernel transformed for Winograd's algorithm. Convolutions before a batch norm that compute in bfloat16
    store their kernel in bfloat16. The result equals the evaluation mode of `model` up to rounding (1e-5 of the largest
    logit of the published U-Net in float32).

    Args:
      model: any of the package's.
      platform: "cpu", "gpu" or "tpu"; None: the platform of the first device.

    Returns:
      A new module; `model` is not changed.
    """
    model = fold_batch_norm(model)
    on_cpu = (platform or jax.default_backend()) == "cpu"
    for _, module in nnx.iter_modules(model):
        if not isinstance(module, ConvNorm):
            continue
        if module.conv.dtype == jnp.bfloat16:  # otherwise it would be rounded at every call
            kernel = np.asarray(module.conv.kernel.get_value()).astype(jnp.bfloat16)
            module.conv.kernel.set_value(jax.device_put(kernel))
        elif on_cpu and _suits(module.conv):
            module.conv = Winograd(module.conv)
    return model


def fold_batch_norm(model: nnx.Module) -> nnx.Module:
    """Returns a copy of `model` for inference with every batch norm merged into its convolution.

    The result equals the evaluation mode of `model` up to rounding. `model` itself is not changed. The result has no
    batch norms any more, so it should not be trained further.
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
            module.norm = None
    return model


class Winograd(nnx.Module):
    """A 3x3 convolution, stride 1, padding 1, that stores its kernel transformed: (B, H, W, C) -> (B, H, W, C').

    Args:
      conv: the convolution that it replaces.
    """

    def __init__(self, conv: Conv) -> None:
        # Under jit: otherwise each operation would be compiled by itself.
        self.kernel = nnx.Param(jax.jit(transformed)(conv.kernel.get_value()))
        self.bias = nnx.Param(jnp.zeros(conv.kernel.shape[-1]) if conv.bias is None else conv.bias.get_value())

    def __call__(self, x: jax.Array, residual: jax.Array | None = None, *, relu: bool = False) -> jax.Array:
        """Returns what `Conv` returns."""
        found = winograd(x, self.kernel[...], precision=jax.lax.Precision.HIGHEST) + self.bias[...].reshape(1, 1, 1, -1)
        found = found if residual is None else found + residual
        return nnx.relu(found) if relu else found


def _suits(layer: nnx.Module) -> bool:
    return (
        isinstance(layer, Conv)
        and layer.strides == (1, 1)
        and layer.dtype == jnp.float32
        and is_faster(layer.kernel[...])
    )
