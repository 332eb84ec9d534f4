"""A tiny network for tests of registration: it distinguishes orientations, and its masks are neither empty nor full."""

import dataclasses

import jax
import numpy as np
from flax import nnx

import jaxseg
from jaxseg.datasets import phantom
from jaxseg.images.preprocess import cxas
from jaxseg.images.read import from_array

CLASSES = ("vertebrae T4", "vertebrae T10", "heart", "lung", "right hemidiaphragm")
SIZE = (64, 64)
SEED = 14  # one of the few seeds whose random features distinguish the eight orientations of phantom 0


def vertebra_model(**shifts: float):
    """Returns the network; each mask covers half of phantom 0.

    The fixture `shallow` must be active, because the seed was chosen for the shallow ResNet.

    Args:
      **shifts: T4 or T10 -> number that is added to its logits.
    """
    model = jaxseg.create("cxas", seed=SEED, class_names=CLASSES, backbone="resnet18", width=4)
    model.card = dataclasses.replace(model.card, input_size=SIZE, params_sha256="b" * 64)
    graphdef, state = nnx.split(nnx.view(model, use_running_average=True, deterministic=True))
    x = cxas(from_array(phantom.draw(0, 64)[0]), SIZE)[None]
    logits = np.asarray(jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, x))
    bias = model.classify.bias[...] - np.median(logits, axis=(0, 1, 2))
    for name, shift in shifts.items():
        bias = bias.at[CLASSES.index(f"vertebrae {name}")].add(np.float32(shift))
    model.classify.bias.set_value(bias)
    return model
