"""A small SegAE, its inputs, and its evaluation mode."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxseg

SMALL = {"backbone": "resnet18", "width": 4, "hidden": 5, "embedding_size": 6, "num_labels": 3}


def small(**values) -> nnx.Module:
    return jaxseg.create("segae", **SMALL | values)


def inputs(count: int = 2, *, size: tuple[int, int] = (33, 47), embedding_size: int = 6) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    x, embedding = rng.normal(size=(count, *size, 2)), rng.normal(size=(count, embedding_size))
    return jnp.asarray(x, jnp.float32), jnp.asarray(embedding, jnp.float32)


def table(rows: int = 3, size: int = 6) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(rows, size)).astype(np.float32)


def evaluation(model: nnx.Module):
    """Returns (apply, state) of the evaluation mode, for a model with or without batch norms."""
    return jaxseg.functional(nnx.view(model, use_running_average=True, raise_if_not_found=False))


def answer(model: nnx.Module, x, embedding) -> np.ndarray:
    apply, state = evaluation(model)
    return np.asarray(jax.jit(apply)(state, x, embedding))
