"""The broad family of damages: ranges, kinds, invariance to the size of the picture, masks of several channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mask_runs import lungs

from jaxseg.post_dae import damage
from jaxseg.post_dae.model import DAE, DAEConfig
from jaxseg.post_dae.task import DataConfig, corrupt_each


def still() -> damage.Damage:
    """A damage that changes nothing."""
    return jax.tree.map(jnp.zeros_like, damage.draw_damage(jax.random.key(0)))


def test_masks_stay_between_0_and_1_and_most_of_them_change():
    mask = jnp.asarray(lungs(64))[..., None]
    found = jax.jit(jax.vmap(damage.damaged, in_axes=(0, None)))(jax.random.split(jax.random.key(0), 40), mask)
    found = np.asarray(found)
    assert found.dtype == np.float32
    assert (found.min(), found.max()) == (0, 1)
    dice = np.asarray([2 * (m * mask).sum() / (m.sum() + mask.sum()) for m in found])
    assert (dice < 0.999).mean() > 0.6
    assert dice.min() < 0.6  # strong damages
    assert (dice > 0.95).any()  # and weak ones
    again = damage.damaged(jax.random.split(jax.random.key(0), 40)[3], mask)
    np.testing.assert_array_equal(again, found[3])


def test_without_damages_a_mask_stays_as_it_is():
    mask = jnp.asarray(lungs(64))
    np.testing.assert_allclose(damage.apply_damage(mask, still(), jax.random.key(1)), mask, atol=1e-6)


def test_a_cut_deletes_what_lies_beyond_it_on_one_side():
    cuts = still().cuts._replace(side=jnp.asarray([1.0, 0.0, 0.0]), used=jnp.asarray([True, False, False]))
    mask = lungs(64)
    found = np.asarray(damage.apply_damage(jnp.asarray(mask), still()._replace(cuts=cuts), jax.random.key(1)))
    assert found[33:, 33:].sum() == 0
    np.testing.assert_allclose(found[:, :32], mask[:, :32], atol=1e-6)
    np.testing.assert_allclose(found[:32], mask[:32], atol=1e-6)


def test_one_side_moves_and_the_other_stays():
    how = still()._replace(line=jnp.asarray([0.5, 0.0, 1.0]), motion=jnp.asarray([0.3, 0.0, 0.0, 0.0, 0.0]))
    mask = lungs(64)
    found = np.asarray(damage.apply_damage(jnp.asarray(mask), how, jax.random.key(1)))
    np.testing.assert_allclose(found[:, :31], mask[:, :31], atol=1e-6)
    rows = np.arange(64)[:, None]
    lower = [(half[:, 33:] * rows).sum() / half[:, 33:].sum() for half in (found, mask)]
    size = float(damage.frame_of(jnp.asarray(mask)).size)
    assert lower[0] - lower[1] == pytest.approx(0.3 * size, abs=0.5)


def test_damages_are_relative_to_the_size_of_the_organ():
    key, shares = jax.random.key(0), []
    for seed in range(200):
        how = damage.draw_damage(jax.random.fold_in(key, seed))._replace(salt=jnp.zeros(()))
        if bool(how.cuts.used.any()):
            break
    for size in (64, 192):
        mask = jnp.asarray(lungs(size))
        shares.append(float(damage.apply_damage(mask, how, key).sum() / mask.sum()))
    assert shares[0] == pytest.approx(shares[1], abs=0.04)


def test_empty_masks_and_channels_are_damaged_too():
    mask = jnp.stack([jnp.zeros((32, 32)), jnp.asarray(lungs(32))], -1)
    for seed in range(5):
        found = np.asarray(damage.damaged(jax.random.key(seed), mask))
        assert np.isfinite(found).all()
        assert found.shape == (32, 32, 2)


def test_one_of_several_channels_is_sometimes_emptied_so_that_the_others_show_where_it_was():
    mask = jnp.repeat(jnp.asarray(lungs(32))[..., None], 2, -1)
    found = jax.vmap(damage.damaged, in_axes=(0, None))(jax.random.split(jax.random.key(1), 200), mask)
    lost = np.asarray(found.sum((1, 2)) == 0)
    assert not lost.all(1).any()
    assert (lost.sum(0) >= 4).all()
    assert lost.any(1).mean() < 0.25


def test_shares_choose_the_damages_of_a_batch():
    masks = jnp.repeat(jnp.asarray(lungs(32))[None, ..., None], 60, 0)
    keys = jax.random.split(jax.random.key(0), 60)
    kept = corrupt_each(keys, masks, DataConfig(root="masks", size=32, broad_share=0.5, clean_share=0.5))
    same = np.asarray((kept == masks).all((1, 2, 3)))
    assert 0.4 < same.mean() < 0.85  # the clean ones, and some on which no damage fell
    with pytest.raises(
        ValueError, match=r"heavy_share: 0, broad_share, 0.6, and clean_share, 0.6, add up to more than 1"
    ):
        DataConfig(root="masks", broad_share=0.6, clean_share=0.6)


def test_a_network_with_skips_sees_the_mask_again_at_its_end():
    from flax import nnx

    options = {"image_size": (32, 32), "features": (4, 8), "decoder_features": (4, 4), "strides": (2, 2)}
    options |= {"intermediate": (8, 8), "decoder_activation": "relu", "norm": "batch"}
    plain, skips = (DAE(DAEConfig(**options, skips=on), rngs=nnx.Rngs(0)) for on in (False, True))
    assert plain.decode[1].conv.kernel.shape[2] == 4
    assert skips.decode[1].conv.kernel.shape[2] == 5
    assert skips.decode[0].conv.kernel.shape[2] == 8
    masks = jnp.zeros((1, 32, 32, 1))
    for model in (plain, skips):
        for linear in model.intermediate:  # the code says nothing
            linear.kernel[...] = jnp.zeros_like(linear.kernel[...])
    changed = masks.at[0, 16, 16, 0].set(1.0)
    assert float(jnp.abs(skips(changed) - skips(masks)).max()) > 0
    np.testing.assert_array_equal(plain(changed), plain(masks))
    with pytest.raises(ValueError, match=r"skips: need a stride of 2"):
        DAEConfig(**(options | {"image_size": (36, 36), "strides": (3, 3), "skips": True}))
