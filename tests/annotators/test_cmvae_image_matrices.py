"""Confusion matrices that depend on image and latent vector: samples, loss, storing, training, refused settings."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxseg
from jaxseg.annotators.cmvae import CMVAE, CMVAEConfig, sample
from jaxseg.annotators.losses import annotator_shares, gaussian_kl, image_confusion_loss
from jaxseg.images.tiff import write_tiff
from jaxseg.training import run
from jaxseg.training.config.config import read_config
from jaxseg.training.task import make_task
from jaxseg.weights.store import save_model

pytestmark = pytest.mark.slow

SMALL = {"image_size": (16, 24), "width": 4, "depth": 2, "latent": 3, "num_classes": 3, "source": "image"}


@pytest.fixture(scope="module")
def model() -> CMVAE:
    return jaxseg.create("cmvae", **SMALL)


def image() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(16, 24)).astype(np.float32)


def test_masks_follow_from_the_matrices_and_the_clean_probabilities(model):
    found = jax.jit(lambda model, x: sample(model, x, 5, jax.random.key(0)))(model, image()[..., None])
    matrices, logits = np.asarray(found["matrices"], np.float64), np.asarray(found["logits"], np.float64)
    np.testing.assert_allclose(matrices.sum(-2), 1, atol=1e-5)
    assert np.diagonal(matrices, axis1=-2, axis2=-1).min() > 0.5  # they begin near the identity
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    noisy = np.einsum("shwij,hwj->shwi", matrices, probabilities)
    np.testing.assert_allclose(np.exp(found["noisy_logits"]), noisy, atol=1e-5)
    assert (np.asarray(found["masks"]) != noisy.argmax(-1)).mean() < 1e-2


def test_equal_keys_sample_equal_masks_and_more_samples_keep_the_first(model):
    few, many = (jaxseg.sample(image(), model, n=n, key=7) for n in (3, 9))
    np.testing.assert_array_equal(few.masks, many.masks[:3])


def test_matrices_depend_on_the_image_and_on_the_latent_vector(model):
    images = np.stack([image(), image()[::-1]])[..., None]
    found = jax.vmap(lambda x: sample(model, x, 2, jax.random.key(0)))(jnp.asarray(images))["matrices"]
    assert np.abs(found[0] - found[1]).max() > 1e-3
    assert np.abs(found[:, 0] - found[:, 1]).max() > 1e-3


def test_only_the_posterior_depends_on_the_labels(model):
    x, rng = jnp.asarray(image()[None, ..., None]), np.random.default_rng(0)
    labels = [jnp.asarray(rng.integers(0, 3, (1, 16, 24))) for _ in range(2)]
    (first, prior), (second, same) = (model.confusion.encode(x, one) for one in labels)
    np.testing.assert_array_equal(prior[0], same[0])
    assert np.abs(first[0] - second[0]).max() > 1e-4


def test_the_loss_does_not_charge_for_the_free_nats(model):
    x, labels = jnp.asarray(image()[None, ..., None]), jnp.zeros((1, 16, 24), jnp.uint8)
    given = model.image_outputs(x, labels, jnp.zeros((1, 3)))
    divergence = float(gaussian_kl(*given["posterior"], *given["prior"])[0])

    def of(free: float) -> float:
        return float(
            image_confusion_loss(
                **given, labels=labels, shares=jax.nn.one_hot(labels, 3), kl_weight=2.0, free_nats=free
            )[1]["kl"]
        )

    assert of(0.0) == pytest.approx(2 * divergence, rel=1e-5)
    assert of(divergence + 1) == pytest.approx(2 * divergence + 2, rel=1e-5)

    def charged(free: float) -> jax.Array:
        def loss(mean: jax.Array) -> jax.Array:
            changed = given | {"posterior": (mean, given["posterior"][1])}
            shares = jax.nn.one_hot(labels, 3)
            return image_confusion_loss(**changed, labels=labels, shares=shares, kl_weight=2.0, free_nats=free)[0]

        return jax.grad(loss)(given["posterior"][0])

    assert np.abs(charged(0.0)).max() > 0
    assert np.abs(charged(divergence + 1)).max() == 0


def test_every_example_has_its_own_free_nats():
    shape, half = (2, 4, 4), jnp.full((2, 4, 4, 2, 2), 0.5)
    mean = jnp.asarray([[0.0, 0.0], [2.0, 0.0]])  # divergences of 0 and 2 nats
    found = image_confusion_loss(
        logits=jnp.zeros((*shape, 2)),
        matrices=half,
        posterior=(mean, jnp.zeros((2, 2))),
        prior=(jnp.zeros((2, 2)), jnp.zeros((2, 2))),
        labels=jnp.zeros(shape, jnp.uint8),
        shares=jnp.full((*shape, 2), 0.5),
        kl_weight=3.0,
        free_nats=1.5,
    )[1]
    assert found["kl"] == pytest.approx(3 * (1.5 + 2) / 2)  # of the mean, 1 nat, it would be 4.5


def test_the_reconstruction_leaves_the_clean_logits_to_the_segmentation(model):
    x, labels = jnp.asarray(image()[None, ..., None]), jnp.ones((1, 16, 24), jnp.uint8)
    given = model.image_outputs(x, labels, jnp.zeros((1, 3)))

    def part(logits: jax.Array, name: str) -> jax.Array:
        return image_confusion_loss(
            **given | {"logits": logits}, labels=labels, shares=jax.nn.one_hot(labels, 3), kl_weight=1.0
        )[1][name]

    assert not np.asarray(jax.grad(part)(given["logits"], "reconstruction")).any()
    assert np.asarray(jax.grad(part)(given["logits"], "segmentation")).any()


def test_shares_count_only_the_annotators_that_are_present():
    labels = jnp.asarray([[[[0, 2, 2, 1]]]])  # (B, H, W, A)
    found = annotator_shares(labels, jnp.asarray([[True, True, True, False]]), 3)
    np.testing.assert_allclose(found, [[[[1 / 3, 0, 2 / 3]]]], rtol=1e-6)


def test_a_stored_model_keeps_its_source(model, tmp_path):
    loaded = jaxseg.load(save_model(model, tmp_path / "model", model.card))
    assert loaded.cfg == model.cfg
    np.testing.assert_array_equal(jaxseg.sample(image(), loaded, 5).masks, jaxseg.sample(image(), model, 5).masks)


def test_sampling_from_the_image_and_other_matrices_are_refused(model):
    with pytest.raises(ValueError, match="leave out `--source image`"):
        jaxseg.sample(image(), model, source="image")
    with pytest.raises(ValueError, match="depend on the image already"):
        model.start_samples(jnp.asarray(image()[..., None]), source="image")
    with pytest.raises(ValueError, match="source: 'image' is for matrices of a latent vector, not for 'global'"):
        jaxseg.create("cmvae", matrices="global", **SMALL)


def test_the_numbers_of_classes_that_matrices_of_the_image_allow():
    for count in (1, 33):
        with pytest.raises(ValueError, match=f"num_classes: matrices of the image .* classes, got {count}"):
            CMVAEConfig(num_classes=count, source="image")


@pytest.mark.parametrize("classes", [2, 9])
def test_matrices_begin_equally_near_the_identity(classes):
    model = jaxseg.create("cmvae", **SMALL | {"num_classes": classes})
    started = jnp.zeros_like(model.confusion.begin(jnp.zeros((1, 16, 24, 4))))
    model.confusion.combine = constant_scores(model.confusion.combine)
    matrices = model.confusion.finish(started, jnp.zeros((1, 3)))
    np.testing.assert_allclose(np.diagonal(matrices, axis1=-2, axis2=-1), jax.nn.sigmoid(3.0), rtol=1e-6)


def constant_scores(combine):
    """Sets all parameters of a network to zero."""
    graph, state = nnx.split(combine)
    return nnx.merge(graph, jax.tree.map(jnp.zeros_like, state))


def test_a_card_without_the_source_is_of_a_latent_vector(tmp_path):
    given = {name: value for name, value in SMALL.items() if name != "source"}
    old = jaxseg.create("cmvae", **given)
    folder = save_model(old, tmp_path / "model", old.card)
    path = folder / "card.json"
    card = json.loads(path.read_text())
    del card["config"]["source"]
    path.write_text(json.dumps(card))
    assert jaxseg.load(folder).cfg.source == "latent"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["loss.free_nats=1"], "loss.free_nats: 1.0 is only for model.source: image"),
        (["model.source=image", "model.cm_normalisation=original"], "'original' is only for model.source: latent"),
    ],
)
def test_settings_of_the_other_source_are_refused(changed, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        make_task(read_config("cmvae_lidc", changed, data=tmp_path))


@pytest.mark.full
def test_training_learns_that_annotators_draw_small_or_large_masks(tmp_path):
    folder, size = tmp_path / "data", 32
    save_discs(folder, size)
    changed = ["model.width=8", "model.depth=3", "trainer.epochs=40", "trainer.validate_every=40", "data.samples=16"]
    changed += ["trainer.checkpoint_every=40", "trainer.pictures_every=40", "optimizer.learning_rate=0.003"]
    changed += ["loss.beta=0.0003"]
    config = run.open_run("cmvae_lidc_best", tmp_path / "run", data=folder, overrides=changed)
    scores = run.train(config, tmp_path / "run", devices=jax.devices()[:1])
    assert scores["dice"] > 0.8
    assert 0.15 < scores["distance_between_samples"] < 0.45  # annotators: 0.29
    assert scores["ged_published"] < 0.2
    assert "iou_matched" not in scores  # only an evaluation matches masks
    run.evaluate(tmp_path / "run", devices=jax.devices()[:1])
    measured = json.loads((tmp_path / "run" / "evaluation_val.json").read_text())["measures"]
    assert measured["iou_matched"]["mean"] > 0.65
    loaded = jaxseg.load(tmp_path / "run")
    scan = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
    assert jaxseg.sample(scan, loaded, n=3).confusion.shape == (2, 2, size, size)


def save_discs(root, size: int) -> None:
    """Writes images of bright discs, of which two annotators outline the core and two the whole."""
    y, x = np.mgrid[:size, :size]
    for split, count in (("train", 48), ("validate", 12)):
        for name in ("scans", "masks/GT", "masks/annots"):
            (root / split / name).mkdir(parents=True)
        for i in range(count):
            rng = np.random.default_rng(100 * (split == "train") + i)
            distance = np.hypot(y - rng.uniform(10, 22), x - rng.uniform(10, 22))
            marks = np.stack([distance < radius for radius in (4.5, 4.5, 6, 6)], -1)
            scan = 2.0 * (distance < 6) + rng.normal(0, 0.2, (size, size))
            name = f"pid_{i:04}_nod_0_slice_0.tif"
            write_tiff(root / split / "scans" / name, ((scan - scan.mean()) / scan.std())[None])
            write_tiff(root / split / "masks/annots" / name, marks[None])
            write_tiff(root / split / "masks/GT" / name, (marks.mean(-1) >= 0.5)[None])
