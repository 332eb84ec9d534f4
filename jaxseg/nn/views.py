"""Views of a model for training: batch statistics over several devices, and recomputation in the backward pass.

Recomputation keeps only the inputs of a part of the network and computes the part again in the backward pass. It costs
about one more forward pass and saves several times the memory. A network marks the parts that allow it with
`recomputable`; a view made by `recomputing` turns it on.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from jaxseg.nn.layers import BatchNorm


def over_devices(model: nnx.Module, axis: str) -> nnx.Module:
    """Returns a view of a model whose batch norms compute their statistics over all devices of a `pmap` axis.

    Args:
      model: any model; it shares its variables with the view.
      axis: name of the `pmap` axis.
    """
    view = nnx.view(model)
    for _, module in nnx.iter_modules(view):
        if isinstance(module, BatchNorm):
            module.axis = axis
    return view


def recomputable(call: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Decorates the `__call__` of a part of a network, such as a residual block, that may be recomputed.

    Args:
      call: the method. It must take only arrays and must not use random numbers.
    """

    @functools.wraps(call)
    def computed(self: nnx.Module, *inputs: jax.Array) -> jax.Array:
        return nnx.remat(call)(self, *inputs) if getattr(self, "recompute", False) else call(self, *inputs)

    vars(computed)["recomputable"] = True
    return computed


def recomputing(model: nnx.Module) -> nnx.Module:
    """Returns a view of a model that recomputes its `recomputable` parts in the backward pass.

    Values and gradients stay the same.

    Raises:
      ValueError: the model has no such part.
    """
    view = nnx.view(model)
    parts: list[Any] = [m for _, m in nnx.iter_modules(view) if getattr(type(m).__call__, "recomputable", False)]
    for part in parts:
        part.recompute = True
    if not parts:
        raise ValueError(f"{type(model).__name__} has no part that can be computed again in the backward pass")
    return view
