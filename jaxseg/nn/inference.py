"""Models ready for inference, and the one runner that applies them to batches."""

import concurrent.futures
import functools
import math
import mmap
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding

from jaxseg.devices import all_devices, shardings
from jaxseg.nn.layers import BatchNorm, Conv, ConvNorm
from jaxseg.nn.winograd import is_faster, restored, transform_into, winograd


class _Place(NamedTuple):
    """Devices, and how arrays are copied to them: whole, or split along the first axis."""

    devices: list[jax.Device]
    replicated: NamedSharding
    split: NamedSharding


class Runner:
    """Applies one function of a model to batches: compiled once, on one or several devices.

    `Segmenter`, `Denoiser`, `Scorer` and `Sampler` are built on it. The model is put into evaluation mode, made ready
    by `for_inference`, and copied to the devices when the Runner is made; a later change of the model has no effect.
    Two Runners of equal models and functions share one compiled program.

    A Runner can be pickled: its parameters become numpy arrays, and devices and compiled programs are left out. The
    copy uses the first device of the process that reads it, which JAX starts only then. The batch size stays.

    Args:
      model: any of the package's.
      function: (model, *arrays) -> a pytree of arrays. The first axis of every array is the batch. It must be hashable,
        and equal functions must compute the same: a module-level function, or a frozen dataclass with `__call__`.
        An answer that concerns the batch as a whole has a first axis of length 1.
      devices: JAX devices to spread the batch over; None: the first.
      batch_size: number of items in one call; a multiple of the number of devices. None: `default`.
      default: the usual batch size, rounded up to a multiple of the number of devices.
      read: returns the model with its numbers, if `model` has only shapes (`jax.ShapeDtypeStruct`). It is called at
        once in another thread, so that `compile` can work meanwhile; `wait` waits for it.

    Attributes:
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
        read: Callable[[], nnx.Module] | None = None,
    ):
        devices = list(devices or all_devices()[:1])
        self.batch_size = _multiple(default, len(devices)) if batch_size is None else batch_size
        if self.batch_size < 1 or self.batch_size % len(devices):
            raise ValueError(f"batch size {self.batch_size} cannot be split over {len(devices)} devices")
        self._function = function
        self._compiled: dict[tuple, Callable] = {}
        self.compile_seconds = 0.0
        self._reading: concurrent.futures.Future | None = None
        self._place: _Place | None = None
        ready = _ready(model, devices[0].platform)
        if read is None:
            self._copy_to(devices, ready)
        else:
            self._read_into(devices, ready, read)

    def __getstate__(self) -> dict[str, Any]:
        self.wait()
        graphdef, state = self._model
        kept = {"batch_size": self.batch_size, "_function": self._function}
        return kept | {"_model": (graphdef, jax.tree.map(np.asarray, state))}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        vars(self).update(kept, _place=None, _compiled={}, compile_seconds=0.0, _reading=None)

    def _read_into(self, devices: list[jax.Device], model: nnx.Module, read: Callable[[], nnx.Module]) -> None:
        """Keeps the shapes of a model, which `compile` needs, and starts to read its numbers."""
        place = _Place(devices, *shardings(devices))
        graphdef, state = nnx.split(model)
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place.replicated), state)
        self._model, self._place = (graphdef, shapes), place
        thread = concurrent.futures.ThreadPoolExecutor(1)
        self._reading = thread.submit(lambda: self._copy_to(devices, _ready(read(), devices[0].platform)))
        thread.shutdown(wait=False)

    def wait(self) -> None:
        """Waits until the numbers of the model are read, and raises what `read` has raised."""
        if self._reading is not None:
            self._reading.result()

    def _copy_to(self, devices: list[jax.Device], model: nnx.Module) -> _Place:
        """Copies a model that is ready for inference to the devices."""
        place = _Place(devices, *shardings(devices))
        graphdef, state = nnx.split(model)
        # What is still numpy's may be a view of a file.
        state = jax.tree.map(lambda a: np.array(a) if isinstance(a, np.ndarray) else a, state)
        self._model = graphdef, jax.device_put(state, place.replicated)
        self._place = place
        return place

    def _placed(self) -> _Place:
        """Returns where the model is. One that was pickled is copied to the first device before."""
        if self._place is not None:
            return self._place
        devices = all_devices()[:1]
        return self._copy_to(devices, for_platform(nnx.merge(*self._model), devices[0].platform))

    @property
    def devices(self) -> list[jax.Device]:
        """The devices over which a batch is spread."""
        return self._placed().devices

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
        self.wait()
        place = self._placed()
        graphdef, state = self._model
        arrays = jax.device_put(tuple(_filled(array, size) for array in arrays), place.split)
        shared = jax.device_put(tuple(shared), place.replicated)
        compiled = self._compiled.get(tuple((array.shape, array.dtype.name) for array in arrays))
        if compiled is not None and not shared and function is None:
            return compiled(state, (), arrays)
        # Programs are cached by function and model, so that one-image calls after each other compile once.
        return _run(function or self._function, graphdef, state, shared, arrays)

    def compile(self, *items: jax.ShapeDtypeStruct) -> None:
        """Compiles ahead of the first batch, if that is not done yet, so that a run can report `compile_seconds`.

        Args:
          *items: shape and dtype of one item of each array, without the batch axis.
        """
        start = time.perf_counter()
        place = self._placed()
        graphdef, state = self._model
        shapes = [(self.batch_size, *item.shape) for item in items]
        arrays = tuple(
            jax.ShapeDtypeStruct(shape, item.dtype, sharding=place.split)
            for shape, item in zip(shapes, items, strict=True)
        )
        key = tuple((array.shape, jnp.dtype(array.dtype).name) for array in arrays)
        if key not in self._compiled:
            self._compiled[key] = _run.lower(self._function, graphdef, state, (), arrays).compile()
            self.compile_seconds = time.perf_counter() - start

    def round_up(self, count: int) -> int:
        """Returns the smallest multiple of the number of devices that is at least `count`."""
        return _multiple(count, len(self.devices))


def _ready(model: nnx.Module, platform: str) -> nnx.Module:
    """Returns a copy of a model in evaluation mode, made ready for inference."""
    view = nnx.view(model, use_running_average=True, deterministic=True, raise_if_not_found=False)
    return for_inference(view, platform)


def _multiple(count: int, of: int) -> int:
    """Returns the smallest multiple of a number that is at least `count`."""
    return math.ceil(count / of) * of


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
      model: any of the package's; instead of arrays it may have only their shapes, as `jax.ShapeDtypeStruct`.
      platform: "cpu", "gpu" or "tpu"; None: the platform of the first device.

    Returns:
      A new module; `model` is not changed.
    """
    platform, model = platform or jax.default_backend(), _copied(model)
    for module in _conv_norms(model):
        layer = module.conv
        if platform == "cpu" and _suits(layer):  # at once, because a merged kernel in between would take memory
            module.conv, module.norm = Winograd(layer, module.norm), None
            continue
        _fold(module)
        if layer.dtype == jnp.bfloat16:  # else it is rounded at every call
            layer.kernel.set_value(_made(layer.kernel.shape, jnp.bfloat16, _assign, layer.kernel))
    return model


