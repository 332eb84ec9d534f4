"""The maximum of windows and its gradient, against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.nn.pooling import max_pool


def by_flax(x):
    return nnx.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))


@given(
    seed=st.integers(0, 99),
    shape=st.sampled_from([(1, 1, 1, 1), (2, 2, 3, 1), (1, 8, 9, 2), (2, 7, 1, 3), (1, 5, 6, 3)]),
    levels=st.sampled_from([3, 1000]),
)
@settings(max_examples=30, deadline=None)
def test_values_and_gradients_equal_xlas_among_equal_pixels_too(seed, shape, levels):
    x = np.random.default_rng(seed).integers(0, levels, shape).astype(np.float32)
    ours, theirs = (jax.vjp(pool, x) for pool in (max_pool, by_flax))
    np.testing.assert_array_equal(ours[0], theirs[0])
    change = jnp.arange(1.0, ours[0].size + 1).reshape(ours[0].shape)
    np.testing.assert_allclose(ours[1](change)[0], theirs[1](change)[0], rtol=1e-6)


def test_the_first_of_equal_pixels_has_the_gradient():
    gradient = jax.grad(lambda x: max_pool(x).sum())(jnp.zeros((1, 3, 3, 1)))[0, :, :, 0]
    np.testing.assert_array_equal(gradient, [[1, 1, 0], [1, 1, 0], [0, 0, 0]])


def test_bfloat16_stays_bfloat16():
    x = jnp.ones((1, 4, 4, 1), jnp.bfloat16)
    assert max_pool(x).dtype == jnp.bfloat16
    assert jax.grad(lambda x: max_pool(x).astype(jnp.float32).sum())(x).dtype == jnp.bfloat16


def test_nothing_hides_a_value_that_is_no_number():
    x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 1, 0].set(jnp.nan)
    assert jnp.isnan(max_pool(x)).all()


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_devices_keep_xlas_gradient(platform):
    run = jax.jit(jax.grad(lambda x: max_pool(x).sum()))
    text = jax.export.export(run, platforms=[platform])(jax.ShapeDtypeStruct((1, 8, 8, 2), jnp.float32)).mlir_module()
    assert "select_and_scatter" in text
