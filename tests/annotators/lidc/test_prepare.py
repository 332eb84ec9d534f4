"""The LIDC set is built from studies as the archive distributes them."""

import csv
import dataclasses
import json
import re

import numpy as np
import pytest
from lidc_files import box, four_readers, message, nodule, roi, save_study

from jaxseg.annotators.data import SPLITS, lidc_slices
from jaxseg.annotators.lidc.crops import SIDE, Settings
from jaxseg.annotators.lidc.prepare import begin, find_studies, make_patient, prepare, prepare_lidc
from jaxseg.annotators.lidc.records import read_records
from jaxseg.annotators.lidc.summary import METADATA, conclude
from jaxseg.files import only_writer
from jaxseg.images.tiff import read_tiff

ALL = Settings(val_fraction=0, test_fraction=0)


def study(root, patient: int, sessions=four_readers, **options):
    """Saves a study in folders as deeply nested as the archive's."""
    series = f"1.2.{patient}"
    folder = root / f"LIDC-IDRI-{patient:04}/01-01-2000-30178/3000566.000000-03192"
    text = message(*(sessions(series) if callable(sessions) else sessions), series=series)
    return save_study(folder, text, series=series, patient=f"LIDC-IDRI-{patient:04}", **options)


def made(root, out, settings=ALL):
    found = find_studies(root)
    outcomes = list(prepare(found.patients, out, settings, begin(found.patients, out, settings)))
    conclude(out, settings, {o.patient: o.error for o in outcomes if o.error}, found.notes)
    return outcomes


def one_nodule(root, patient: int):
    return study(root, patient, [nodule(roi(3, box(30, 40, 8, 8), series=f"1.2.{patient}"))] * 2)


def slices_of(out):
    return {split: sorted({p.name[4:8] for p in (out / split / "scans").glob("*.tif")}) for split in SPLITS}


def test_slices_masks_consensus_and_crops_match_the_study(tmp_path):
    folder = study(tmp_path / "raw", 35)
    outcomes = made(tmp_path / "raw", tmp_path / "out")
    assert [(o.patient, o.split, o.nodules, o.slices, o.error) for o in outcomes] == [("0035", "train", 2, 4, "")]
    names = sorted(path.name for path in (tmp_path / "out/train/scans").iterdir())
    assert names == [f"pid_0035_nod_0_slice_{z}.tif" for z in range(4)]
    rng = np.random.default_rng(sum(map(ord, "1.2.35")))
    pixels = rng.integers(0, 2000, (9, 96, 96)) - 1024.0  # the same values as in `save_study`
    top, left = 30 - 1 - (64 - 12) // 2, 40 - 1 - (64 - 11) // 2 - 1  # the box of all outlines is 12 x 11 pixels
    for z, name in enumerate(names):
        scan, truth, masks = (
            read_tiff(tmp_path / "out/train" / f / name) for f in ("scans", "masks/GT", "masks/annots")
        )
        assert (scan.dtype, truth.dtype, masks.shape) == (np.float64, bool, (1, SIDE, SIDE, 3))
        crop = pixels[z + 2, top : top + SIDE, left : left + SIDE]
        np.testing.assert_allclose(scan[0], (crop - crop.mean()) / crop.std(), atol=1e-9)
        wanted = np.zeros((96, 96, 3), bool)
        for reader in range(3):
            if reader != 1 or z > 0:
                wanted[30 + reader : 38 + reader, 40:49, reader] = True
        np.testing.assert_array_equal(masks[0], wanted[top : top + SIDE, left : left + SIDE])
        np.testing.assert_array_equal(truth, masks.mean(-1) >= 0.5)
    source = lidc_slices(tmp_path / "out", "train")
    assert source[0]["present"].tolist() == [True, True, True, False]
    assert len(list(folder.glob("*.dcm"))) == 9


