"""Fills a model with the tensors of a PyTorch checkpoint. One table, LEAVES, has the rules of every layer type."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxseg.files import printable
from jaxseg.nn.layers import BatchNorm, Conv, ConvTranspose, EmbeddingTable, GroupNorm, PReLU

M = TypeVar("M", bound=nnx.Module)

# layer type -> our leaf -> (their leaf, transposition from their axes to ours)
LEAVES: dict[type, dict[str, tuple[str, tuple[int, ...] | None]]] = {
    Conv: {"kernel": ("weight", (2, 3, 1, 0)), "bias": ("bias", None)},
    ConvTranspose: {"kernel": ("weight", (2, 3, 1, 0)), "bias": ("bias", None)},
    nnx.Linear: {"kernel": ("weight", (1, 0)), "bias": ("bias", None)},
    BatchNorm: {
        "scale": ("weight", None),
        "bias": ("bias", None),
        "mean": ("running_mean", None),
        "var": ("running_var", None),
    },
    GroupNorm: {"scale": ("weight", None), "bias": ("bias", None)},
    PReLU: {"slope": ("weight", None)},
}


def fill(model: M, tensors: Mapping[str, np.ndarray], names: Mapping[str, str], *, ignored: Iterable[str] = ()) -> M:
    """Returns `model` with every array taken from `tensors`, except each `EmbeddingTable`, which becomes zeros.

    Args:
      model: any module; preferably an abstract one (`nnx.eval_shape`), whose arrays are not allocated twice.
      tensors: names in the checkpoint -> arrays in PyTorch's layout. A prefix that a wrapper put before all names
        (`module.`, a Lightning attribute) is detected and removed.
      names: our module paths -> their module names (`torch_names` of the model class).
      ignored: their tensors that the model does not use (`torch_unused`); `num_batches_tracked` is always ignored.

    Raises:
      ValueError: tensors are missing, left over or have another shape; the message lists all of them.
    """
    prefix = wrapper_prefix(tensors, names.values())
    unused = {name for name in tensors if not name.endswith("num_batches_tracked")} - {prefix + n for n in ignored}
    problems = []
    for path, module in nnx.iter_modules(model):
        for leaf, (theirs, axes) in LEAVES.get(type(module), {}).items():
            variable = getattr(module, leaf)
            if variable is None:
                continue
            ours = ".".join(map(str, path))
            source = f"{prefix}{names.get(ours, '?')}.{theirs}"
            if source not in tensors:
                problems.append(f"missing     {source}  for {ours}.{leaf}")
                continue
            unused.discard(source)
            array = tensors[source] if axes is None else _transpose(tensors[source], axes)
            if array.shape != variable.shape:
                wanted = variable.shape if axes is None else tuple(np.array(variable.shape)[np.argsort(axes)].tolist())
                problems.append(f"mis-shaped  {source}: {tensors[source].shape}, the model needs {wanted}")
            else:
                variable.set_value(jnp.array(array, variable.dtype))  # a copy: the file may be mapped
    problems += [f"unexpected  {printable(name)}" for name in tensors if name in unused]
    if problems:
        raise ValueError(f"{len(problems)} problems filling the model from the checkpoint:\n" + "\n".join(problems))
    for _, table in nnx.to_flat_state(nnx.state(model, EmbeddingTable)):
        if isinstance(table.get_value(), jax.ShapeDtypeStruct):
            table.set_value(jnp.zeros(table.shape, table.dtype))
    _refuse_unfilled(model)
    return model


def wrapper_prefix(tensors: Iterable[str], modules: Iterable[str]) -> str:
    """Returns the prefix of the expected module names in a checkpoint, such as "module."; "" if there is none."""
    tensors = set(tensors)
    modules = list(modules)
    if not modules:
        return ""
    end = f"{modules[0]}.weight"
    candidates = {name[: -len(end)] for name in tensors if name.endswith(end)}
    candidates = {c for c in candidates if not c or c.endswith(".")} | {""}
    matches = {c: sum(f"{c}{module}.weight" in tensors for module in modules) for c in candidates}
    return max(sorted(matches), key=lambda candidate: matches[candidate])


def refuse_not_finite(model: nnx.Module, source: Path) -> None:
    """Raises ValueError if a parameter or statistic is NaN or infinite; the masks would be empty without an error."""
    for path, leaf in nnx.to_flat_state(nnx.state(model)):
        if not np.isfinite(np.asarray(leaf.get_value())).all():
            name = ".".join(map(str, path))
            raise ValueError(f"{source}: {name} has values that are not finite; the weights are damaged or diverged")


def _transpose(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return array.transpose(axes) if array.ndim == len(axes) else array


def _refuse_unfilled(model: nnx.Module) -> None:
    leaves = nnx.to_flat_state(nnx.state(model))
    paths = [".".join(map(str, path)) for path, leaf in leaves if isinstance(leaf.get_value(), jax.ShapeDtypeStruct)]
    if paths:
        raise ValueError(f"no rule fills {', '.join(paths)}; add the layer type to jaxseg.weights.fill.LEAVES")
