"""Three steps of SegAE's recipe equal PyTorch's in losses, gradients, parameters and running statistics."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from golden_steps import first_four, in_torch_layout, keep_gradients, moved

from jaxseg.segae.losses import cosine_similarity, optimal_pairs, ranking_loss, weighted_mse
from jaxseg.segae.model import SegAE, SegAEConfig
from jaxseg.training.config.sections import OptimizerConfig, ScheduleConfig
from jaxseg.training.learner import initial_state, make_learner
from jaxseg.training.optim import make_optimizer
from jaxseg.weights.fill import fill

NAME, MODEL, STEPS = "train/segae_resnet50", "segae_resnet50_train", 3
RECIPE = OptimizerConfig("adam_l2", 1e-3, weight_decay=1e-4)


def loss(model, batch, key, step):
    prediction = model(batch["image"], batch["embedding"])
    partner = optimal_pairs(cosine_similarity(batch["embedding"]))
    parts = {"mse": weighted_mse(prediction, batch["dice"])}
    parts["ranking"] = ranking_loss(prediction, batch["dice"], partner)
    return sum(parts.values()), parts


def batch_of(kit, i: int) -> dict[str, np.ndarray]:
    image, embedding, dice = (kit.input(NAME, f"{key}{i}") for key in ("x", "embedding", "dice"))
    return {"image": image.transpose(0, 2, 3, 1), "embedding": embedding, "dice": dice.reshape(-1)}


@pytest.mark.full
@pytest.mark.onednn_too
def test_three_steps_of_the_segae_recipe_equal_pytorch(kit):
    entry, _ = kit.golden(NAME)
    order, parameters = entry["params"]["tensor_order"], entry["params"]["parameter_order"]
    cfg, weights = SegAEConfig(), kit.weights(MODEL)
    names, unused = SegAE.torch_names(cfg), SegAE.torch_unused(cfg)
    # PyTorch never changes its unused parameters, even by weight decay, as they have no gradient. Ours has none.
    kept = {name: weights[name] for name in unused}
    without = {name: np.full(2, np.nan) for name in unused}
    model = fill(nnx.eval_shape(lambda: SegAE(cfg, rngs=nnx.Rngs(0))), weights, names, ignored=unused)
    recipe = make_optimizer(RECIPE, ScheduleConfig(), steps_per_epoch=1, epochs=STEPS)
    learner = make_learner(model, optax.chain(keep_gradients(), recipe), loss)
    step, state = jax.jit(learner.step, donate_argnums=0), initial_state(learner, model, seed=0)
    start, metrics = in_torch_layout(model, names, state["params"], state["stats"]) | kept, []
    for i in range(STEPS):
        state, found = step(state, batch_of(kit, i))
        metrics.append({name: float(value) for name, value in found.items()})
        now = in_torch_layout(model, names, state["params"], state["stats"]) | kept
        if i == 0:
            gradients = in_torch_layout(model, names, state["optimizer"][0]) | without
            kit.check(NAME, "grad1_stats", moved(gradients, gradients, parameters)[:, :2])
        if i in (0, 2):
            kit.check(NAME, f"after{i + 1}_stats", moved(now, start, order))
            kit.check(NAME, f"after{i + 1}_first4", first_four(now, order))
    kit.check(NAME, "loss", np.array([entry["loss"] for entry in metrics]))
    kit.check(NAME, "loss_parts", np.array([[entry["mse"], entry["ranking"]] for entry in metrics]))
    assert not np.asarray(state["stats"]["embeddings"]).any()
