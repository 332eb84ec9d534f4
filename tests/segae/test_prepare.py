"""Building SegAE's training data from CTs with labels."""

import csv
import functools
import json
import shutil

import numpy as np
import pytest
from segae_files import ct, labels, organ
from volume_files import AFFINE, save_nifti

from jaxseg.files import only_writer
from jaxseg.segae import label_table, sources
from jaxseg.segae import prepare as segae_prepare
from jaxseg.segae.data import read_segae
from jaxseg.segae.segmenter import SegmenterSettings, read_segmenter
from jaxseg.vocabulary import organs
from jaxseg.volumes.read import read_volume


@pytest.fixture
def folders(tmp_path):
    for name in ("cts", "labels"):
        (tmp_path / name).mkdir()
    for seed, name in enumerate("abc"):
        save_nifti(tmp_path / "cts" / f"{name}_0000.nii.gz", ct(seed).astype(np.int32))
        save_nifti(tmp_path / "labels" / f"{name}.nii.gz", labels())
    return tmp_path


def run(folder, out="out", pseudo=None, table=None, **options):
    scans, _ = sources.find_scans(folder / "cts", folder / "labels", pseudo)
    settings = segae_prepare.Settings(**{"per_organ": 3, "least_slices": 2, "pseudo": pseudo is not None} | options)
    splits = segae_prepare.begin(scans, folder / out, settings)
    table = table or label_table.dap_table()
    return list(segae_prepare.prepare(scans, folder / out, settings, table, splits))


def content(folder):
    return {
        path.relative_to(folder): path.read_bytes()[10:] for path in folder.rglob("*.nii.gz")
    }  # without the time in gzip's header


def test_the_built_data_can_be_read_for_training(folders):
    outcomes = run(folders)
    assert [(outcome.masks, outcome.left_out, outcome.error) for outcome in outcomes] == [(6, 0, "")] * 3
    data = read_segae(folders / "out")
    assert not any(data.unusable.values())
    assert {split: len(source) for split, source in data.splits.items()} == {"train": 12, "val": 6}
    case = data.splits["train"].items[0].case
    np.testing.assert_array_equal(read_volume(case.label).array, labels())
    assert read_volume(case.ct).array.dtype == np.int16
    np.testing.assert_allclose(read_volume(case.ct).affine, AFFINE, atol=1e-6)
    assert [name for name, _, _ in case.masks] == ["kidney-left", "liver"]
    rows = list(csv.DictReader((folders / "out" / "quality.csv").read_text().splitlines()))
    assert len(rows) == 18
    assert tuple(rows[0]) == segae_prepare.COLUMNS
    for row in rows:
        wanted = np.linspace(*segae_prepare.DICE_RANGE, 3)[int(row["file"].split("degraded_")[1][:2])]
        assert float(row["dice_3d"]) > wanted - 0.2  # of two slices, either one is lost or none; a bad mask is not kept
        assert row["file"].endswith(f"_{row['degradation']}.nii.gz")
    summary = json.loads((folders / "out" / "summary.json").read_text())
    assert summary["masks"] == {"train": 12, "val": 6}
    assert summary["failed"] == {}


