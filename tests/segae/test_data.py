"""SegAE's data: the layout, the usable slices, the cache, and the examples."""

import csv
import pickle
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segae_files import SHAPE, ct, labels, organ, save_case, save_data
from volume_files import AFFINE, save_nifti

from jaxseg.datasets.volume_cache import Cache, pack
from jaxseg.segae.augment import Augmentation
from jaxseg.segae.crop import bounds, crop_window, network_input
from jaxseg.segae.data import Example, read_segae, true_dice
from jaxseg.training.batches import evaluation_batches, training_batches


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return read_segae(save_data(tmp_path_factory.mktemp("segae")))


def test_the_golden_example_is_reproduced(kit):
    name = "segae_dataset/valid_item"
    hu = np.stack([np.round(kit.input(name, f"hu{i}")).astype(np.int16)[0, 0] for i in range(4)])
    shapes = (
        [[["ellipse", 45, 50, 14 + i, 20]] for i in range(4)],
        [[["ellipse", 48, 53, 15, 18 + i]] for i in range(4)],
    )
    truth, mask = (kit.fill.rasterise(each, 90, 110) for each in shapes)
    mask[0] = False
    record = {"ct": hu, "labels": np.where(truth, 3, 0), "mask": pack(mask), "slices": np.array([1, 2, 3]), "label": 3}
    found = Example()(record)
    assert found["slice"] == kit.golden(name)[0]["params"]["chosen"]
    kit.check(name, "ct", found["image"][None, :, :, 0])
    kit.check(name, "pred_mask", found["image"][None, :, :, 1])
    kit.check(name, "true_dice", found["dice"])


@pytest.mark.slow
def test_quality_csv_of_the_sample_is_reproduced(shared):
    root = shared / "data" / "ct" / "segae"
    with (root / "quality.csv").open() as file:
        rows = {(row["split"], row["case"], row["file"]): row for row in csv.DictReader(file)}
    found = read_segae(root)
    for split, source in found.splits.items():
        for item in source.items:
            row = rows.pop((split, item.case.name, f"{item.path.parent.name}/{item.path.name}"))
            assert len(item.slices) == int(row["slices_with_20px_overlap"])
            assert item.dice == pytest.approx(float(row["dice_3d"]), abs=6e-5)
            assert (item.truth_voxels, item.mask_voxels) == (int(row["gt_voxels"]), int(row["mask_voxels"]))
            assert item.label == int(row["dap_id"])
    assert sorted(row["slices_with_20px_overlap"] for row in rows.values()) == ["0"] * 5
    assert {split: len(names) for split, names in found.unusable.items()} == {"train": 3, "val": 2}
    assert found.notes[0].startswith("3 of 483 masks of train are left out")


def test_usable_slices_are_found_and_masks_without_any_are_reported(data):
    assert {split: len(source) for split, source in data.splits.items()} == {"train": 3, "val": 3}
    source = data.splits["train"]
    assert [item.slices for item in source.items] == [(2, 3), (1, 2, 3, 4), (1, 2, 3)]
    assert [item.label for item in source.items] == [15, 13, 13]
    assert source.name(1) == "train/a/liver_13/epoch_000.nii.gz"
    assert data.unusable["val"] == ("val/b/liver_13/epoch_001.nii.gz",)
    assert "1 of 4 masks of train are left out" in data.notes[0]
    assert source.items[1].dice == pytest.approx(true_dice(organ(), organ(2)))


def test_an_example_is_the_crop_of_the_middle_slice(data):
    found = Example(64)(data.splits["train"][1])
    window = crop_window(bounds(organ(2)[3]), SHAPE[1:]).part
    assert found["slice"] == 3
    assert found["label"] == 13
    assert found["dice"].dtype == np.float32
    assert found["dice"] == pytest.approx(true_dice(organ()[3][window], organ(2)[3][window]))
    np.testing.assert_array_equal(found["image"], network_input(ct()[3], organ(2)[3], 64))


