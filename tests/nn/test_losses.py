"""Tests of the losses against the values and gradients of the originals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.nn.losses import (
    binary_cross_entropy,
    binary_dice_loss,
    dice_loss,
    image_by_image,
    probability_dice_loss,
)
from jaxseg.nn.metrics import dice

CASES = ["dice_ce", "dice_only", "ce_only", "empty_target", "full_target", "one_class_nhw"]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_paxray_losses_and_gradients_equal_the_original(kit, case):
    name = f"paxray_loss/{case}"
    entry, _ = kit.golden(name)
    logits, target = (jnp.asarray(kit.input(name, key).transpose(0, 2, 3, 1)) for key in ("logits", "target"))
    parts = {"dice_loss": binary_dice_loss, "ce_loss": binary_cross_entropy}
    used = {key: function for key, function in parts.items() if key in entry["arrays"]}
    for key, function in used.items():
        kit.check(name, key, function(logits, target))
    total, gradient = jax.value_and_grad(lambda x: sum(f(x, target) for f in used.values()))(logits)
    kit.check(name, "loss", total)
    kit.check(name, "grad_logits", np.asarray(gradient).transpose(0, 3, 1, 2))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["dice", "dice_empty", "dice_multichannel"])
def test_dae_loss_and_gradient_equal_the_original(kit, case):
    name = f"dae_loss/{case}"
    entry, _ = kit.golden(name)
    probs, target = (jnp.asarray(kit.input(name, key).transpose(0, 2, 3, 1)) for key in ("y_pred", "y_true"))
    target = target * (0 if "params" in entry else 1)  # the case dice_empty multiplies the target by 0
    loss, gradient = jax.value_and_grad(probability_dice_loss)(probs, target)
    kit.check(name, "loss", loss)
    kit.check(name, "grad_y_pred", np.asarray(gradient).transpose(0, 3, 1, 2))
    kit.check(name, "loss_swapped", probability_dice_loss(target, probs))


def test_dae_loss_is_0_for_equal_masks_also_if_empty():
    masks = jnp.zeros((2, 4, 4, 2)).at[0, :2, :, 0].set(1)
    assert float(probability_dice_loss(masks, masks)) == pytest.approx(0, abs=1e-6)
    assert float(probability_dice_loss(1 - masks, masks)) == pytest.approx(1, abs=1e-5)


def test_dice_loss_weighs_small_classes_as_large_ones():
    target = np.zeros((1, 8, 8, 2), np.float32)
    target[..., 0] = 1
    target[0, 0, 0, 1] = 1
    right = jnp.asarray(np.where(target > 0, 20.0, -20.0).astype(np.float32))
    assert float(dice_loss(right, jnp.asarray(target))) < 1e-3
    missed = right.at[..., 1].set(-20.0)
    assert float(dice_loss(missed, jnp.asarray(target))) == pytest.approx((1 - 1 / 2) / 2, abs=1e-3)


def test_dice_loss_refuses_different_shapes():
    with pytest.raises(ValueError, match=r"got \(1, 2, 2, 1\) and \(1, 2, 2, 2\)"):
        dice_loss(jnp.zeros((1, 2, 2, 1)), jnp.zeros((1, 2, 2, 2)))


def test_dice_of_binary_masks():
    a, b = np.zeros((3, 4, 4), bool), np.zeros((3, 4, 4), bool)
    a[0, :2], b[0, 1:3] = True, True
    a[1], b[1] = True, True
    np.testing.assert_array_equal(dice(a, b), [0.5, 1.0, np.nan])
    with pytest.raises(ValueError, match="one shape"):
        dice(a, b[:2])


@pytest.mark.parametrize("devices", [1, 8])  # with several, the batch is computed at once
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_the_loss_of_one_image_after_the_other_equals_that_of_the_batch(dtype, devices, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    rng = np.random.default_rng(0)
    maps = jnp.asarray(rng.standard_normal((3, 4, 5, 2), np.float32))
    target = (rng.random((3, 4, 5, 2)) > 0.6).astype(dtype)

    def loss(maps, target):
        parts = {"ce": binary_cross_entropy(maps, target), "dice": binary_dice_loss(maps, target)}
        return parts["ce"] + 2 * parts["dice"], parts

    def one_by_one(maps, target):
        total, parts = image_by_image(loss, maps, target)
        return 3 * total, parts

    (total, parts), gradient = jax.jit(jax.value_and_grad(one_by_one, has_aux=True))(maps, target)
    (wanted, wanted_parts), wanted_gradient = jax.value_and_grad(loss, has_aux=True)(maps, target)
    np.testing.assert_allclose(total, 3 * wanted, rtol=1e-6)
    np.testing.assert_allclose(gradient, 3 * wanted_gradient, atol=1e-7)
    jax.tree.map(lambda got, right: np.testing.assert_allclose(got, right, rtol=1e-6), parts, wanted_parts)
    np.testing.assert_allclose(image_by_image(loss, maps, target)[0], wanted, rtol=1e-6)
