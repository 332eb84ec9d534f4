"""The loss of the task `paxray`: original parts are unchanged, and weights of classes take effect where they may."""

import jax.numpy as jnp
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