def test_the_tables_have_the_published_columns_and_describe_the_set(tmp_path, shared):
    study(tmp_path / "raw", 35)
    made(tmp_path / "raw", tmp_path / "out")
    rows, published = (
        list(csv.reader((folder / "meta/metadata.csv").read_text().splitlines()))
        for folder in (tmp_path / "out", shared / "data/lidc")
    )
    assert rows[0] == published[0]
    assert rows == [
        list(METADATA),
        ["0035", "0", *["4"] * 8, "4", "[54, 72, 72, 72]"],
    ]  # not the one of 1 reader
    nodules = list(csv.DictReader((tmp_path / "out/meta/nodules.csv").read_text().splitlines()))
    assert [(row["readers"], row["malignancy_by_reader"]) for row in nodules] == [("3", "2 4 5"), ("1", "1")]
    assert nodules[1]["left_out"] == "outlined by 1 of the readers"
    summary = json.loads((tmp_path / "out/meta/summary.json").read_text())
    assert summary["marks"] == {"small": 1, "no_nodules": 1, "empty": 0}
    assert summary["readers_per_nodule"] == {"1": 1, "2": 0, "3": 1}
    assert (summary["nodules"], summary["slices"]) == ({"train": 2}, {"train": 4})
    assert summary["malignancy"] == {"1": 1, "2": 0, "3": 0, "4": 1}
    assert summary["malignancy_range"] == {"3": 1}
    assert summary["annotators_per_slice"] == {"3": 4}


def test_limits_select_slices_and_nodules(tmp_path):
    study(tmp_path / "raw", 35)
    study(tmp_path / "raw", 36, [nodule(roi(3, box(5, 5, 70, 8), series="1.2.36")) for _ in range(2)])
    settings = Settings(0, 0, least_pixels=49, most_pixels=60, least_readers=1)
    made(tmp_path / "raw", tmp_path / "out", settings)
    records = {record["patient"]: record["nodules"] for record in read_records(tmp_path / "out")}
    assert [found["slices"] for found in records["0035"]] == [[0], [0]]
    assert records["0036"][0]["left_out"] == "its outlines extend over 72 x 10 pixels, a crop has 64 x 64"
    assert len(list((tmp_path / "out/train/masks/annots").iterdir())) == 2
    assert read_tiff(tmp_path / "out/train/masks/annots/pid_0035_nod_1_slice_0.tif").shape == (1, 64, 64, 1)


@pytest.mark.parametrize(
    ("thickness", "grouping", "nodules"),
    [(3.0, "pylidc", 1), (1.0, "pylidc", 2), (3.0, "readers", 2), (None, "pylidc", 1), (b"thick ", "pylidc", 1)],
)
def test_the_tag_of_the_thickness_is_pylidcs_tolerance(tmp_path, thickness, grouping, nodules):
    """Two readers outline slices that are two apart, 5 mm; without a valid tag, the spacing of 2.5 mm is used."""
    sessions = [nodule(roi(z, box(30, 40, 8, 8))) for z in (3, 5)]
    study(tmp_path / "raw", 35, sessions, **({} if thickness is None else {"SliceThickness": thickness}))
    settings = Settings(val_fraction=0, test_fraction=0, least_readers=1, grouping=grouping)
    (outcome,) = made(tmp_path / "raw", tmp_path / "out", settings)
    assert (outcome.error, outcome.nodules) == ("", nodules)
    other = dataclasses.replace(settings, grouping="readers" if grouping == "pylidc" else "pylidc")
    with pytest.raises(ValueError, match="was made with other settings: grouping"):
        made(tmp_path / "raw", tmp_path / "out", other)
    with pytest.raises(ValueError, match="grouping is 'other'; known: pylidc, readers"):
        Settings(grouping="other")


def test_excluded_pixels_and_the_outline_of_an_exclusion_are_in_no_mask(tmp_path):
    hole = [roi(3, box(30, 40, 12, 12)), roi(3, box(33, 43, 4, 4), inclusion="FALSE")]
    study(tmp_path / "raw", 35, [nodule(*hole), nodule(*hole)])
    made(tmp_path / "raw", tmp_path / "out")
    masks = read_tiff(tmp_path / "out/train/masks/annots/pid_0035_nod_0_slice_0.tif")
    assert masks[0].sum((0, 1)).tolist() == [144 - 16 - 20] * 2


def test_a_crop_at_the_edge_is_moved_inside_the_slice(tmp_path):
    study(tmp_path / "raw", 35, [nodule(roi(3, box(1, 86, 8, 8)))] * 2)
    made(tmp_path / "raw", tmp_path / "out")
    masks = read_tiff(tmp_path / "out/train/masks/annots/pid_0035_nod_0_slice_0.tif")
    assert masks[0, 1:9, 86 - 32 : 94 - 32].all()
    assert masks.sum() == 2 * 64


