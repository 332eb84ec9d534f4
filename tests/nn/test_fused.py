"""Tests of the description of a fused convolution."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.nn.fused import Fusion


@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (2, 3)])
@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((1, 2), (0, 1))])
@pytest.mark.parametrize("kernel", [(1, 1, 2, 3), (2, 3, 2, 3)])
def test_the_shape_is_that_of_the_result(strides, padding, kernel):
    fusion = Fusion(strides, padding)
    found = fusion.by_xla(jnp.ones((2, 7, 6, 2)), jnp.ones(kernel))
    assert found.shape == fusion.result_shape((2, 7, 6, 2), kernel)


def test_bias_residual_and_relu_follow_in_this_order():
    fusion = Fusion(bias=True, residual=True, relu=True)
    products = jnp.array([-5.0, 1, 4]).reshape(1, 1, 3, 1)
    found = fusion.finish(products, jnp.array([1.0]), jnp.full((1, 1, 3, 1), 2.0))
    np.testing.assert_array_equal(found.ravel(), [0, 4, 7])


def test_same_size():
    assert Fusion(padding=((1, 1), (0, 0))).keeps_size((3, 1, 2, 2))
    assert not Fusion(padding=((1, 1), (1, 1))).keeps_size((1, 1, 2, 2))
    assert not Fusion(strides=(2, 2), padding=((1, 1), (1, 1))).keeps_size((3, 3, 2, 2))
