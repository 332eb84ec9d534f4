"""Training with annotators who disagree: both networks, sampling, KL schedules, metrics, and refused settings."""

import csv
import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from annotator_files import save_mnist
from PIL import Image

import jaxseg
from jaxseg.annotators import task as annotators
from jaxseg.annotators.augment import Augmentation
from jaxseg.annotators.energy import energy_distance_original, energy_distance_published
from jaxseg.comparison.staple import staple
from jaxseg.images.tiff import write_tiff
from jaxseg.training import run
from jaxseg.training.config.config import read_config
from jaxseg.training.log import read_metrics
from jaxseg.training.task import make_task

pytestmark = pytest.mark.slow

SMALL = {
    "trainer.epochs": 20,  # not all are trained: schedules are compiled in, and all tests share one program
    "trainer.max_steps": 6,
    "trainer.batch_size": 4,
    "trainer.log_every": 1,
    "data.samples": 4,
}
NETWORKS = {
    "cmvae": {"model.width": 8, "model.depth": 2, "optimizer.learning_rate": 0.003, "loss.beta": 0.1},
    "prob_unet": {"model.filters": "[4, 8]", "optimizer.learning_rate": 0.01},
}
NETWORKS["cmvae_image"] = NETWORKS["cmvae"] | {"model.source": "image", "loss.beta": 1e-4}


@pytest.fixture(scope="module")
def lidc(tmp_path_factory):
    """Writes images of bright discs, which two to four annotators outline too large or too small."""
    root = tmp_path_factory.mktemp("lidc")
    y, x = np.mgrid[:16, :16]
    for split, count in (("train", 12), ("validate", 6)):
        for folder in ("scans", "masks/GT", "masks/annots"):
            (root / split / folder).mkdir(parents=True)
        for i in range(count):
            rng = np.random.default_rng(100 * (split == "train") + i)
            distance = np.hypot(y - rng.uniform(5, 10), x - rng.uniform(5, 10))
            marks = np.stack([distance < 3 + k for k in range(2 + i % 3)], -1)
            name = f"pid_{i:04}_nod_0_slice_0.tif"
            image = 2.0 * (distance < 4) + rng.normal(0, 0.3, (16, 16))
            write_tiff(root / split / "scans" / name, ((image - image.mean()) / image.std())[None])
            write_tiff(root / split / "masks/annots" / name, marks[None])
            write_tiff(root / split / "masks/GT" / name, marks.mean(-1)[None] >= 0.5)
    return root


def opened(folder, data, config: str, *, resume: bool = False, **changed):
    named = SMALL | NETWORKS[config.rpartition("_")[0]] | {k.replace("__", "."): v for k, v in changed.items()}
    overrides = [] if resume else [f"{name}={value}" for name, value in named.items()]
    packaged = config.replace("_image", "")
    return run.open_run(None if resume else packaged, folder, data=data, overrides=overrides, resume=resume)


def train(folder, data, config: str, *, devices: int = 1, on_step=lambda *_: None, **changed):
    return run.train(opened(folder, data, config, **changed), folder, devices=jax.devices()[:devices], on_step=on_step)


def losses(folder) -> list[float]:
    return [entry["loss"] for entry in read_metrics(folder / "metrics.jsonl") if entry["split"] == "train"]


def first_batch(task) -> dict[str, np.ndarray]:
    source = task.splits["train"]
    return {k: np.stack([source[i][k] for i in range(4)]) for k in ("image", "labels", "present", "truth")}


