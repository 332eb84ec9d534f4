"""Three steps of both annotator recipes equal PyTorch's in losses, gradients and parameters."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from golden_steps import first_four, in_torch_layout, keep_gradients, moved

from jaxseg.annotators import cmvae, prob_unet
from jaxseg.annotators.losses import confusion_vae_loss, kl_schedule, negative_elbo, sum_of_norms
from jaxseg.training.config.sections import OptimizerConfig, ScheduleConfig
from jaxseg.training.learner import initial_state, make_learner
from jaxseg.training.optim import make_optimizer
from jaxseg.weights.fill import fill

pytestmark = [pytest.mark.full, pytest.mark.onednn_too]

STEPS = 3
RECIPE = OptimizerConfig("adamw", 1e-4, weight_decay=1e-3)


def nhwc(array: np.ndarray) -> np.ndarray:
    return array.transpose(0, 2, 3, 1)


def check_steps(kit, name: str, model: nnx.Module, names: dict[str, str], loss, batch_of) -> list[dict]:
    """Compares the steps of a recipe with a golden, and returns the losses and their parts."""
    order = kit.golden(name)[0]["params"]["tensor_order"]
    recipe = make_optimizer(RECIPE, ScheduleConfig(), steps_per_epoch=1, epochs=STEPS)
    learner = make_learner(model, optax.chain(keep_gradients(), recipe), loss)
    step, state = jax.jit(learner.step), initial_state(learner, model, seed=0)
    start, metrics = in_torch_layout(model, names, state["params"]), []
    for i in range(STEPS):
        state, found = step(state, batch_of(i))
        metrics.append({key: float(value) for key, value in found.items()})
        now = in_torch_layout(model, names, state["params"])
        if i == 0:
            gradients = in_torch_layout(model, names, state["optimizer"][0])
            kit.check(name, "grad1_stats", moved(gradients, gradients, order)[:, :2])
        if i in (0, 2):
            kit.check(name, f"after{i + 1}_stats", moved(now, start, order))
            kit.check(name, f"after{i + 1}_first4", first_four(now, order))
    kit.check(name, "loss", np.array([entry["loss"] for entry in metrics]))
    return metrics


def test_three_steps_of_the_confusion_vae_equal_pytorch(kit):
    name, cfg = "train/scm_lidc_in", cmvae.CMVAEConfig()
    given = kit.golden(name)[0]["params"]
    weight = float(kl_schedule("anneal", given["total_epoch"], ramp_up=given["ramp_up"])[given["epoch"]])
    names = cmvae.CMVAE.torch_names(cfg)
    model = fill(nnx.eval_shape(lambda: cmvae.CMVAE(cfg, rngs=nnx.Rngs(0))), kit.weights("scm_lidc_in"), names)

    def loss(model, batch, key, step):
        outputs = model.outputs(batch["image"], batch["noise"])
        return confusion_vae_loss(**outputs, labels=batch["labels"], kl_weight=weight * given["beta"])

    def batch_of(i: int) -> dict[str, np.ndarray]:
        x, noise, labels = (kit.input(name, f"{key}{i}") for key in ("x", "eps", "labels"))
        return {"image": nhwc(x), "noise": noise, "labels": labels[:, i % 3]}

    metrics = check_steps(kit, name, model, names, loss, batch_of)
    kit.check(name, "loss_parts", np.array([[entry["loss"] - entry["kl"], entry["kl"]] for entry in metrics]))


def test_three_steps_of_the_probabilistic_u_net_equal_pytorch(kit):
    name, cfg = "train/punet_lidc", prob_unet.ProbUNetConfig()
    beta = float(kit.manifest("punet_lidc")["constructor"]["kwargs"]["beta"])
    names = prob_unet.ProbUNet.torch_names(cfg)
    model = fill(nnx.eval_shape(lambda: prob_unet.ProbUNet(cfg, rngs=nnx.Rngs(0))), kit.weights("punet_lidc"), names)

    def loss(model, batch, key, step):
        found = model.outputs(batch["image"], batch["target"], batch["noise"])
        value, parts = negative_elbo(found["logits"], batch["target"], found["posterior"], found["prior"], beta=beta)
        norms = sum_of_norms(prob_unet.regularised(model))
        return value + 1e-5 * norms, parts | {"norms": norms}

    def batch_of(i: int) -> dict[str, np.ndarray]:
        x, target, noise = (kit.input(name, f"{key}{i}") for key in ("x", "segm", "eps"))
        return {"image": nhwc(x), "target": nhwc(target), "noise": noise}

    metrics = check_steps(kit, name, model, names, loss, batch_of)
    columns = ("reconstruction", "kl", "norms")
    kit.check(name, "loss_parts", np.array([[entry[column] for column in columns] for entry in metrics]))
