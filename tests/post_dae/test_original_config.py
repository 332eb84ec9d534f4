"""Configuration files of the original program can be used, and impossible settings are reported."""

import re

import pytest
import yaml

from jaxseg.post_dae import original_config as original_yml
from jaxseg.training.config.config import read_config, stored_folder

GIVEN = {
    "random_seed": 42,
    "in_channels": 1,
    "out_channels": 1,
    "img_size": [64, 64],
    "features": [16, 32, 32],
    "decoder_features": [16, 16, 16],
    "intermediate": [512, 1024],
    "batch_size": 4,
    "max_epochs": 30,
    "learning_rate": 0.001,
    "num_workers": 0,
    "gpus": 1,
    "strategy": "ddp",
}


def written(folder, extra=None, **changed):
    path = folder / "example_config.yml"
    content = {"training_configuration": GIVEN | changed, "store_model_to": "models/lungs"} | (extra or {})
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def read(path, told=None, overrides=()):
    tell = told.append if told is not None else lambda _: None
    return read_config(path, ["data.root=masks", *overrides], tell=tell)


def test_every_setting_is_translated(tmp_path):
    told: list[str] = []
    config = read(written(tmp_path), told)
    assert (config.task, config.seed) == ("post_dae", 42)
    assert (config.data.size, config.data.channels, config.data.threads) == (64, 1, 1)
    assert config.model.features == (16, 32, 32)
    assert config.model.decoder_features == (16, 16, 16)
    assert config.model.intermediate == (512, 1024)
    assert (config.trainer.batch_size, config.trainer.epochs, config.trainer.clip_norm) == (4, 30, 0.5)
    assert (config.optimizer.name, config.optimizer.learning_rate) == ("adam", 0.001)
    assert told == [
        "gpus: 1 has no effect; use -g instead",
        "strategy: ddp has no effect; use trainer.parallel instead",
    ]


def test_missing_settings_have_the_published_values(tmp_path):
    path = tmp_path / "short.yml"
    path.write_text("training_configuration: {random_seed: 1}\n")
    config, published = read(path), read_config("post_dae_original")
    assert config.model == published.model
    assert config.optimizer == published.optimizer
    assert config.data.corruption == published.data.corruption
    assert (config.data.size, config.data.split) == (512, "disjoint")
    same = ("epochs", "batch_size", "clip_norm")
    assert [getattr(config.trainer, name) for name in same] == [getattr(published.trainer, name) for name in same]


def test_overrides_replace_its_settings(tmp_path):
    assert read(written(tmp_path), overrides=["trainer.epochs=2", "data.size=128"]).data.size == 128


def test_a_single_number_means_a_square(tmp_path):
    assert read(written(tmp_path, img_size=96)).data.size == 96


@pytest.mark.parametrize(
    ("changed", "extra", "words"),
    [
        ({"img_size": [64, 32]}, {}, "training_configuration.img_size: [64, 32] must be one number"),
        ({"out_channels": 2}, {}, "2 output channels for 1 input channels; the numbers must be equal"),
        ({"learning_rat": 1}, {}, "training_configuration.learning_rat: no such setting; did you mean learning_rate?"),
        ({}, {"store_model": "x"}, "store_model: no such setting; did you mean store_model_to?"),
        ({"batch_size": "many"}, {}, "trainer.batch_size: 'many' is not a whole number"),
        ({}, {"training_configuration": 3}, "training_configuration: 3 is not a group of settings"),
    ],
)
def test_impossible_values_are_reported_with_their_path(tmp_path, changed, extra, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        read(written(tmp_path, extra, **changed))


def test_the_folder_of_the_run_is_the_one_that_the_file_names(tmp_path):
    assert stored_folder(written(tmp_path)).as_posix() == "models/lungs"
    assert stored_folder(written(tmp_path, {"store_model_to": None})) is None
    assert stored_folder("post_dae") is None
    assert not original_yml.is_original({"task": "post_dae"})
