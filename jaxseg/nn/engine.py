"""The primitive that computes every convolution, so that each platform can have its own form; arrays are (B, H, W, C).

A primitive of our own is lowered last, after vmap, gradients and jit, when JAX knows the platform. On CPUs the form is
chosen by `form_on_cpus`; elsewhere, and in exported programs, it is XLA's.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import batching, mlir

from jaxseg import cpu
from jaxseg.nn import onednn, winograd
from jaxseg.nn.fused import Fusion

Form = Callable[..., jax.Array]


def fused(fusion: Fusion, x: jax.Array, kernel: jax.Array, *more: jax.Array) -> jax.Array:
    """Returns what `fusion.by_xla` returns, by the fastest form of the platform. It has no derivatives.

    Args:
      fusion: what is computed.
      x: (B, H, W, C).
      kernel: (h, w, C, C'), the dtype of `x`.
      *more: the bias (C',) and the residual (B, H', W', C'), as far as they are used; the dtype of `x`.
    """
    divided = None
    if jax.device_count() > 1 and cpu.convolutions().used:
        divided = _divided(fusion, *((tuple(array.shape), array.dtype) for array in (x, kernel, *more)))
    return _primitive.bind(x, kernel, *more, fusion=fusion, divided=divided)


def form_on_cpus(fusion: Fusion, x: Any, kernel: Any) -> Form:
    """Returns the fastest form on CPUs, as `benchmarks/README.md` says.

    In inference, `jaxseg.nn.inference` keeps transformed kernels for Winograd's algorithm, so that they need not come
    here. `jaxseg.nn.convolution` chooses the forms of the gradients.

    Args:
      fusion: what is computed.
      x: has the shape (B, H, W, C) and the dtype of the images.
      kernel: has the shape (h, w, C, C').
    """
    if fusion.keeps_size(kernel.shape) and winograd.is_faster(kernel, x.shape[:3]):
        return functools.partial(_by_winograd, fusion)
    known = all(isinstance(length, int) and length > 0 for length in (*x.shape, *kernel.shape))
    if not known or x.dtype not in (jnp.float32, jnp.bfloat16) or not cpu.convolutions().used:
        return fusion.by_xla
    if x.dtype == jnp.bfloat16 and not cpu.computes_bfloat16():
        return functools.partial(_widened, fusion)
    if fusion.keeps_size(kernel.shape) and kernel.shape[0] > 1 and kernel.shape[2] >= 8 and kernel.shape[3] <= 2:
        return functools.partial(_by_rows, fusion)
    return functools.partial(onednn.convolve, fusion)


def _by_winograd(fusion: Fusion, x: jax.Array, kernel: jax.Array, *more: jax.Array) -> jax.Array:
    return fusion.finish(winograd.at_once(x, kernel, precision=fusion.precision), *more)


def _by_rows(fusion: Fusion, x: jax.Array, kernel: jax.Array, *more: jax.Array) -> jax.Array:
    """Computes every row of the kernel as further output channels, and adds the rows afterwards.

    oneDNN computes at least 16 output channels, so that those of the rows cost nothing.
    """
    rows, columns, channels, outputs = kernel.shape
    side_by_side = kernel.transpose(1, 2, 0, 3).reshape(1, columns, channels, rows * outputs)
    row = Fusion(padding=((0, 0), fusion.padding[1]), precision=fusion.precision)
    found = onednn.convolve(row, x, side_by_side).astype(jnp.float32)
    found = jnp.pad(found, ((0, 0), fusion.padding[0], (0, 0), (0, 0)))
    parts = [found[:, i : i + x.shape[1], :, i * outputs : (i + 1) * outputs] for i in range(rows)]
    return fusion.finish(sum(parts[1:], parts[0]), *(array.astype(jnp.float32) for array in more)).astype(x.dtype)


def _widened(fusion: Fusion, *arrays: jax.Array) -> jax.Array:
    """Computes bfloat16 in float32, for processors without instructions for bfloat16."""
    wide = (array.astype(jnp.float32) for array in arrays)
    return onednn.convolve(fusion, *wide).astype(arrays[0].dtype)


_primitive = Primitive("jaxseg_convolution")


@_primitive.def_impl
def _at_once(*arrays: jax.Array, fusion: Fusion, divided: Any) -> jax.Array:
    del divided  # the compiled function makes it again
    return _compiled(fusion, *arrays)


_compiled = jax.jit(fused, static_argnums=0)


@_primitive.def_abstract_eval
def _shape(x: Any, kernel: Any, *more: Any, fusion: Fusion, divided: Any) -> Any:
    del divided
    shape = fusion.result_shape(x.shape, kernel.shape)
    wanted = [(shape[-1:], "bias")] * fusion.bias + [(shape, "residual")] * fusion.residual
    if x.shape[3] != kernel.shape[2]:
        raise ValueError(f"a kernel {kernel.shape} takes images of {kernel.shape[2]} channels, got {x.shape}")
    for (right, name), array in zip(wanted, more, strict=True):
        if tuple(array.shape) != right:
            raise ValueError(f"the {name} must be {right}, got {tuple(array.shape)}")
    if {array.dtype for array in (kernel, *more)} != {x.dtype}:
        raise ValueError(f"all arrays must be {x.dtype}, got {[array.dtype.name for array in (kernel, *more)]}")
    return x.update(shape=shape, weak_type=False)


def _batched(arrays: Sequence[Any], axes: Sequence[Any], *, fusion: Fusion, divided: Any) -> tuple[jax.Array, int]:
    """The rule of vmap: it makes one larger batch, unless every item has its own kernel or bias."""
    del divided
    shared = 1 + 1 + fusion.bias  # the image, the kernel, the bias
    if any(axis is not None for axis in axes[1:shared]):
        return jax.vmap(fusion.by_xla, tuple(axes))(*arrays), 0
    count = next(array.shape[axis] for array, axis in zip(arrays, axes, strict=True) if axis is not None)

    def joined(array: jax.Array, axis: int | None) -> jax.Array:
        if axis is None:
            array = jnp.broadcast_to(array, (count, *array.shape))
        else:
            array = jnp.moveaxis(array, axis, 0)
        return array.reshape(-1, *array.shape[2:])

    x, *rest = (
        array if 1 <= place < shared else joined(array, axis)
        for place, (array, axis) in enumerate(zip(arrays, axes, strict=True))
    )
    found = fused(fusion, x, *rest)
    return found.reshape(count, found.shape[0] // count, *found.shape[1:]), 0


batching.primitive_batchers[_primitive] = _batched


def _lowered(ctx: Any, *operands: Any, fusion: Fusion, divided: Any) -> Any:
    exported = ctx.module_context.lowering_parameters.for_export
    if exported:
        return mlir.lower_fun(fusion.by_xla, multiple_results=False)(ctx, *operands)
    if divided is not None and cpu.convolutions().used:
        return mlir.lower_fun(jaxpr_as_fun(divided), multiple_results=True)(ctx, *operands)
    return mlir.lower_fun(form_on_cpus(fusion, *ctx.avals_in[:2]), multiple_results=False)(ctx, *operands)


mlir.register_lowering(_primitive, mlir.lower_fun(lambda *a, fusion, **_: fusion.by_xla(*a), multiple_results=False))
mlir.register_lowering(_primitive, _lowered, platform="cpu")


@functools.cache
def _divided(fusion: Fusion, *arrays: tuple[tuple, Any]) -> Any:
    """Returns the CPUs' form as a closed jaxpr that XLA may divide over the images of a batch; None if a size is open.

    XLA would bring all images to every device for a call that it does not know. The jaxpr is a parameter of the
    primitive, not made when it is lowered, because JAX looks for such calls in the parameters beforehand.
    """
    if not all(isinstance(length, int) for shape, _ in arrays for length in shape):
        return None
    shapes = [jax.ShapeDtypeStruct(*array) for array in arrays]

    def form(*given: jax.Array) -> jax.Array:
        return form_on_cpus(fusion, *given[:2])(*given)

    def partition(mesh: Any, given: Any, result: Any) -> tuple:
        images = given[0].sharding.spec[:1] if given[0].sharding.spec else (None,)
        whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*images))
        needed = tuple(split if len(array.shape) == 4 and place != 1 else whole for place, array in enumerate(given))
        return mesh, form, split, needed

    call = custom_partitioning(form)
    more = ["d"] * fusion.bias + ["b p q d"] * fusion.residual
    rule = f"{', '.join(['b h w c', 'i j c d', *more])} -> b p q d"
    call.def_partition(partition=partition, sharding_rule=rule)
    return jax.make_jaxpr(call)(*shapes)