def for_platform(model: nnx.Module, platform: str) -> nnx.Module:
    """Changes the convolutions of a model that is ready for inference to the form of a platform, and returns it.

    A change from a CPU to another platform, or back, leaves the result equal up to rounding; on the platform for which
    the model is made already, nothing changes.

    Args:
      model: result of `for_inference`, for any platform.
      platform: "cpu", "gpu" or "tpu".
    """
    for module in _conv_norms(model):
        if platform == "cpu" and _suits(module.conv):
            module.conv = Winograd(module.conv)
        elif platform != "cpu" and isinstance(module.conv, Winograd):
            module.conv = module.conv.restored()
    return model


def fold_batch_norm(model: nnx.Module) -> nnx.Module:
    """Returns a copy of `model` for inference with every batch norm merged into its convolution.

    The result equals the evaluation mode of `model` up to rounding. `model` itself is not changed. The result has no
    batch norms any more, so it should not be trained further.
    """
    model = _copied(model)
    for module in _conv_norms(model):
        _fold(module)
    return model


def _copied(model: nnx.Module) -> nnx.Module:
    """Returns a copy of a model: new variables that hold the same arrays."""
    graphdef, state = nnx.split(model)
    return nnx.merge(graphdef, jax.tree.map(lambda a: a, state))


