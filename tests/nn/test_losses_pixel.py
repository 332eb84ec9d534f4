"""Losses of pixels: without weights they are the plain ones, and weights multiply the values of their pixels."""

import jax.numpy as jnp
import numpy as np
import pytest
from loss_cases import case

from jaxseg.nn.losses import binary_cross_entropy
from jaxseg.nn.losses_pixel import balancing_weights, cross_entropy, focal_loss

pytestmark = pytest.mark.slow


def test_cross_entropy_without_weights_is_the_plain_one():
    logits, target = (jnp.asarray(x) for x in case(exclusive=False))
    assert float(cross_entropy(logits, target)) == pytest.approx(float(binary_cross_entropy(logits, target)), rel=1e-6)


@pytest.mark.parametrize("loss", [cross_entropy, focal_loss])
@pytest.mark.parametrize("exclusive", [False, True])
def test_weights_multiply_the_values_of_pixels(loss, exclusive):
    logits, target = (jnp.asarray(x) for x in case(exclusive=exclusive))
    doubled = loss(logits, target, exclusive=exclusive, weights=jnp.full(target.shape, 2.0))
    assert float(doubled) == pytest.approx(2 * float(loss(logits, target, exclusive=exclusive)), rel=1e-6)
    upper = jnp.zeros(target.shape).at[:, :3].set(1)
    half = loss(logits, target, exclusive=exclusive, weights=upper)
    assert float(half) == pytest.approx(float(loss(logits[:, :3], target[:, :3], exclusive=exclusive)) / 2, rel=1e-6)


def test_a_sure_pixel_has_almost_no_focal_loss():
    target = jnp.ones((1, 1, 1, 1))
    sure, unsure = (float(focal_loss(jnp.full((1, 1, 1, 1), z), target)) for z in (4.0, 0.0))
    assert unsure == pytest.approx(0.25 * 0.25 * np.log(2), rel=1e-5)
    assert sure < 1e-4 * unsure


def test_rare_labels_get_the_weight_of_the_formula():
    target = np.zeros((1, 10, 10, 2), np.float32)
    target[0, 0, :4, 1] = 1
    target[..., 0] = 1 - target[..., 1]
    exclusive = balancing_weights(jnp.asarray(target), exclusive=True)
    np.testing.assert_allclose(exclusive[0, 5, 5], [np.sqrt(100 / 97), np.sqrt(100 / 5)], rtol=1e-6)
    independent = balancing_weights(jnp.asarray(target))
    np.testing.assert_allclose(independent[0, 0, 0], [np.sqrt(100 / 5), np.sqrt(100 / 5)], rtol=1e-6)
    np.testing.assert_allclose(independent[0, 5, 5], [np.sqrt(100 / 97), np.sqrt(100 / 97)], rtol=1e-6)
