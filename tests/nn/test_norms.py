"""Normalisation in each image and PReLU against PyTorch's goldens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.nn.norms import GroupNorm, PReLU, instance_norm

GOLDEN = "ops/torch_operators"


def nhwc(kit, name: str) -> jax.Array:
    return jnp.asarray(kit.input(GOLDEN, name).transpose(0, 2, 3, 1))


def test_instance_norm_equals_pytorch(kit):
    norm = instance_norm(3)
    for variable, name in ((norm.scale, "g"), (norm.bias, "h")):
        variable.set_value(jnp.asarray(kit.input(GOLDEN, name)))
    kit.check(GOLDEN, "instance_norm", np.asarray(norm(nhwc(kit, "x"))).transpose(0, 3, 1, 2))


@pytest.mark.parametrize("groups", [2, 16])
def test_group_norm_equals_pytorch(kit, groups):
    found = GroupNorm(16, groups)(nhwc(kit, "y"))
    kit.check(GOLDEN, f"group_norm_{groups}_of_16", np.asarray(found).transpose(0, 3, 1, 2))


def test_every_image_is_normalised_on_its_own_in_float32():
    x = jax.random.normal(jax.random.key(0), (2, 5, 7, 4)) * 3 + 100
    norm = GroupNorm(4, 2)
    np.testing.assert_allclose(norm(x)[1:], norm(x[1:]), atol=1e-5)
    assert norm(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    moments = np.asarray(norm(x)).reshape(2, 35, 2, 2)
    np.testing.assert_allclose(moments.mean((1, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(moments.var((1, 3)), 1, atol=1e-3)


@pytest.mark.parametrize("groups", [0, 3])
def test_channels_that_do_not_divide_are_refused(groups):
    with pytest.raises(ValueError, match=f"8 channels do not divide into {groups} groups"):
        GroupNorm(8, groups)


def test_prelu_scales_what_is_not_positive():
    layer = PReLU()
    np.testing.assert_array_equal(layer(jnp.asarray([[-4.0, 0.0, 2.0]])), [[-1.0, 0.0, 2.0]])
    layer.slope.set_value(jnp.asarray([0.5]))
    np.testing.assert_array_equal(layer(jnp.asarray([-4.0, 2.0])), [-2.0, 2.0])