def _conv_norms(model: nnx.Module) -> list[Any]:
    return [module for _, module in nnx.iter_modules(model) if isinstance(module, ConvNorm)]


def _fold(module: Any) -> None:
    """Merges the batch norm of a `ConvNorm` into its convolution, if there is one."""
    layer, norm = module.conv, module.norm
    if norm is None:
        return

    def write(result: np.ndarray, kernel: np.ndarray, *statistics: np.ndarray) -> None:
        np.multiply(kernel, _factor(norm, *statistics), out=result)

    layer.bias = nnx.Param(_folded_bias(layer, norm))
    layer.kernel.set_value(_made(layer.kernel.shape, np.float32, write, layer.kernel, norm.scale, norm.var))
    module.norm = None


def _factor(norm: Any, scale: np.ndarray, var: np.ndarray) -> np.ndarray:
    return scale / np.sqrt(var + np.float32(norm.epsilon))


def _folded_bias(layer: Any, norm: Any) -> Any:
    """Returns the bias of a convolution with the batch norm after it."""

    def write(result: np.ndarray, shift: np.ndarray, mean: np.ndarray, *more: np.ndarray) -> None:
        *bias, scale, var = more
        result[...] = ((bias[0] if bias else np.float32(0)) - mean) * _factor(norm, scale, var) + shift

    bias = [] if layer.bias is None else [layer.bias]
    return _made(norm.scale.shape, np.float32, write, norm.bias, norm.mean, *bias, norm.scale, norm.var)


def _made(shape: tuple[int, ...], dtype: Any, write: Callable, *variables: nnx.Variable) -> Any:
    """Returns a new array that is computed by numpy: with JAX each shape would be a program to compile.

    Args:
      shape, dtype: of the array.
      write: (array to fill, *arrays of the variables) -> None.
      *variables: of the model. If they have only shapes, the result has only a shape, too.
    """
    values = [variable.get_value() for variable in variables]
    if any(isinstance(value, jax.ShapeDtypeStruct) for value in values):
        return jax.ShapeDtypeStruct(shape, dtype)
    # XLA need not copy whole pages. numpy's own pages are huge, and Linux took three times as long to provide them.
    count = math.prod(shape)
    memory = mmap.mmap(-1, max(1, count * np.dtype(dtype).itemsize))
    found = np.frombuffer(memory, dtype, count).reshape(shape)
    write(found, *map(np.asarray, values))
    return jax.device_put(found)


def _assign(result: np.ndarray, array: np.ndarray) -> None:
    result[...] = array


class Winograd(nnx.Module):
    """A 3x3 convolution, stride 1, padding 1, that stores its kernel transformed: (B, H, W, C) -> (B, H, W, C').

    Args:
      conv: the convolution that it replaces.
      norm: the batch norm after it, which it replaces, too; None: there is none.
    """

    def __init__(self, conv: Conv, norm: BatchNorm | None = None) -> None:
        num_in, num_out = conv.kernel.shape[2:]

        def write(result: np.ndarray, kernel: np.ndarray, *statistics: np.ndarray) -> None:
            transform_into(result, kernel, _factor(norm, *statistics) if statistics else None)

        statistics = () if norm is None else (norm.scale, norm.var)
        self.kernel = nnx.Param(_made((4, 4, num_in, num_out), np.float32, write, conv.kernel, *statistics))
        if norm is not None:
            bias = _folded_bias(conv, norm)
        else:
            bias = jax.device_put(np.zeros(num_out, np.float32)) if conv.bias is None else conv.bias.get_value()
        self.bias = nnx.Param(bias)

    def restored(self) -> Conv:
        """Returns the convolution that this one replaces; its kernel is equal up to rounding."""
        kernel = restored(np.asarray(self.kernel.get_value()))
        num_in, num_out = kernel.shape[2:]
        conv = nnx.eval_shape(lambda: Conv(num_in, num_out, 3, rngs=nnx.Rngs(0)))
        conv.kernel, conv.bias = nnx.Param(jnp.asarray(kernel)), nnx.Param(self.bias.get_value())
        return conv

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
        and is_faster(layer.kernel.get_value())
    )
