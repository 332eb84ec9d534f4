"""Golden training steps: gradients, and parameters in the layout of PyTorch's state dict."""

import jax
import numpy as np
import optax
from flax import nnx

from jaxseg.weights.fill import LEAVES


def keep_gradients() -> optax.GradientTransformation:
    """Returns an optax transformation that stores the gradients in its state."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(np.zeros_like, params), lambda updates, state, params=None: (updates, updates)
    )


def in_torch_layout(model: nnx.Module, names: dict[str, str], *trees: dict) -> dict[str, np.ndarray]:
    """Returns arrays of a state by their PyTorch names, in PyTorch's layout."""
    found = {}
    for path, module in nnx.iter_modules(model):
        for leaf, (theirs, axes) in LEAVES.get(type(module), {}).items():
            for tree in trees:
                for key in (*path, leaf):
                    tree = tree.get(key) if isinstance(tree, dict) else None
                if tree is not None:
                    array = np.asarray(tree)
                    array = array if axes is None else array.transpose(np.argsort(axes))
                    found[f"{names['.'.join(map(str, path))]}.{theirs}"] = array
    return found


def moved(now: dict, start: dict, order: list[str]) -> np.ndarray:
    """Returns the golden's four columns in float64: sum and norm of the array, and of its change since the start."""
    rows = []
    for name in order:
        x, change = now[name].astype(np.float64), now[name].astype(np.float64) - start[name]
        rows.append([x.sum(), np.sqrt((x**2).sum()), change.sum(), np.sqrt((change**2).sum())])
    return np.array(rows)


def first_four(now: dict, order: list[str]) -> np.ndarray:
    return np.concatenate([now[name].ravel()[:4] for name in order])
