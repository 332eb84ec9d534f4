"""SegAE training: falling loss, resuming, devices, cases selected by name, and refused settings."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from segae_runs import opened, save_data, save_embeddings, train

import jaxseg
from jaxseg.card import read_card
from jaxseg.files import Locked, only_writer
from jaxseg.segae import task as segae
from jaxseg.segae.model import embedding_of
from jaxseg.training import run
from jaxseg.training.config.config import read_config
from jaxseg.training.log import read_metrics
from jaxseg.training.task import make_task
from jaxseg.weights.store import save_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shallow")]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return save_data(tmp_path_factory.mktemp("segae") / "data")


@pytest.fixture(scope="module")
def trained(shallow, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(folder, data, trainer__epochs=12, optimizer__learning_rate=0.003)
    return folder


def _width(path) -> int:
    with Image.open(path) as picture:
        return picture.width


def losses(folder) -> list[float]:
    return [entry["loss"] for entry in read_metrics(folder / "metrics.jsonl") if entry["split"] == "train"]


@pytest.mark.full
def test_the_loss_falls_and_predictions_correlate_on_unseen_masks(trained):
    found = losses(trained)
    assert np.mean(found[-8:]) < 0.5 * np.mean(found[:4])
    scores = [entry for entry in read_metrics(trained / "metrics.jsonl") if entry["split"] == "val"]
    assert max(entry["correlation"] for entry in scores) > 0.5
    assert {"rank_correlation", "mae"} <= scores[-1].keys()


@pytest.mark.full
def test_a_run_writes_a_model_with_its_embeddings_and_a_picture(trained, data):
    model = jaxseg.load(trained)
    table = np.load(data.parent / "embeddings.npz")["embeddings"]
    np.testing.assert_array_equal(embedding_of(model.embeddings[...], 13), table[13])
    assert model.card.input_size == (32, 32)
    assert "embeddings.npz" in model.card.note
    assert _width(next((trained / "pictures").iterdir())) > 400


@pytest.mark.full
def test_evaluation_reports_every_organ_and_draws_a_picture(trained, capsys):
    shown = []
    found = run.evaluate(trained, devices=jax.devices()[:1], show=shown.append)
    assert found["correlation"] > 0.5
    stored = json.loads((trained / "evaluation_val.json").read_text())
    assert stored["organs"]["liver"]["count"] == stored["all"]["count"] == 16
    assert "liver" in "\n".join(shown)
    assert (trained / "evaluation_val.png").is_file()


@pytest.mark.full
def test_a_calibration_is_stored_in_the_card_of_the_run_and_applied(trained, data):
    with pytest.raises(ValueError, match="leave the step out"):
        run.evaluate(trained, devices=jax.devices()[:1], step=1, calibrate=True)
    before = jaxseg.load(trained).card
    told = []
    found = run.evaluate(trained, devices=jax.devices()[:1], calibrate=True, tell=told.append)
    card = jaxseg.load(trained).card
    assert dataclasses.replace(card, calibration=before.calibration) == before
    assert jaxseg.Scorer(jaxseg.load(trained)).calibration.margin == found["calibration"]["margin"]
    assert told[-1].startswith("stored the calibration in")
    train(trained, data, resume=True)  # the finished run writes the same model again
    assert jaxseg.load(trained).card == card


def test_a_calibration_is_refused_that_would_belong_to_other_weights_or_data(trained, data, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    arguments = {"devices": jax.devices()[:1], "calibrate": True}
    with pytest.raises(ValueError, match="trained on the split 'train', so a calibration on it is wrong; use 'val'"):
        run.evaluate(folder, "train", **arguments)
    other = save_data(tmp_path / "other", val=2)
    with pytest.raises(ValueError, match="the data differ from those.*; calibrate with those"):
        run.evaluate(folder, data=other, **arguments)
    with only_writer(folder), pytest.raises(Locked, match="another run is writing"):
        run.evaluate(folder, **arguments)
    model = jaxseg.load(folder)
    params = jax.tree.map(lambda x: x + 1, nnx.state(model, nnx.Param))
    nnx.update(model, params)  # the model of an earlier step, as a run leaves it that was killed
    save_model(model, folder / "model", dataclasses.replace(model.card, calibration="earlier"), overwrite=True)
    with pytest.raises(ValueError, match="model does not hold the best checkpoint, that of step .*--resume"):
        run.evaluate(folder, **arguments)
    assert read_card(folder / "model").calibration == "earlier"
    train(folder, data, resume=True)
    assert read_card(folder / "model").calibration == ""  # the weights are others
    run.evaluate(folder, **arguments)
    assert read_card(folder / "model").calibration


@pytest.mark.full
def test_a_resumed_run_is_equal_without_the_embeddings_file(data, tmp_path):
    train(tmp_path / "whole", data, trainer__epochs=3)
    table = save_embeddings(tmp_path / "own.npz")
    config = opened(tmp_path / "stopped", data, trainer__epochs=3, data__embeddings=table)

    def stop(step, total, values):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.train(config, tmp_path / "stopped", devices=jax.devices()[:1], on_step=stop)
    table.unlink()
    train(tmp_path / "stopped", data, resume=True)
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")


@pytest.mark.full
@pytest.mark.parametrize("parallel", ["jit", pytest.param("pmap", marks=pytest.mark.full)])
def test_it_trains_on_several_devices(data, tmp_path, parallel):
    scores, _ = train(tmp_path / "run", data, devices=2, trainer__parallel=parallel)
    assert np.isfinite(losses(tmp_path / "run")).all()
    assert -1 <= scores["correlation"] <= 1
    table = np.load(data.parent / "embeddings.npz")["embeddings"]
    np.testing.assert_array_equal(embedding_of(jaxseg.load(tmp_path / "run").embeddings[...], 13), table[13])


def test_cases_are_selected_by_name_from_either_split(data, tmp_path):
    changed = {"data__train_cases": "[val_0, train_1]", "data__val_cases": "[train_0]"}
    problem = make_task(opened(tmp_path / "run", data, **changed))
    names = {split: {item.case.name for item in source.items} for split, source in problem.splits.items()}
    assert names == {"train": {"val_0", "train_1"}, "val": {"train_0"}}
    only = make_task(opened(tmp_path / "run", data, data__val_cases="[train_0]"))
    assert {item.case.name for item in only.splits["train"].items} == {"train_1"}


@pytest.fixture(scope="module")
def two_organs(tmp_path_factory):
    """Returns a data set with masks of the liver and, in another place, of the spleen."""
    root = save_data(tmp_path_factory.mktemp("organs") / "data")
    for folder in root.glob("*/*"):
        labels = np.load(folder / "label.npy")
        labels[1:5, 30:38, 2:12] = 26
        np.save(folder / "label.npy", labels)
        (folder / "spleen_26").mkdir()
        for name in range(5):
            np.save(folder / "spleen_26" / f"epoch_{name}.npy", (np.roll(labels, name, axis=1) == 26).astype(np.uint8))
    return root


def test_organs_can_be_kept_for_validation_also_of_the_same_cases(two_organs, tmp_path):
    changed = {"data__train_cases": "[train_0]", "data__val_cases": "[train_0]", "data__val_organs": "[Spleen]"}
    problem = make_task(opened(tmp_path / "run", two_organs, **changed))
    found = {split: {(item.case.name, item.label) for item in source.items} for split, source in problem.splits.items()}
    assert found == {"train": {("train_0", 13)}, "val": {("train_0", 26)}}
    with pytest.raises(ValueError, match="no usable mask of colon"):
        make_task(opened(tmp_path / "other", two_organs, data__val_organs="[colon]"))


def test_the_published_values_are_in_the_configuration():
    config = read_config("segae")
    assert (config.model.backbone, config.data.size, config.model.hidden) == ("resnet50", 256, 50)
    assert (config.trainer.batch_size, config.trainer.epochs, config.schedule.name) == (128, 30, "cosine")
    rule = config.optimizer
    assert (rule.name, rule.learning_rate, rule.weight_decay) == ("adam_l2", 1e-3, 1e-4)
    assert (config.loss.mse, config.loss.ranking, config.data.degrade_share, config.data.canonical) == (1, 1, 0, False)


@pytest.mark.full
def test_the_weights_of_the_losses_have_an_effect(data, tmp_path):
    model = jaxseg.create("segae", backbone="resnet18", width=4)
    rng = np.random.default_rng(0)
    model.embeddings.set_value(jax.numpy.asarray(rng.normal(size=(145, 512)), jax.numpy.float32))
    image = jax.numpy.asarray(rng.normal(size=(4, 32, 32, 2)), jax.numpy.float32)
    batch = {"image": image, "dice": np.float32([0.1, 0.5, 0.9, 0.4]), "label": np.array([13, 15, 7, 6])}
    task, found = make_task(opened(tmp_path / "run", data)), []
    for mse, ranking in ((1.0, 1.0), (2.0, 0.0), (0.0, 3.0)):
        task.weights = segae.LossConfig(mse=mse, ranking=ranking)
        found.append(task.loss(model, batch, None, 0))
    both, one, other = found
    np.testing.assert_allclose(one[0], 2 * both[1]["mse"], rtol=1e-5)
    np.testing.assert_allclose(other[0], 3 * both[1]["ranking"], rtol=1e-5)
    assert "ranking" not in one[1]


@pytest.mark.full
def test_without_names_the_loss_does_not_depend_on_the_text_embeddings(data, tmp_path):
    task = make_task(opened(tmp_path / "run", data, data__unnamed_share=1.0, loss__ranking=0))
    batch = {name: np.stack([value] * 2) for name, value in task.prepare(task.splits["train"][0]).items()}
    losses = []
    for seed in (0, 1):
        rows = np.random.default_rng(seed).normal(size=(145, 512))
        task.model.embeddings.set_value(jax.numpy.asarray(rows, jax.numpy.float32))
        losses.append(float(task.loss(task.model, batch, jax.random.key(0), 0)[0]))
    assert losses[0] == losses[1]
    task.cfg = dataclasses.replace(task.cfg, unnamed_share=0.0)
    assert float(task.loss(task.model, batch, jax.random.key(0), 0)[0]) != losses[1]


@pytest.mark.full
def test_the_loss_of_the_truth_of_a_constant_prediction_is_its_entropy(data, tmp_path):
    task = make_task(opened(tmp_path / "run", data, model__truth_map="true", loss__truth=2.0))
    batch = {name: np.stack([value] * 2) for name, value in task.prepare(task.splits["train"][0]).items()}
    share = (batch["truth"] / 255).mean()
    head = task.model.truth_map.classify
    head.kernel.set_value(jax.numpy.zeros_like(head.kernel[...]))
    head.bias.set_value(jax.numpy.full((1,), np.log(share / (1 - share)), jax.numpy.float32))
    found = task.loss(task.model, batch, None, 0)[1]["truth"]
    np.testing.assert_allclose(found, -2 * (share * np.log(share) + (1 - share) * np.log(1 - share)), rtol=1e-4)


@pytest.mark.full
def test_a_model_with_a_second_head_learns_where_the_organ_is(data, tmp_path):
    changed = {"trainer__epochs": 12, "optimizer__learning_rate": 0.003, "model__truth_map": "true", "loss__truth": 2.0}
    train(tmp_path / "run", data, **changed)
    run_folder = tmp_path / "run"
    parts = [entry["truth"] for entry in read_metrics(run_folder / "metrics.jsonl") if entry["split"] == "train"]
    assert np.mean(parts[-8:]) < 0.7 * np.mean(parts[:4])
    model = jaxseg.load(run_folder)
    assert model.cfg.truth_map
    assert _width(next((run_folder / "pictures").iterdir())) > 400
    save_model(model, tmp_path / "stored", model.card)
    stored = jaxseg.load(tmp_path / "stored")
    for ours, theirs in zip(jax.tree.leaves(nnx.state(model)), jax.tree.leaves(nnx.state(stored)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"data__val_cases": "[nobody]"}, "no case nobody; there are: train_0, train_1, val_0"),
        ({"data__val_cases": "[train_0, train_1]"}, "has no training cases"),
        ({"data__train_cases": "[train_0]", "data__val_cases": "[train_0]"}, "val_cases: a case of train_cases"),
        ({"data__val_organs": "[livver]"}, "val_organs: unknown organ 'livver'; did you mean 'liver'"),
        ({"data__val_organs": "[liver]"}, "has no training cases"),
        ({"trainer__batch_size": 1}, "no pairs to rank"),
        ({"trainer__batch_size": 4, "trainer__accumulate": 4}, "no pairs to rank"),
        ({"loss__mse": 0, "loss__ranking": 0}, "one of them must be above 0"),
        ({"data__degrade_share": 0.7, "data__truth_share": 0.7}, "together with truth_share it is more than 1"),
        ({"data__embeddings": "nowhere.npz"}, "nowhere.npz: no such file; name the original project's"),
    ],
)
def test_impossible_settings_are_reported_before_anything_is_written(data, tmp_path, changed, words):
    with pytest.raises(ValueError, match=words):
        train(tmp_path / "run", data, **changed)
    assert not (tmp_path / "run").exists()


def test_a_class_without_a_text_embedding_is_refused(tmp_path):
    wrong = save_data(tmp_path / "data", organ="liver_145")
    with pytest.raises(ValueError, match="liver_145; they go from 1 to 144"):
        train(tmp_path / "run", wrong)
