"""One optimisation step: its results, its float32 state, its donated buffers and its random numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from small_networks import Blocks, Normed, Plain, close, examples, loss, unet

from jaxseg.nn.layers import BatchNorm
from jaxseg.training.learner import empty, initial_state, make_learner, state_shapes
from jaxseg.training.optim import scale_by_adam

pytestmark = pytest.mark.slow

ADAM = optax.chain(scale_by_adam(0.9, 0.999, 1e-8), optax.scale(-1e-2))


def started(model, transform=None, **options):
    learner = make_learner(model, transform or optax.sgd(0.1), loss, **options)
    return learner, initial_state(learner, model, seed=3)


def gradients(learner, state, batch):
    key = jax.random.key(0)

    def run(state, batch):
        return learner._gradients(state, batch, key)

    return jax.jit(run)(state, batch)


@pytest.mark.parametrize("make", [Normed, pytest.param(unet, marks=pytest.mark.full)])
@pytest.mark.parametrize("graph_mode", [True, False], ids=["graph", "tree"])
def test_steps_lower_the_loss_and_move_statistics_in_both_modes_of_nnx(graph_mode, make):
    with nnx.set_graph_mode(graph_mode):
        learner, state = started(make(), ADAM)
        before, batch, losses = jax.tree.map(np.asarray, state), examples(8), []
        step = jax.jit(learner.step)
        for _ in range(8):
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
            assert float(metrics["ce"]) == losses[-1]
        logits = learner.trained(state)(batch["image"])
    assert losses[-1] < 0.99 * losses[0]
    assert int(state["step"]) == 8
    assert logits.shape == (8, 32, 32, 2)
    for part in ("params", "stats"):
        leaves = zip(jax.tree.leaves(before[part]), jax.tree.leaves(state[part]), strict=True)
        assert all((a != np.asarray(b)).any() for a, b in leaves), part


def test_an_accumulated_step_is_the_mean_over_strided_parts():
    batch = examples(12)
    whole, state = started(Plain())
    learner, _ = started(Plain(), accumulate=3)
    found, metrics, _ = gradients(learner, state, batch)
    apart = [gradients(whole, state, jax.tree.map(lambda x, i=i: x[i::3], batch)) for i in range(3)]
    close(found, jax.tree.map(lambda *x: sum(x) / 3, *[part[0] for part in apart]))
    close(metrics, jax.tree.map(lambda *x: sum(x) / 3, *[part[1] for part in apart]))
    close(found, gradients(whole, state, batch)[0])  # without batch norm this is the mean over the whole batch


def test_statistics_of_accumulated_parts_follow_one_another():
    batch = examples(8)
    learner, state = started(Normed(), accumulate=2)
    whole, _ = started(Normed())
    found, _, stats = gradients(learner, state, batch)
    first, _, after = gradients(whole, state, jax.tree.map(lambda x: x[0::2], batch))
    second, _, last = gradients(whole, state | {"stats": after}, jax.tree.map(lambda x: x[1::2], batch))
    close(stats, last)
    close(found, jax.tree.map(lambda a, b: (a + b) / 2, first, second), 1e-4)


@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.full), 2])
def test_remat_gives_the_same_gradients_and_statistics(accumulate):
    batch = examples(4)
    learner, state = started(Blocks(), accumulate=accumulate)
    again, _ = started(Blocks(), accumulate=accumulate, remat=True)
    for found, wanted in zip(gradients(again, state, batch), gradients(learner, state, batch), strict=True):
        close(found, wanted, 1e-4)
    parts = [str(jax.make_jaxpr(one.step)(state, batch)).count("prevent_cse") for one in (learner, again)]
    assert parts[0] == 0
    assert parts[1] >= 2
    with pytest.raises(ValueError, match="Normed has no part that can be computed again"):
        started(Normed(), remat=True)


def test_the_moving_average_follows_its_decay_and_is_evaluated():
    learner, state = started(Plain(), ema=0.9)
    average, params = jax.tree.map(np.asarray, (state["average"], state["params"]))
    close(average, params, 0)
    step, average = jax.jit(learner.step), jax.tree.map(np.zeros_like, average)
    for i in range(3):
        state, _ = step(state, examples(4, i))
        average = jax.tree.map(lambda a, p: 0.9 * a + 0.1 * np.asarray(p), average, state["params"])
        # As in Adam: the initial parameters have no weight.
        corrected = jax.tree.map(lambda a, i=i: a / (1 - 0.9 ** (i + 1)), average)
        close(state["average"], corrected, 1e-5)
    kernel = learner.trained(state).layer.kernel[...]
    np.testing.assert_array_equal(kernel, state["average"]["layer"]["kernel"])
    assert (np.asarray(kernel) != np.asarray(state["params"]["layer"]["kernel"])).any()


def test_with_bfloat16_all_stored_arrays_are_float32_and_the_loss_falls():
    model = Normed(dtype=jnp.bfloat16)
    learner, state = started(model, ADAM, ema=0.5)
    assert model.first(examples(2)["image"]).dtype == jnp.bfloat16
    step, batch, losses = jax.jit(learner.step), examples(8), []
    for _ in range(6):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    kinds = {leaf.dtype for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)}
    assert kinds == {np.dtype("float32")}
    assert losses[-1] < losses[0]
    assert metrics["loss"].dtype == jnp.float32


def test_dropout_differs_from_step_to_step_and_repeats_from_the_same_state():
    learner, state = started(Plain(dropout=0.5), optax.sgd(0.0))
    step, batch = jax.jit(learner.step), examples(4)
    after, first = step(state, batch)
    _, second = step(after, batch)
    _, again = step(state, batch)
    assert float(first["loss"]) != float(second["loss"])
    assert float(first["loss"]) == float(again["loss"])
    other, _ = started(Plain(dropout=0.5), optax.sgd(0.0), accumulate=2)
    assert float(jax.jit(other.step)(state, batch)[1]["loss"]) != float(first["loss"])


@pytest.mark.full
def test_a_model_is_evaluated_without_dropout_and_with_running_statistics():
    model = unet(dropout=0.5)
    learner, state = started(model)
    image = examples(2)["image"]
    found = learner.trained(state)(image)
    wanted = nnx.view(model, use_running_average=True, deterministic=True)(image)
    np.testing.assert_array_equal(found, wanted)


def test_the_reported_gradient_norm_is_the_one_before_clipping():
    batch = examples(4)
    learner, state = started(Plain(), optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(1.0)))
    before = state["params"]
    wanted = optax.tree.norm(gradients(learner, state, batch)[0])
    state, metrics = jax.jit(learner.step)(state, batch)
    assert float(metrics["gradient_norm"]) == pytest.approx(float(wanted), rel=1e-5)
    moved = optax.tree.norm(jax.tree.map(lambda a, b: a - b, state["params"], before))
    assert float(moved) == pytest.approx(1e-3, rel=1e-3)


def test_the_first_state_holds_copies_of_the_arrays():
    model = Plain()
    learner, state = started(model)
    jax.jit(learner.step, donate_argnums=0)(state, examples(2))
    assert state["params"]["layer"]["kernel"].is_deleted()
    assert not model.layer.kernel[...].is_deleted()


def test_an_emptied_model_holds_no_arrays_and_still_gives_the_shapes_of_its_state():
    model = Normed()
    learner, state = started(model, ADAM, ema=0.9)
    empty(model)
    assert not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(nnx.state(model)))
    shapes = state_shapes(learner, model)
    assert shapes == jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    assert learner.trained(state)(examples(2)["image"]).shape == (2, 32, 32, 2)


def test_the_axis_name_of_batch_norm_is_set_only_in_a_view():
    model = unet()
    make_learner(model, optax.sgd(0.1), loss, axis="data")
    axes = {module.axis for _, module in nnx.iter_modules(model) if isinstance(module, BatchNorm)}
    assert axes == {None}


def test_a_learner_holds_no_arrays_and_is_frozen():
    learner, _ = started(Plain())
    assert not [leaf for leaf in jax.tree.leaves(learner.graphdef) if isinstance(leaf, jax.Array)]
    with pytest.raises(dataclasses.FrozenInstanceError):
        learner.ema = 0.5
