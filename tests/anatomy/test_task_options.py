"""The options of the task `paxray` beyond the original's defaults: COCO files, exclusive classes, networks, results."""

import csv
import json

import jax
import numpy as np
import optax
import pytest
from paxray_runs import PAXRAY
from PIL import Image

import jaxseg
from jaxseg.masks import coco
from jaxseg.training import run
from jaxseg.training.learner import initial_state, make_learner
from jaxseg.training.task import make_task

CLASSES = ("dark", "bright", "left")


def write_coco(root, *, count: int = 8, size: tuple[int, int] = (48, 80)) -> None:
    """Saves images with a bright rectangle, and a COCO file with run lengths and polygons of three classes."""
    images, annotations = [], []
    (root / "images").mkdir(parents=True)
    for i in range(count):
        rng = np.random.default_rng(i)
        top, left = rng.integers(2, 20), rng.integers(2, 40)
        mask = np.zeros(size, bool)
        mask[top : top + 24, left : left + 30] = True
        pixels = np.where(mask, 200, 40) + rng.integers(0, 30, size)
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"images/{i}.png")
        split = "val" if i >= count - 2 else "train"
        images.append({"id": i, "file_name": f"{i}.png", "height": size[0], "width": size[1], "split": split})
        left_half = [0, 0, size[1] / 2, 0, size[1] / 2, size[0], 0, size[0]]
        for category, segmentation in ((3, coco.encode_rle(~mask)), (5, coco.encode_rle(mask)), (9, [left_half])):
            number = len(annotations) + 1
            annotations.append({"id": number, "image_id": i, "category_id": category, "segmentation": segmentation})
    names = dict(zip((3, 5, 9), CLASSES, strict=True))
    content = {"images": images, "categories": coco.categories(names), "annotations": annotations}
    (root / "instances.json").write_text(json.dumps(content))


@pytest.fixture
def on_coco(tmp_path):
    """Returns a function that makes the configuration of a small network on a COCO file, with some settings changed."""
    write_coco(tmp_path / "data")
    data = ["data.format=coco", "data.file=instances.json", "data.images=images"]

    def make(*settings):
        overrides = [*PAXRAY, *data, "trainer.batch_size=2", "data.preprocessing=cxas", *settings]
        return run.open_run("paxray_sample", tmp_path / "run", data=tmp_path / "data", overrides=overrides)

    return make


