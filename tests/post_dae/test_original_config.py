"""The original program's configuration is taken as it is; what cannot be meant is told."""

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


def test_every_setting_finds_its_place(tmp_path):
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
        "gpus: 1 has no effect; -g says it here",
        "strategy: ddp has no effect; trainer.parallel says it here",
    ]


def test_what_is_not_said_is_as_published(tmp_path):
    path = tmp_path / "short.yml"
    path.write_text("training_configuration: {random_seed: 1}\n")
    config, published = read(path), read_config("post_dae_original")
    assert config.model == published.model
    assert config.optimizer == published.optimizer
    assert config.data.corruption == published.data.corruption
    assert (config.data.size, config.data.split) == (512, "disjoint")
    same = ("epochs", "batch_size", "clip_norm")
    assert [getattr(config.trainer, name) for name in same] == [getattr(published.trainer, name) for name in same]


def test_overrides_come_after_it(tmp_path):
    assert read(written(tmp_path), overrides=["trainer.epochs=2", "data.size=128"]).data.size == 128


def test_one_number_is_a_square_too(tmp_path):
    assert read(written(tmp_path, img_size=96)).data.size == 96


@pytest.mark.parametrize(
    ("changed", "extra", "words"),
    [
        ({"img_size": [64, 32]}, {}, "training_configuration.img_size: [64, 32] must be one number"),
        ({"out_channels": 2}, {}, "2 masks of 1; as many are needed"),
        ({"learning_rat": 1}, {}, "training_configuration.learning_rat: no such setting; did you mean learning_rate?"),
        ({}, {"store_model": "x"}, "store_model: no such setting; did you mean store_model_to?"),
        ({"batch_size": "many"}, {}, "trainer.batch_size: 'many' is not a whole number"),
        ({}, {"training_configuration": 3}, "training_configuration: 3 is not a group of settings"),
    ],
)
def test_what_cannot_be_meant_is_told_with_its_path(tmp_path, changed, extra, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        read(written(tmp_path, extra, **changed))


def test_the_folder_of_the_run_is_the_one_it_names(tmp_path):
    assert stored_folder(written(tmp_path)).as_posix() == "models/lungs"
    assert stored_folder(written(tmp_path, {"store_model_to": None})) is None
    assert stored_folder("post_dae") is None
    assert not original_yml.is_original({"task": "post_dae"})
