"""Tests that bfloat16 products on CPUs equal the float32 convolution of the same numbers, rounded."""

import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.nn.bfloat16 import by_taps, is_faster
from jaxseg.nn.convolution import convolution

PADDING = ((1, 1), (1, 1))


def by_xla(x, kernel):
    numbers, highest = ("NHWC", "HWIO", "NHWC"), jax.lax.Precision.HIGHEST
    padding = ((kernel.shape[0] // 2,) * 2,) * 2
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=numbers, precision=highest)


def ours(x, kernel):
    return convolution(x, kernel, (1, 1), ((kernel.shape[0] // 2,) * 2,) * 2)


def sampled(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal(shape), jnp.bfloat16) for shape in shapes]


def wide(*arrays):
    return [array.astype(jnp.float32) for array in arrays]


def near(found, wanted, relative=2**-8):
    """Asserts equality within one rounding to bfloat16 of every value and the rounding of the sums."""
    assert found.dtype == jnp.bfloat16
    atol = 1e-5 * np.abs(wanted).max()
    np.testing.assert_allclose(found.astype(jnp.float32), wanted, rtol=relative, atol=atol)


@pytest.mark.full
@given(
    seed=st.integers(0, 99),
    sizes=st.sampled_from([(1, 1, 1), (2, 4, 6), (3, 7, 2), (1, 5, 7)]),
    channels=st.sampled_from([(1, 1), (9, 4)]),
)
@settings(max_examples=25, deadline=None)
def test_nine_products_equal_the_convolution(seed, sizes, channels):
    x, kernel = sampled(seed, (*sizes, channels[0]), (3, 3, *channels))
    padded = jnp.pad(
        x, ((0, 0), (2, 2), (2, 2), (0, 0))
    )  # XLA's CPU convolution fails if the padding reaches the size of the kernel
    wanted = by_xla(*wide(padded, kernel))[:, 2:-2, 2:-2]
    near(by_taps(x, kernel), wanted)


@pytest.mark.full
@pytest.mark.parametrize(("size", "channels"), [(3, (128, 160)), (1, (24, 40))])
def test_value_and_gradients_equal_float32_rounded(size, channels):
    x, kernel, change = sampled(0, (2, 6, 5, channels[0]), (size, size, *channels), (2, 6, 5, channels[1]))
    y, pull = jax.vjp(ours, x, kernel)
    wanted, wanted_pull = jax.vjp(by_xla, *wide(x, kernel))
    near(y, wanted)
    for found, right in zip(pull(change), wanted_pull(*wide(change)), strict=True):
        near(found, right, 2**-7)


def test_only_cpus_replace_the_convolution_by_products():
    x, kernel, one = sampled(0, (1, 8, 8, 128), (3, 3, 128, 128), (1, 1, 128, 128))
    text = jax.jit(lambda *given: ours(ours(*given[:2]), given[2])).lower(x, kernel, one).as_text()
    assert len(re.findall(r"stablehlo.dot_general.*-> tensor<64x128xf32>", text)) == 10  # nine products and one
    assert "stablehlo.convolution" not in text
    for platform in ("cuda", "tpu"):
        text = jax.export.export(jax.jit(ours), platforms=[platform])(x, kernel).mlir_module()
        assert "stablehlo.convolution" in text
        assert "dot_general" not in text
        text = jax.export.export(jax.jit(ours), platforms=[platform])(x, one).mlir_module()
        assert "tensor<64x128xf32>" not in text


@pytest.mark.parametrize(
    ("kernel", "dtype", "wanted"),
    [
        ((3, 3, 128, 128), jnp.bfloat16, True),
        ((3, 3, 64, 128), jnp.bfloat16, False),  # too few channels
        ((3, 3, 128, 128), jnp.float32, False),
        ((7, 7, 128, 128), jnp.bfloat16, False),
    ],
)
def test_is_faster_only_for_many_channels_in_bfloat16(kernel, dtype, wanted):
    assert is_faster(jax.ShapeDtypeStruct(kernel, dtype)) is wanted


@pytest.mark.full
def test_symbolic_batches_and_vmap_are_supported():
    x, kernel, one = sampled(1, (3, 6, 6, 128), (3, 3, 128, 128), (1, 1, 128, 16))
    whole = lambda x: ours(ours(x, kernel), one)  # noqa: E731
    (batch,) = jax.export.symbolic_shape("batch")
    program = jax.export.export(jax.jit(whole))(jax.ShapeDtypeStruct((batch, 6, 6, 128), jnp.bfloat16))
    wanted = np.asarray(whole(x).astype(jnp.float32))
    each = jax.vmap(lambda x: whole(x[None])[0])(x)
    for found in (program.call(x), each):
        np.testing.assert_allclose(found.astype(jnp.float32), wanted, rtol=2**-6, atol=0.02 * np.abs(wanted).max())


@pytest.mark.full
def test_gradients_are_the_same_on_several_devices():
    x, kernel, one = sampled(2, (8, 6, 6, 128), (3, 3, 128, 128), (1, 1, 128, 16))
    gradients = jax.jit(jax.grad(lambda x, *k: jnp.square(ours(ours(x, k[0]), k[1])).sum(), (0, 1, 2)))
    mesh = jax.sharding.Mesh(np.array(jax.devices()), "data")
    split = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    for found, wanted in zip(gradients(split, kernel, one), gradients(x, kernel, one), strict=True):
        wanted = np.asarray(wanted, np.float32)
        np.testing.assert_allclose(np.asarray(found, np.float32), wanted, atol=0.01 * np.abs(wanted).max())


def test_gradients_can_be_exported_for_all_platforms_at_once():
    kernel, one = sampled(3, (3, 3, 128, 128), (1, 1, 128, 16))
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, 6, 6, 128), jnp.bfloat16)
    gradient = jax.jit(jax.grad(lambda x: ours(ours(x, kernel), one).sum()))
    program = jax.export.export(gradient, platforms=["cpu", "cuda", "tpu"])(images)
    (x,) = sampled(4, (2, 6, 6, 128))
    np.testing.assert_array_equal(program.call(x), gradient(x))