def test_patients_keep_their_split_when_others_are_added(tmp_path):
    settings = Settings(val_fraction=0.25, test_fraction=0.25, seed=3)
    for patient in range(1, 9):
        one_nodule(tmp_path / "raw", patient)
    first = {o.patient: o.split for o in made(tmp_path / "raw", tmp_path / "out", settings)}
    assert sorted(first.values()) == ["test"] * 2 + ["train"] * 4 + ["validate"] * 2
    assert made(tmp_path / "raw", tmp_path / "out", settings) == []
    one_nodule(tmp_path / "raw", 9)
    assert [o.patient for o in made(tmp_path / "raw", tmp_path / "out", settings)] == ["0009"]
    records = read_records(tmp_path / "out")
    assert {record["patient"]: record["split"] for record in records if record["patient"] != "0009"} == first
    for split in ("train", "validate", "test"):
        names = {path.name[4:8] for path in (tmp_path / "out" / split / "scans").iterdir()}
        assert names == {record["patient"] for record in records if record["split"] == split}


def test_slices_of_an_interrupted_run_are_removed_so_that_no_patient_is_in_two_splits(tmp_path):
    settings = Settings(val_fraction=0.25, test_fraction=0.25, seed=3)
    for patient in range(1, 5):
        one_nodule(tmp_path / "raw", patient)
    found = find_studies(tmp_path / "raw").patients
    splits = begin(found, tmp_path / "out", settings)
    for patient, split in splits.items():  # the run is interrupted before any record is written
        make_patient(patient, found[patient], tmp_path / "out" / split, settings)
    (tmp_path / "out/train/scans/mine.tif").write_bytes(b"another's")
    for patient in range(5, 13):
        one_nodule(tmp_path / "raw", patient)
    made(tmp_path / "raw", tmp_path / "out", settings)
    (tmp_path / "out/train/scans/mine.tif").unlink()
    there = [name for names in slices_of(tmp_path / "out").values() for name in names]
    assert sorted(there) == [f"{patient:04}" for patient in range(1, 13)]


def test_a_patient_whose_studies_changed_is_made_again_in_the_same_split(tmp_path):
    for patient in range(1, 9):
        one_nodule(tmp_path / "raw", patient)
    settings = Settings(val_fraction=0.25, test_fraction=0.25, seed=3)
    made(tmp_path / "raw", tmp_path / "out", settings)
    before = slices_of(tmp_path / "out")
    text = message(*[nodule(roi(3, box(20, 20, 9, 9), series="1.9"))] * 2, series="1.9")
    save_study(tmp_path / "raw/second", text, series="1.9", patient="LIDC-IDRI-0002")
    again = made(tmp_path / "raw", tmp_path / "out", settings)
    assert [(o.patient, o.nodules, o.slices) for o in again] == [("0002", 2, 2)]
    assert slices_of(tmp_path / "out") == before
    (tmp_path / "raw/second/069.xml").rename(tmp_path / "raw/second/069.txt")
    assert [(o.patient, o.slices) for o in made(tmp_path / "raw", tmp_path / "out", settings)] == [("0002", 1)]
    assert sum(1 for _ in (tmp_path / "out").rglob("scans/pid_0002*")) == 1


def test_a_set_of_an_earlier_version_is_not_mixed_with_other_masks(tmp_path):
    one_nodule(tmp_path / "raw", 1)
    settings, out = Settings(val_fraction=0, test_fraction=0), tmp_path / "out"
    made(tmp_path / "raw", out, settings)
    before, summary = slices_of(out), json.loads((out / "meta/summary.json").read_text())
    del summary["settings"]["grouping"]
    (out / "meta/summary.json").write_text(json.dumps(summary))
    with pytest.raises(ValueError, match="was made by an earlier version, whose masks differ slightly; name another"):
        made(tmp_path / "raw", out, settings)
    assert slices_of(out) == before


def test_an_incomplete_record_is_made_again(tmp_path):
    for patient in range(1, 4):
        one_nodule(tmp_path / "raw", patient)
    made(tmp_path / "raw", tmp_path / "out")
    ledger = tmp_path / "out/meta/patients.jsonl"
    whole = ledger.read_bytes()
    ledger.write_bytes(whole[:-9])
    assert [outcome.patient for outcome in made(tmp_path / "raw", tmp_path / "out")] == ["0003"]
    assert ledger.read_bytes() == whole


