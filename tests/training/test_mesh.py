"""Several devices compute the same as one with the same global batch, with jit and pmap (float32, 8 virtual CPUs)."""

import functools
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from small_networks import Normed, Plain, close, examples, loss, unet

from jaxseg.nn.layers import BatchNorm
from jaxseg.nn.views import over_devices
from jaxseg.training.learner import AXIS, initial_state, make_learner
from jaxseg.training.mesh import join_hosts, make_placement

pytestmark = pytest.mark.slow

BATCH, STEPS = 16, 3
SGD = optax.chain(optax.trace(0.0), optax.scale(-0.1))  # the state of its momentum holds the gradients


def trained(parallel: str, count: int, *, make=unet, steps: int = STEPS, loss=loss, data=examples, **options):
    """Returns the metrics of all steps of SGD, the gradients of the first, and the last state."""
    model = make()
    axis = AXIS if parallel == "pmap" else None
    learner = make_learner(model, SGD, loss, axis=axis, **options)
    placement = make_placement(parallel, jax.devices()[:count], BATCH, accumulate=options.get("accumulate", 1))
    step, state = placement.compile(learner), placement.put_state(initial_state(learner, model, seed=0))
    metrics, gradients = [], None
    for i in range(steps):
        state, found = step(state, placement.put_batch(jax.tree.map(np.asarray, data(BATCH, i))))
        metrics.append(placement.fetch(found))
        if gradients is None:
            gradients = jax.tree.map(np.asarray, placement.take_state(state)["optimizer"][0].trace)
    return metrics, gradients, jax.tree.map(np.asarray, placement.take_state(state))


@functools.cache
def one_device(make=unet, accumulate: int = 1):
    return trained("jit", 1, make=make, accumulate=accumulate)


def losses(metrics) -> list[float]:
    return [entry["loss"] for entry in metrics]


