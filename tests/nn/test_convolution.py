"""Tests that convolutions with bias, residual and ReLU, and their gradients, equal XLA's."""

import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.nn.convolution import convolution, kernel_gradient
from jaxseg.nn.layers import Conv

HIGHEST = jax.lax.Precision.HIGHEST


def by_xla(x, kernel, strides, padding):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=dimensions, precision=HIGHEST)


def made(seed, shape, kernel_shape):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(s).astype(np.float32) for s in (shape, kernel_shape))


# Fixed shapes with random values: every new shape costs a compilation.
GEOMETRIES = [  # (batch, height, width), channels in and out, kernel, stride
    ((2, 6, 8), (5, 7), 3, 2),  # even sizes are halved
    ((1, 3, 5), (15, 19), 3, 1),
    ((2, 7, 4), (16, 16), 3, 2),
    ((3, 4, 6), (17, 15), 1, 1),
    ((1, 5, 5), (19, 16), 1, 2),
    ((2, 6, 7), (18, 17), 3, 2),
]
PADDED = [  # (batch, height, width), kernel, padding
    ((1, 3, 4), (1, 1), ((0, 0), (0, 0))),
    ((2, 5, 7), (3, 2), ((1, 0), (2, 3))),
    ((3, 7, 3), (2, 3), ((3, 3), (0, 1))),
    ((2, 4, 6), (3, 3), ((1, 1), (1, 1))),
    ((1, 6, 5), (1, 3), ((0, 2), (3, 0))),
]