def test_single_slices_can_be_records(data):
    source = data.splits["val"]
    assert [item.slices for item in source.of_slices().items] == [(2,), (3,), (1,), (2,), (3,), (4,), (1,), (2,), (3,)]
    assert [item.slices for item in source.of_slices(2).items] == [(2,), (3,), (2,), (4,), (1,), (3,)]
    assert [item.slices for item in source.of_slices(1).items] == [(3,), (3,), (2,)]
    assert Example(16)(source.of_slices()[8])["slice"] == 3


def test_training_samples_slices_and_margins_from_the_seed(data):
    source, augment = data.splits["train"], Augmentation(32)
    found = [augment(source[1], np.random.default_rng(seed)) for seed in range(60)]
    assert {int(example["slice"]) for example in found} == {1, 2, 3, 4}
    assert len({example["image"].tobytes() for example in found}) > 8
    again = augment(source[1], np.random.default_rng(7))
    assert all(np.array_equal(again[key], found[7][key]) for key in again)


def test_examples_are_valid_with_all_options_of_augmentation(data):
    record = data.splits["train"][1]
    options = {"degrade_share": 0.5, "truth_share": 0.3, "window_jitter": 40, "noise": 30, "rotate": 20}
    augment = Augmentation(24, **options, flip_rows=0.5, flip_columns=0.5)
    found = [augment(record, np.random.default_rng(seed)) for seed in range(80)]
    for example in found:
        assert example["image"].shape == (24, 24, 2)
        assert example["image"].dtype == np.float32
        assert np.abs(example["image"][..., 0]).max() <= 2
        assert np.abs(example["image"][..., 1]).max() <= 1
        assert 0 <= example["dice"] < 1.0001
    perfect = sum(example["dice"] > 0.9999 for example in found)
    assert 10 < perfect < 45
    assert min(example["dice"] for example in found) < 0.4


def test_augmentation_does_not_change_the_cached_volumes(data):
    augment = Augmentation(24, degrade_share=0.5, noise=50, rotate=30, flip_rows=1, flip_columns=1)
    for seed in range(20):
        augment(data.splits["train"][1], np.random.default_rng(seed))
    record = data.splits["train"][1]
    np.testing.assert_array_equal(record["ct"], ct())
    np.testing.assert_array_equal(record["labels"], labels())
    np.testing.assert_array_equal(record["mask"].array(), organ(2))


def test_ct_and_masks_are_flipped_together(data):
    source = data.splits["train"]
    plain, mirrored = (Augmentation(32, flip_columns=p)(source[1], np.random.default_rng(3)) for p in (0, 1))
    np.testing.assert_array_equal(mirrored["image"], plain["image"][:, ::-1])
    assert mirrored["dice"] == plain["dice"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size"),
        ({"degrade_share": 1.5}, "degrade_share"),
        ({"degrade_share": 0.7, "truth_share": 0.7}, "together with truth_share it is more than 1"),
        ({"degrade_dice": (0.0, 0.5)}, "degrade_dice"),
        ({"window_jitter": 200}, "window_jitter"),
        ({"noise": -1}, "noise"),
        ({"rotate": 181}, "rotate"),
        ({"kinds": ("melt",)}, "melt"),
    ],
)
def test_invalid_options_of_augmentation_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)


def test_the_pipeline_makes_batches(data):
    options = {"batch_size": 2, "threads": 2}
    with_seed = [next(training_batches(data.splits["train"], Augmentation(16), seed=4, **options)) for _ in range(2)]
    for key in with_seed[0]:
        np.testing.assert_array_equal(with_seed[0][key], with_seed[1][key])
    batches = list(evaluation_batches(data.splits["val"], Example(16), **options))
    assert [batch["image"].shape for batch in batches] == [(2, 16, 16, 2)] * 2
    assert batches[0]["label"].tolist() == [15, 13]
    assert batches[0]["label"].dtype == np.int32


