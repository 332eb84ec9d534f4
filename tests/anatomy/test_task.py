"""PAX-Ray training on the sample in the shared data: the loss falls, and the model and its card are written."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from paxray_runs import PAXRAY

import jaxseg
from jaxseg.anatomy import task as paxray
from jaxseg.training import run
from jaxseg.training.log import read_metrics
from jaxseg.training.task import make_task, task_class

pytestmark = pytest.mark.usefixtures("plain")
NAMES = ("right lung", "left lung", "lung", "heart", "foreground")


@pytest.mark.slow
def test_a_few_steps_lower_the_loss_and_write_a_model_with_its_card(configured, tmp_path):
    folder = tmp_path / "run"
    config = configured(
        "trainer.max_steps=16", "data.train_fraction=0.5", "data.subset_seed=3", "trainer.pictures_every=9"
    )
    scores = run.train(config, folder, devices=jax.devices()[:1])
    losses = [entry["loss"] for entry in read_metrics(folder / "metrics.jsonl") if entry["split"] == "train"]
    assert len(losses) == 16
    assert np.mean(losses[-4:]) < 0.95 * np.mean(losses[:4])
    assert {"dice", "iou", *(f"dice {name}" for name in NAMES), *(f"iou {name}" for name in NAMES)} <= scores.keys()
    card = jaxseg.load(folder).card
    assert card.class_names == NAMES
    assert (card.model, card.preprocessing, card.input_size) == ("paxray", "paxray", (64, 64))
    facts = json.loads((folder / "data.json").read_text())
    listed = json.loads((Path(config.data.root) / "paxray.json").read_text())
    everything = {entry["image"] for entry in listed["train"]}
    assert len(facts["train"]) == round(len(everything) / 2)
    assert set(facts["train"]) < everything
    assert facts["train"] == sorted(facts["train"])
    assert facts["val"] == [entry["image"] for entry in listed["val"]]
    assert [path.name for path in (folder / "pictures").iterdir()] == ["step_0000016.png"]


def test_the_card_states_the_normalisation_of_the_images(configured):
    problem = make_task(configured("data.preprocessing=cxas"))
    assert problem.model.card.preprocessing == "cxas"
    record = problem.splits["train"][0]
    other = make_task(configured("data.preprocessing=paxray")).splits["train"][0]
    assert np.abs(other["image"]).max() > 50 * np.abs(record["image"]).max()  # the original forgets to divide by 255


def test_training_uses_crops_and_validation_whole_images(configured):
    problem = make_task(configured())
    record = problem.splits["train"][0]
    assert problem.augment(record, np.random.default_rng(0))["image"].shape == (56, 56, 3)
    assert problem.prepare(record, None)["target"].shape == (64, 64, len(NAMES))


@pytest.mark.slow
@pytest.mark.parametrize("parts", [("dice",), ("ce",), ("class_dice",), ("dice", "ce")])
def test_the_loss_is_the_sum_of_its_parts(configured, parts):
    problem = make_task(configured(f"loss.parts=[{','.join(parts)}]"))
    example = problem.augment(problem.splits["train"][0], np.random.default_rng(0))
    batch = {name: example[name][None] for name in ("image", "target")}
    value, found = problem.loss(nnx.view(problem.model, deterministic=True), batch, jax.random.key(0), 0)
    assert tuple(found) == parts
    assert float(value) == pytest.approx(sum(map(float, found.values())), rel=1e-6)
    assert all(part > 0 for part in found.values())


def test_a_loss_without_parts_is_refused(configured):
    with pytest.raises(ValueError, match="loss.parts: name at least one of dice, ce, class_dice, focal"):
        configured("loss.parts=[]")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.crop_size=72"], "data.crop_size: 72 is more than load_size, 64"),
        (["data.resize_scale=0.5"], "data.resize_scale: 0.5 times load_size must exceed crop_size, 56"),
    ],
)
def test_a_crop_larger_than_the_images_is_refused_at_once(configured, settings, message):
    with pytest.raises(ValueError, match=message):
        configured(*settings)


@pytest.mark.full
def test_a_run_finds_its_data_from_another_folder_and_after_they_were_moved(configured, shared, tmp_path, monkeypatch):
    root, folder = shutil.copytree(shared / "data/paxray", tmp_path / "paxray"), tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    overrides = [*PAXRAY, "trainer.max_steps=1"]
    config = run.open_run("paxray_sample", folder, overrides=overrides)
    assert config.data.root == str(root)
    scores = run.train(config, folder, devices=jax.devices()[:1])
    moved = root.rename(tmp_path / "moved")
    found = run.evaluate(folder, "val", devices=jax.devices()[:1], data=moved)
    assert found["dice"] == pytest.approx(scores["dice"], abs=1e-6)
    again = run.open_run(None, folder, data=moved, resume=True)
    assert again.data == dataclasses.replace(config.data, root=str(moved))
    assert run.train(again, folder, devices=jax.devices()[:1]) == scores
    # Without -i, the data are found at their present place.
    assert run.open_run("paxray_sample", folder, overrides=overrides, resume=True) == again


def test_a_split_without_images_is_left_out(configured, shared, tmp_path):
    root = shutil.copytree(shared / "data/paxray", tmp_path / "data")
    table = json.loads((root / "paxray.json").read_text())
    (root / "paxray.json").write_text(json.dumps(table | {"test": []}))
    config = configured()
    moved = dataclasses.replace(config, data=dataclasses.replace(config.data, root=str(root)))
    assert set(make_task(moved).splits) == {"train", "val"}
    (root / "paxray.json").write_text(json.dumps(table | {"train": []}))
    with pytest.raises(ValueError, match="has no training images"):
        make_task(moved)


def test_the_configuration_has_the_sections_of_the_task():
    assert task_class("paxray") is paxray.PaxrayTask
    with pytest.raises(ValueError, match="'x' is not one of cmvae, named_annotators, paxray, phantom"):
        task_class("x")
