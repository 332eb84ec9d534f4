"""Random deformations: strength 0 moves nothing, and masks move by the distances that the parameters set."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.post_dae.warp import KNOTS, Warp, apply_warp, sharpen, warp


def masks(count: int = 2, size: int = 33, channels: int = 2) -> jax.Array:
    found = np.zeros((count, size, size, channels), np.float32)
    found[:, 10:22, 8:20, 0] = 1
    found[:, 4:12, 20:28, -1] = 1
    return jnp.asarray(found)


def still(count: int = 2) -> Warp:
    return Warp(jnp.zeros((count, 2, 2)), jnp.zeros((count, 2)), jnp.zeros((count, 2, KNOTS, KNOTS)))


def test_nothing_moves_at_strength_0():
    x = masks()
    assert warp(jax.random.key(0), x, affine=0.0, elastic=0.0) is x
    np.testing.assert_array_equal(apply_warp(x, still()), x)


def test_a_shift_by_whole_pixels_is_exact_and_fills_with_zeros():
    x = masks()  # a side of 33 has half sides of 16 pixels
    moved = apply_warp(x, still()._replace(shift=jnp.asarray([[3 / 16, 0.0], [0.0, -20 / 16]])))
    np.testing.assert_allclose(moved[0, :-3], x[0, 3:], atol=1e-5)
    np.testing.assert_array_equal(moved[0, -3:], 0)
    np.testing.assert_allclose(moved[1, :, 20:], x[1, :, :-20], atol=1e-5)
    np.testing.assert_array_equal(moved[1, :, :20], 0)


def test_a_rotation_by_90_degrees_is_exact():
    turn = jnp.asarray([[-1.0, -1.0], [1.0, -1.0]])  # a rotation by 90 degrees, minus the identity
    moved = apply_warp(masks(1), still(1)._replace(matrix=turn[None]))
    found = [np.rot90(np.asarray(masks(1)[0]), times) for times in (1, 3)]
    assert min(np.abs(np.asarray(moved[0]) - x).max() for x in found) < 1e-4


def test_equal_knots_shift_and_different_knots_bend():
    knots = jnp.zeros((1, 2, KNOTS, KNOTS)).at[:, 0].set(2 / 16)
    moved = apply_warp(masks(1), still(1)._replace(knots=knots))
    np.testing.assert_allclose(moved[0, :-2], masks(1)[0, 2:], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("affine", "elastic"), [(0.1, 0.0), (0.0, 0.05), (0.2, 0.1)])
def test_warped_masks_are_masks_and_differ_from_each_other(affine, elastic):
    x = jnp.concatenate([masks(1), masks(1)])
    moved = np.asarray(warp(jax.random.key(1), x, affine=affine, elastic=elastic))
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert moved.dtype == np.float32
    assert (moved[0] != moved[1]).any()
    overlap = 2 * np.minimum(moved, x).sum() / (moved.sum() + np.asarray(x).sum())
    assert 0.5 < overlap < 1
    again = warp(jax.random.key(1), x, affine=affine, elastic=elastic)
    np.testing.assert_array_equal(moved, again)


def test_sharpening_keeps_0_and_1():
    ramp = jnp.linspace(0, 1, 101).reshape(1, 1, -1, 1)
    for drawn in (0.0, 0.5, 0.999):
        found = np.asarray(sharpen(ramp, jnp.asarray([drawn]))).ravel()
        assert found[0] == 0
        assert found[-1] == 1
        assert (np.diff(found) >= 0).all()
        assert found[50] == pytest.approx(0.5, abs=1e-6)
    hard = np.asarray(sharpen(ramp, jnp.asarray([0.0]))).ravel()
    assert ((hard > 0) & (hard < 1)).sum() <= 6