@pytest.mark.full
@pytest.mark.parametrize("network", NETWORKS)
def test_the_loss_falls_and_the_object_is_segmented(lidc, tmp_path, network):
    often = {"trainer__validate_every": 10, "trainer__checkpoint_every": 10, "trainer__pictures_every": 20}
    scores = train(tmp_path / "run", lidc, f"{network}_lidc", trainer__max_steps=60, **often)
    found = losses(tmp_path / "run")
    assert np.mean(found[-6:]) < 0.8 * np.mean(found[:6])
    assert scores["dice"] > 0.6
    assert scores["ged_published"] < scores["ged_original"]
    with Image.open(next((tmp_path / "run" / "pictures").iterdir())) as picture:
        assert picture.width > 1000
    model = jaxseg.load(tmp_path / "run")
    assert model(np.zeros((1, 16, 16, 1), np.float32)).shape[:3] == (1, 16, 16)
    run.evaluate(tmp_path / "run", devices=jax.devices()[:1])
    stored = json.loads((tmp_path / "run" / "evaluation_val.json").read_text())
    assert stored["images"] == 6
    assert {"mean", "standard_error", "count"} == set(stored["measures"]["ged_published"])
    assert stored["measures"]["baseline_majority"]["mean"] == pytest.approx(1)
    assert 0.5 < stored["measures"]["baseline_staple"]["mean"] <= 1
    assert stored["measures"]["baseline_staple_ged"]["count"] == 6
    assert stored["last"]["step"] == 60
    with (tmp_path / "run" / "evaluation_val.csv").open() as file:
        rows = list(csv.DictReader(file))
    for which, measured in (("best", stored["measures"]), ("last", stored["last"]["measures"])):
        found = {row["measure"]: float(row["mean"]) for row in rows if row["checkpoint"] == which}
        assert found == {name: row["mean"] for name, row in measured.items()}
    run.evaluate(tmp_path / "run", devices=jax.devices()[:1], step=60)
    assert "last" not in json.loads((tmp_path / "run" / "evaluation_val.json").read_text())
    assert not (tmp_path / "run" / "evaluation_val.csv").exists()


@pytest.mark.full
@pytest.mark.parametrize("config", ["cmvae_lidc", "cmvae_mnist", "prob_unet_lidc", "prob_unet_mnist"])
def test_packaged_configurations_have_the_published_values_and_train(lidc, tmp_path, config):
    values = read_config(config)
    rate = 1e-3 if config == "cmvae_mnist" else 1e-4
    rule = values.optimizer
    assert (rule.name, rule.learning_rate, rule.weight_decay) == ("adamw", rate, 1e-3)
    assert (values.trainer.batch_size, values.data.turn, values.loss.beta) == (5, 0.5, 20 if "cm" in config else 5)
    data = lidc
    if "mnist" in config:
        data = tmp_path / "mnist"
        for split in ("train", "validate"):
            save_mnist(data, split, 4)
    scores = train(tmp_path / "run", data, config, trainer__max_steps=1)
    assert 0 <= scores["dice"] <= 1
    barely = f"barely trained (after 1 steps the Dice of its clean masks is {scores['dice']:.2f} in the validation)"
    assert jaxseg.load(tmp_path / "run").card.note.startswith(barely if scores["dice"] < 0.5 else "")


def test_a_barely_trained_model_says_so():
    remark = annotators.AnnotatorsTask.remark
    assert "barely trained (after 7 steps the Dice of its clean masks is 0.49" in remark(None, 7, 0.49)
    assert remark(None, 7, 0.5) == remark(None, 100, None) == remark(None, 100, math.nan) == ""
    assert remark(None, 99, None) == remark(None, 99, math.nan) == "barely trained (99 steps): its samples mean little"


@pytest.mark.full
@pytest.mark.parametrize("network", NETWORKS)
def test_a_resumed_run_is_equal_to_an_uninterrupted_one(lidc, tmp_path, network):
    train(tmp_path / "whole", lidc, f"{network}_lidc")

    def stop(step, total, values):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", lidc, f"{network}_lidc", on_step=stop)
    train(tmp_path / "stopped", lidc, f"{network}_lidc", resume=True)
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")


@pytest.mark.full
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("parallel", ["jit", pytest.param("pmap", marks=pytest.mark.full)])
def test_it_trains_on_several_devices(lidc, tmp_path, network, parallel):
    train(tmp_path / "run", lidc, f"{network}_lidc", devices=2, trainer__parallel=parallel)
    assert np.isfinite(losses(tmp_path / "run")).all()


@pytest.mark.full
def test_the_kl_term_follows_its_schedule(lidc, tmp_path):
    for schedule in ("constant", "anneal"):
        changed = {"trainer__epochs": 2, "loss__schedule": schedule, "loss__ramp_up": 1.0}
        task = make_task(opened(tmp_path / schedule, lidc, "cmvae_lidc", **changed))
        batch, loss = first_batch(task), jax.jit(task.loss)
        kl = [float(loss(task.model, batch, jax.random.key(0), step)[1]["kl"]) for step in range(6)]  # 3 per epoch
        assert (kl[:3] == [0, 0, 0]) == (schedule == "anneal")
        assert min(kl[3:]) > 0


