"""Post-DAE training: the original's steps, corruptions and proportions, resuming, devices, and bad masks."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from mask_runs import LIGHT, overrides, train, write_masks
from PIL import Image

import jaxseg
from jaxseg.nn.losses import probability_dice_loss
from jaxseg.post_dae.model import DAEConfig
from jaxseg.post_dae.task import CorruptionConfig, DataConfig, PostDAETask, corrupt_each
from jaxseg.training import run
from jaxseg.training.config.config import read_config
from jaxseg.training.log import read_metrics
from jaxseg.training.reader import RecordError

pytestmark = pytest.mark.slow

WORKING = {"data__warp": 0.1, "data__elastic": 0.03, "data__heavy_share": 0.3, "data__clean_share": 0.3}


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    return write_masks(tmp_path_factory.mktemp("masks") / "masks")


def losses(folder) -> list[float]:
    return [entry["loss"] for entry in read_metrics(folder / "metrics.jsonl") if entry["split"] == "train"]


@pytest.mark.full
def test_the_loss_falls_and_the_model_restores(masks, tmp_path):
    every_20 = {"trainer__validate_every": 20, "trainer__checkpoint_every": 20}
    scores, _ = train(tmp_path / "run", masks, trainer__epochs=40, **every_20, **LIGHT)
    found = losses(tmp_path / "run")
    assert np.mean(found[-8:]) < 0.6 * np.mean(found[:8])
    assert scores["dice"] > 0.7
    mask = np.asarray(Image.open(masks / "mask_00.png")) > 0
    restored = jaxseg.denoise(mask, jaxseg.load(tmp_path / "run"))
    assert 2 * (restored & mask).sum() / (restored.sum() + mask.sum()) > 0.7


@pytest.mark.full
def test_both_packaged_configurations_train(masks, tmp_path):
    for name in ("post_dae", "post_dae_original"):
        scores, _ = train(tmp_path / name, masks, config=name, trainer__epochs=1)
        assert 0 <= scores["dice"] <= 1
        assert 0 < scores["dice_before"] < 1
        model = jaxseg.load(tmp_path / name)
        assert model.cfg.decoder_activation == ("relu" if name == "post_dae" else "sigmoid")
        assert model.card.preprocessing == "mask"


def test_the_published_values_are_in_the_original_configuration():
    config = read_config("post_dae_original")
    assert (config.data.size, config.trainer.batch_size, config.trainer.epochs) == (512, 8, 200)
    assert (config.optimizer.name, config.optimizer.learning_rate, config.trainer.clip_norm) == ("adam", 1e-4, 0.5)
    assert config.data.corruption == CorruptionConfig()
    cfg = DAEConfig()
    assert (config.model.features, config.model.decoder_features) == (cfg.features, cfg.decoder_features)
    assert config.model.intermediate == cfg.intermediate


@pytest.mark.full
def test_runs_with_the_same_seed_are_equal_also_when_resumed(masks, tmp_path):
    train(tmp_path / "whole", masks, trainer__epochs=3, **WORKING)
    stopped = tmp_path / "stopped"
    config = run.open_run("post_dae", stopped, data=masks, overrides=overrides(trainer__epochs=3, **WORKING))

    def stop(step, total, values):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.train(config, stopped, devices=jax.devices()[:1], on_step=stop)
    train(stopped, masks, resume=True, trainer__epochs=3, **WORKING)
    assert losses(stopped) == losses(tmp_path / "whole")


@pytest.mark.full
@pytest.mark.parametrize("parallel", ["jit", pytest.param("pmap", marks=pytest.mark.full)])
def test_it_trains_on_several_devices(masks, tmp_path, parallel):
    scores, _ = train(
        tmp_path / "run",
        masks,
        devices=2,
        trainer__parallel=parallel,
        trainer__epochs=1,
        **LIGHT,
    )
    assert np.isfinite(losses(tmp_path / "run")).all()
    assert 0 <= scores["dice"] <= 1


def settings(**values) -> DataConfig:
    small = CorruptionConfig(patch=4, radius=2, max_distance=3, swaps=20, max_patches=3, max_discs=2, fidelity="better")
    return DataConfig(root="masks", size=32, corruption=small, **values)


def disc(count: int) -> jax.Array:
    y, x = np.mgrid[:32, :32]
    mask = ((y - 15.5) ** 2 + (x - 15.5) ** 2 < 100).astype(np.float32)
    return jnp.asarray(np.tile(mask[None, ..., None], (count, 1, 1, 1)))


@pytest.mark.full
def test_corruptions_occur_in_the_configured_proportions():
    truth, keys = disc(400), jax.random.split(jax.random.key(3), 400)
    shown = np.asarray(corrupt_each(keys, truth, settings(clean_share=0.25, heavy_share=0.5)))
    wrong = (np.abs(shown - np.asarray(truth)) > 0.5).mean((1, 2, 3))
    assert (wrong == 0).mean() == pytest.approx(0.25, abs=0.07)
    usual = np.asarray(corrupt_each(keys, truth, settings()))
    usual = (np.abs(usual - np.asarray(truth)) > 0.5).mean((1, 2, 3))
    assert wrong.mean() > 1.5 * usual.mean()
    assert (wrong > np.quantile(usual, 0.99)).mean() > 0.25
    assert (np.asarray(corrupt_each(keys, truth, settings(clean_share=1.0))) == np.asarray(truth)).all()


@pytest.mark.full
def test_each_mask_has_its_own_corruption_and_equal_keys_give_equal_ones():
    truth, keys = disc(400), jax.random.split(jax.random.key(0), 400)  # as many as above: the same compiled operations
    shown = np.asarray(corrupt_each(keys, truth, settings()))
    assert (shown[0] != shown[1]).any()
    np.testing.assert_array_equal(shown[::-1], corrupt_each(keys[::-1], truth, settings()))


def test_scaled_lengths_fit_the_size():
    assert CorruptionConfig(scaled=True).at(128).patch == 8
    assert CorruptionConfig().at(128).patch == 32


@pytest.mark.full
def test_two_channels_train_together(tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    for i in range(6):
        stack = np.zeros((2, 40, 40), bool)
        stack[0, 5 + i : 20, 5:20], stack[1, 22:38, 20 : 30 + i] = True, True
        np.save(folder / f"{i}.npy", stack)
    scores, _ = train(tmp_path / "run", folder, data__channels=2, trainer__epochs=1, **LIGHT)
    assert 0 <= scores["dice"] <= 1
    model = jaxseg.load(tmp_path / "run")
    assert (model.cfg.in_channels, model.cfg.out_channels) == (2, 2)
    assert jaxseg.denoise(stack, model).shape == (2, 40, 40)


def test_lungs_and_hearts_of_two_folders_train_together_and_keep_their_names(tmp_path):
    for folder in ("lungs", "hearts"):
        write_masks(tmp_path / "masks" / folder, count=6)
    (tmp_path / "masks" / "hearts" / "mask_00.png").rename(tmp_path / "masks" / "hearts" / "other.png")
    options = LIGHT | {"data__classes": ["lungs=lungs", "hearts=heart"], "data__channels": 2, "trainer__epochs": 1}
    _, told = train(tmp_path / "run", tmp_path / "masks", **options)
    assert any("2 images of" in line and "do not have a mask of every class" in line for line in told), told
    assert jaxseg.load(tmp_path / "run").card.class_names == ("lungs", "heart")


def test_levels_in_another_order_than_the_classes_of_the_model_are_refused():
    data = DataConfig(root="masks", channels=2, labels=("1=lungs", "2=heart"))
    model = SimpleNamespace(card=SimpleNamespace(class_names=("heart", "lungs")))
    with pytest.raises(ValueError, match="the levels name lungs, heart in this order, but the model has heart, lungs"):
        PostDAETask.compare(SimpleNamespace(data=data), model, {}, Path("truth"))


BAD = {
    "empty.png": (np.zeros((20, 20), np.uint8), "the mask is empty"),
    "full.png": (np.full((20, 20), 255, np.uint8), "full"),
    "picture.png": (np.tile(np.arange(256, dtype=np.uint8), (64, 1)), "picture, not a mask"),
    "channels.npy": (np.zeros((3, 20, 20), bool), "has 3 channels"),
}


@pytest.mark.full
@pytest.mark.parametrize("name", BAD)
def test_a_bad_mask_stops_the_run_and_is_named_or_is_skipped(tmp_path, name):
    folder = write_masks(tmp_path / "masks", count=7)
    content, words = BAD[name]
    if name.endswith(".npy"):
        np.save(folder / name, content)
    else:
        Image.fromarray(content).save(folder / name)
    with pytest.raises(RecordError, match=name) as error:
        train(tmp_path / "stopped", folder, **LIGHT)
    assert words in str(error.value)
    _, told = train(tmp_path / "skipped", folder, data__on_error="skip", trainer__epochs=1, **LIGHT)
    assert any(name in line for line in told)


@pytest.mark.full
def test_other_entries_are_left_out_with_a_count(tmp_path):
    folder = write_masks(tmp_path / "masks")
    (folder / "notes.txt").write_text("x")
    (folder / "more").mkdir()
    _, told = train(tmp_path / "run", folder, trainer__epochs=1, **LIGHT)
    assert any("2 entries of" in line for line in told)
    facts = json.loads((tmp_path / "run" / "data.json").read_text())
    assert not set(facts["train"]) & set(facts["val"])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"data__heavy_share": 0.7, "data__clean_share": 0.5}, "add up to more than 1"),
        ({"data__size": 30}, "30"),
        ({"model__strides": [2, 3]}, "only 2 can be trained"),
        ({"model__decoder_features": [4, 6]}, "last two"),
        ({"loss__parts": []}, "name dice, ce or both"),
        ({"data__spacing_mm": [1.0]}, "spacing_mm"),
        ({"data__corruption": {"patch": 0}}, "patch"),
        ({"model__norm": "group"}, "none, batch"),
        ({"data__classes": ["lungs=lungs", "hearts=heart"]}, "classes: 2 are named, but channels is 1"),
        ({"data__classes": ["a=b"], "data__labels": ["255=lung"]}, "exclude each other"),
    ],
)
def test_impossible_settings_are_reported_before_anything_is_written(masks, tmp_path, changed, words):
    with pytest.raises(ValueError, match=words):
        train(tmp_path / "run", masks, **changed)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.full
def test_a_picture_of_restored_masks_is_drawn(masks, tmp_path):
    train(tmp_path / "run", masks, trainer__pictures_every=2, **LIGHT)
    with Image.open(tmp_path / "run" / "pictures" / "step_0000004.png") as sheet:
        assert sheet.width > 3 * 256


@pytest.mark.full
def test_the_dice_part_equals_the_loss_of_the_original():
    model = jaxseg.create("post_dae", image_size=(32, 32), features=(4, 6), decoder_features=(4, 4), strides=(2, 2))
    batch, key, cfg = {"mask": disc(2)}, jax.random.key(0), settings()
    task = PostDAETask.__new__(PostDAETask)
    task.cfg, task.parts = cfg, ("dice",)
    value, parts = task.loss(model, batch, key, 0)
    _, for_corruption = jax.random.split(key)
    shown = corrupt_each(jax.random.split(for_corruption, 2), disc(2), cfg)
    expected = probability_dice_loss(nnx.sigmoid(model.logits(shown)), disc(2))
    assert float(value) == pytest.approx(float(expected), abs=1e-6)
    assert list(parts) == ["dice_loss"]