def test_one_seed_builds_the_same_data_and_a_second_run_only_missing_cases(folders):
    run(folders)
    run(folders, "again")
    run(folders, "other", seed=1)
    first = content(folders / "out")
    assert content(folders / "again") == first
    assert content(folders / "other") != first
    assert run(folders) == []
    missing = next((folders / "out" / "train").iterdir())
    stamp = (folders / "out" / "val").stat().st_mtime_ns
    for path in sorted(missing.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    missing.rmdir()
    assert [(outcome.case, outcome.split) for outcome in run(folders)] == [(missing.name, "train")]
    assert content(folders / "out") == first
    assert (folders / "out" / "val").stat().st_mtime_ns == stamp


def test_a_bad_case_does_not_stop_the_others(folders):
    (folders / "cts" / "a_0000.nii.gz").write_bytes(b"damaged")
    save_nifti(folders / "labels" / "b.nii.gz", labels() * 0)
    outcomes = {outcome.case: outcome for outcome in run(folders)}
    assert "a_0000.nii.gz: not a NIfTI file" in outcomes["a"].error
    assert "no organ of the table" in outcomes["b"].error
    assert outcomes["c"].masks == 6
    assert not list((folders / "out").rglob(".jaxseg*"))
    assert set(json.loads((folders / "out" / "summary.json").read_text())["failed"]) == {"a", "b"}


def test_predicted_labels_become_one_mask_per_stage(folders):
    for name in "abc":
        (folders / "pseudo" / name).mkdir(parents=True)
        for stage in (5, 10):
            save_nifti(
                folders / "pseudo" / name / f"epoch_{stage:03}.nii.gz", np.where(organ(stage // 5), 13, 0).astype("u1")
            )
    outcomes = run(folders, pseudo=folders / "pseudo")
    assert {(outcome.masks, outcome.left_out) for outcome in outcomes} == {(2, 2)}
    assert "2 without 20 pixels of the truth in a slice left out" in str(outcomes[0])
    case = next((folders / "out" / "val").iterdir())
    found = read_volume(case / "liver_13" / "epoch_010.nii.gz").array
    np.testing.assert_array_equal(found, organ(2))
    assert not (case / "kidney-left_15").exists()  # the network never found it
    (folders / "pseudo" / "b" / "epoch_005.nii.gz").unlink()
    (folders / "pseudo" / "b" / "epoch_010.nii.gz").unlink()
    with pytest.raises(ValueError, match="1 cases have no pseudo labels.*: b"):
        run(folders, "more", pseudo=folders / "pseudo")


def test_predicted_masks_that_overlap_are_kept_as_they_are(folders):
    grown = np.isin(labels(), (13, 15))
    for name in "abc":
        stage = folders / "pseudo" / name / "epoch_1"
        stage.mkdir(parents=True)
        save_nifti(stage / "liver.nii.gz", grown.astype(np.uint8))
        save_nifti(stage / "kidney_left.nii.gz", (labels() == 15).astype(np.uint8))
    outcomes = run(folders, pseudo=folders / "pseudo")
    assert [(outcome.masks, outcome.left_out, outcome.error) for outcome in outcomes] == [(2, 0, "")] * 3
    case = next((folders / "out" / "val").iterdir())
    np.testing.assert_array_equal(read_volume(case / "liver_13" / "epoch_1.nii.gz").array, grown)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.json", '{"0": "background", "13": "aorta", "15": "left kidney"}'),
        ("t.json", '{"labels": {"background": 0, "aorta": 13, "kidney_left": 15}}'),
        ("t.csv", "label,name\n0,background\n13,aorta\n15,kidney_left\n"),
        ("t.csv", "13, aorta \n15,kidney left\n"),
    ],
)
def test_labels_of_other_tables_become_classes_of_the_dap_atlas(folders, name, text):
    (folders / name).write_text(text)
    table = label_table.read_table(folders / name)
    assert {label: organ.id for label, organ in table.items()} == {13: 114, 15: 15}
    run(folders, table=table, per_organ=1)
    case = next((folders / "out" / "val").iterdir())
    assert sorted(path.name for path in case.iterdir() if path.is_dir()) == ["aorta_114", "kidney-left_15"]
    np.testing.assert_array_equal(read_volume(case / "label.nii.gz").array == 114, labels() == 13)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.json", '{"1": "livver"}', "label 1: unknown organ 'livver'; did you mean 'liver'"),
        ("t.json", "[1]", "must be an object"),
        ("t.json", '{"a": 1', "not a table"),
        ("t.json", '{"0": "background"}', "names no organ"),
        ("t.json", '{"1": "liver", "2": "Liver"}', "twice"),
        ("t.json", '{"-1": "liver"}', "out of range"),
        ("t.json", '{"1": 2.5}', "not a label and a name"),
        ("t.csv", "1\n", "has no name"),
        ("t.csv", "1,liver\nx,spleen\n", "not a table"),
    ],
)
def test_invalid_tables_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        label_table.read_table(tmp_path / name)


def test_the_table_of_the_dap_atlas_has_only_organs():
    assert set(label_table.dap_table()) == set(range(2, len(organs.ORGANS)))