@pytest.mark.full
def test_as_in_the_original_one_annotator_can_be_sampled_per_batch(lidc, tmp_path):
    config = opened(tmp_path / "run", lidc, "cmvae_lidc", loss__schedule="constant")
    task = make_task(config)
    batch, values = first_batch(task), {}
    for draw in ("sample", "batch"):
        task.cfg = dataclasses.replace(config.data, draw=draw)
        loss = jax.jit(lambda model, batch, key: task.loss(model, batch, key, 0)[0])
        found = [loss(task.model, batch, jax.random.key(i)) for i in range(3)]
        values[draw] = np.array(found)
    assert np.isfinite([*values["sample"], *values["batch"]]).all()
    assert (values["sample"] != values["batch"]).any()


def test_metrics_equal_those_computed_by_numpy():
    rng = np.random.default_rng(0)
    labels, samples = rng.random((3, 9, 9, 4)) > 0.5, rng.random((3, 5, 9, 9)) > 0.5
    present = np.arange(4) < np.array([[2], [3], [4]])
    batch = {"labels": (labels & present[:, None, None]).astype(np.uint8), "present": present}
    batch["truth"] = (rng.random((3, 9, 9)) > 0.5).astype(np.uint8)
    clean = rng.random((3, 9, 9)) > 0.5
    found = jax.jit(annotators.measures)(clean, samples, batch, {})
    for i, count in enumerate((2, 3, 4)):
        mine = np.moveaxis(labels[i, ..., :count], -1, 0)
        assert found["ged_published"][i] == pytest.approx(energy_distance_published(mine, samples[i]), abs=1e-5)
        assert found["ged_original"][i] == pytest.approx(energy_distance_original(mine, samples[i]), abs=1e-5)
        truth = batch["truth"][i] > 0
        votes = mine.mean(0) >= 0.5
        dice = 2 * (votes & truth).sum() / (votes.sum() + truth.sum())
        assert found["baseline_majority"][i] == pytest.approx(dice, abs=1e-5)
        single = [2 * (one & truth).sum() / (one.sum() + truth.sum()) for one in mine]
        assert found["baseline_annotator"][i] == pytest.approx(np.mean(single), abs=1e-5)
        one = samples[i, 0]
        sampled = 2 * (one & truth).sum() / (one.sum() + truth.sum())
        assert found["dice_one_sample"][i] == pytest.approx(sampled, abs=1e-5)


def test_the_best_and_the_last_checkpoint_stand_in_one_table():
    def examined(dice: float):
        rows = {"dice": annotators._row("dice", np.array([dice, dice])), "baseline_majority": {"mean": 1.0, "count": 2}}
        rows["baseline_majority"]["standard_error"] = 0.0
        return annotators.Examination({"images": 2, "measures": rows}, "")

    best, last = examined(0.8), examined(0.7)
    found = annotators.AnnotatorsTask.join((4, best), (6, last))
    lines = found.table.splitlines()
    assert lines[0].split() == ["best,", "step", "4", "last,", "step", "6"]
    assert lines[1].split() == ["dice", "0.8000", "+-", "0.0000", "0.7000", "+-", "0.0000"]
    assert lines[2].split() == ["baseline_majority", "1.0000", "+-", "0.0000"]  # it does not depend on the model
    assert found.numbers["measures"] == best.numbers["measures"]
    assert found.numbers["last"] == {"step": 6, "measures": last.numbers["measures"]}
    rows = [(row["checkpoint"], row["step"], row["measure"], row["mean"]) for row in found.rows]
    assert rows[::2] == [("best", 4, "dice", pytest.approx(0.8)), ("last", 6, "dice", pytest.approx(0.7))]
    same = annotators.AnnotatorsTask.join((6, last), (6, last))
    assert same.table.splitlines()[0].split() == ["best", "and", "last,", "step", "6"]
    assert same.numbers["last"]["step"] == 6


