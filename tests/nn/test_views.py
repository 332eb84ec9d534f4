"""Tests that recomputation in the backward pass keeps much less memory and changes nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxseg.anatomy.unet import UNet, UNetConfig
from jaxseg.nn import resnet
from jaxseg.nn.layers import BatchNorm, Conv
from jaxseg.nn.views import over_devices, recomputing
from jaxseg.post_dae.model import DAE, DAEConfig


def unet() -> nnx.Module:
    return UNet(UNetConfig("resnet50", num_classes=2, width=4), rngs=nnx.Rngs(0))


def shallow() -> nnx.Module:
    """Returns the same network on a ResNet of few blocks, one of which has an identity shortcut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.VARIANTS, "resnet50", ((2, 1, 1, 1), True))
        return unet()


def dae() -> nnx.Module:
    widths = {"features": (4, 8, 8), "decoder_features": (8, 8, 8), "intermediate": (16, 16), "strides": (2, 2, 2)}
    return DAE(DAEConfig(in_channels=3, image_size=(32, 32), norm="batch", **widths), rngs=nnx.Rngs(0))


IMAGES = np.random.default_rng(0).standard_normal((4, 32, 32, 3)).astype(np.float32)


def objective(model: nnx.Module):
    """Returns a function (parameters, statistics, images) -> (scalar, new statistics), and its first two arguments."""
    graphdef, params, stats = nnx.split(model, nnx.Param, ...)

    def run(params, stats, images):
        own = jax.tree.map(lambda a: a, (params, stats))  # variables that belong to this trace
        merged = nnx.merge(graphdef, *own)
        return jnp.square(merged(images)).mean(), nnx.state(merged, nnx.BatchStat)

    return run, params, stats


def kept_bytes(model: nnx.Module) -> int:
    """Returns the number of bytes kept from the forward for the backward pass, without the model's own arrays."""
    run, params, stats = objective(model)
    backward = jax.eval_shape(lambda p: jax.vjp(lambda p: run(p, stats, IMAGES)[0], p)[1], params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward)) - sum(
        leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((params, stats))
    )


def close(found, wanted):
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "factor"), [(unet, 3.0), (dae, 2.0)])
@pytest.mark.parametrize("graph_mode", [True, pytest.param(False, marks=pytest.mark.full)], ids=["graph", "tree"])
def test_recomputation_keeps_much_less_for_the_backward_pass(make, factor, graph_mode):
    with nnx.set_graph_mode(graph_mode):
        model = make()
        assert kept_bytes(model) > factor * kept_bytes(recomputing(model)) > 0


@pytest.mark.full
@pytest.mark.parametrize("make", [pytest.param(shallow, id="unet"), dae])
@pytest.mark.parametrize("graph_mode", [True, False], ids=["graph", "tree"])
def test_recomputation_changes_neither_values_nor_gradients_nor_statistics(make, graph_mode):
    with nnx.set_graph_mode(graph_mode):
        results = []
        for model in (make(), recomputing(make())):
            run, params, stats = objective(model)
            (value, after), gradients = jax.jit(jax.value_and_grad(run, has_aux=True))(params, stats, IMAGES)
            results.append((value, gradients, after))
    for found, wanted in zip(results[1], results[0], strict=True):
        close(found, wanted)
    moved = zip(jax.tree.leaves(results[1][2]), jax.tree.leaves(nnx.state(make(), nnx.BatchStat)), strict=True)
    assert all((np.asarray(a) != np.asarray(b)).any() for a, b in moved)


@pytest.mark.full
def test_recomputation_changes_nothing_under_pmap_over_several_devices():
    shares = IMAGES.reshape(2, 2, *IMAGES.shape[1:])
    results = []
    for model in (over_devices(dae(), "i"), recomputing(over_devices(dae(), "i"))):
        run, params, stats = objective(model)
        step = jax.pmap(jax.value_and_grad(run, has_aux=True), "i", in_axes=(None, None, 0), devices=jax.devices()[:2])
        results.append(jax.tree.map(np.asarray, step(params, stats, shares)))
    for found, wanted in zip(jax.tree.leaves(results[1]), jax.tree.leaves(results[0]), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * max(np.abs(wanted).max(), 1))


def test_the_given_model_is_not_changed():
    model = unet()
    view = recomputing(model)
    assert any(getattr(module, "recompute", False) for _, module in nnx.iter_modules(view))
    assert not any(getattr(module, "recompute", False) for _, module in nnx.iter_modules(model))


@pytest.mark.parametrize("model", [BatchNorm(2), Conv(3, 2, 3, rngs=nnx.Rngs(0))])
def test_a_model_without_recomputable_parts_is_refused(model):
    with pytest.raises(ValueError, match="has no part that can be computed again"):
        recomputing(model)
