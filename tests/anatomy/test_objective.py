"""The loss of the task `paxray`: original parts are unchanged, and weights of classes take effect where they may."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_cases import case

from jaxseg.anatomy.objective import PARTS, Objective, weights_of
from jaxseg.anatomy.paxray_settings import LossConfig
from jaxseg.nn.losses import binary_cross_entropy, binary_dice_loss, dice_loss


@pytest.mark.slow
def test_the_original_parts_are_computed_by_the_same_functions():
    logits, target = (jnp.asarray(x) for x in case(exclusive=False))
    found = Objective(("dice", "ce", "class_dice"))(logits, target)
    wanted = {"dice": binary_dice_loss, "ce": binary_cross_entropy, "class_dice": dice_loss}
    assert {name: float(x) for name, x in found.items()} == {n: float(f(logits, target)) for n, f in wanted.items()}


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_weights_of_classes_change_exactly_the_parts_that_take_them(part):
    logits, target = (jnp.asarray(x) for x in case(exclusive=False))
    plain = float(Objective((part,))(logits, target)[part])
    same = float(Objective((part,), weights=(2.0,) * 4)(logits, target)[part])
    other = float(Objective((part,), weights=(1.0, 5.0, 1.0, 1.0))(logits, target)[part])
    assert same == pytest.approx(plain, rel=1e-6)
    assert (other == pytest.approx(same, rel=1e-4)) == (part in ("dice", "gdice", "gdicev2"))


SETTINGS = list(itertools.product([False, True], [False, True], [(), (1.0, 5.0, 1.0, 2.0)]))


@pytest.mark.slow
@pytest.mark.parametrize(("exclusive", "balance", "weights"), SETTINGS)
def test_a_loss_is_computed_image_by_image_if_the_mean_of_the_images_is_that_of_the_batch(exclusive, balance, weights):
    logits, target = (jnp.asarray(x) for x in case(exclusive=exclusive))
    objectives = {part: Objective((part,), exclusive, balance, weights) for part in PARTS}

    @jax.jit
    def found(logits, target):
        def loss(part):
            return jax.value_and_grad(lambda logits, target: objectives[part](logits, target)[part])

        return {part: loss(part)(logits, target) for part in PARTS}

    each = [found(logits[i : i + 1], target[i : i + 1]) for i in range(len(logits))]
    for part, (value, gradient) in found(logits, target).items():
        values, gradients = (np.stack([np.asarray(one[part][k]) for one in each]) for k in range(2))
        same = np.allclose(values.mean(), value, rtol=1e-6, atol=0)
        same &= np.allclose(gradients[:, 0] / len(each), gradient, rtol=1e-4, atol=1e-6 * np.abs(gradient).max())
        assert objectives[part].by_image == same, part


def test_weights_are_read_by_name():
    names = ("left lung", "a=b", "heart")
    assert weights_of([], names) == ()
    assert weights_of(["a=b=3", "heart=0.5"], names) == (1.0, 3.0, 0.5)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("heart", "'heart' must be CLASS=NUMBER"),
        ("heart=", "must be CLASS=NUMBER"),
        ("heart=0", "with a positive number"),
        ("heart=nan", "with a positive number"),
        ("heart=inf", "with a positive number"),
        ("hart=2", "'hart' is no class; there are lung, heart"),
    ],
)
def test_weights_that_mean_nothing_are_refused(setting, message):
    with pytest.raises(ValueError, match=f"loss.class_weights: .*{message}"):
        weights_of([setting], ["lung", "heart"])
    with pytest.raises(ValueError, match="'heart' is named twice"):
        weights_of(["heart=1", "heart=2"], ["lung", "heart"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parts": ()}, "parts: name at least one of dice, ce, class_dice, focal"),
        ({"parts": ("ce", "ce")}, "parts: one is named twice"),
        ({"parts": ("dice",), "balance": True}, "balance: it has no effect without one of the parts ce, focal"),
        (
            {"parts": ("dice", "gdice"), "class_weights": ("a=1",)},
            "class_weights: they have no effect on the parts dice",
        ),
    ],
)
def test_settings_without_an_effect_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LossConfig(**settings)