@pytest.mark.slow
@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_a_network_learns_from_a_coco_file_and_segments_whole_images(on_coco, tmp_path, fit):
    settings = ("trainer.max_steps=150", "trainer.epochs=60", f"data.fit={fit}", "optimizer.learning_rate=0.01")
    folder = tmp_path / "run"
    devices = jax.devices()[:1]
    run.train(on_coco(*settings, "loss.parts=[softdice, ce]"), folder, devices=devices)
    scores = run.evaluate(folder, "val", devices=devices)
    assert scores["dice bright"] > 0.85
    with (folder / "evaluation_val.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["mean of the classes", *CLASSES]
    assert float(rows[0]["dice"]) == scores["dice"]
    assert [float(row["iou"]) for row in rows[1:]] == [scores[f"iou {name}"] for name in CLASSES]
    card = jaxseg.load(folder).card
    assert card.preprocessing == ("cxas" if fit == "stretch" else "cxas_pad")
    found = jaxseg.segment(tmp_path / "data/images/7.png", folder)
    with Image.open(tmp_path / "data/images/7.png") as image:
        bright = np.asarray(image) > 128
    assert found.masks.shape == (3, 48, 80)
    both = np.count_nonzero(found.masks[1] & bright)
    assert 2 * both / (np.count_nonzero(found.masks[1]) + np.count_nonzero(bright)) > 0.8


@pytest.mark.slow
@pytest.mark.usefixtures("plain")
def test_exclusive_classes_are_learned_and_segmented_without_overlap(on_coco, tmp_path):
    settings = ("trainer.max_steps=100", "trainer.epochs=60", "optimizer.learning_rate=0.01", "model.exclusive=true")
    folder, devices = tmp_path / "run", jax.devices()[:1]
    scores = run.train(on_coco(*settings, "loss.balance=true"), folder, devices=devices)
    assert "dice background" not in scores
    model = jaxseg.load(folder)
    assert model.card.class_names == ("background", *CLASSES)
    assert model.cfg.exclusive
    image = tmp_path / "data/images/7.png"
    masks = jaxseg.segment(image, model).masks
    assert (masks.sum(0) == 1).all(), "each pixel has one class"
    some = jaxseg.segment(image, model, classes=["bright", "left"]).masks
    np.testing.assert_array_equal(some, masks[[2, 3]])
    sure = jaxseg.segment(image, model, confidence=True).masks
    np.testing.assert_array_equal(sure, masks)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("first", ["Background", "nothing"])
def test_the_background_of_exclusive_classes_is_in_no_score_under_any_name(tmp_path, first):
    write_label_map(tmp_path, (first, "a", "b"))
    settings = [*PAXRAY, "model.exclusive=true", "trainer.batch_size=1"]
    task = make_task(run.open_run("paxray_sample", tmp_path / "run", data=tmp_path, overrides=settings))
    scores = task.summarise({"iou": np.array([[1.0, 0.2, 0.4], [1.0, 0.4, 0.6]])})
    assert scores == pytest.approx(scores | {"iou": 0.4, "iou a": 0.3, "iou b": 0.5})
    assert list(scores) == ["dice", "iou", "dice a", "dice b", "iou a", "iou b"]


@pytest.mark.usefixtures("plain")
def test_a_background_with_a_capital_in_a_coco_file_is_in_no_score(on_coco, tmp_path):
    file = tmp_path / "data/instances.json"
    content = json.loads(file.read_text())
    content["categories"].insert(0, {"id": 1, "name": "Background"})
    file.write_text(json.dumps(content))
    task = make_task(on_coco("model.exclusive=true"))
    assert task.names == ("Background", *CLASSES)
    scores = task.summarise({"iou": np.array([[1.0, 0.2, 0.4, 0.6]])})
    assert scores["iou"] == pytest.approx(0.4)
    assert not [name for name in scores if "ackground" in name]


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("network", ["unet", "fpn"])
def test_other_networks_take_a_step(on_coco, network):
    task = make_task(on_coco(f"model.network={network}", "loss.parts=[tversky, focal]"))
    assert task.model.card.model == f"paxray_{network}"
    example = task.augment(task.splits["train"][0], np.random.default_rng(0))
    batch = {name: example[name][None] for name in ("image", "target")}
    learner = make_learner(task.model, optax.sgd(1e4), task.loss)  # so that no change is lost by rounding
    before = initial_state(learner, task.model, seed=0)
    after, metrics = jax.jit(learner.step)(before, batch)
    assert np.isfinite(metrics["loss"])
    assert float(metrics["loss"]) == pytest.approx(float(metrics["tversky"] + metrics["focal"]), rel=1e-6)
    kernels = zip(jax.tree.leaves(before["params"]), jax.tree.leaves(after["params"]), strict=True)
    assert all(np.abs(new - old).max() > 0 for old, new in kernels if old.ndim > 1)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.files=[train=a.json, train=b.json]", "data.files: each must be SPLIT=FILE, with a different split"),
        ("data.files=[a.json]", "data.files: each must be SPLIT=FILE"),
        ("data.files=[x=a.json]", "data.files: each must be SPLIT=FILE"),
        ("data.val_share=0.99999999", "data.val_share: with test_share it must leave images for training"),
        ("data.fit=squeeze", "data.fit: 'squeeze' is not one of stretch, pad, crop"),
        ("model.network=vit", "model.network: 'vit' is not one of backbone_unet, unet, fpn"),
        ("loss.class_weights=[lung=2]", "loss.class_weights: 'lung' is no class; there are dark, bright, left"),
    ],
)
def test_settings_that_do_not_fit_are_refused(on_coco, setting, message):
    more = ["data.test_share=0.5"] if "val_share" in setting else []
    with pytest.raises(ValueError, match=message):
        make_task(on_coco(setting, *more))


def test_weights_for_a_network_without_a_backbone_are_refused(on_coco):
    with pytest.raises(ValueError, match="backbone_weights: the network unet has no backbone"):
        on_coco("model.network=unet", "model.backbone_weights=x.pth")


def test_files_of_paxrays_own_format_are_one(on_coco):
    with pytest.raises(ValueError, match="files: they are those of format: coco"):
        on_coco("data.format=paxray", "data.files=[train=a.json]")


def write_label_map(root, names) -> np.ndarray:
    """Saves an image and its label map as a data set of PAX-Ray's format; returns the (64, 64) classes."""
    content = {"label_dict": {str(k): name for k, name in enumerate(names)}, "val": [], "test": []}
    content |= {"train": [{"image": "x.png", "target": "x.npy"}]}
    (root / "paxray.json").write_text(json.dumps(content))
    labels = np.random.default_rng(0).integers(0, len(names), (64, 64))
    Image.fromarray((labels * 90).astype(np.uint8)).save(root / "x.png")
    np.save(root / "x.npy", labels)
    return labels


def test_a_label_map_is_a_target_of_exclusive_classes(tmp_path):
    labels = write_label_map(tmp_path, ("background", "a", "b"))
    settings = [*PAXRAY, "model.exclusive=true", "trainer.batch_size=1"]
    config = run.open_run("paxray_sample", tmp_path / "run", data=tmp_path, overrides=settings)
    task = make_task(config)
    target = task.prepare(task.splits["train"][0], None)["target"]
    np.testing.assert_array_equal(target.argmax(-1), labels)
    assert (target.sum(-1) == 1).all()
    for wrong, message in (
        (labels + 1, "a label map must hold the classes 0 to 2, it holds 1 to 3"),
        (labels - 1, "-1"),
    ):
        np.save(tmp_path / "x.npy", wrong)
        with pytest.raises(ValueError, match=f"x.npy: .*{message}"):
            task.splits["train"][0]
    plain = make_task(run.open_run("paxray_sample", tmp_path / "run2", data=tmp_path, overrides=settings[:-2]))
    with pytest.raises(ValueError, match=r"a target must be \(3, H, W\) of bool or uint8, got \(64, 64\)"):
        plain.splits["train"][0]
