"""Losses of overlap equal golden values of their PyTorch definitions, and behave as their docstrings state.

The numbers were computed in double precision by `benchmarks/torch_models/paxray_losses.py`, PyTorch 2.13; with torch,
`tests/parity_torch/test_torch_paxray.py` compares values and gradients directly.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_cases import PARTS, case

from jaxseg.anatomy.objective import Objective
from jaxseg.nn.losses_overlap import (
    exponential_logarithmic_loss,
    foreground_dice_loss,
    generalised_dice_loss,
    generalised_dice_loss_of_batch,
    overlap_loss,
    sensitivity_specificity_loss,
)

INDEPENDENT = (0.74311901, 0.98798919, 0.33866911, 0.60023134, 0.72951009, 0.79675158, 0.64556036, 0.97703698)
INDEPENDENT += (0.55958359, 0.33942755, 0.56065418)
EXCLUSIVE = (0.8909215, 1.907156, 1.43466, 0.7283375, 0.81952987, 0.77958092, 0.77872948, 1.2475806, 0.69576584)
EXCLUSIVE += (0.14621455, 0.69577249)
LOSSES = {
    "overlap": lambda x, t, **o: overlap_loss(x, t, false_positives=0.5, false_negatives=0.5, smooth=0.5, **o),
    "gdice": generalised_dice_loss,
    "gdicev2": generalised_dice_loss_of_batch,
    "ss": sensitivity_specificity_loss,
}


@pytest.mark.slow
@pytest.mark.parametrize("exclusive", [False, True], ids=["independent", "exclusive"])
def test_every_part_equals_the_golden_value_of_pytorch(exclusive):
    logits, target = (jnp.asarray(x) for x in case(exclusive=exclusive))
    values = jax.jit(Objective(PARTS, exclusive))(logits, target)
    wanted = dict(zip(PARTS, EXCLUSIVE if exclusive else INDEPENDENT, strict=True))
    assert {part: float(value) for part, value in values.items()} == pytest.approx(wanted, rel=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_a_better_prediction_costs_less_and_the_best_costs_almost_nothing(name):
    target = np.zeros((1, 16, 16, 2), np.float32)
    target[:, 4:12, 4:12, 0], target[:, :, :3, 1] = 1, 1
    loss = LOSSES[name]
    costs = [float(loss(jnp.asarray((2 * target - 1) * scale), jnp.asarray(target))) for scale in (-4, 0, 1, 4, 30)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 1e-4 < costs[-2]


@pytest.mark.slow
def test_class_weights_of_one_and_of_zero_weight_as_expected():
    logits, target = (jnp.asarray(x) for x in case(exclusive=False))
    for name in ("overlap", "ss"):
        loss = LOSSES[name]
        same = loss(logits, target, weights=jnp.full(4, 3.0))
        assert float(same) == pytest.approx(float(loss(logits, target)), rel=1e-6)
        only = loss(logits, target, weights=jnp.array([0.0, 1.0, 0.0, 0.0]))
        assert float(only) == pytest.approx(float(loss(logits[..., 1:2], target[..., 1:2])), rel=1e-6)


@pytest.mark.slow
def test_gradients_are_finite_for_perfect_and_empty_regions():
    empty, full = jnp.zeros((1, 4, 4, 2)), jnp.ones((1, 4, 4, 2))
    for part in PARTS:
        for target in (empty, full):
            for scale in (-200.0, 0.0, 200.0):
                objective = Objective((part,))
                gradient = jax.grad(lambda x, o=objective, t=target, p=part: o(x, t)[p])(jnp.full((1, 4, 4, 2), scale))
                assert np.isfinite(gradient).all(), (part, scale)


def test_impossible_shapes_are_refused():
    logits, target = jnp.zeros((1, 4, 4, 2)), jnp.zeros((1, 4, 4, 3))
    for loss in (*LOSSES.values(), foreground_dice_loss):
        with pytest.raises(ValueError, match=r"logits and target must both be \(B, H, W, K\)"):
            loss(logits, target)


def test_the_exponential_logarithmic_loss_follows_its_formula():
    found = float(exponential_logarithmic_loss(jnp.float32(0.4), jnp.float32(0.7)))
    assert found == pytest.approx(0.8 * (-np.log(0.6)) ** 0.3 + 0.2 * 0.7, rel=1e-5)