def test_staple_is_a_baseline_of_the_annotators_that_are_present():
    rng = np.random.default_rng(0)
    truth = np.zeros((3, 20, 20), bool)
    truth[:, 5:14, 6:15] = True
    wrong = rng.random((3, 20, 20, 4)) < np.array([0.02, 0.05, 0.3, 0.4])
    present = np.array([[True] * 4, [True, True, True, False], [False] * 4])  # the last image only fills the batch
    labels = (wrong ^ truth[..., None]) & present[:, None, None]
    found = annotators.staple_baseline({"labels": labels.astype(np.uint8), "present": present, "truth": truth})
    for i, count in enumerate((4, 3)):
        masks = np.moveaxis(labels[i, ..., :count], -1, 0)
        mask = staple(masks).probability >= 0.5
        dice = 2 * (mask & truth[i]).sum() / (mask.sum() + truth[i].sum())
        assert found["baseline_staple"][i] == pytest.approx(dice, abs=1e-6)
        assert dice > 0.8
        distance = energy_distance_published(masks, mask[None])
        assert found["baseline_staple_ged"][i] == pytest.approx(distance)


def test_metrics_that_need_two_annotators_are_missing_with_one():
    names = ("dice", "ged_original", "distance_between_annotators", "kl")
    values = {name: np.array([np.nan, np.nan]) for name in names} | {"dice": np.array([0.5, 0.7])}
    found = annotators.means(values)
    assert set(found) == {"dice", "kl"}
    assert np.isnan(found["kl"])  # the network has diverged
    assert annotators.means({"ged_original": np.array([np.nan, 2.5])}) == {"ged_original": 2.5}
    rows = {name: annotators._row(name, of) for name, of in values.items()}
    rows["baseline_majority"] = rows["ged_original"] | {"mean": 1.0}
    table = annotators._table({"mean": rows}, 2)
    assert "n/a" in next(line for line in table.splitlines() if line.startswith("ged_original"))
    assert table.endswith("the truth is the annotators' majority vote")


def test_a_data_set_with_the_other_layout_is_reported(lidc):
    with pytest.raises(ValueError, match="looks like lidc, but data.layout is mnist"):
        annotators.DataConfig(root=str(lidc), layout="mnist").splits()


def record() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = np.zeros((12, 12), np.uint8)
    truth[2:5, 3:9] = 1
    image = truth[..., None] + rng.normal(0, 0.01, (12, 12, 1)).astype(np.float32)
    return {"image": image.astype(np.float32), "labels": truth[..., None], "present": np.array([True]), "truth": truth}


@pytest.mark.parametrize("seed", range(4))
def test_image_and_masks_are_transformed_together(seed):
    change = Augmentation(symmetry=True, rotate=20, scale=0.1)
    found = change(record(), np.random.default_rng(seed))
    np.testing.assert_array_equal(found["labels"][..., 0], found["truth"])
    assert np.mean((found["image"][..., 0] > 0.5) == found["truth"]) > 0.93
    assert not np.array_equal(found["truth"], record()["truth"])


def test_the_default_is_a_half_turn_and_grey_values_change_independently_of_it():
    rng = np.random.default_rng(0)
    turned = [np.array_equal(Augmentation()(record(), rng)["truth"], record()["truth"][::-1, ::-1]) for _ in range(40)]
    assert 10 < sum(turned) < 30
    found = Augmentation(0.0, contrast=0.3, brightness=0.5, noise=0.1)(record(), rng)
    np.testing.assert_array_equal(found["truth"], record()["truth"])
    assert found["image"].dtype == np.float32
    assert not np.array_equal(found["image"], record()["image"])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model__norm": "xx"}, "norm"),
        ({"model__depth": 6}, "depth"),
        ({"data__annotators": 3}, "annotators, and data.annotators is 3"),
        ({"data__layout": "mnist"}, "looks like lidc"),
        ({"loss__beta": -1}, "beta"),
    ],
)
def test_impossible_settings_are_reported(lidc, tmp_path, changed, words):
    with pytest.raises(ValueError, match=words):
        train(tmp_path / "run", lidc, "cmvae_lidc", **changed)


def test_a_folder_without_training_data_is_reported(tmp_path):
    with pytest.raises(ValueError, match="has no folder train; the layouts are"):
        train(tmp_path / "run", tmp_path, "cmvae_lidc")
