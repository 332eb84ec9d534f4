"""Computing parts of a network again in the backward pass, instead of keeping all that they computed on the way.

A network says which of its parts may be (`recomputable`), and a view of it has them do so (`recomputing`). Of each
part only its inputs are kept: slower by about one more forward pass, and several times less memory.
"""

import functools
from collections.abc import Callable

import jax
from flax import nnx

from jaxseg.nn.layers import BatchNorm


def over_devices(model: nnx.Module, axis: str) -> nnx.Module:
    """Returns a view of a model whose batch norms take their statistics over all devices of a `pmap` axis."""
    view = nnx.view(model)
    for _, module in nnx.iter_modules(view):
        if isinstance(module, BatchNorm):
            module.axis = axis
    return view


def recomputable(call: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Decorates `__call__` of a part, such as a residual block; it takes arrays alone and must draw nothing."""

    @functools.wraps(call)
    def computed(self, *inputs: jax.Array) -> jax.Array:
        return nnx.remat(call)(self, *inputs) if getattr(self, "recompute", False) else call(self, *inputs)

    computed.recomputable = True
    return computed


def recomputing(model: nnx.Module) -> nnx.Module:
    """Returns a view of a model whose parts are computed again in the backward pass; values and gradients are the same.

    Raises:
      ValueError: the model has no such part.
    """
    view = nnx.view(model)
    parts = [m for _, m in nnx.iter_modules(view) if getattr(type(m).__call__, "recomputable", False)]
    for part in parts:
        part.recompute = True
    if not parts:
        raise ValueError(f"{type(model).__name__} has no part that can be computed again in the backward pass")
    return view