@pytest.mark.slow
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("channels", "kernel", "stride"), [((9, 6), 3, 1), ((5, 4), 3, 2), ((6, 7), 1, 1)])
def test_what_follows_the_products_has_the_right_value_and_gradients(channels, kernel, stride, bias, residual, relu):
    x, weights = made(0, (2, 6, 5, channels[0]), (kernel, kernel, *channels))
    geometry = (stride, stride), ((kernel // 2, kernel // 2),) * 2
    shape = by_xla(x, weights, *geometry).shape
    given = {"bias": np.linspace(-1, 1, channels[1], dtype=np.float32)} if bias else {}
    given |= {"residual": np.sin(np.arange(np.prod(shape), dtype=np.float32)).reshape(shape)} if residual else {}

    def plain(x, weights, given):
        found = by_xla(x, weights, *geometry)
        for name, array in given.items():
            found += array.reshape(1, 1, 1, -1) if name == "bias" else array
        return jax.nn.relu(found) if relu else found

    def results(form):
        y, pull = jax.vjp(form, x, weights, given)
        return jax.tree.leaves((y, pull(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))))

    ours = results(lambda x, k, given: convolution(x, k, *geometry, **given, relu=relu, precision=HIGHEST))
    for got, wanted in zip(ours, results(plain), strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-5)


@pytest.mark.slow
@given(seed=st.integers(0, 99), geometry=st.sampled_from(GEOMETRIES))
@settings(max_examples=20, deadline=None)
def test_value_and_both_gradients_equal_xlas(seed, geometry):
    """Only with PyTorch's padding: on CPUs, XLA's own convolutions fail if the padding is as large as the kernel."""
    sizes, channels, kernel, stride = geometry
    x, weights = made(seed, (*sizes, channels[0]), (kernel, kernel, *channels))
    geometry = (stride, stride), ((kernel // 2, kernel // 2),) * 2

    def results(form):
        y, pull = jax.vjp(lambda x, k: form(x, k, *geometry), x, weights)
        return y, *pull(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

    ours = results(lambda *given: convolution(*given, precision=HIGHEST))
    for got, wanted in zip(ours, results(by_xla), strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-5)


@pytest.mark.slow
@given(seed=st.integers(0, 99), geometry=st.sampled_from(PADDED))
@settings(max_examples=20, deadline=None)
def test_the_gradient_of_a_kernel_is_the_sum_over_pixels_for_any_padding(seed, geometry):
    sizes, kernel, padding = geometry
    x, _ = made(seed, (*sizes, 3), (1,))
    padded = np.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = (padded.shape[1 + axis] - kernel[axis] + 1 for axis in (0, 1))
    _, change = made(seed, (1,), (sizes[0], rows, columns, 2))
    wanted = [
        [np.einsum("bhwc,bhwd->cd", padded[:, i : i + rows, j : j + columns], change) for j in range(kernel[1])]
        for i in range(kernel[0])
    ]
    np.testing.assert_allclose(kernel_gradient(x, change, kernel, padding), wanted, atol=1e-4)


def test_cpus_compute_the_kernel_gradient_by_products():
    x, kernel = made(0, (2, 8, 8, 17), (3, 3, 17, 18))
    gradient = jax.grad(lambda k: convolution(x, k, (1, 1), ((1, 1), (1, 1))).sum())
    text = jax.jit(gradient).lower(kernel).compile().as_text()
    assert " dot(" in text
    assert " convolution(" not in text
    wanted = jax.grad(lambda k: by_xla(x, k, (1, 1), ((1, 1), (1, 1))).sum())(kernel)
    change = jnp.ones((2, 8, 8, 18), jnp.float32)
    np.testing.assert_allclose(kernel_gradient(x, change, (3, 3), ((1, 1), (1, 1))), wanted, atol=1e-4)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_devices_keep_xlas_convolutions(platform):
    x, kernel = made(0, (2, 8, 8, 17), (3, 3, 17, 18))
    gradient = jax.jit(jax.grad(lambda k: convolution(x, k, (1, 1), ((1, 1), (1, 1))).sum()))
    text = jax.export.export(gradient, platforms=[platform])(kernel).mlir_module()
    assert "stablehlo.convolution" in text
    assert "stablehlo.dot_general" not in text


@pytest.mark.slow
def test_gradients_keep_the_dtype_and_are_summed_in_float32():
    x, kernel = (jnp.asarray(a, jnp.bfloat16) for a in made(0, (4, 64, 64, 17), (3, 3, 17, 17)))
    gradient = jax.grad(lambda k: convolution(x, k, (1, 1), ((1, 1), (1, 1))).astype(jnp.float32).sum())(kernel)
    wanted = jax.grad(lambda k: by_xla(x.astype(jnp.float32), k, (1, 1), ((1, 1), (1, 1))).sum())(
        kernel.astype(jnp.float32)
    )
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(gradient.astype(jnp.float32), wanted, rtol=0.02, atol=0.5)


@pytest.mark.slow
def test_layers_work_under_vmap_and_checkpoint():
    x, _ = made(1, (3, 6, 6, 17), (1, 1, 1, 1))
    from flax import nnx

    graph, state = nnx.split(Conv(17, 18, 3, rngs=nnx.Rngs(0)))
    loss = lambda state, x: jnp.square(nnx.merge(graph, state)(x[None])).sum()  # noqa: E731
    each = jax.vmap(jax.grad(loss), (None, 0))(state, x)
    whole = jax.grad(lambda s: jnp.square(nnx.merge(graph, s)(x)).sum())(state)
    kept = jax.grad(lambda s: jax.checkpoint(lambda s: jnp.square(nnx.merge(graph, s)(x)).sum())(s))(state)
    for one, all_, again in zip(*map(jax.tree.leaves, (each, whole, kept)), strict=True):
        np.testing.assert_allclose(one.sum(0), all_, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(all_, again)


@pytest.mark.parametrize(("size", "products"), [(8, True), (256, False)])
def test_the_gradient_of_a_kernel_is_by_products_only_for_small_maps(size, products):
    shapes = jax.ShapeDtypeStruct((4, size, size, 16), jnp.float32), jax.ShapeDtypeStruct((3, 3, 16, 40), jnp.float32)
    gradient = jax.jit(jax.grad(lambda k, x: convolution(x, k, (1, 1), ((1, 1), (1, 1))).sum()))
    assert ("stablehlo.dot_general" in gradient.lower(*shapes[::-1]).as_text()) is products


@pytest.mark.slow
@pytest.mark.parametrize("channels", [17, pytest.param(48, marks=pytest.mark.full), 512])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_gradients_of_bfloat16_are_bfloat16(channels, strides):
    x, kernel = (a.astype(jnp.bfloat16) for a in made(0, (1, 32, 16, channels), (3, 3, channels, 48)))
    y, pull = jax.vjp(lambda x, k: convolution(x, k, strides, ((1, 1), (1, 1))), x, kernel)
    assert [a.dtype for a in (y, *pull(y))] == [jnp.bfloat16] * 3


@pytest.mark.full
def test_wide_convolutions_work_under_vmap_remat_and_export():
    x, kernel = made(0, (2, 24, 24, 256), (3, 3, 256, 512))
    wanted = by_xla(x, kernel, (1, 1), ((1, 1), (1, 1)))

    def convolve(x, kernel):
        return convolution(x, kernel, (1, 1), ((1, 1), (1, 1)), precision=HIGHEST)

    tolerance = 1e-5 * np.abs(wanted).max()
    mapped = jax.vmap(lambda x: convolve(x[None], kernel)[0])(x)
    np.testing.assert_allclose(mapped, wanted, atol=tolerance)
    gradient = jax.grad(lambda k: jax.checkpoint(convolve)(x, k).sum())(kernel)
    plain = jax.grad(lambda k: by_xla(x, k, (1, 1), ((1, 1), (1, 1))).sum())(kernel)
    np.testing.assert_allclose(gradient, plain, atol=1e-5 * np.abs(plain).max())
    (batch,) = jax.export.symbolic_shape("batch")
    shapes = (jax.ShapeDtypeStruct((batch, 24, 24, 256), jnp.float32), jax.ShapeDtypeStruct(kernel.shape, jnp.float32))
    exported = jax.export.export(jax.jit(convolve), platforms=["cpu", "cuda", "tpu"])(*shapes)
    found = jax.export.deserialize(exported.serialize()).call(x, kernel)
    np.testing.assert_allclose(found, wanted, atol=tolerance)


@pytest.mark.slow
def test_the_compiler_does_not_transform_a_constant_kernel():
    """XLA took a minute for each of the U-Net's kernels."""
    x, kernel = made(0, (1, 24, 24, 256), (3, 3, 256, 512))
    program = jax.jit(lambda x: convolution(x, kernel, (1, 1), ((1, 1), (1, 1)), precision=HIGHEST)).lower(x).compile()
    text = program.as_text()
    assert re.search(r"f32\[3,3,256,512\]\S* constant", text)
    assert not re.search(r"f32\[(4,4,|16,|4,)256,512\]\S* constant", text)