def test_only_patients_with_nodules_are_split(tmp_path):
    for patient in range(1, 5):
        one_nodule(tmp_path / "raw", patient)
    for patient in range(5, 20):
        study(tmp_path / "raw", patient, [nodule(roi(3, box(30, 40, 8, 8), series=f"1.2.{patient}"))])
    made(tmp_path / "raw", tmp_path / "out", Settings(val_fraction=0.25, test_fraction=0.25))
    assert {split: len(names) for split, names in slices_of(tmp_path / "out").items()} == {
        "train": 2,
        "validate": 1,
        "test": 1,
    }


def test_an_outline_that_encloses_nothing_does_not_count_as_a_reader(tmp_path):
    line = roi(3, [(30, 40), (31, 41), (32, 42), (33, 43), (32, 42), (31, 41)])
    study(tmp_path / "raw", 35, [nodule(roi(3, box(30, 40, 8, 8))), nodule(line)])
    made(tmp_path / "raw", tmp_path / "out")
    record = read_records(tmp_path / "out")[0]
    assert [len(found["readers"]) for found in record["nodules"]] == [1]
    assert record["empty"] == 1


def test_an_inclusion_inside_an_exclusion_is_left_out_as_in_pylidc(tmp_path):
    outlines = [roi(3, box(33, 43, 12, 12), inclusion="FALSE"), roi(3, box(36, 46, 5, 5)), roi(3, box(30, 40, 20, 20))]
    study(tmp_path / "raw", 35, [nodule(*outlines)] * 2)
    made(tmp_path / "raw", tmp_path / "out")
    masks = read_tiff(tmp_path / "out/train/masks/annots/pid_0035_nod_0_slice_0.tif")
    assert masks[0].sum((0, 1)).tolist() == [400 - 144 - 52] * 2


def test_a_copy_of_an_annotation_file_is_left_out_with_a_note(tmp_path):
    folder = study(tmp_path / "raw", 35)
    text = next(folder.glob("*.xml")).read_bytes()
    (folder / "copy.xml").write_bytes(text)
    found = find_studies(tmp_path / "raw")
    assert len(found.patients["0035"]) == 1
    assert "identical to" in found.notes[0]


def test_nodules_are_numbered_across_the_studies_of_a_patient(tmp_path):
    for series in ("1.2.1", "1.2.2"):
        text = message(*[nodule(roi(3, box(30, 40, 8, 8), series=series))] * 2, series=series)
        save_study(tmp_path / "raw" / series, text, series=series)
    assert [(o.nodules, o.slices) for o in made(tmp_path / "raw", tmp_path / "out")] == [(2, 2)]
    names = sorted(path.name for path in (tmp_path / "out/train/scans").iterdir())
    assert names == ["pid_0035_nod_0_slice_0.tif", "pid_0035_nod_1_slice_0.tif"]


def test_a_patient_that_fails_leaves_no_file_and_the_others_continue(tmp_path):
    study(tmp_path / "raw", 35)
    bad = study(tmp_path / "raw", 36)
    path = bad / "000004.dcm"  # slice 5 is the last of the nodule: the others have been read before it
    path.write_bytes(path.read_bytes()[:-500])
    outcomes = made(tmp_path / "raw", tmp_path / "out")
    assert [(o.patient, bool(o.error)) for o in outcomes] == [("0035", False), ("0036", True)]
    assert outcomes[1].error.startswith("000004.dcm: ")
    assert not list((tmp_path / "out").rglob("*0036*"))
    assert json.loads((tmp_path / "out/meta/summary.json").read_text())["failed"] == {"0036": outcomes[1].error}


