"""Tests of normalisation, convolutions, transposed convolutions and initial parameters against PyTorch's operators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.nn.doubling import doubled, doubled_at_once, doubled_in_parts, doubling
from jaxseg.nn.layers import (
    BatchNorm,
    Conv,
    ConvTranspose,
    GroupNorm,
    PReLU,
    dilated_transpose,
    instance_norm,
    linear,
)

GOLDEN = "ops/torch_operators"


def nhwc(array: np.ndarray):
    return jnp.asarray(array.transpose(0, 2, 3, 1))


def test_batch_norm_trains_like_pytorch_with_unbiased_running_variance(kit):
    norm = BatchNorm(3)
    out = norm(nhwc(kit.input(GOLDEN, "x")))
    kit.check(GOLDEN, "batch_norm_train", np.asarray(out).transpose(0, 3, 1, 2))
    kit.check(GOLDEN, "batch_norm_running_mean", norm.mean[...])
    kit.check(GOLDEN, "batch_norm_running_var", norm.var[...])


def test_batch_norm_in_evaluation_uses_and_keeps_its_statistics():
    norm = BatchNorm(2)
    norm.mean.set_value(jnp.asarray([1.0, 2.0]))
    view = nnx.view(norm, use_running_average=True)
    out = view(jnp.full((1, 2, 2, 2), 3.0))
    np.testing.assert_allclose(out[0, 0, 0], np.array([2.0, 1.0]) / np.sqrt(1 + 1e-5), rtol=1e-6)
    np.testing.assert_array_equal(norm.mean[...], [1.0, 2.0])


def test_strided_convolution_pads_both_sides():
    layer = Conv(1, 1, 3, stride=2, use_bias=False, rngs=nnx.Rngs(0))
    layer.kernel.set_value(jnp.zeros((3, 3, 1, 1)).at[0, 0].set(1.0))
    image = jnp.arange(16.0).reshape(1, 4, 4, 1)
    out = layer(image)[0, :, :, 0]
    np.testing.assert_array_equal(
        out, [[0, 0], [0, 5]]
    )  # the tap reads one row and column before: the padding, then pixel (1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("init", ["torch", "torchvision", "lecun"])
def test_initial_kernels_have_the_same_spread_traced_or_not(init):
    deviation = {"torch": (16 * 9) ** -0.5 / 3**0.5, "torchvision": (2 / (64 * 9)) ** 0.5, "lecun": (16 * 9) ** -0.5}

    def kernel():
        return Conv(16, 64, 3, init=init, rngs=nnx.Rngs(7)).kernel[...]

    for found in (kernel(), jax.jit(kernel)()):
        assert (found.shape, found.dtype) == ((3, 3, 16, 64), jnp.float32)
        assert abs(float(found.std()) / deviation[init] - 1) < 0.03
        assert abs(float(found.mean())) < 0.05 * deviation[init]
    np.testing.assert_array_equal(kernel(), kernel())


def by_definition(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """Adds every input pixel times the kernel to the output at `stride` times its position, then crops the margin."""
    batch, height, width, _ = x.shape
    out = np.zeros((batch, (height - 1) * stride + 4, (width - 1) * stride + 4, kernel.shape[2]))
    for i in range(height):
        for j in range(width):
            spread = np.einsum("bc,hwoc->bhwo", x[:, i, j], kernel, dtype=np.float64)
            out[:, i * stride : i * stride + 3, j * stride : j * stride + 3] += spread
    return out[:, 1:-1, 1:-1]  # padding 1 before and after, output_padding 1 after


def transposed(kit) -> ConvTranspose:
    """Returns the layer with the weights of the goldens."""
    layer = ConvTranspose(3, 4, rngs=nnx.Rngs(0))
    layer.kernel.set_value(jnp.asarray(kit.input(GOLDEN, "w").transpose(2, 3, 1, 0)))
    layer.bias.set_value(jnp.asarray(kit.input(GOLDEN, "b")))
    return layer


def sampled(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.slow
def test_both_transposed_convolutions_equal_pytorch(kit):
    layer, x = transposed(kit), nhwc(kit.input(GOLDEN, "x"))
    dilated = dilated_transpose(x, layer.kernel[...]) + layer.bias[...].reshape(1, 1, 1, -1)
    for out in (layer(x), dilated):
        kit.check(GOLDEN, "conv_transpose_s2_p1_op1", np.asarray(out).transpose(0, 3, 1, 2))


@pytest.mark.slow
@pytest.mark.parametrize("stride", [2, 3, 4])
def test_transposed_convolution_equals_its_definition(stride):
    layer = ConvTranspose(3, 5, stride=stride, rngs=nnx.Rngs(1))
    x = sampled(2, 4, 3, 3)
    expected = by_definition(np.asarray(x), np.asarray(layer.kernel[...]), stride) + np.asarray(layer.bias[...])
    assert expected.shape == (2, 3 * stride + 2, 2 * stride + 2, 5)
    np.testing.assert_allclose(layer(x), expected, atol=1e-6)


sizes = st.integers(1, 5)


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(batch=st.integers(1, 2), height=sizes, width=sizes, num_in=st.integers(1, 3), num_out=st.integers(1, 3))
def test_both_transposed_convolutions_equal_the_definition_at_any_shape(batch, height, width, num_in, num_out):
    x, kernel = sampled(batch, height, width, num_in), sampled(3, 3, num_out, num_in, seed=1)
    expected = by_definition(np.asarray(x), np.asarray(kernel), 2)
    assert expected.shape == (batch, 2 * height, 2 * width, num_out)
    for form in (doubling, dilated_transpose):
        np.testing.assert_allclose(jax.jit(form)(x, kernel), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 4, 4, 8), (1, 5, 7, 3), (3, 1, 1, 2)])
def test_gradients_of_both_transposed_convolutions_are_equal(shape):
    x, kernel = sampled(*shape), sampled(3, 3, 4, shape[-1], seed=1)
    weights = sampled(shape[0], 2 * shape[1], 2 * shape[2], 4, seed=2)

    def gradients(form):
        return jax.jit(jax.grad(lambda x, kernel: jnp.sum(weights * jnp.sin(form(x, kernel))), (0, 1)))(x, kernel)

    for ours, theirs in zip(gradients(doubling), gradients(dilated_transpose), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * float(jnp.abs(theirs).max()))


@pytest.mark.slow
@pytest.mark.parametrize("relu", [False, True])
def test_transposed_convolutions_with_what_follows_have_the_right_values_and_gradients(relu):
    x, kernel, bias = sampled(2, 3, 4, 5), sampled(3, 3, 6, 5, seed=1), sampled(6, seed=2)

    def plain(x, kernel, bias):
        found = dilated_transpose(x, kernel) + bias.reshape(1, 1, 1, -1)
        return jnp.maximum(found, 0) if relu else found

    def results(form):
        y, pull = jax.vjp(form, x, kernel, bias)
        return y, *pull(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

    ours = results(lambda x, kernel, bias: doubling(x, kernel, bias, relu=relu, precision=jax.lax.Precision.HIGHEST))
    for got, wanted in zip(ours, results(plain), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5 * float(jnp.abs(wanted).max()))


def test_batch_norm_has_the_gradients_of_its_definition():
    x = sampled(2, 4, 5, 3) + 2
    weights = sampled(*x.shape, seed=1)

    def ours(x):
        return BatchNorm(3)(x)

    def plain(x):
        var = x.var((0, 1, 2), keepdims=True)
        return (x - x.mean((0, 1, 2), keepdims=True)) * jax.lax.rsqrt(var + 1e-5)

    got, wanted = (jax.grad(lambda x, form=form: jnp.sum(weights * jnp.sin(form(x))))(x) for form in (ours, plain))
    np.testing.assert_allclose(got, wanted, atol=1e-5 * float(jnp.abs(wanted).max()))


def test_four_convolutions_have_neither_gather_nor_scatter():
    x, kernel = sampled(1, 4, 4, 3), sampled(3, 3, 2, 3)
    step = jax.jit(jax.grad(lambda x, kernel: doubling(x, kernel).sum(), (0, 1)))
    text = step.lower(x, kernel).as_text()
    assert "convolution" in text
    assert "gather" not in text
    assert "scatter" not in text


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_one_convolution_doubles_a_map_as_four_do(relu, bias):
    given = [sampled(2, 5, 4, 3), sampled(3, 3, 2, 3), *([sampled(2)] if bias else [])]
    one, four = (form(*given, relu=relu, precision=None) for form in (doubled_at_once, doubled_in_parts))
    np.testing.assert_allclose(one, four, atol=1e-6)
    assert (np.asarray(one) < 0).any() != relu


def test_the_form_of_cpus_with_bfloat16_is_taken_only_there(monkeypatch):
    given = [sampled(2, 5, 4, 3).astype(jnp.bfloat16), sampled(3, 3, 2, 3).astype(jnp.bfloat16)]
    texts = {}
    for has in (True, False):
        monkeypatch.setattr("jaxseg.cpu.computes_bfloat16", lambda has=has: has)
        program = jax.jit(lambda *given: doubled(*given))
        for platform in ("cpu", "cuda"):
            texts[has, platform] = program.trace(*given).lower(lowering_platforms=(platform,)).as_text()
    kernels = {name: text.count("x8xbf16>") > 0 for name, text in texts.items()}  # 4 times 2 channels
    assert kernels == {(True, "cpu"): True, (True, "cuda"): False, (False, "cpu"): False, (False, "cuda"): False}
    found = jax.vmap(lambda x: doubled(x[None], given[1])[0])(given[0]).astype(jnp.float32)
    np.testing.assert_allclose(found, doubled(*given).astype(jnp.float32), atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("stride", [2, 3])
def test_transposed_convolutions_compute_in_their_dtype_and_keep_float32_parameters(stride):
    layer = ConvTranspose(3, 4, stride=stride, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    exact = ConvTranspose(3, 4, stride=stride, rngs=nnx.Rngs(0))
    out, reference = layer(sampled(1, 3, 3, 3)), exact(sampled(1, 3, 3, 3))
    assert (out.dtype, reference.dtype) == (jnp.bfloat16, jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(layer))} == {jnp.dtype("float32")}
    assert 0 < float(jnp.abs(out.astype(jnp.float32) - reference).max()) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("init", ["torch", "lecun"])
@pytest.mark.parametrize(
    ("make", "num_bound", "num_spread"),
    [
        (lambda init: ConvTranspose(16, 64, init=init, rngs=nnx.Rngs(7)), 64 * 9, 16 * 9),
        (lambda init: linear(150, 100, init=init, rngs=nnx.Rngs(7)), 150, 150),
    ],
    ids=["transposed", "linear"],
)
def test_initial_values_have_the_bounds_of_pytorch_or_the_spread_of_lecun(init, make, num_bound, num_spread):
    bound = num_bound**-0.5

    def arrays():
        layer = make(init)
        return layer.kernel[...], layer.bias[...]

    for kernel, bias in (map(np.asarray, arrays()), map(np.asarray, jax.jit(arrays)())):
        deviation = bound / 3**0.5 if init == "torch" else num_spread**-0.5
        assert abs(kernel.std() / deviation - 1) < 0.03
        if init == "torch":
            assert bound * 0.99 < np.abs(kernel).max() <= bound
            assert 0 < np.abs(bias).max() <= bound
        else:
            np.testing.assert_array_equal(bias, np.zeros(bias.shape))


def test_instance_norm_equals_pytorch(kit):
    norm = instance_norm(3)
    for variable, name in ((norm.scale, "g"), (norm.bias, "h")):
        variable.set_value(jnp.asarray(kit.input(GOLDEN, name)))
    kit.check(GOLDEN, "instance_norm", np.asarray(norm(nhwc(kit.input(GOLDEN, "x")))).transpose(0, 3, 1, 2))


@pytest.mark.parametrize("groups", [2, 16])
def test_group_norm_equals_pytorch(kit, groups):
    found = GroupNorm(16, groups)(nhwc(kit.input(GOLDEN, "y")))
    kit.check(GOLDEN, f"group_norm_{groups}_of_16", np.asarray(found).transpose(0, 3, 1, 2))


@pytest.mark.slow
def test_group_norm_treats_every_image_separately_in_float32():
    x = jax.random.normal(jax.random.key(0), (2, 5, 7, 4)) * 3 + 100
    norm = GroupNorm(4, 2)
    np.testing.assert_allclose(norm(x)[1:], norm(x[1:]), atol=1e-5)
    assert norm(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    moments = np.asarray(norm(x)).reshape(2, 35, 2, 2)
    np.testing.assert_allclose(moments.mean((1, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(moments.var((1, 3)), 1, atol=1e-3)


@pytest.mark.parametrize("groups", [0, 3])
def test_group_norm_refuses_channels_that_do_not_divide(groups):
    with pytest.raises(ValueError, match=f"8 channels do not divide into {groups} groups"):
        GroupNorm(8, groups)


def test_prelu_scales_values_that_are_not_positive():
    layer = PReLU()
    np.testing.assert_array_equal(layer(jnp.asarray([[-4.0, 0.0, 2.0]])), [[-1.0, 0.0, 2.0]])
    layer.slope.set_value(jnp.asarray([0.5]))
    np.testing.assert_array_equal(layer(jnp.asarray([-4.0, 2.0])), [-2.0, 2.0])