def test_a_source_is_pickled_without_its_volumes(data):
    content = pickle.dumps(data.splits["train"])
    assert len(content) < 10_000
    again = pickle.loads(content)  # noqa: S301
    np.testing.assert_array_equal(Example(16)(again[0])["image"], Example(16)(data.splits["train"][0])["image"])


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.floats(0, 1), st.integers(0, 99))
def test_packed_masks_can_be_unpacked(depth, height, width, share, seed):
    mask = np.random.default_rng(seed).random((depth, height, width)) < share
    np.testing.assert_array_equal(pack(mask).array(), mask)


def test_the_cache_stays_within_its_limit_and_opens_once():
    cache, opened = Cache(250), []

    def get(key):
        return cache.get(key, lambda: opened.append(key) or np.zeros(100, np.uint8))

    for key in "abab":
        get(key)
    assert opened == ["a", "b"]
    get("c")
    get("b")
    assert cache.held == 200
    assert opened == ["a", "b", "c"]
    get("a")
    assert opened == ["a", "b", "c", "a"]


def test_a_failed_volume_is_read_again():
    cache = Cache(100)
    with pytest.raises(OSError, match="once"):
        cache.get("a", lambda: (_ for _ in ()).throw(OSError("once")))
    assert cache.get("a", lambda: np.ones(3)).sum() == 3


def test_a_small_limit_gives_the_same_examples(data):
    small = read_segae(data.splits["train"].root, memory=0)
    for index in range(3):
        found, wanted = (Example(16)(d.splits["val"][index]) for d in (small, data))
        np.testing.assert_array_equal(found["image"], wanted["image"])


def test_all_bad_volumes_are_reported(tmp_path):
    root = save_data(tmp_path / "data")
    case = root / "train" / "a"
    save_nifti(case / "liver_13" / "epoch_000.nii.gz", labels())  # not 0 and 1
    save_nifti(case / "liver_13" / "epoch_002.nii.gz", organ().astype(np.uint8), AFFINE * [[1], [1], [2], [1]])
    save_nifti(root / "val" / "b" / "ct.nii.gz", (ct() / 2000).astype(np.float32))
    with pytest.raises(ValueError, match="3 volumes cannot be used") as error:
        read_segae(root)
    lines = str(error.value).split("\n")[1:]
    assert "train/a/liver_13/epoch_000.nii.gz: a mask holds 0 and 1" in lines[0]
    assert "train/a/liver_13/epoch_002.nii.gz: covers another space than ct.nii.gz" in lines[1]
    assert "val/b/ct.nii.gz: values from" in lines[2]


def test_invalid_layouts_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        read_segae(tmp_path / "missing")
    with pytest.raises(ValueError, match="has no case"):
        read_segae(tmp_path)
    case = save_case(tmp_path / "train" / "a")
    (case / "liver").mkdir()
    with pytest.raises(ValueError, match="train/a/liver: an organ's folder is named ORGAN_ID"):
        read_segae(tmp_path)
    (case / "liver").rmdir()
    (case / "label.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"train/a has no label.nii.gz"):
        read_segae(tmp_path)


def test_a_split_without_usable_slices_is_refused(tmp_path):
    case = save_case(tmp_path / "train" / "a")
    shutil.rmtree(case / "kidney-left_15")
    for name in ("000", "002"):
        (case / "liver_13" / f"epoch_{name}.nii.gz").unlink()
    with pytest.raises(ValueError, match="none of the 1 masks of train"):
        read_segae(tmp_path)
    with pytest.raises(ValueError, match="overlap"):
        read_segae(tmp_path, overlap=0)


def test_dice_equals_that_of_the_original():
    first, second = np.array([[1, 1, 0]]), np.array([[0, 1, 1]])
    assert true_dice(first, second) == pytest.approx(2 / (4 + 1e-6), abs=1e-12)
    assert true_dice(np.zeros(3), np.zeros(3)) == 0