def test_files_that_do_not_belong_together_are_reported(tmp_path):
    study(tmp_path / "raw", 35)
    save_study(tmp_path / "raw/none", None, series="1.2.99")
    save_study(tmp_path / "raw/xray", message("", root="IdriReadMessage"), series="1.2.98", Modality="DX")
    (tmp_path / "raw/lost.xml").write_text(message("", series="1.2.77"))
    (tmp_path / "raw/bad.xml").write_text("<!DOCTYPE x><LidcReadMessage/>")
    save_study(tmp_path / "raw/broken", None, series="1.2.97", PatientID="?!")
    found = find_studies(tmp_path / "raw")
    assert list(found.patients) == ["0035"]
    assert found.damaged == {
        str(tmp_path / "raw/bad.xml"): "has a document type (DOCTYPE), which no file of the archive has; it is not read"
    }
    assert len(found.notes) == 3
    for words in (
        "broken: 000001.dcm: the patient's ID '?!' has neither",
        "lost.xml: no CT series 1.2.77",
        "none: no annotations of it were read",
    ):
        assert any(words in note for note in found.notes)
    (tmp_path / "raw/again.xml").write_text(message("", series="1.2.35"))
    with pytest.raises(ValueError, match=r"both annotate the series 1\.2\.35"):
        find_studies(tmp_path / "raw")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="of 0 CT series and 0 XML files, none belong together"):
        find_studies(tmp_path / "empty")
    without_z = re.sub("<imageZposition>[^<]*</imageZposition>", "", message(*four_readers()))
    save_study(tmp_path / "single/ct", without_z)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/ct").symlink_to(tmp_path / "single/ct")
    for folder in ("single", "linked"):
        with pytest.raises(ValueError, match=r"none belong together.*\n.*069\.xml: nodule .*imageZposition is missing"):
            find_studies(tmp_path / folder)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "is not an axial slice"),
        ({"PixelSpacing": b""}, "the tags PixelSpacing are missing"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "its pixels are MONOCHROME1"),
        ({"RescaleSlope": 0}, "a crop is constant"),
    ],
)
def test_unusable_slices_are_refused(tmp_path, tags, reason):
    study(tmp_path / "raw", 35, **tags)
    assert reason in made(tmp_path / "raw", tmp_path / "out")[0].error


def test_folders_of_another_origin_and_other_settings_are_refused(tmp_path):
    study(tmp_path / "raw", 35)
    made(tmp_path / "raw", tmp_path / "out")
    with pytest.raises(ValueError, match="was made with other settings: least_pixels, clahe"):
        made(tmp_path / "raw", tmp_path / "out", Settings(0, 0, least_pixels=5, clahe=True))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("")
    with pytest.raises(ValueError, match="did not write"):
        made(tmp_path / "raw", tmp_path / "mine")
    for options in ({"val_fraction": 0.6, "test_fraction": 0.5}, {"least_readers": 0}, {"most_pixels": 3}):
        with pytest.raises(ValueError, match=r"leave patients for training|must be at least 1|is below least_pixels"):
            Settings(**options)


@pytest.mark.slow
def test_one_call_builds_the_set_and_reports_what_it_did(tmp_path):
    one_nodule(tmp_path / "raw", 1)
    bad = one_nodule(tmp_path / "raw", 2)
    (tmp_path / "raw/lost.xml").write_text(message("", series="1.2.77"))
    for path in bad.glob("*.dcm"):
        path.write_bytes(path.read_bytes()[:-500])
    progress, outcomes, notes = [], [], []
    callbacks = {"progress": lambda *step: progress.append(step), "report": outcomes.append, "notify": notes.append}
    made = prepare_lidc(tmp_path / "raw", tmp_path / "out", val_fraction=0, test_fraction=0.3, **callbacks)
    assert (made.made, made.existing, list(made.failed), made.slices) == (1, 0, ["0002"], 1)
    assert made.summary == tmp_path / "out/meta/summary.json"
    assert len(made.empty_splits) == 1
    assert [step[:2] for step in progress] == [(0, 2), (1, 2), (2, 2)]
    assert [outcome.patient for outcome in outcomes] == ["0001", "0002"]
    assert list(made.notes) == notes
    assert any("lost.xml" in note for note in notes)
    with only_writer(tmp_path / "out"), pytest.raises(BlockingIOError, match="another run is writing"):
        prepare_lidc(tmp_path / "raw", tmp_path / "out", val_fraction=0, test_fraction=0.3)
    again = prepare_lidc(tmp_path / "raw", tmp_path / "out", val_fraction=0, test_fraction=0.3)
    assert (again.made, again.existing, list(again.failed)) == (0, 1, ["0002"])
