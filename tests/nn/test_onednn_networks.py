"""Whole networks under oneDNN: the originals' numbers in float32, and bfloat16 near float32.

The other tests of networks keep compiled programs, which excludes oneDNN; `tests/training/test_golden_steps.py` has the
training steps.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxseg import cpu
from jaxseg.anatomy.unet import UNet, UNetConfig
from jaxseg.annotators.cmvae import CMVAE, CMVAEConfig
from jaxseg.annotators.prob_unet import ProbUNet, ProbUNetConfig
from jaxseg.nn.inference import for_inference
from jaxseg.post_dae.model import DAE, DAEConfig
from jaxseg.segae.model import SegAE, SegAEConfig
from jaxseg.weights.fill import fill

CALL = "__onednn$convolution"

pytestmark = [pytest.mark.full, pytest.mark.usefixtures("onednn")]


class Network(NamedTuple):
    """A golden of an original, the same network here, its inputs, and what it computes by the golden's names."""

    golden: str
    config: object
    model_class: type
    inputs: tuple[str, ...]
    compute: Callable
    bfloat16: float  # largest difference from float32, relative to the largest value


def unet(model, x):
    maps, logits = model.features(x), model(x)
    return {"feats_last_map": maps["f5"], "up4": maps["up4"], "logits": logits}


def segae(model, x, embedding):
    maps = model.features(x, embedding)
    return {"layer4": maps["f5"], "pooled": maps["pooled"], "out": maps["dice"]}


def dae(model, x):
    return {"encode_4": model.features(x)["encode_4"], "out": model(x)}


def cmvae(model, x, noise):
    found = model.outputs(x, noise)
    return {"logits": found["logits"], "mu": found["mean"]}


def prob_unet(model, x, z):
    features = model.features(x)
    return {"unet_features": features, "fcomb": model.combine(features, z), "prior_mu": model.prior(x)[0]}


NETWORKS = [
    Network("cxas_unet_resnet50/forward_1x3x101x76", UNetConfig(num_classes=159), UNet, ("x",), unet, 0.1),
    Network("segae_resnet50/forward_2x2x128x128", SegAEConfig(), SegAE, ("x", "embedding"), segae, 0.1),
    Network("dae_512/forward", DAEConfig(strides=(2,) * 5), DAE, ("x",), dae, 0.1),
    Network("scm_lidc_in/forward", CMVAEConfig(), CMVAE, ("x", "eps"), cmvae, 0.1),
    Network("punet_lidc/forward", ProbUNetConfig(), ProbUNet, ("x", "z"), prob_unet, 0.1),
]


def channels_first(value) -> np.ndarray:
    array = np.asarray(value, np.float32)
    return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array


def computed(kit, network: Network, dtype: str) -> dict[str, np.ndarray]:
    """Returns the results of a network that is ready for inference, in the axes of the golden; oneDNN has convolved."""
    name = network.golden.split("/")[0]
    config = dataclasses.replace(network.config, dtype=dtype)
    model = nnx.eval_shape(lambda: network.model_class(config, rngs=nnx.Rngs(0)))
    ignored = kit.manifest(name).get("unused", ())
    model = fill(model, kit.weights(name), network.model_class.torch_names(config), ignored=ignored)
    model = nnx.view(model, use_running_average=True, deterministic=True, raise_if_not_found=False)
    graphdef, state = nnx.split(for_inference(model, "cpu"))
    given = [kit.input(network.golden, key) for key in network.inputs]
    given = [jnp.asarray(array.transpose(0, 2, 3, 1) if array.ndim == 4 else array) for array in given]
    program = jax.jit(lambda state, *given: network.compute(nnx.merge(graphdef, state), *given)).lower(state, *given)
    assert CALL in program.as_text()
    return {key: channels_first(value) for key, value in program.compile()(state, *given).items()}


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.golden.split("/")[0])
def test_networks_equal_the_originals_and_bfloat16_is_near(kit, network):
    exact = computed(kit, network, "float32")
    for key, value in exact.items():
        kit.check(network.golden, key, value)
    if not cpu.computes_bfloat16():
        return  # bfloat16 is float32 then, rounded between the layers
    rough = computed(kit, network, "bfloat16")
    differences = {key: np.abs(value - exact[key]).max() / np.abs(exact[key]).max() for key, value in rough.items()}
    assert 0 < max(differences.values()) < network.bfloat16, differences
