"""Tests that Winograd's convolution equals XLA's and is used only on CPUs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.nn.convolution import convolution
from jaxseg.nn.winograd import is_faster, transform_into, transformed, winograd

HIGHEST = jax.lax.Precision.HIGHEST
PADDING = ((1, 1), (1, 1))


def by_xla(x, kernel):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), PADDING, dimension_numbers=dimensions, precision=HIGHEST)


def sampled(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


@pytest.mark.full
@given(
    seed=st.integers(0, 99),
    sizes=st.sampled_from([(1, 1, 1), (2, 4, 8), (3, 7, 2), (1, 5, 9)]),
    channels=st.sampled_from([(1, 1), (5, 3)]),
)
@settings(max_examples=25, deadline=None)
def test_winograd_equals_the_convolution_at_even_and_odd_sizes(seed, sizes, channels):
    """The reference is numpy's: XLA's CPU convolution fails if an image is as small as its padding."""
    x, kernel = sampled(seed, (*sizes, channels[0]), (3, 3, *channels))
    padded = np.pad(x, ((0, 0), *PADDING, (0, 0)))
    wanted = sum(
        np.einsum("bhwc,cd->bhwd", padded[:, i : i + sizes[1], j : j + sizes[2]], kernel[i, j])
        for i in range(3)
        for j in range(3)
    )
    np.testing.assert_allclose(winograd(x, transformed(kernel), precision=HIGHEST), wanted, atol=3e-5)


def test_kernels_that_numpy_transforms_are_the_same_bit_by_bit():
    """Kernels that are kept, and those that are transformed at every call, must not differ."""
    kernel, factor = sampled(0, (3, 3, 90, 200), (200,))
    result = np.empty((4, 4, 90, 200), np.float32)
    transform_into(result, kernel)
    np.testing.assert_array_equal(result, jax.jit(transformed)(kernel))
    transform_into(result, kernel, factor)
    np.testing.assert_array_equal(result, jax.jit(transformed)(kernel * factor))


@pytest.mark.slow
def test_wide_convolutions_and_their_gradients_equal_xlas_within_float32():
    x, kernel = sampled(0, (2, 17, 16, 1024), (3, 3, 1024, 512))

    def results(form):
        y, pull = jax.vjp(form, x, kernel)
        return y, *pull(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

    ours = jax.jit(lambda: results(lambda x, k: convolution(x, k, (1, 1), PADDING, precision=HIGHEST)))
    assert " convolution(" not in ours.lower().compile().as_text()
    for got, wanted in zip(ours(), results(by_xla), strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_devices_convolve_directly(platform):
    shapes = jax.ShapeDtypeStruct((1, 32, 32, 1024), jnp.float32), jax.ShapeDtypeStruct((3, 3, 1024, 512), jnp.float32)
    run = jax.jit(lambda x, k: convolution(x, k, (1, 1), PADDING, precision=HIGHEST))
    text = jax.export.export(run, platforms=[platform])(*shapes).mlir_module()
    assert text.count("stablehlo.convolution") == 1
    assert "dot_general" not in text


@pytest.mark.parametrize(
    ("kernel", "image", "wanted"),
    [
        ((3, 3, 512, 256), None, True),
        ((3, 3, 256, 256), None, True),
        ((3, 3, 256, 128), None, False),  # too few channels
        ((3, 3, 512, 512), (8, 64, 64), False),  # too few if the kernel is transformed at every call
        ((1, 1, 2048, 2048), None, False),
        ((3, 3, 1024, 512), (2, 16, 16), True),
        ((3, 3, 1024, 512), (1, 16, 16), False),  # too few pixels, because the kernel is transformed at every call
    ],
)
def test_is_faster_only_for_many_channels_and_pixels(kernel, image, wanted):
    assert is_faster(jax.ShapeDtypeStruct(kernel, jnp.float32), image) is wanted


def test_a_symbolic_batch_counts_as_one():
    (batch,) = jax.export.symbolic_shape("batch")
    kernel = jax.ShapeDtypeStruct((3, 3, 1024, 512), jnp.float32)
    assert is_faster(kernel, (batch, 32, 32))
    assert not is_faster(kernel, (batch, 16, 16))


def test_is_faster_is_false_for_bfloat16():
    assert not is_faster(jax.ShapeDtypeStruct((3, 3, 512, 512), jnp.bfloat16))
