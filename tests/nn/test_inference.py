"""Models made ready for inference answer as in evaluation mode, with other arithmetic on CPUs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxseg
from jaxseg.nn import inference
from jaxseg.nn.inference import Runner, Winograd, fold_batch_norm, for_inference
from jaxseg.nn.layers import BatchNorm, Conv, ConvNorm


@pytest.fixture(scope="module")
def model() -> nnx.Module:
    found = jaxseg.create("cxas", num_classes=2, backbone="resnet18", width=64)
    return nnx.view(found, use_running_average=True, deterministic=True)


def of_kind(model, kind):
    return [module for _, module in nnx.iter_modules(model) if isinstance(module, kind)]


@pytest.mark.full
@pytest.mark.optimised
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


@pytest.mark.full
@pytest.mark.optimised
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_bfloat16_keeps_rounded_kernels_and_answers_alike(platform):
    model = jaxseg.create("cxas", num_classes=2, backbone="resnet18", width=64, dtype="bfloat16")
    model = nnx.view(model, use_running_average=True, deterministic=True)
    ready = for_inference(model, platform)
    kept = {layer.conv.kernel[...].dtype for layer in of_kind(ready, ConvNorm)}
    assert kept == {jnp.dtype(jnp.bfloat16)}
    assert {layer.kernel[...].dtype for layer in of_kind(model, Conv)} == {jnp.dtype(jnp.float32)}
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 64, 64, 3)), jnp.float32)
    np.testing.assert_array_equal(ready(x), fold_batch_norm(model)(x))
    wanted = np.asarray(model(x), np.float32)
    np.testing.assert_allclose(np.asarray(ready(x), np.float32), wanted, atol=0.05 * np.abs(wanted).max())


class Shift(nnx.Module):
    """Adds a parameter."""

    def __init__(self):
        self.amount = nnx.Param(jnp.float32(1))


def shifted(model, x, factor):
    return x * factor[:, None] + model.amount[...], jnp.sum(x)[None]


def shifted_by_shared(model, offset, x):
    return x + offset + model.amount[...]


def three_sums(model, offset, x, other):
    return x + other + offset + model.amount[...]


def test_runner_fills_short_batches_and_cuts_the_answer():
    runner = Runner(Shift(), shifted, batch_size=4)
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    found, total = runner(x, np.full(3, 2, np.float32))
    np.testing.assert_array_equal(found, 2 * x + 1)
    np.testing.assert_array_equal(total, [15])


def test_runner_spreads_batches_over_devices():
    devices = jax.devices()[:4]
    runner = Runner(Shift(), shifted, devices=devices, default=5)
    assert runner.batch_size == 8
    x = np.arange(10, dtype=np.float32).reshape(5, 2)
    np.testing.assert_array_equal(runner(x, np.ones(5, np.float32))[0], x + 1)
    assert {shard.device for shard in runner.start(x, np.ones(5, np.float32))[0].addressable_shards} == set(devices)


def test_runner_takes_shared_arguments_and_other_batch_sizes():
    runner = Runner(Shift(), shifted_by_shared, devices=jax.devices()[:2])
    x = np.zeros((5, 2), np.float32)
    found = runner(x, shared=(jnp.full((1, 2), 3.0),), batch_size=6)
    np.testing.assert_array_equal(found, np.full((5, 2), 4))


def test_runner_applies_another_function_to_arrays_on_the_devices():
    runner = Runner(Shift(), shifted, devices=jax.devices()[:2], batch_size=4)
    x, ones = np.arange(6, dtype=np.float32).reshape(3, 2), np.ones(3, np.float32)
    runner.compile(jax.ShapeDtypeStruct((2,), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32))
    there, _ = runner.start(x, ones)
    found = inference.fetched(runner.start(x, there, shared=(jnp.full((1, 2), 3.0),), function=three_sums), 3)
    np.testing.assert_array_equal(found, x + (x + 1) + 3 + 1)


def test_runner_compiles_ahead_and_once_for_equal_models():
    runner = Runner(Shift(), shifted, batch_size=2)
    runner.compile(jax.ShapeDtypeStruct((2,), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32))
    assert runner.compile_seconds > 0
    x, ones = np.ones((2, 2), np.float32), np.ones(2, np.float32)
    np.testing.assert_array_equal(runner(x, ones)[0], x + 1)
    Runner(Shift(), shifted, batch_size=2)(x, ones)
    before = inference._run._cache_size()
    Runner(Shift(), shifted, batch_size=2)(x[:1], ones[:1])
    assert inference._run._cache_size() == before


@pytest.mark.parametrize(("batch_size", "devices"), [(0, 1), (3, 2)])
def test_runner_refuses_batches_that_cannot_be_split(batch_size, devices):
    with pytest.raises(ValueError, match=f"batch size {batch_size} cannot be split over {devices} devices"):
        Runner(Shift(), shifted, batch_size=batch_size, devices=jax.devices()[:devices])


@pytest.mark.parametrize("count", [0, 3])
def test_runner_refuses_more_or_fewer_items_than_a_batch_holds(count):
    with pytest.raises(ValueError, match=f"between 1 and 2 items fit in a batch, got {count}"):
        Runner(Shift(), shifted, batch_size=2)(np.zeros((count, 2), np.float32), np.zeros(count, np.float32))
