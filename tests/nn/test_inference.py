"""Models made ready for inference answer as in evaluation mode, with other arithmetic on CPUs."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxseg
from jaxseg.nn.inference import Winograd, fold_batch_norm, for_inference
from jaxseg.nn.layers import BatchNorm, ConvNorm


@pytest.fixture(scope="module")
def model() -> nnx.Module:
    found = jaxseg.create("cxas", num_classes=2, backbone="resnet18", width=64)
    return nnx.view(found, use_running_average=True, deterministic=True)


def of_kind(model, kind):
    return [module for _, module in nnx.iter_modules(model) if isinstance(module, kind)]


def test_on_cpus_wide_convolutions_are_winograds(model):
    ready = for_inference(model, "cpu")
    assert of_kind(ready, Winograd)
    assert not of_kind(ready, BatchNorm)
    assert not of_kind(model, Winograd)
    x = np.random.default_rng(0).standard_normal((1, 50, 70, 3)).astype(np.float32)
    wanted = np.asarray(model(jnp.asarray(x)))
    np.testing.assert_allclose(ready(jnp.asarray(x)), wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_elsewhere_there_are_none(model, platform):
    ready = for_inference(model, platform)
    assert not of_kind(ready, Winograd)
    assert not of_kind(ready, BatchNorm)


def test_strides_and_bfloat16_keep_their_kernels():
    model = jaxseg.create("cxas", num_classes=2, backbone="resnet18", width=64, dtype="bfloat16")
    assert not of_kind(for_inference(model, "cpu"), Winograd)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_bfloat16_keeps_rounded_kernels_and_answers_alike(platform):
    model = jaxseg.create("cxas", num_classes=2, backbone="resnet18", width=64, dtype="bfloat16")
    model = nnx.view(model, use_running_average=True, deterministic=True)
    ready = for_inference(model, platform)
    kept = {layer.conv.kernel[...].dtype for layer in of_kind(ready, ConvNorm)}
    assert kept == {jnp.dtype(jnp.bfloat16)}
    assert {layer.kernel[...].dtype for layer in of_kind(model, nnx.Conv)} == {jnp.dtype(jnp.float32)}
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 64, 64, 3)), jnp.float32)
    np.testing.assert_array_equal(ready(x), fold_batch_norm(model)(x))
    wanted = np.asarray(model(x), np.float32)
    np.testing.assert_allclose(np.asarray(ready(x), np.float32), wanted, atol=0.05 * np.abs(wanted).max())