def equal(found, wanted):
    """Compares gradients to 1e-5 of the largest gradient, and everything else to 1e-5."""
    np.testing.assert_allclose(losses(found[0]), losses(wanted[0]), rtol=1e-5)
    largest = max(np.abs(g).max() for g in jax.tree.leaves(wanted[1]))
    for a, b in zip(jax.tree.leaves(found[1]), jax.tree.leaves(wanted[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * largest)
    for part in ("params", "stats"):
        for a, b in zip(jax.tree.leaves(found[2][part]), jax.tree.leaves(wanted[2][part]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [Normed, pytest.param(unet, marks=pytest.mark.full)])
@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_eight_devices_equal_one(parallel, make):
    found = trained(parallel, 8, make=make)
    equal(found, one_device(make))
    assert int(found[2]["step"]) == STEPS


@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_accumulated_parts_on_two_devices_equal_those_on_one(parallel):
    equal(trained(parallel, 2, make=Normed, accumulate=2), one_device(Normed, accumulate=2))


def test_each_replica_normalises_only_by_its_own_share():
    """As in PyTorch's DataParallel, every device normalises by its own share; gradients are the mean over shares."""

    def uneven(count: int, seed: int = 0) -> dict:
        batch = examples(count, seed)
        return batch | {"image": batch["image"] * np.repeat(np.float32([1, 3]), count // 2).reshape(-1, 1, 1, 1)}

    options = {"make": Normed, "data": uneven, "steps": 1}
    found, together = trained("pmap", 2, batch_norm="replica", **options), trained("jit", 1, **options)
    model, batch = Normed(), uneven(BATCH)
    learner = make_learner(model, SGD, loss)
    start, apart = initial_state(learner, model, seed=0), []
    for share in (slice(0, BATCH // 2), slice(BATCH // 2, None)):
        state, metrics = jax.jit(learner.step)(start, jax.tree.map(lambda x, s=share: x[s], batch))
        apart.append((metrics["loss"], state["optimizer"][0].trace, state["stats"]))
    value, gradients, stats = jax.tree.map(lambda a, b: np.asarray((a + b) / 2), *apart)
    assert found[0][0]["loss"] == pytest.approx(float(value), rel=1e-5)
    close(found[1], gradients, 1e-4)
    close(found[2]["stats"], stats)
    assert abs(found[0][0]["loss"] / together[0][0]["loss"] - 1) > 1e-4  # the global statistics give another result


def test_replica_statistics_without_replicas_are_refused():
    with pytest.raises(ValueError, match="needs trainer.parallel: pmap"):
        make_learner(unet(), SGD, loss, batch_norm="replica")


def test_batch_norm_over_a_device_axis_equals_that_of_the_whole_batch():
    x = np.random.default_rng(0).normal(50, 3, (8, 3, 5, 5, 4)).astype(np.float32)
    whole = BatchNorm(4)
    wanted = whole(x.reshape(-1, 5, 5, 4)).reshape(x.shape)
    graphdef, state = nnx.split(over_devices(BatchNorm(4), "i"))

    def apply(x):
        norm = nnx.merge(graphdef, jax.tree.map(lambda a: a, state))  # variables that belong to this trace
        return norm(x), norm.mean[...], norm.var[...]

    found, mean, var = jax.vmap(apply, axis_name="i")(x)
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    np.testing.assert_allclose(mean, np.broadcast_to(whole.mean[...], (8, 4)), rtol=1e-6)
    np.testing.assert_allclose(var, np.broadcast_to(whole.var[...], (8, 4)), rtol=1e-5)
    np.testing.assert_allclose(var[0], 0.9 + 0.1 * x.reshape(-1, 4).var(0, ddof=1), rtol=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_replica_and_part_samples_its_own_random_numbers(accumulate):
    def drawing(model, batch, key, step):
        draw = jax.random.uniform(key)
        return loss(model, batch, key, step)[0], {"draw": draw, "square": draw**2}

    found, _, _ = trained("pmap", 4, make=Plain, steps=2, loss=drawing, accumulate=accumulate)
    assert all(entry["square"] - entry["draw"] ** 2 > 1e-3 for entry in found)  # variance over replicas
    assert found[0]["draw"] != found[1]["draw"]


@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_the_state_is_donated(parallel):
    model = Plain()
    learner = make_learner(model, SGD, loss, axis=AXIS if parallel == "pmap" else None)
    placement = make_placement(parallel, jax.devices()[:2], BATCH)
    old = placement.put_state(initial_state(learner, model, seed=0))
    new, _ = placement.compile(learner)(old, placement.put_batch(jax.tree.map(np.asarray, examples(BATCH))))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((old["params"], old["optimizer"])))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((new, nnx.state(model))))


@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_a_state_is_unchanged_after_a_round_trip_through_the_devices(parallel):
    model = Plain()
    learner = make_learner(model, SGD, loss)
    state = jax.tree.map(np.asarray, initial_state(learner, model, seed=0))
    placement = make_placement(parallel, jax.devices()[:4], BATCH)
    back = placement.take_state(placement.put_state(state))
    jax.tree.map(np.testing.assert_array_equal, back, state)
    assert all(leaf.sharding == placement.replicated for leaf in jax.tree.leaves(back))


def test_a_batch_that_does_not_fit_the_devices_is_refused():
    with pytest.raises(ValueError, match="a batch of 12 cannot be split evenly over 8 devices"):
        make_placement("jit", jax.devices(), 12)
    with pytest.raises(ValueError, match="a batch of 8 in 2 parts cannot be split evenly over 8 devices"):
        make_placement("pmap", jax.devices(), 8, accumulate=2)
    with pytest.raises(ValueError, match="'both' is not one of jit, pmap"):
        make_placement("both", jax.devices(), 8)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("127.0.0.1:9", None, 0), "belong together"),
        (("127.0.0.1", 2, 0), "must be HOST:PORT"),
        (("127.0.0.1:x", 2, 0), "must be HOST:PORT"),
        (("127.0.0.1:99999", 2, 0), "must be HOST:PORT"),
        (("127.0.0.1:9", 2, 2), "must be below --num-processes, 2"),
    ],
)
def test_impossible_host_settings_are_refused_without_waiting(given, message):
    with pytest.raises(ValueError, match=message):
        join_hosts(*given)


def test_a_process_that_finds_no_other_ends_with_a_one_line_error():
    """JAX itself would abort the process with a stack trace."""
    code = "from jaxseg.training.mesh import join_hosts; join_hosts('127.0.0.1:1', 2, 1, timeout_s=0.5)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    wanted = "Error: the processes did not find each other at 127.0.0.1:1 within 0.5 s; are all of them running?\n"
    assert (found.returncode, found.stderr) == (1, wanted)
