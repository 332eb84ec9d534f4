"""Three steps of the original recipes equal PyTorch's in losses, gradients, parameters and running statistics."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from golden_steps import first_four, in_torch_layout, keep_gradients, moved

from jaxseg.anatomy.unet import UNet, UNetConfig
from jaxseg.nn.losses import binary_cross_entropy, binary_dice_loss, probability_dice_loss
from jaxseg.post_dae import model as dae
from jaxseg.training.config.sections import OptimizerConfig, ScheduleConfig
from jaxseg.training.learner import initial_state, make_learner
from jaxseg.training.optim import make_optimizer
from jaxseg.weights.fill import fill

NAME, STEPS = "train/paxray_unet_resnet50", 3
RECIPE = OptimizerConfig("adamw", 1e-3, beta2=0.99, weight_decay=1e-4, bias_learning_rate=2.0, bias_weight_decay=False)


def loss(model, batch, key, step):
    logits = model(batch["image"])
    parts = {"dice": binary_dice_loss(logits, batch["target"]), "ce": binary_cross_entropy(logits, batch["target"])}
    return sum(parts.values()), parts


@pytest.mark.full
@pytest.mark.onednn_too
def test_three_steps_of_the_paxray_recipe_equal_pytorch(kit):
    entry, _ = kit.golden(NAME)
    order, parameters = entry["params"]["tensor_order"], entry["params"]["parameter_order"]
    cfg = UNetConfig("resnet50", num_classes=166)
    weights = kit.weights("paxray_unet_resnet50")
    unused = kit.manifest("paxray_unet_resnet50").get("unused", ())
    model = fill(nnx.eval_shape(lambda: UNet(cfg, rngs=nnx.Rngs(0))), weights, UNet.torch_names(cfg), ignored=unused)
    recipe = make_optimizer(RECIPE, ScheduleConfig(), steps_per_epoch=1, epochs=STEPS)
    learner = make_learner(model, optax.chain(keep_gradients(), recipe), loss)
    step, state = jax.jit(learner.step, donate_argnums=0), initial_state(learner, model, seed=0)
    names = UNet.torch_names(cfg)
    start, metrics = in_torch_layout(model, names, state["params"], state["stats"]), []
    for i in range(STEPS):
        batch = {"image": kit.input(NAME, f"x{i}"), "target": kit.input(NAME, f"target{i}").astype(np.uint8)}
        state, found = step(state, {name: array.transpose(0, 2, 3, 1) for name, array in batch.items()})
        metrics.append({name: float(value) for name, value in found.items()})
        now = in_torch_layout(model, names, state["params"], state["stats"])
        if i == 0:
            gradients = in_torch_layout(model, names, state["optimizer"][0])
            kit.check(NAME, "grad1_stats", moved(gradients, gradients, parameters)[:, :2])
        if i in (0, 2):
            kit.check(NAME, f"after{i + 1}_stats", moved(now, start, order))
            kit.check(NAME, f"after{i + 1}_first4", first_four(now, order))
    kit.check(NAME, "loss", np.array([entry["loss"] for entry in metrics]))
    kit.check(NAME, "loss_parts", np.array([[entry["dice"], entry["ce"]] for entry in metrics]))


@pytest.mark.slow
@pytest.mark.onednn_too
def test_three_steps_of_post_dae_equal_pytorch(kit):
    name = "train/dae_small"
    entry, _ = kit.golden(name)
    order = entry["params"]["tensor_order"]
    arguments = kit.manifest("dae_small")["constructor"]["kwargs"]
    cfg = dae.DAEConfig(**{key: tuple(value) for key, value in arguments.items()}, strides=(2, 2, 2))
    names = dae.DAE.torch_names(cfg)
    model = fill(nnx.eval_shape(lambda: dae.DAE(cfg, rngs=nnx.Rngs(0))), kit.weights("dae_small"), names)

    def dice(model, batch, key, step):
        return probability_dice_loss(model(batch["x"]), batch["y"]), {}

    recipe = make_optimizer(
        OptimizerConfig("adam", 1e-4), ScheduleConfig(), steps_per_epoch=1, epochs=STEPS, clip_norm=0.5
    )
    learner = make_learner(model, optax.chain(keep_gradients(), recipe), dice)
    step, state = jax.jit(learner.step), initial_state(learner, model, seed=0)
    start, values = in_torch_layout(model, names, state["params"]), []
    for i in range(STEPS):
        batch = {key: kit.input(name, f"{key}{i}").transpose(0, 2, 3, 1) for key in ("x", "y")}
        state, found = step(state, batch)
        values.append(float(found["loss"]))
        now = in_torch_layout(model, names, state["params"])
        if i == 0:
            gradients = in_torch_layout(model, names, state["optimizer"][0])
            kit.check(name, "grad1_stats", moved(gradients, gradients, order)[:, :2])
        if i in (0, 2):
            kit.check(name, f"after{i + 1}_stats", moved(now, start, order))
            kit.check(name, f"after{i + 1}_first4", first_four(now, order))
        kit.check(name, f"grad_norm_step{i + 1}", np.float32(found["gradient_norm"]))
    kit.check(name, "loss", np.array(values))
