"""The optimizers and schedules take the same steps as PyTorch: stored goldens and values computed by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxseg.training.config.sections import OptimizerConfig, ScheduleConfig
from jaxseg.training.optim import clip_by_norm, is_bias, learning_rate, make_optimizer

CONSTANT = ScheduleConfig()
GOLDENS = {  # the exaggerated rates of the goldens
    "optim/paxray": (
        OptimizerConfig("adamw", 0.05, beta2=0.99, weight_decay=0.1, bias_learning_rate=2.0, bias_weight_decay=False),
        None,
    ),
    "optim/cmvae": (OptimizerConfig("adamw", 0.05, weight_decay=0.1), None),
    "optim/segae": (OptimizerConfig("adam_l2", 0.05, weight_decay=0.1), None),
    "optim/dae_clip": (OptimizerConfig("adam", 0.05), 0.5),
}
# frozen.weight has no gradient and is not a parameter here.
PARAMS = ("layer.weight", "layer.bias", "norm.weight", "norm.bias")
FACTORS = (0.05, 3, 0.2, 10, 0.01)  # largest norm of the gradients in the golden for clipping


def nested(values: dict) -> dict:
    tree = {}
    for name, value in values.items():
        group, leaf = name.split(".")
        tree.setdefault(group, {})[leaf] = value
    return tree


def rates(schedule: ScheduleConfig, steps, *, base=1.0, steps_per_epoch=1, epochs=10) -> np.ndarray:
    rate = learning_rate(OptimizerConfig("adam", base), schedule, steps_per_epoch=steps_per_epoch, epochs=epochs)
    return np.asarray(rate(np.asarray(steps)))


def run(optimizer: OptimizerConfig, params, gradients, *, clip_norm=None, schedule=CONSTANT):
    """Returns the parameters after every step on the given gradients."""
    transform = make_optimizer(optimizer, schedule, steps_per_epoch=1, epochs=10, clip_norm=clip_norm)

    @jax.jit
    def step(params, state, gradient):
        updates, state = transform.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state, found = transform.init(params), []
    for gradient in gradients:
        params, state = step(params, state, gradient)
        found.append(params)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDENS)
def test_five_steps_equal_pytorch(kit, name):
    optimizer, clip_norm = GOLDENS[name]
    params = nested({key: jnp.asarray(kit.input(name, f"p:{key}")) for key in PARAMS})
    gradients = []
    for i in range(5):
        factor = FACTORS[i] if clip_norm else 1
        given = {key: np.float32(factor) * kit.input(name, f"g:{key}")[i] for key in PARAMS}
        gradients.append(nested(given))
    for i, after in enumerate(run(optimizer, params, gradients, clip_norm=clip_norm)):
        for key in PARAMS:
            group, leaf = key.split(".")
            kit.check(name, f"step{i + 1}:{key}", after[group][leaf])
    if clip_norm:
        kit.check(name, "norms", np.array([optax.tree.norm(gradient) for gradient in gradients]))


def test_the_bias_group_and_clipping_matter_in_the_goldens(kit):
    """A wrong setting misses the goldens, so the goldens can detect it."""
    params = nested({key: jnp.asarray(kit.input("optim/paxray", f"p:{key}")) for key in PARAMS})
    gradient = nested({key: kit.input("optim/paxray", f"g:{key}")[0] for key in PARAMS})
    wrong = OptimizerConfig("adamw", 0.05, beta2=0.99, weight_decay=0.1, bias_learning_rate=2.0)
    with pytest.raises(AssertionError):
        kit.check("optim/paxray", "step1:layer.bias", run(wrong, params, [gradient])[0]["layer"]["bias"])


@pytest.mark.slow
def test_epoch_schedules_equal_pytorch(kit):
    steps_per_epoch = 7
    segae = ScheduleConfig("cosine")
    found = rates(segae, np.arange(30) * steps_per_epoch + 3, base=1e-3, steps_per_epoch=steps_per_epoch, epochs=30)
    kit.check("optim/schedules", "segae_lr", found)
    paxray = ScheduleConfig("multistep", milestones=(60, 90, 100))
    found = rates(paxray, np.arange(110) * steps_per_epoch + 6, base=1e-3, steps_per_epoch=steps_per_epoch, epochs=110)
    kit.check("optim/schedules", "paxray_lr", found)


def test_sgd_has_momentum_and_coupled_weight_decay_as_in_pytorch():
    p, g, v = 2.0, [0.5, -1.0, 0.25], 0.0
    optimizer = OptimizerConfig("sgd", 0.1, weight_decay=0.01, momentum=0.9)
    found = run(optimizer, {"w": jnp.float32(p)}, [{"w": jnp.float32(x)} for x in g])
    for x, after in zip(g, found, strict=True):
        v = 0.9 * v + (x + 0.01 * p)  # torch.optim.SGD: buffer = momentum * buffer + gradient
        p -= 0.1 * v
        assert after["w"] == pytest.approx(p, rel=1e-6)


@pytest.mark.slow
def test_step_and_polynomial_schedules_change_per_epoch():
    step = rates(ScheduleConfig("step", step_size=3, gamma=0.5), range(10))
    assert step == pytest.approx([0.5 ** (e // 3) for e in range(10)])
    poly = rates(ScheduleConfig("polynomial", power=0.9), range(12))
    assert poly == pytest.approx([(1 - e / 10) ** 0.9 for e in range(10)] + [0, 0], abs=1e-7)
    inside = rates(ScheduleConfig("polynomial"), range(40), steps_per_epoch=4)
    assert (inside.reshape(10, 4) == inside[::4, None]).all()


@pytest.mark.slow
def test_a_schedule_per_step_is_smooth_and_keeps_its_milestones():
    cosine = ScheduleConfig("cosine", final=0.2, per="step")
    found = rates(cosine, range(41), steps_per_epoch=4)
    assert found == pytest.approx([0.2 + 0.4 * (1 + math.cos(math.pi * s / 40)) for s in range(41)], abs=1e-6)
    multistep = ScheduleConfig("multistep", milestones=(2, 5), per="step")
    assert rates(multistep, [7, 8, 19, 20], steps_per_epoch=4) == pytest.approx([1, 0.1, 0.1, 0.01])


def test_warm_up_rises_to_the_full_rate_and_the_cosine_starts_there():
    found = rates(ScheduleConfig("cosine", warmup_epochs=3), range(11))
    assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert found[3:] == pytest.approx([0.5 * (1 + math.cos(math.pi * e / 7)) for e in range(8)], abs=1e-6)
    assert rates(ScheduleConfig(warmup_epochs=1, per="step"), range(5), steps_per_epoch=4) == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 1.0]
    )


def test_a_warm_up_longer_than_training_never_ends_but_is_finite():
    found = rates(ScheduleConfig("cosine", warmup_epochs=50), range(10))
    assert np.isfinite(found).all()
    assert (np.diff(found) > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "schedule",
    [
        ScheduleConfig(),
        ScheduleConfig("step", step_size=1_000_000),
        ScheduleConfig("multistep", milestones=(1, 999_999)),
        ScheduleConfig("cosine", per="step"),
        ScheduleConfig("polynomial", warmup_epochs=2),
    ],
    ids=lambda schedule: schedule.name,
)
def test_a_rate_is_the_same_when_traced_on_the_host_and_at_a_late_step(schedule):
    rate = learning_rate(OptimizerConfig("adam", 1e-3), schedule, steps_per_epoch=20_000, epochs=100)
    for step in (0, 1, 19_999, 20_000, 1_999_999, 2**31 - 1):
        host, traced = rate(step), jax.jit(rate)(jnp.int32(step))
        assert host.dtype == traced.dtype == jnp.float32
        assert host.shape == ()
        assert float(host) == pytest.approx(float(traced), rel=1e-6, abs=1e-12)
    assert rate(0) == pytest.approx(1e-3 / (1 + schedule.warmup_epochs), rel=1e-6)


def test_the_optimizer_follows_its_schedule_and_resumes_from_its_state():
    schedule = ScheduleConfig("multistep", milestones=(1, 2))
    transform = make_optimizer(OptimizerConfig("sgd", 1.0), schedule, steps_per_epoch=2, epochs=3)
    params = {"w": jnp.float32(0)}
    state, found = transform.init(params), []
    for _ in range(6):
        state = jax.tree.map(jnp.array, jax.tree.map(np.asarray, state))  # as if read from a checkpoint
        updates, state = transform.update({"w": jnp.float32(1)}, state, params)
        found.append(float(updates["w"]))
    assert found == pytest.approx([-1, -1, -0.1, -0.1, -0.01, -0.01])


def test_clipping_leaves_small_gradients_and_uses_pytorchs_epsilon():
    clip = clip_by_norm(1.0)
    small, _ = clip.update({"a": jnp.array([0.3, 0.4])}, optax.EmptyState())
    assert (small["a"] == jnp.array([0.3, 0.4])).all()
    tiny, _ = clip_by_norm(1e-6).update({"a": jnp.array([1e-6])}, optax.EmptyState())
    assert float(tiny["a"][0]) == pytest.approx(0.5e-6, rel=1e-4)


class Network(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.dense = nnx.Linear(2, 3, rngs=rngs)
        self.norms = nnx.List([nnx.BatchNorm(3, rngs=rngs)])
        self.bias = nnx.List([nnx.Linear(3, 1, use_bias=False, rngs=rngs)])  # a layer of that name is not a bias


@pytest.mark.parametrize("form", [lambda s: s, nnx.as_pure, lambda s: nnx.to_pure_dict(s)])
def test_biases_are_found_in_every_form_of_parameters(form):
    params = form(nnx.state(Network(nnx.Rngs(0)), nnx.Param))
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    assert [is_bias(path) for path in paths] == [False, True, False, True, False]
    assert ["kernel" in jax.tree_util.keystr(path) for path in paths] == [True, False, True, False, False]


@pytest.mark.slow
def test_an_nnx_optimizer_changes_only_the_parameters_that_the_groups_allow():
    model = Network(nnx.Rngs(0))
    optimizer = OptimizerConfig("adamw", 0.1, weight_decay=0.5, bias_learning_rate=0.0, bias_weight_decay=False)
    transform = make_optimizer(optimizer, CONSTANT, steps_per_epoch=1, epochs=1, clip_norm=1.0)
    holder = nnx.Optimizer(model, transform, wrt=nnx.Param)
    before = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    gradients = jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param))
    holder.update(model, gradients)
    after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    np.testing.assert_array_equal(after["dense"]["bias"], before["dense"]["bias"])
    np.testing.assert_allclose(after["dense"]["kernel"], 0.95 * before["dense"]["kernel"], rtol=1e-6)


@pytest.mark.parametrize(("steps_per_epoch", "epochs"), [(0, 1), (1, 0), (-1, 5), (2**20, 2**12)])
def test_invalid_lengths_are_refused(steps_per_epoch, epochs):
    with pytest.raises(ValueError, match="steps: both must be 1 or more"):
        learning_rate(OptimizerConfig("adam", 1e-3), CONSTANT, steps_per_epoch=steps_per_epoch, epochs=epochs)
