"""One confusion matrix per named annotator: training on digits, sampling by annotator, storing, refused settings."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from annotator_files import save_lidc

import jaxseg
from jaxseg.annotators.cmvae import CMVAE
from jaxseg.training import run
from jaxseg.training.task import make_task
from jaxseg.weights.store import save_model

pytestmark = pytest.mark.slow

SMALL = {"image_size": (16, 24), "width": 4, "depth": 2, "annotators": 3, "num_classes": 3}
KINDS = ["annotator", "global"]
SETTINGS = {
    "model.width": 8,
    "model.depth": 2,
    "trainer.epochs": 16,
    "trainer.batch_size": 10,
    "trainer.pictures_every": 16,
    "trainer.log_every": 10,
    "optimizer.learning_rate": 0.01,
}


def small(matrices: str, **values) -> CMVAE:
    model = jaxseg.create("cmvae", matrices=matrices, **SMALL | values)
    if matrices == "global":
        eye = np.random.default_rng(0).normal(size=(3, 3, 3))
        model.confusion.weights.set_value(jnp.asarray(eye, jnp.float32))
    return model


def image() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(16, 24)).astype(np.float32)


def opened(folder, data, **changed):
    named = SETTINGS | {name.replace("__", "."): value for name, value in changed.items()}
    overrides = [f"{name}={value}" for name, value in named.items()]
    return run.open_run("named_annotators_mnist", folder, data=data, overrides=overrides)


@pytest.mark.parametrize("matrices", KINDS)
def test_masks_of_an_annotator_follow_from_its_matrices(matrices):
    model = small(matrices)
    started = jax.jit(lambda model, x: model.start_samples(x))(model, image()[..., None])
    found = jax.jit(lambda model, *given: model.annotator_masks(*given))(model, started, jnp.arange(3))
    given = jax.jit(lambda model, x: model.named_outputs(x))(model, image()[None, ..., None])
    raw, logits = np.asarray(given["matrices"])[0].astype(np.float64), np.asarray(given["logits"])[0]
    normal = (raw / raw.sum(-2, keepdims=True)).transpose(2, 0, 1, 3, 4)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    noisy = np.einsum("ahwij,hwj->ahwi", normal, probabilities)
    np.testing.assert_allclose(found["matrices"].transpose(0, 3, 4, 1, 2), normal, atol=1e-5)
    np.testing.assert_allclose(np.exp(found["logits"]), noisy, atol=1e-5)
    assert (np.asarray(found["masks"]) != noisy.argmax(-1)).mean() < 1e-2
    if matrices == "global":
        assert np.ptp(normal, axis=(1, 2)).max() < 1e-6  # the same for all pixels


@pytest.mark.parametrize("matrices", KINDS)
def test_samples_are_masks_of_annotators_selected_at_random(matrices):
    model = small(matrices)
    found = jaxseg.sample(image(), model, n=200, key=0)
    started = model.start_samples(jnp.asarray(image()[..., None]))
    each = np.asarray(model.annotator_masks(started, jnp.arange(3))["masks"])
    assert len({mask.tobytes() for mask in each}) == 3
    counts = [int((found.masks == mask).all((1, 2)).sum()) for mask in each]
    assert sum(counts) == 200
    assert min(counts) > 40
    with pytest.raises(ValueError, match="source 'image' is for matrices of a latent vector; this model"):
        jaxseg.sample(image(), model, source="image")


@pytest.mark.parametrize("matrices", KINDS)
def test_a_stored_model_keeps_its_annotators(matrices, tmp_path):
    model = small(matrices)
    loaded = jaxseg.load(save_model(model, tmp_path / "model", model.card))
    assert loaded.cfg == model.cfg
    np.testing.assert_array_equal(jaxseg.sample(image(), loaded, 5).masks, jaxseg.sample(image(), model, 5).masks)


@pytest.mark.full
@pytest.mark.parametrize("matrices", KINDS)
def test_training_on_digits_learns_the_truth_and_the_annotators(shared, tmp_path, matrices):
    folder, devices = tmp_path / "run", jax.devices()[:1]
    config = opened(folder, shared / "data/mnist", model__matrices=matrices)
    scores = run.train(config, folder, devices=devices)
    assert scores["dice"] > 0.6
    assert scores["dice_own"] > {"annotator": 0.65, "global": 0.45}[matrices]  # one matrix cannot say where they err
    assert "dice_one_sample" not in scores
    found = run.evaluate(folder, devices=devices)
    assert found["last"]["measures"]["dice_own"]["mean"] == pytest.approx(scores["dice_own"], abs=1e-4)
    stored = json.loads((folder / "evaluation_val.json").read_text())
    assert stored["last"]["measures"].keys() == found["measures"].keys()
    assert len(list((folder / "pictures").iterdir())) == 1


def test_the_trace_is_maximised_in_the_warm_up_and_minimised_afterwards(shared, tmp_path):
    task = make_task(opened(tmp_path / "run", shared / "data/mnist", loss__warm_up=0.5))
    source = task.splits["train"]
    batch = {name: np.stack([source[i][name] for i in range(4)]) for name in ("image", "labels")}
    loss = jax.jit(lambda step: task.loss(task.model, batch, jax.random.key(0), step)[1]["trace"])
    before, after = (float(loss(step)) for step in (79, 80))  # 16 epochs of 10 steps
    assert before == pytest.approx(-after / 0.01, rel=1e-4)
    assert after > 0


def test_sets_without_names_are_refused(tmp_path):
    save_lidc(tmp_path / "data", size=16)
    config = opened(tmp_path / "run", tmp_path / "data", data__layout="lidc")
    with pytest.raises(ValueError, match="data.layout is 'lidc', whose annotators have no names; this task needs"):
        make_task(config)
