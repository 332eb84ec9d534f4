"""A small autoencoder, its masks and its evaluation mode."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxseg
from jaxseg.post_dae.model import DAE, DAEConfig

SMALL = {
    "image_size": (32, 48),
    "features": (4, 6),
    "decoder_features": (5, 5),
    "intermediate": (7, 9),
    "strides": (2, 2),
}
WORKING = {"decoder_activation": "relu", "norm": "batch"}


def original_config(kit, name: str) -> DAEConfig:
    """Returns the configuration with the original's constructor arguments; strides are 2 unless given."""
    values = {key: tuple(value) for key, value in kit.manifest(name)["constructor"]["kwargs"].items()}
    return DAEConfig(**{"strides": (2,) * len(values.get("features", DAEConfig.features))} | values)


def small(**values) -> DAE:
    return DAE(DAEConfig(**SMALL | values), rngs=nnx.Rngs(0))


def abstract(cfg: DAEConfig) -> DAE:
    return nnx.eval_shape(lambda: DAE(cfg, rngs=nnx.Rngs(0)))


def evaluation(model: DAE):
    """Returns (apply, state) of the evaluation mode, for a model with or without batch norms."""
    return jaxseg.functional(nnx.view(model, use_running_average=True, raise_if_not_found=False))


def answer(model: DAE, x: jax.Array) -> jax.Array:
    apply, state = evaluation(model)
    return jax.jit(apply)(state, x)


def masks(cfg: DAEConfig, count: int = 2) -> jax.Array:
    drawn = np.random.default_rng(0).random((count, *cfg.image_size, cfg.in_channels)) > 0.6
    return jnp.asarray(drawn, jnp.float32)
