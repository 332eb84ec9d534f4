"""PAX-Ray's lists and records are read as published, and damaged ones are refused."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxseg.anatomy import data as module
from jaxseg.anatomy.augment import Augmentation, unchanged
from jaxseg.anatomy.data import Split, read_paxray, subset
from jaxseg.images.fit import Placement
from jaxseg.images.preprocess import PREPROCESSING
from jaxseg.images.read import read_picture
from jaxseg.training.batches import RecordError, evaluation_batches, training_batches

RNG = np.random.default_rng


def read_target(
    path: Path, classes: int, size: tuple[int, int], picture_size: tuple[int, int], **options
) -> np.ndarray:
    """Reads a target for a picture that is stretched to a size."""
    return module.read_target(path, classes, Placement.of(picture_size, size, "stretch"), picture_size, **options)


def bits(packed: np.ndarray, classes: int) -> np.ndarray:
    """Returns the unpacked masks, (H, W, K), computed class by class."""
    return np.stack([(packed[..., k // 8] >> np.uint8(k % 8)) & np.uint8(1) for k in range(classes)], -1)


def write_set(root: Path, count: int = 3, *, classes: int = 3, size: tuple[int, int] = (20, 30)) -> dict:
    """Saves a data set to a folder and returns its lists."""
    (root / "images").mkdir()
    (root / "labels").mkdir()
    entries = []
    for i in range(count):
        pixels = RNG(i).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"images/{i}.png")
        np.save(root / f"labels/{i}.npy", RNG(i).random((classes, *size)) > 0.5)
        entries.append({"image": f"images/{i}.png", "target": f"labels/{i}.npy"})
    lists = {"label_dict": {str(k): f"class {k}" for k in range(classes)}, "train": entries, "val": [], "test": []}
    (root / "paxray.json").write_text(json.dumps(lists))
    return lists


def test_the_sample_matches_its_readme(shared):
    data = read_paxray(shared / "data" / "paxray")
    assert data.names == ("right lung", "left lung", "lung", "heart", "foreground")
    assert {split: len(pairs) for split, pairs in data.splits.items()} == {"train": 60, "val": 12, "test": 0}
    split = Split(data.splits["val"], len(data.names), (128, 128), root=data.root)
    batch = next(evaluation_batches(split, unchanged, batch_size=4))
    assert (batch["image"].shape, batch["image"].dtype) == ((4, 128, 128, 3), np.float32)
    assert (batch["target"].shape, batch["target"].dtype) == ((4, 128, 128, 5), np.uint8)
    right, left, lung, heart, foreground = np.moveaxis(batch["target"], -1, 0)
    np.testing.assert_array_equal(right | left, lung)
    np.testing.assert_array_equal(lung | heart, foreground)
    assert split.name(0).startswith("images/")


def test_targets_are_resized_as_the_original_does(kit, tmp_path):
    name = "paxray_preprocess/label_npy"
    mask = kit.input(name, "mask")[0]
    np.save(tmp_path / "x.npy", mask)
    found = bits(read_target(tmp_path / "x.npy", 3, (512, 512), mask.shape[1:]), 3)
    kit.check(name, "mask", found.transpose(2, 0, 1).astype(np.float32))
    kit.check(name, "area", found.sum((0, 1)).astype(np.float32))


@pytest.mark.parametrize("case", ["rgb8_png", "gray8_png", "gray16_range4095_png", "gray8_large_png"])
def test_images_equal_those_of_the_originals_training(kit, tmp_path, case):
    name = f"paxray_preprocess/{case}"
    path = kit.folder / kit.golden(name)[0]["params"]["file"]
    np.save(tmp_path / "x.npy", np.zeros((1, *read_picture(path).size), bool))
    pair = (path, tmp_path / "x.npy")
    for preprocessing, golden in {"paxray": "pretrained", "paxray_folder": "resized"}.items():
        image = Split((pair,), 1, preprocessing=preprocessing)[0]["image"].transpose(2, 0, 1)
        np.testing.assert_allclose(image.ravel()[::193], kit.golden(name)[1][golden].ravel(), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("preprocessing", sorted(PREPROCESSING))
def test_evaluation_and_prediction_get_the_same_image(tmp_path, preprocessing):
    write_set(tmp_path)
    pairs = read_paxray(tmp_path).splits["train"]
    example = unchanged(Split(pairs, 3, (17, 40), preprocessing)[1], RNG(0))
    wanted = PREPROCESSING[preprocessing](read_picture(pairs[1][0]), (17, 40))
    np.testing.assert_array_equal(example["image"], wanted)
    assert example["image"].dtype == np.float32


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_any_number_of_classes_is_packed_and_unpacked_again(tmp_path, dtype, order):
    for classes in (1, 7, 8, 9, 17):
        masks = (RNG(classes).random((classes, 11, 9)) > 0.5).astype(dtype)
        np.save(tmp_path / "x.npy", np.asarray(masks, order=order))
        packed = read_target(tmp_path / "x.npy", classes, (11, 9), (22, 18))
        assert packed.shape == (11, 9, -(-classes // 8))
        record = {"image": np.zeros((11, 9, 3), np.float32), "target": packed, "classes": classes}
        np.testing.assert_array_equal(unchanged(record, RNG(0))["target"], masks.transpose(1, 2, 0))


def test_only_the_sampled_pixels_are_checked(tmp_path):
    masks = np.full((1, 8, 8), 7, np.uint8)
    masks[:, ::2, ::2] = 1
    np.save(tmp_path / "x.npy", masks)
    assert read_target(tmp_path / "x.npy", 1, (4, 4), (8, 8)).all()
    with pytest.raises(ValueError, match=r"x.npy: a target must hold 0 and 1, class 0 holds 7"):
        read_target(tmp_path / "x.npy", 1, (8, 8), (8, 8))


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((2, 8, 8), bool), r"must be \(3, H, W\) of bool or uint8, got \(2, 8, 8\) bool"),
        (np.zeros((3, 8), bool), r"got \(3, 8\) bool"),
        (np.zeros((3, 8, 8), np.float32), "got .* float32"),
        (np.zeros((3, 16, 8), bool), "different aspect ratios: the target is 16 x 8, the picture 8 x 8"),
        (np.zeros((3, 0, 8), bool), "x.npy"),
        (np.array([{}], object), "holds Python objects"),
    ],
)
def test_targets_that_do_not_fit_are_refused(tmp_path, array, reason):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=reason):
        read_target(tmp_path / "x.npy", 3, (4, 4), (8, 8))


def test_a_bool_file_with_other_bytes_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((1, 4, 4), bool))
    content = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(content[:-1] + b"\x05")
    with pytest.raises(ValueError, match="holds 5"):
        read_target(tmp_path / "x.npy", 1, (4, 4), (4, 4))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_gives_masks_or_a_value_error(tmp_path, data):
    path = tmp_path / "x.npy"
    np.save(path, np.ones((3, 6, 6), np.uint8))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, 130))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.sampled_from([0, 5, 60, 127, 200, len(content)]))]))
    reason = None
    try:
        packed = read_target(path, 3, (4, 4), (6, 6))
    except ValueError as error:
        reason = str(error)
    if reason is None:
        assert packed.shape == (4, 4, 1)
        assert packed.max() < 8
    else:
        assert "x.npy" in reason
        assert "\n" not in reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d.pop("label_dict"), "label_dict must be an object"),
        (lambda d: d["label_dict"].update({"7": "x"}), "label_dict has 4 entries, and no name under 3"),
        (lambda d: d["label_dict"].update({"1": 5}), "no name under 1"),
        (lambda d: d.pop("val"), "val must be a list"),
        (lambda d: d.update(test={}), "test must be a list"),
        (lambda d: d["train"].append("x"), r"train\[3\] must have the texts image and target"),
        (lambda d: d["train"].append({"image": "images/0.png"}), r"train\[3\] must have"),
        (lambda d: d["val"].append({"image": "a\0b", "target": "x"}), r"val\[0\] must have"),
        (lambda d: d["val"].append({"image": "\ud800", "target": "x"}), r"2 of 8 files .* are missing: \\ud800, x"),
        (lambda d: d["val"].append({"image": "../0.png", "target": "x"}), r"'../0.png' lies outside"),
        (lambda d: d["val"].append({"image": "/etc/passwd", "target": "x"}), "'/etc/passwd' lies outside"),
        (lambda d: d["val"].append({"image": "link/../../0.png", "target": "x"}), "0.png' lies outside"),
        (lambda d: d["val"].append({"image": "circle", "target": "x"}), "2 of 8 files .* are missing: circle, x"),
        (lambda d: d["val"].append({"image": "no.png", "target": "a" * 300}), "2 of 8 files named in .* are missing"),
        (lambda d: d["val"].append({"image": "images", "target": "\x1b[1m"}), r"are missing: images, \\x1b\[1m"),
        (lambda d: d["train"].extend({} for _ in range(9)), r"train\[7\] must have .*; and 4 more"),
    ],
)
def test_lists_that_are_not_as_published_are_refused(tmp_path, change, reason):
    root = tmp_path / "set"
    root.mkdir()
    lists = write_set(root)
    (root / "link").symlink_to(tmp_path)
    (root / "circle").symlink_to(root / "circle")
    change(lists)
    (root / "paxray.json").write_text(json.dumps(lists))
    with pytest.raises(ValueError, match=reason):
        read_paxray(root)


def test_folders_that_are_links_to_another_disk_are_read(tmp_path):
    def source(root: Path) -> Split:
        found = read_paxray(root)
        return Split(found.splits["train"], 3, (17, 40), root=found.root)

    root, disk = tmp_path / "set", tmp_path / "disk"
    root.mkdir()
    write_set(root)
    expected = [source(root)[i]["image"] for i in range(3)]
    disk.mkdir()
    for name in ("images", "labels"):
        (root / name).rename(disk / name)
        (root / name).symlink_to(disk / name)
    (tmp_path / "link").symlink_to(root)
    for place in (root, tmp_path / "link"):
        found = source(place)
        assert [found.name(i) for i in range(3)] == ["images/0.png", "images/1.png", "images/2.png"]
        assert all(np.array_equal(found[i]["image"], expected[i]) for i in range(3))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000])
def test_a_list_file_that_is_not_a_json_object_is_refused(tmp_path, content):
    (tmp_path / "paxray.json").write_bytes(content)
    with pytest.raises(ValueError, match="paxray.json: (not JSON|must be a JSON object)"):
        read_paxray(tmp_path)


def test_a_subset_is_seeded_and_sorted_and_grows_with_the_fraction():
    pairs = tuple((Path(f"images/{i:03}.png"), Path(f"labels/{i:03}.npy")) for i in range(101))
    quarter, half = subset(pairs, 0.25, 1), subset(pairs, 0.5, 1)
    assert (len(quarter), len(half)) == (25, 50)
    assert set(quarter) < set(half)
    assert list(half) == sorted(half)
    assert subset(pairs[::-1], 0.5, 1) == half
    assert subset(pairs, 0.5, 2) != half
    assert subset(pairs, 1.0, 3) == pairs
    assert len(subset(pairs, 1e-9, 0)) == 1
    for fraction in (0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="the fraction must be in"):
            subset(pairs, fraction, 0)


def test_options_of_a_split_are_checked():
    with pytest.raises(ValueError, match="unknown preprocessing 'sane'; known: cxas, paxray, paxray_folder"):
        Split((), 1, preprocessing="sane")
    with pytest.raises(ValueError, match="the size must be two positive numbers"):
        Split((), 1, size=(0, 4))


def test_the_pipeline_reports_the_name_of_a_damaged_file(tmp_path):
    write_set(tmp_path)
    (tmp_path / "images" / "1.png").write_bytes(b"nothing")
    (tmp_path / "labels" / "2.npy").write_bytes(b"nothing")
    data = read_paxray(tmp_path)
    split = Split(data.splits["train"], 3, (16, 16), root=data.root)
    options = {"batch_size": 3, "seed": 0, "threads": 2}
    stop = training_batches(split, Augmentation(crop=12), **options)
    with contextlib.closing(stop), pytest.raises(RecordError, match=r"images/[12].png: (not a png|2.npy: )"):
        next(stop)
    with contextlib.closing(training_batches(split, Augmentation(crop=12), on_error="skip", **options)) as batches:
        assert next(batches)["index"].tolist() == [0, 0, 0]
        assert batches.skipped == {"images/1.png": 2, "images/2.png": 2} or sum(batches.skipped.values()) == 3


@pytest.mark.full
def test_workers_read_the_same_records(tmp_path):
    write_set(tmp_path, 4)
    split = Split(read_paxray(tmp_path).splits["train"], 3, (16, 16))
    found = []
    for workers in (0, 1):
        batches = training_batches(split, Augmentation(crop=12), batch_size=2, seed=1, workers=workers)
        with contextlib.closing(batches):
            found.append([{k: np.array(v) for k, v in next(batches).items()} for _ in range(3)])
    for a, b in zip(*found, strict=True):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])
