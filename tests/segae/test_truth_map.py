"""SegAE's second head: shares of a coarser grid, the Dice of a mask and a predicted truth, and what a model adds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_segae import answer, inputs, small

from jaxseg.nn.metrics import dice
from jaxseg.segae.truth_map import map_dice, shares


def discs(count: int = 3, side: int = 48) -> np.ndarray:
    rng, places = np.random.default_rng(0), np.indices((side, side))
    centres, radii = rng.uniform(15, 33, (count, 2)), rng.uniform(6, 14, count)
    return np.stack([np.hypot(*(places - c[:, None, None])) < r for c, r in zip(centres, radii, strict=True)])


def test_shares_are_the_means_of_the_pixels_of_each_place():
    mask = discs()
    wanted = mask.reshape(3, 12, 4, 12, 4).mean((2, 4))
    np.testing.assert_allclose(shares(jnp.asarray(mask), (12, 12)), wanted, atol=1e-6)


@pytest.mark.parametrize("size", [(9, 12), (5, 7), (48, 48), (1, 1)])
def test_shares_keep_the_area_of_a_mask_at_any_size(size):
    mask = discs()
    found = shares(jnp.asarray(mask), size)
    assert found.shape == (3, *size)
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1 + 1e-6
    np.testing.assert_allclose(found.mean((1, 2)), mask.mean((1, 2)), rtol=1e-5)


def test_the_dice_of_a_mask_and_a_certain_truth_is_their_dice():
    mask, truth = discs(), np.roll(discs(), (4, -3), (1, 2))
    logits = np.where(truth, 40.0, -40.0)
    np.testing.assert_allclose(
        map_dice(jnp.asarray(mask, jnp.float32), jnp.asarray(logits, jnp.float32)), dice(mask, truth), atol=1e-6
    )
    assert float(map_dice(jnp.zeros((1, 4, 4)), jnp.full((1, 4, 4), -40.0))[0]) < 1e-6


@pytest.mark.slow
def test_the_prediction_is_the_sum_of_both_heads():
    model = small(truth_map=True)
    x, embedding = inputs(size=(64, 48))
    mask = np.where(discs(2, 64)[:, :, :48], 1, -1).astype(np.float32)
    x = x.at[..., 1].set(mask)
    found = jax.jit(lambda m: m.features(x, embedding))(model)
    assert found["truth"].shape == (2, 16, 12)
    given = jnp.asarray(mask.reshape(2, 16, 4, 12, 4).mean((2, 4)) / 2 + 0.5, jnp.float32)
    first = model.dice(found["attention_hidden"] * found["hidden"])[:, 0]
    np.testing.assert_allclose(found["dice"][:, 0] - first, map_dice(given, found["truth"]), atol=1e-5)


@pytest.mark.slow
def test_the_predicted_truth_depends_on_the_organs_name():
    model = small(truth_map=True)
    x, embedding = inputs()
    once = model.features(x, embedding)["truth"]
    assert not np.allclose(once, model.features(x, embedding[::-1])["truth"])
    assert np.isfinite(answer(model, x, embedding)).all()
