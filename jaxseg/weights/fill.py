"""Fills a model with the tensors of a PyTorch checkpoint, and back. One table, LEAVES, has the rules of all layers."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxseg.files import printable
from jaxseg.nn.layers import BatchNorm, Conv, ConvTranspose, EmbeddingTable, GroupNorm, PReLU

M = TypeVar("M", bound=nnx.Module)

UNKNOWN = "?"  # in place of the name of a layer that PyTorch's checkpoints do not have

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


def fill(
    model: M,
    tensors: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    *,
    ignored: Iterable[str] = (),
    views: bool = False,
) -> M:
    """Returns `model` with every array taken from `tensors`, except each `EmbeddingTable`, which becomes zeros.

    Nothing is copied before all names and shapes are known to fit.

    Args:
      model: any module; preferably an abstract one (`nnx.eval_shape`), whose arrays are not allocated twice.
      tensors: names in the checkpoint -> arrays in PyTorch's layout. A prefix that a wrapper put before all names
        (`module.`, a Lightning attribute) is detected and removed.
      names: our module paths -> their module names (`torch_names` of the model class).
      ignored: their tensors that the model does not use (`torch_unused`); `num_batches_tracked` is always ignored.
      views: whether the model gets numpy's views of the tensors instead of copies.

    Raises:
      ValueError: tensors are missing, left over or have another shape; the message lists all of them.
    """
    refuse_misfits(model, tensors, names, ignored=ignored)
    prefix = wrapper_prefix(tensors, names.values())
    for variable, _, theirs, axes in _leaves(model, names):
        array = tensors[prefix + theirs]
        array = array if axes is None else array.transpose(axes)
        as_wanted = array.astype(variable.dtype, copy=False)
        variable.set_value(as_wanted if views else jnp.array(as_wanted))  # a copy, since the file may be mapped
    for _, table in nnx.to_flat_state(nnx.state(model, EmbeddingTable)):
        if isinstance(table.get_value(), jax.ShapeDtypeStruct):
            table.set_value(jnp.zeros(table.shape, table.dtype))
    _refuse_unfilled(model)
    return model


def refuse_misfits(
    model: nnx.Module, tensors: Mapping[str, np.ndarray], names: Mapping[str, str], *, ignored: Iterable[str] = ()
) -> None:
    """Raises the ValueError of `fill`; the arguments are those of `fill`."""
    if problems := misfits(model, tensors, names, ignored=ignored):
        raise ValueError(f"{len(problems)} problems filling the model from the checkpoint:\n" + "\n".join(problems))


def misfits(
    model: nnx.Module, tensors: Mapping[str, np.ndarray], names: Mapping[str, str], *, ignored: Iterable[str] = ()
) -> list[str]:
    """Returns what prevents `fill`, with one line for each tensor; the arguments are those of `fill`."""
    prefix = wrapper_prefix(tensors, names.values())
    unused = {name for name in tensors if not name.endswith("num_batches_tracked")} - {prefix + n for n in ignored}
    problems = []
    for variable, ours, theirs, axes in _leaves(model, names):
        source = prefix + theirs
        if source not in tensors:
            problems.append(f"missing     {source}  for {ours}")
            continue
        unused.discard(source)
        array = tensors[source]
        wanted = variable.shape if axes is None else tuple(variable.shape[i] for i in np.argsort(axes))
        if array.shape != wanted:
            problems.append(f"mis-shaped  {source}: {array.shape}, the model needs {wanted}")
        elif not jnp.issubdtype(array.dtype, jnp.floating):
            problems.append(f"not decimal {source}: {array.dtype}, the model needs decimals")
    return problems + [f"unexpected  {printable(name)}" for name in tensors if name in unused]


def torch_tensors(model: nnx.Module, names: Mapping[str, str]) -> dict[str, np.ndarray] | None:
    """Returns the arrays of a model under PyTorch's names and in its layout, so that `fill` gives the model again.

    Each `EmbeddingTable`, which PyTorch's checkpoints do not have, keeps its own path as its name.

    Args:
      model: the model.
      names: as in `fill`.

    Returns:
      Name -> array; None if some layer of the model has no name in PyTorch.
    """
    found = {}
    for variable, _, theirs, axes in _leaves(model, names):
        array = np.asarray(variable.get_value())
        found[theirs] = array if axes is None else array.transpose(np.argsort(axes))
    tables = {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(nnx.state(model, EmbeddingTable))}
    complete = len(found) + len(tables) == len(nnx.to_flat_state(nnx.state(model)))
    if not complete or any(theirs.startswith(f"{UNKNOWN}.") for theirs in found):
        return None
    return found | {name: np.asarray(leaf.get_value()) for name, leaf in tables.items()}


def _leaves(model: nnx.Module, names: Mapping[str, str]) -> Iterator[tuple[Any, str, str, tuple[int, ...] | None]]:
    """Yields each array that a checkpoint has: variable, our path, their name, and the transposition to our axes."""
    for path, module in nnx.iter_modules(model):
        for leaf, (theirs, axes) in LEAVES.get(type(module), {}).items():
            variable = getattr(module, leaf)
            if variable is not None:
                ours = ".".join(map(str, path))
                yield variable, f"{ours}.{leaf}", f"{names.get(ours, UNKNOWN)}.{theirs}", axes


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


def _refuse_unfilled(model: nnx.Module) -> None:
    leaves = nnx.to_flat_state(nnx.state(model))
    paths = [".".join(map(str, path)) for path, leaf in leaves if isinstance(leaf.get_value(), jax.ShapeDtypeStruct)]
    if paths:
        raise ValueError(f"no rule fills {', '.join(paths)}; add the layer type to jaxseg.weights.fill.LEAVES")