def test_folders_with_other_files_and_other_settings_are_refused(folders):
    run(folders)
    with pytest.raises(ValueError, match="other settings: per_organ, seed"):
        run(folders, per_organ=4, seed=2)
    (folders / "foreign").mkdir()
    (folders / "foreign" / "summary.json").write_text("{}")
    with pytest.raises(ValueError, match="was not written by"):
        run(folders, "foreign")
    (folders / "foreign" / "summary.json").rename(folders / "foreign" / "notes.txt")
    with pytest.raises(ValueError, match="holds files that"):
        run(folders, "foreign")
    assert (folders / "foreign" / "notes.txt").read_text() == "{}"


def test_added_cases_do_not_move_the_others_to_another_split(folders):
    run(folders, val_fraction=0.4)
    before = {split: {path.name for path in (folders / "out" / split).iterdir()} for split in ("train", "val")}
    for seed, name in enumerate("defg"):
        save_nifti(folders / "cts" / f"{name}.nii.gz", ct(seed))
        save_nifti(folders / "labels" / f"{name}.nii.gz", labels())
    assert len(run(folders, val_fraction=0.4)) == 4
    after = {split: {path.name for path in (folders / "out" / split).iterdir()} for split in ("train", "val")}
    assert all(before[split] <= after[split] for split in before)
    assert len(after["val"]) == 3


def test_one_call_builds_the_data_set_and_reports_what_it_did(folders):
    (folders / "cts" / "b_0000.nii.gz").write_bytes(b"")
    save_nifti(folders / "cts" / "lonely.nii.gz", ct())
    progress, outcomes, notes = [], [], []
    callbacks = {"progress": lambda *step: progress.append(step), "report": outcomes.append, "notify": notes.append}
    paths, options = (folders / "cts", folders / "labels", folders / "out"), {"per_organ": 2, "least_slices": 2}
    made = segae_prepare.prepare_segae(*paths, **options, **callbacks)
    assert (made.made, made.existing, list(made.failed)) == (2, 0, ["b"])
    assert made.summary == folders / "out" / "summary.json"
    assert [step[0] for step in progress] == [0, 1, 2, 3]
    assert progress[1][2] == str(outcomes[0])
    assert [outcome.case for outcome in outcomes] == ["a", "b", "c"]
    assert list(made.notes) == notes
    assert notes[0] == "1 cases have no labels: lonely"
    assert notes[1].startswith("a.nii.gz: has no table of labels, so its numbers are taken for classes of the DAP-A")
    with only_writer(folders / "out"), pytest.raises(BlockingIOError, match="another run is writing"):
        segae_prepare.prepare_segae(*paths, **options)
    again = segae_prepare.prepare_segae(*paths, **options)
    assert (again.made, again.existing, list(again.failed)) == (0, 2, ["b"])


def test_case_folders_of_totalsegmentator_give_the_same_data_as_volumes_of_labels(folders):
    for number, name in enumerate("abc"):
        masks = folders / "cases" / name / "segmentations"
        masks.mkdir(parents=True)
        save_nifti(masks.parent / "ct.nii.gz", ct(number).astype(np.int32))
        for file, label in {"liver": 13, "kidney_left": 15}.items():
            save_nifti(masks / f"{file}.nii.gz", (labels() == label).astype(np.uint8))
    outcomes = []
    options = {"per_organ": 3, "least_slices": 2, "report": outcomes.append}
    segae_prepare.prepare_segae(folders / "cases", folders / "cases", folders / "out", **options)
    assert [outcome.masks for outcome in outcomes] == [6] * 3
    run(folders, "other")
    assert content(folders / "out") == content(folders / "other")


@pytest.mark.parametrize("pixels", [4, 5, 6])
def test_no_mask_is_made_that_the_training_leaves_out(folders, pixels):
    small = np.zeros_like(labels())
    small[1:4, 10 : 10 + pixels, 10:15] = 13
    for name in "abc":
        save_nifti(folders / "labels" / f"{name}.nii.gz", small)
    outcomes = run(folders, per_organ=10)
    assert all(outcome.masks + outcome.left_out == 10 for outcome in outcomes)
    data = read_segae(folders / "out")
    assert data.notes == ()
    assert sum(map(len, data.splits.values())) == sum(outcome.masks for outcome in outcomes)


