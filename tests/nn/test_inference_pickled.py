"""Predictors that were pickled compute the same numbers in other processes, on the devices that these have."""

import os
import pickle
import subprocess
import sys

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import pickled_predictors
import pytest
from flax import nnx

from jaxseg.nn.inference import Runner, Winograd, for_inference, for_platform
from jaxseg.nn.layers import ConvNorm


class Wide(nnx.Module):
    """A convolution with enough channels for Winograd's algorithm, and a narrow one."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.wide = ConvNorm(256, 512, 3, rngs=rngs)
        self.narrow = ConvNorm(512, 3, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.narrow(self.wide(x, relu=True))


def apply(model, x):
    return model(x)


def copied(thing):
    return pickle.loads(pickle.dumps(thing))  # noqa: S301


X = np.random.default_rng(0).standard_normal((2, 6, 7, 256)).astype(np.float32)


@pytest.fixture(scope="module")
def made(plain) -> tuple[dict, dict[str, np.ndarray]]:
    found = pickled_predictors.predictors()
    return found, pickled_predictors.answers(found)


@pytest.mark.slow
@pytest.mark.parametrize(("library", "how"), [(pickle, "spawn"), (cloudpickle, "spawn"), (pickle, "fork")])
def test_predictors_compute_the_same_in_a_new_process(made, library, how, tmp_path):
    found, wanted = made
    (tmp_path / "predictors").write_bytes(library.dumps(found))
    command = [sys.executable, pickled_predictors.__file__, tmp_path / "predictors", tmp_path / "answers.npz", how]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "answers.npz") as answers:
        assert sorted(answers) == sorted(wanted)
        for name, values in wanted.items():
            np.testing.assert_allclose(answers[name], values, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_settings_by_which_runs_are_resumed_survive(made):
    found, _ = made
    for name, predictor in found.items():
        assert copied(predictor).settings == predictor.settings, name


def test_a_copy_uses_the_first_device_and_keeps_the_batch_size():
    runner = Runner(Wide(), apply, devices=jax.devices()[2:4], batch_size=4)
    copy = copied(copied(runner))  # the second one is pickled before it was used
    assert copy.batch_size == 4
    assert copy.round_up(3) == 3
    assert copy.devices == jax.devices()[:1]
    np.testing.assert_allclose(copy(X), runner(X), atol=1e-5)
    np.testing.assert_array_equal(copied(copy)(X), copy(X))  # pickled after it was used


def test_a_copy_shares_the_compiled_programs_of_its_origin():
    from jaxseg.nn import inference

    runner = Runner(Wide(), apply, batch_size=2)
    wanted = runner(X)
    before = inference._run._cache_size()
    np.testing.assert_array_equal(copied(runner)(X), wanted)
    assert inference._run._cache_size() == before


def test_convolutions_change_to_the_form_of_the_platform_and_back():
    model = nnx.view(Wide(), use_running_average=True)
    wanted = np.asarray(model(jnp.asarray(X)))
    ready = for_inference(model, "cpu")
    kernel = np.asarray(model.wide.conv.kernel[...]) * np.float32(1 / np.sqrt(1 + 1e-5))
    assert isinstance(ready.wide.conv, Winograd)
    there = for_platform(ready, "gpu")
    assert not [module for _, module in nnx.iter_modules(there) if isinstance(module, Winograd)]
    np.testing.assert_allclose(there.wide.conv.kernel[...], kernel, atol=1e-8)
    np.testing.assert_allclose(there(jnp.asarray(X)), wanted, atol=1e-5)
    back = for_platform(there, "cpu")
    assert isinstance(back.wide.conv, Winograd)
    np.testing.assert_allclose(back(jnp.asarray(X)), wanted, atol=1e-5)


def test_a_postprocess_that_cannot_be_pickled_is_named(made):
    found, _ = made
    segmenter = copied(found["segmenter"])
    segmenter.postprocess = lambda masks: masks
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(segmenter)
