"""Sampling masks in memory: values of the samples, sizes, keys, files, and refused input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxseg
from jaxseg.annotators import cmvae, prob_unet
from jaxseg.annotators import sample as sampling
from jaxseg.annotators.images import checked_image
from jaxseg.annotators.sample import Sampler, sample
from jaxseg.weights.store import save_model

pytestmark = pytest.mark.slow

SIZE = (32, 32)
LISTS = ("features", "decoder_features", "intermediate")


def lively_cmvae(**config):
    """Returns an untrained cmvae with different annotators: its matrices depend on the latent vector."""
    model = jaxseg.create("cmvae", **{"image_size": SIZE, "width": 4, "depth": 2, "latent": 4} | config)
    model.confusion.decoder.kernel[...] = 9 * model.confusion.decoder.kernel[...]
    model.eval()
    return model


def lively_prob_unet(**config):
    model = jaxseg.create("prob_unet", **{"filters": (4, 6), "latent": 3} | config)
    model.combine.layers[0].kernel[...] = 3 * model.combine.layers[0].kernel[...]
    model.card = dataclasses.replace(model.card, input_size=SIZE)
    return model


MAKERS = {"cmvae": lively_cmvae, "prob_unet": lively_prob_unet}
MODELS = {name: make() for name, make in MAKERS.items()}
BOTH = pytest.mark.parametrize("name", list(MODELS))


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape or SIZE)


@BOTH
def test_samples_equal_those_of_the_model_itself(name):
    found = sample(image(), MODELS[name], 12, 5)
    plane, key = jnp.asarray(image()[..., None], jnp.float32), jax.random.key(5)
    module = {"cmvae": cmvae, "prob_unet": prob_unet}[name]
    expected = jax.jit(lambda plane: module.sample(MODELS[name], plane, 12, key))(plane)
    masks = np.asarray(expected["masks"]).reshape(12, *SIZE)
    assert (found.masks != masks).mean() < 1e-3
    assert 0.01 < (found.masks != found.masks[0]).mean() < 0.99
    assert found.masks.dtype == found.clean.dtype == np.uint8
    logits = np.asarray(jax.jit(MODELS[name])(plane[None]))[0]
    clean = logits.argmax(-1) if name == "cmvae" else logits[..., 0] > 0
    assert (found.clean != clean).mean() < 1e-2


@pytest.mark.parametrize("normalisation", ["original", "consistent"])
@pytest.mark.parametrize("source", ["prior", "image"])
def test_confusion_is_the_mean_of_the_samples_matrices(source, normalisation):
    model = lively_cmvae(num_classes=3, cm_normalisation=normalisation)
    found = sample(image(), model, 7, 3, source=source)
    plane = jnp.asarray(image()[..., None], jnp.float32)
    expected = jax.jit(lambda plane: cmvae.sample(model, plane, 7, jax.random.key(3), source=source))(plane)
    assert (found.masks != np.asarray(expected["masks"])).mean() < 1e-3
    matrices = np.asarray(expected["matrices"]).mean(0).transpose(2, 3, 0, 1)
    assert found.confusion.shape == (3, 3, *SIZE)
    np.testing.assert_allclose(found.confusion, matrices, atol=1e-5)
    np.testing.assert_allclose(found.confusion.sum(0), 1, atol=1e-5)
    assert found.classes == 3


@BOTH
def test_agreement_and_entropy_are_computed_from_the_class_frequencies(name):
    found = sample(image(), MODELS[name], 11)
    ones = found.masks.sum(0) / 11
    np.testing.assert_allclose(found.agreement, np.maximum(ones, 1 - ones), atol=1e-6)
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = -np.nan_to_num(ones * np.log2(ones)) - np.nan_to_num((1 - ones) * np.log2(1 - ones))
    np.testing.assert_allclose(found.entropy, bits, atol=1e-6)
    assert found.agreement.dtype == found.entropy.dtype == np.float32
    assert not np.signbit(found.entropy).any()
    assert (found.confusion is None) == (name == "prob_unet")


@BOTH
def test_a_thousand_samples_come_from_one_call_and_start_with_those_of_a_smaller_one(name):
    many, few = (sample(image(), MODELS[name], n, 9) for n in (1000, 10))
    assert many.masks.shape == (1000, *SIZE)
    assert (many.masks[:10] != few.masks).mean() < 1e-3
    assert len(np.unique(many.masks.reshape(1000, -1), axis=0)) > 100


@BOTH
def test_the_same_key_gives_the_same_samples_and_another_key_others(name):
    first, again, key, raw = (
        sample(image(), MODELS[name], 4, key) for key in (7, np.int64(7), jax.random.key(7), jax.random.PRNGKey(7))
    )
    for other in (again, key, raw):
        assert np.array_equal(first.masks, other.masks)
    assert not np.array_equal(first.masks, sample(image(), MODELS[name], 4, 8).masks)


@BOTH
def test_blocks_calls_and_devices_do_not_change_the_samples(name, monkeypatch):
    pixels, several = SIZE[0] * SIZE[1], jax.devices()[:4]
    whole = sample(image(), MODELS[name], 11, 2)
    spread = sample(image(), MODELS[name], 11, 2, devices=several)
    sampler = Sampler(MODELS[name])
    calls, finish = [], sampler._finish.start

    def start(*given, **more):
        calls.append((more["batch_size"], more["function"].blocks))
        return finish(*given, **more)

    monkeypatch.setattr(sampler._finish, "start", start)
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "_WORKING_BYTES", 4 * pixels)
        turns = sample(image(), sampler, 11, 2)
    monkeypatch.setattr(sampling, "_BLOCK_BYTES", 3 * sampler._pixel_bytes * pixels)
    blocks = sample(image(), sampler, 11, 2)
    assert calls == [(4, 1)] * 3 + [(12, 4)]
    monkeypatch.setattr(sampling, "_BLOCK_BYTES", sampler._pixel_bytes * pixels)
    both = sample(image(), MODELS[name], 11, 2, devices=several)  # three blocks of one sample on each device
    for other in (spread, turns, blocks, both):
        assert (other.masks != whole.masks).mean() < 1e-3
        if name == "cmvae":
            np.testing.assert_allclose(other.confusion, whole.confusion, atol=1e-5)


@BOTH
def test_a_sampler_gives_each_image_the_same_samples_as_a_separate_call(name):
    sampler = Sampler(MODELS[name])
    sample(-image(), sampler, 5, 4)
    assert np.array_equal(sample(image(), sampler, 5, 4).masks, sample(image(), MODELS[name], 5, 4).masks)
    with pytest.raises(ValueError, match="resize belong to the Sampler"):
        sample(image(), sampler, resize=True)


@BOTH
def test_other_sizes_are_resized_for_the_model_and_back_on_request(name):
    large = np.kron(image(), np.ones((3, 2)))  # bilinear reading in the middle of blocks gives the values back
    found = sample(large, MODELS[name], 6, 1, resize=True)
    network = Sampler(MODELS[name], resize=True).prepare(large).network
    small = sample(network, MODELS[name], 6, 1)
    assert found.clean.shape == (96, 64)
    for ours, theirs in ((found.masks, small.masks), (found.entropy, small.entropy), (found.clean, small.clean)):
        assert np.array_equal(ours, np.kron(theirs, np.ones((3, 2), theirs.dtype)))
    if name == "cmvae":
        assert found.confusion.shape == (2, 2, 96, 64)


def test_a_cmvae_refuses_other_sizes_and_a_prob_unet_accepts_them():
    with pytest.raises(ValueError, match="the image is 40 x 32, the model takes 32 x 32"):
        sample(image(40, 32), MODELS["cmvae"])
    assert sample(image(41, 23), MODELS["prob_unet"], 2).masks.shape == (2, 41, 23)
    with pytest.raises(ValueError, match="needs 2 pixels a side"):
        sample(image(1, 9), MODELS["prob_unet"])


def test_images_with_three_channels_and_with_one_plane_are_accepted():
    model = lively_cmvae(in_channels=3)
    assert sample(image(32, 32, 3), model, 2).masks.shape == (2, 32, 32)
    planes = [image(), image()[..., None], image()[None], image().astype(np.float32)]
    found = [sample(plane, MODELS["cmvae"], 2).masks for plane in planes]
    assert all(np.array_equal(masks, found[0]) for masks in found)
    assert sample((image() * 50).astype(np.int16), MODELS["cmvae"], 2).masks.shape == (2, 32, 32)


def test_images_are_z_scored_on_request():
    raw = 400 * image() - 300
    scored = (raw - raw.mean()) / raw.std()
    expected = sample(scored, MODELS["cmvae"], 3)
    assert np.array_equal(sample(raw, MODELS["cmvae"], 3, normalise="zscore").masks, expected.masks)
    with pytest.raises(ValueError, match="constant, so it has no z-score: every value is 4"):
        sample(np.full(SIZE, 4), MODELS["cmvae"], normalise="zscore")


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_are_refused(bad):
    damaged = image()
    damaged[3, 4] = bad
    with pytest.raises(ValueError, match="not finite in float32"):
        sample(damaged, MODELS["prob_unet"])


def test_an_output_that_is_not_finite_is_refused():
    model = lively_cmvae()
    model.classify.bias[...] = jnp.full_like(model.classify.bias[...], jnp.nan)
    with pytest.raises(ValueError, match="the network's output is not finite"):
        sample(image(), model)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((32, 32, 3)), r"1 channel\(s\), \(H, W\); got \(32, 32, 3\)"),
        (np.zeros(32), r"got \(32,\)"),
        (np.zeros((2, 32, 32)), r"got \(2, 32, 32\)"),
        (np.zeros((0, 32)), "0 x 32"),
        (np.zeros(SIZE, bool), "numbers, got bool"),
        (np.zeros(SIZE, complex), "numbers, got complex128"),
        (np.array([["a"]]), "numbers, got <U1"),
        (np.array([[None]]), "numbers, got object"),
    ],
)
def test_arrays_that_are_not_images_for_the_model_are_refused_with_a_reason(array, words):
    with pytest.raises(ValueError, match=words):
        sample(array, MODELS["cmvae"])
    with pytest.raises(ValueError, match=r"3 channel\(s\), \(H, W, 3\)"):
        checked_image(np.zeros(SIZE), 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 0}, "n must be a whole number of at least 1, got 0"),
        ({"n": 2.5}, "n must be"),
        ({"n": True}, "n must be"),
        ({"n": 2**33}, "need more than"),
        ({"key": -1}, "a seed from 0"),
        ({"key": 2**32}, "a seed from 0"),
        ({"key": "a"}, "a seed from 0"),
        ({"key": jax.random.split(jax.random.key(0), 2)}, "a seed from 0"),
        ({"source": "posterior"}, "source is 'posterior'; known: prior, image"),
        ({"normalise": "max"}, "normalise is 'max'; known: none, zscore"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        sample(image(), MODELS["cmvae"], **options)


def test_other_models_and_arguments_that_do_not_fit_are_refused():
    dae = jaxseg.create("post_dae", image_size=SIZE, strides=(2, 2), **dict.fromkeys(LISTS, (4, 4)))
    with pytest.raises(ValueError, match="a trained cmvae or prob_unet; got model 'post_dae'"):
        sample(image(), dae)
    with pytest.raises(ValueError, match="got int"):
        sample(image(), 3)
    with pytest.raises(ValueError, match="the prior of a prob_unet knows the image"):
        sample(image(), MODELS["prob_unet"], source="image")
    with pytest.raises(ValueError, match="draws 2 masks that may overlap"):
        sample(image(), lively_prob_unet(out_channels=2))
    converted = lively_prob_unet()
    converted.card = dataclasses.replace(converted.card, source="net.pt")
    with pytest.raises(ValueError, match=r"net\.pt does not state the size"):
        sample(image(), converted, resize=True)
    assert sample(image(), converted, 2).masks.any()


def test_batch_norm_is_in_evaluation_mode():
    model = lively_cmvae(norm="bn")
    model.train()
    before = np.asarray(model.encoders[0].norms[0].mean[...])
    found = sample(image(), model, 3)
    assert np.array_equal(before, np.asarray(model.encoders[0].norms[0].mean[...]))
    model.eval()
    assert np.array_equal(found.masks, sample(image(), model, 3).masks)


@BOTH
def test_models_and_images_are_read_from_paths(name, tmp_path):
    folder = save_model(MODELS[name], tmp_path / "run" / "model", MODELS[name].card)
    np.save(tmp_path / "x.npy", image())
    expected = sample(image(), MODELS[name], 3)
    for model in (folder, tmp_path / "run", str(folder)):
        assert np.array_equal(sample(tmp_path / "x.npy", model, 3).masks, expected.masks)
