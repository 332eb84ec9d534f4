"""Tests of resizing, padding and pooling against PyTorch's goldens and XLA's own operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.nn import resize
from jaxseg.nn.indices import nearest_indices
from jaxseg.nn.resize import bilinear, double_aligned, halve, max_pool, pad_or_crop

GOLDEN = "ops/torch_operators"


@pytest.mark.slow
@pytest.mark.parametrize("size", [(9, 16), (3, 4), (10, 14)])
def test_bilinear_equals_pytorch_up_and_down(kit, size):
    x = jnp.asarray(kit.input(GOLDEN, "x").transpose(0, 2, 3, 1))
    out = np.asarray(bilinear(x, size)).transpose(0, 3, 1, 2)
    kit.check(GOLDEN, f"bilinear_5x7_to_{size[0]}x{size[1]}", out)


def test_nearest_equals_pytorch(kit):
    x = kit.input(GOLDEN, "x")
    rows, columns = nearest_indices(5, 8), nearest_indices(7, 3)
    kit.check(GOLDEN, "nearest_5x7_to_8x3", x[:, :, rows][:, :, :, columns])


def test_nearest_indices_follow_pytorchs_floor_rule_at_every_size_of_the_kit(kit):
    _, arrays = kit.golden("ops/nearest_index_maps")
    maps = {key: value for key, value in arrays.items() if "_to_" in key and "#" not in key}
    assert len(maps) > 15
    for key, wanted in maps.items():
        size_in, size_out = map(int, key.split("_to_"))
        np.testing.assert_array_equal(nearest_indices(size_in, size_out), wanted, err_msg=key)


def test_resizing_to_the_same_size_changes_nothing():
    x = jnp.arange(24.0).reshape(1, 3, 4, 2)
    np.testing.assert_array_equal(bilinear(x, (3, 4)), x)


def test_bilinear_keeps_bfloat16():
    assert bilinear(jnp.ones((1, 2, 2, 1), jnp.bfloat16), (5, 5)).dtype == jnp.bfloat16


def test_a_size_of_0_is_refused():
    with pytest.raises(ValueError, match="sizes must be at least 1, got 5 -> 0"):
        nearest_indices(5, 0)


def test_doubling_with_aligned_corners_equals_pytorch(kit):
    x = jnp.asarray(kit.input(GOLDEN, "x").transpose(0, 2, 3, 1))
    kit.check(GOLDEN, "bilinear_x2_align_corners", np.asarray(double_aligned(x)).transpose(0, 3, 1, 2))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 2), (32, 7)])
def test_doubling_interpolates_at_evenly_spaced_positions_from_corner_to_corner(size):
    x = np.random.default_rng(0).standard_normal((1, *size, 1)).astype(np.float32)
    expected = x[0, ..., 0]
    for _ in range(2):
        length = expected.shape[0]
        places = np.linspace(0, length - 1, 2 * length)
        expected = np.stack([np.interp(places, np.arange(length), column) for column in expected.T])
    np.testing.assert_allclose(double_aligned(jnp.asarray(x))[0, ..., 0], expected, atol=1e-5)


def test_halving_equals_pytorchs_average_pooling_at_odd_sizes(kit):
    x = jnp.asarray(kit.input(GOLDEN, "x").transpose(0, 2, 3, 1))
    kit.check(GOLDEN, "avgpool2_ceil", np.asarray(halve(x)).transpose(0, 3, 1, 2))


def test_cropping_an_odd_difference_equals_pytorch(kit):
    x = jnp.asarray(kit.input(GOLDEN, "p").transpose(0, 2, 3, 1))
    kit.check(GOLDEN, "pad_negative_floor", np.asarray(pad_or_crop(x, (7, 7))).transpose(0, 3, 1, 2))


@pytest.mark.parametrize(("odd", "cropped", "padded"), [("floor", 4, 1), ("truncate", 3, 1)])
def test_the_option_odd_decides_how_odd_numbers_are_split(odd, cropped, padded):
    x = jnp.arange(14.0 * 4).reshape(1, 14, 4, 1)
    np.testing.assert_array_equal(pad_or_crop(x, (7, 4), odd=odd), x[:, cropped : cropped + 7])
    found = pad_or_crop(x, (17, 4), odd=odd)
    np.testing.assert_array_equal(found[:, padded : padded + 14], x)
    assert float(jnp.abs(found).sum()) == float(x.sum())
    with pytest.raises(ValueError, match="odd is 'up'; known: floor, truncate"):
        pad_or_crop(x, (7, 7), odd="up")


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "size"), [((2, 3, 5, 2), (12, 10)), ((1, 1, 4, 1), (5, 4)), ((1, 4, 3, 2), (4, 9))])
def test_integer_factors_have_the_values_and_gradient_of_gathers(shape, size):
    x, change = (
        np.random.default_rng(0).standard_normal(s).astype(np.float32) for s in (shape, (shape[0], *size, shape[3]))
    )

    def by_gathers(x):
        for axis, length in ((1, size[0]), (2, size[1])):
            x = resize._by_gathers(x, axis, length)
        return x

    (ours, pull), (wanted, pull_wanted) = (jax.vjp(form, x) for form in (lambda x: bilinear(x, size), by_gathers))
    np.testing.assert_allclose(ours, wanted, atol=1e-6)
    np.testing.assert_allclose(bilinear(x, size), wanted, atol=1e-6)
    np.testing.assert_allclose(pull(change)[0], pull_wanted(change)[0], atol=1e-5)
    moved = jax.jvp(lambda x: bilinear(x, size), (x,), (x,))[1]
    np.testing.assert_allclose(moved, wanted, atol=1e-6)  # because resizing is linear
    text = jax.jit(jax.grad(lambda x: bilinear(x, size).sum())).lower(x).as_text()
    assert "scatter" not in text


def by_flax(x):
    return nnx.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))


def test_max_pool_equals_pytorch(kit):
    out = max_pool(jnp.asarray(kit.input(GOLDEN, "x").transpose(0, 2, 3, 1)))
    kit.check(GOLDEN, "maxpool3_s2_p1", np.asarray(out).transpose(0, 3, 1, 2))


@pytest.mark.full
@given(
    seed=st.integers(0, 99),
    shape=st.sampled_from(
        [(1, 1, 1, 1), (2, 2, 5, 1), (1, 3, 3, 2), (1, 9, 1, 1), (2, 8, 9, 3), (1, 7, 6, 1), (2, 0, 4, 1), (1, 4, 0, 2)]
    ),
    levels=st.sampled_from([3, 1000]),
)
@settings(max_examples=30, deadline=None)
def test_max_pool_values_and_gradients_equal_xlas_also_for_equal_pixels(seed, shape, levels):
    x = np.random.default_rng(seed).integers(0, levels, shape).astype(np.float32)
    ours, theirs = (jax.vjp(pool, x) for pool in (max_pool, by_flax))
    np.testing.assert_array_equal(ours[0], theirs[0])
    change = jnp.arange(1.0, ours[0].size + 1).reshape(ours[0].shape)
    np.testing.assert_allclose(ours[1](change)[0], theirs[1](change)[0], rtol=1e-6)


@pytest.mark.slow
def test_max_pool_gives_the_gradient_to_the_first_of_equal_pixels():
    gradient = jax.grad(lambda x: max_pool(x).sum())(jnp.zeros((1, 3, 3, 1)))[0, :, :, 0]
    np.testing.assert_array_equal(gradient, [[1, 1, 0], [1, 1, 0], [0, 0, 0]])


@pytest.mark.slow
def test_max_pool_keeps_bfloat16():
    x = jnp.ones((1, 4, 4, 1), jnp.bfloat16)
    assert max_pool(x).dtype == jnp.bfloat16
    assert jax.grad(lambda x: max_pool(x).astype(jnp.float32).sum())(x).dtype == jnp.bfloat16


def test_max_pool_propagates_nan():
    x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 1, 0].set(jnp.nan)
    assert jnp.isnan(max_pool(x)).all()


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_max_pool_keeps_xlas_gradient_on_other_devices(platform):
    run = jax.jit(jax.grad(lambda x: max_pool(x).sum()))
    text = jax.export.export(run, platforms=[platform])(jax.ShapeDtypeStruct((1, 8, 8, 2), jnp.float32)).mlir_module()
    assert "select_and_scatter" in text