def test_a_case_without_any_usable_mask_fails(folders):
    for name in "abc":
        (folders / "pseudo" / name).mkdir(parents=True)
        save_nifti(folders / "pseudo" / name / "epoch_001.nii.gz", np.zeros_like(labels()))
    assert {outcome.error for outcome in run(folders, pseudo=folders / "pseudo")} == {
        "none of its 2 masks shares 20 pixels with the labels in any slice"
    }


@pytest.mark.slow
def test_masks_of_a_small_network_stand_beside_degraded_ones(folders, monkeypatch):
    small = functools.partial(SegmenterSettings, size=32, width=4, learning_rate=5e-3)
    monkeypatch.setattr(segae_prepare, "SegmenterSettings", small)
    for seed, name in enumerate("abc"):  # organs that can be seen
        scan = ct(seed) // 20 + np.where(labels() == 13, 150, -100) + np.where(labels() == 15, 500, 0)
        save_nifti(folders / "cts" / f"{name}_0000.nii.gz", scan.astype(np.int16))
    options = {"segmenter": True, "stages": 5, "steps": 150}
    outcomes = run(folders, **options)
    assert [outcome.error for outcome in outcomes] == [""] * 3
    assert all(outcome.masks + outcome.left_out == 2 * (3 + 5) for outcome in outcomes)
    data = read_segae(folders / "out")
    assert not any(data.unusable.values())
    found = {item.path.name.split("_")[0] for source in data.splits.values() for item in source.items}
    assert found == {"degraded", "network"}
    network = (folders / "out" / segae_prepare.SEGMENTER).read_bytes()
    save_nifti(folders / "cts" / "d.nii.gz", ct(3).astype(np.int32))
    save_nifti(folders / "labels" / "d.nii.gz", labels())
    monkeypatch.setattr(segae_prepare, "train_segmenter", None)  # the stored network is used
    assert [outcome.case for outcome in run(folders, **options)] == ["d"]
    assert (folders / "out" / segae_prepare.SEGMENTER).read_bytes() == network


def test_a_case_that_the_network_learned_from_never_becomes_a_validation_case(folders, monkeypatch):
    small = functools.partial(SegmenterSettings, size=32, width=4)
    monkeypatch.setattr(segae_prepare, "SegmenterSettings", small)
    options = {"segmenter": True, "stages": 5, "steps": 50, "val_fraction": 0.2}
    run(folders, **options)
    learned = read_segmenter(folders / "out" / segae_prepare.SEGMENTER, small(stages=5, steps=50)).cases
    assert {*learned} == {path.name for path in (folders / "out" / "train").iterdir()}
    for name in learned:  # as if the run had been killed before it built them
        shutil.rmtree(folders / "out" / "train" / name)
    for seed, name in enumerate("defghijk"):
        save_nifti(folders / "cts" / f"{name}.nii.gz", ct(seed))
        save_nifti(folders / "labels" / f"{name}.nii.gz", labels())
    scans, _ = sources.find_scans(folders / "cts", folders / "labels")
    for fraction in (0.2, 0.9):
        summary = json.loads((folders / "out" / "summary.json").read_text())
        summary["settings"]["val_fraction"] = fraction
        (folders / "out" / "summary.json").write_text(json.dumps(summary))
        settings = segae_prepare.Settings(**{"per_organ": 3, "least_slices": 2} | options | {"val_fraction": fraction})
        splits = segae_prepare.begin(scans, folders / "out", settings)
        assert {splits[name] for name in learned} == {"train"}
        assert "val" in splits.values()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segmenter": True, "pseudo": True}, "leave one out"),
        ({"stages": 4}, "stages must be 5 to 10"),
        ({"steps": 10}, "steps at least 50"),
    ],
)
def test_impossible_options_of_the_segmenter_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        segae_prepare.Settings(**options)


def test_options_of_the_segmenter_without_it_are_refused(folders):
    with pytest.raises(ValueError, match="stages and steps belong to segmenter"):
        segae_prepare.prepare_segae(folders / "cts", folders / "labels", folders / "out", stages=5)
    assert not (folders / "out").exists()


def test_a_data_set_of_an_earlier_version_can_be_continued(folders):
    run(folders)
    summary = json.loads((folders / "out" / "summary.json").read_text())
    for name in ("segmenter", "stages", "steps"):
        del summary["settings"][name]
    (folders / "out" / "summary.json").write_text(json.dumps(summary))
    assert run(folders) == []
