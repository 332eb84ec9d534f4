"""Cases in TotalSegmentator's layout, their errors, and the table of their scores."""

import csv
import json
import shutil

import numpy as np
import pytest
from scoring_files import box, ct, model, save_cases
from volume_files import AFFINE, save_labels, save_nifti

from jaxseg.segae.cases import Case, Record, find_cases, score_cases
from jaxseg.segae.label_table import dap_table
from jaxseg.segae.score import Request, Scorer
from jaxseg.segae.score_dataset import score_labels
from jaxseg.segae.score_table import ScoreTable
from jaxseg.segae.worst import worst_picture

SETTINGS = {"weights": "abc", "slices": 10}
COLUMNS = ["brain", "liver", "spleen"]


@pytest.fixture(scope="module")
def scorer():
    return Scorer(model(), threads=2)


@pytest.fixture
def root(tmp_path):
    return save_cases(tmp_path / "cases")


def read(path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def filled(path, cases, scorer, **options) -> ScoreTable:
    table = ScoreTable(path, COLUMNS, SETTINGS, **options)
    todo = [case for case in cases if not table.has(case)]
    for case, record in zip(todo, score_cases(todo, scorer), strict=True):
        table.add(case, record)
    table.write()
    return table


@pytest.mark.slow
def test_masks_that_share_a_batch_have_the_same_scores_as_in_separate_batches(root, scorer):
    first, second = score_cases(find_cases(root), scorer)
    separate = next(scorer.scores([Request(ct(), box() > 0, scorer.organ("liver"))]))
    assert len(first.scores["liver"].slices) == 10
    np.testing.assert_allclose(first.scores["liver"].dice, separate.dice, rtol=1e-4, atol=1e-5)
    assert set(first.scores) == {"liver", "spleen"}
    assert first.absent["brain"] == "empty"
    assert "spinal canal" in first.absent["spinal_cord"]
    assert second.scores["liver"].slices == (5, 6, 7, 8)


def test_bad_masks_and_cases_do_not_stop_the_others(root, scorer):
    masks = root / "s1" / "segmentations"
    np.save(masks / "liver.npy", box()[1:])
    np.save(masks / "aorta.npy", np.float32(box()) * 0.5)
    (masks / "colon.npy").write_bytes(b"\x93NUMPY nonsense")
    (root / "s0" / "segmentations").mkdir(parents=True)
    shutil.copytree(root / "s2", root / "s3")
    np.save(root / "s3" / "ct.npy", np.random.default_rng(0).normal(size=ct().shape).astype(np.float32))
    records = {record.case: record for record in score_cases(find_cases(root), scorer)}
    assert list(records) == ["s0", "s1", "s2", "s3"]
    assert "no ct.nii.gz" in records["s0"].failed[""]
    assert set(records["s1"].failed) == {"liver", "aorta", "colon"}
    assert "the mask is 13 x 30 x 34" in records["s1"].failed["liver"]
    assert "holds 0, 0.5" in records["s1"].failed["aorta"]
    assert set(records["s1"].scores) == {"spleen"}
    assert set(records["s2"].scores) == {"liver"}
    assert "look normalised already" in records["s3"].failed[""]


def test_incomplete_cases_are_reported(root, tmp_path, scorer):
    (root / "notes").mkdir()
    (root / "s0").mkdir()
    np.save(root / "s0" / "ct.npy", ct())
    save_nifti(root / "s1" / "segmentations" / "liver.nii.gz", box())
    save_nifti(root / "s2" / "ct.nii.gz", ct())
    problems = {record.case: record.failed[""] for record in score_cases(find_cases(root), scorer)}
    assert set(problems) == {"s0", "s1", "s2"}
    assert "no folder segmentations" in problems["s0"]
    assert "several files are masks of liver" in problems["s1"]
    assert "ct.nii.gz and ct.npy" in problems["s2"]
    with pytest.raises(ValueError, match="name the folder above it"):
        find_cases(root / "s1")


def test_a_ct_without_air_is_scored_with_a_remark(root, scorer):
    np.save(root / "s2" / "ct.npy", ct() + 900)
    record = list(score_cases(find_cases(root), scorer))[1]
    assert "intercept" in record.notes[0]
    assert set(record.scores) == {"liver"}


def test_a_mask_with_another_orientation_fails(tmp_path, scorer):
    (tmp_path / "s1" / "segmentations").mkdir(parents=True)
    save_nifti(tmp_path / "s1" / "ct.nii.gz", ct())
    turned = AFFINE.copy()
    turned[:, 0] *= -1
    save_nifti(tmp_path / "s1" / "segmentations" / "liver.nii.gz", box(), turned)
    (record,) = score_cases(find_cases(tmp_path), scorer)
    assert "its axes are" in record.failed["liver"]


def test_all_labels_of_a_volume_are_scored(tmp_path, scorer):
    np.save(tmp_path / "ct.npy", ct())
    labels = np.where(box() > 0, 13, 0).astype(np.uint8)
    labels[3:5, :5, :5] = 26
    labels[0, 0, 0] = 200
    np.save(tmp_path / "labels.npy", labels)
    case = Case("one", tmp_path / "ct.npy", labels=tmp_path / "labels.npy", table=dap_table())
    (record,) = score_cases([case], scorer)
    assert set(record.scores) == {"liver", "spleen"}
    assert record.scores["spleen"].slices == (3, 4)
    assert record.notes == ["labels.npy: labels without a name are ignored: 200"]
    assert len(record.absent) == len(dap_table()) - 2


def test_an_assumed_table_is_noted_and_refused_if_labels_lie_outside(tmp_path, scorer):
    np.save(tmp_path / "ct.npy", ct())
    labels = np.where(box() > 0, 13, 0).astype(np.uint8)
    np.save(tmp_path / "labels.npy", labels)
    found = score_labels(tmp_path / "ct.npy", tmp_path / "labels.npy", tmp_path / "x.csv", scorer)
    (note,) = found.records[0].notes
    assert note.startswith("labels.npy: has no table of labels, so its numbers are taken for classes of the DAP-Atlas")
    assert note in json.loads((tmp_path / "x.scores.jsonl").read_text().splitlines()[-1])["notes"]
    labels[0, 0, 0] = 200
    np.save(tmp_path / "labels.npy", labels)
    found = score_labels(tmp_path / "ct.npy", tmp_path / "labels.npy", None, scorer)
    assert "labels.npy: has the label 200, but classes of the DAP-Atlas end at 144" in found.records[0].failed[""]
    assert not found.rows


def test_the_table_in_the_header_names_the_organs(tmp_path, scorer):
    labels = np.where(box() > 0, 5, 0).astype(np.uint8)
    labels[3:5, :5, :5], labels[3:5, 5:7, :5], labels[0, 0, 0] = 1, 7, 9
    save_labels(tmp_path / "labels.nii.gz", labels, {1: "spleen", 5: "liver", 7: "spinal_cord", 8: "face"})
    save_nifti(tmp_path / "ct.nii.gz", ct())
    found = score_labels(tmp_path / "ct.nii.gz", tmp_path / "labels.nii.gz", None, scorer)
    (record,) = found.records
    assert set(record.scores) == {"liver", "spleen"}
    assert record.absent["spinal_cord"].startswith("no class: the DAP-Atlas has no 'spinal_cord'")
    assert "face" not in record.absent
    assert record.notes == ["labels.nii.gz: labels without a name are ignored: 9"]
    (tmp_path / "names.json").write_text('{"5": "spleen", "1": "liver"}')
    names = {"label_names": tmp_path / "names.json"}
    (record,) = score_labels(tmp_path / "ct.nii.gz", tmp_path / "labels.nii.gz", None, scorer, **names).records
    assert record.scores["liver"].slices == (3, 4)


def test_the_table_has_the_columns_of_the_original(root, tmp_path, scorer):
    table = filled(tmp_path / "r.csv", find_cases(root), scorer)
    head, first, second = read(tmp_path / "r.csv")
    assert head == ["CT_Sample", *COLUMNS]
    assert (first[0], first[1]) == ("s1", "n/a")
    means = {(row.case, row.organ): row.score.mean for row in table.ordered()}
    assert [float(first[2]), float(first[3])] == pytest.approx([means["s1", "liver"], means["s1", "spleen"]], abs=1e-6)
    assert second == ["s2", "n/a", second[2], "n/a"]
    assert [row.score.mean for row in table.ordered()] == sorted(row.score.mean for row in table.ordered())


def test_a_second_run_resumes_and_scores_changed_files_again(root, tmp_path, scorer):
    filled(tmp_path / "r.csv", find_cases(root), scorer)
    table = ScoreTable(tmp_path / "r.csv", COLUMNS, SETTINGS)
    assert all(table.has(case) for case in find_cases(root))
    np.save(root / "s2" / "segmentations" / "liver.npy", box(4, 9))
    assert [table.has(case) for case in find_cases(root)] == [True, False]
    filled(tmp_path / "r.csv", find_cases(root), scorer)
    assert len((tmp_path / "r.scores.jsonl").read_text().splitlines()) == 4
    slices = read(tmp_path / "r.csv")
    assert [row[0] for row in slices] == ["CT_Sample", "s1", "s2"]


def test_a_failed_case_is_scored_again(tmp_path):
    (tmp_path / "ct.npy").write_bytes(b"x")
    case, table = Case("s1", tmp_path / "ct.npy"), ScoreTable(tmp_path / "r.csv", COLUMNS, SETTINGS)
    table.add(case, Record("s1", case.fingerprint(), failed={"": "broken"}))
    table.write()
    assert not ScoreTable(tmp_path / "r.csv", COLUMNS, SETTINGS).has(case)
    assert read(tmp_path / "r.csv")[1] == ["s1", "n/a", "n/a", "n/a"]


@pytest.mark.parametrize("kept", range(1, 400, 57))
def test_an_incomplete_line_is_ignored(root, tmp_path, scorer, kept):
    filled(tmp_path / "r.csv", find_cases(root), scorer)
    account = tmp_path / "r.scores.jsonl"
    whole = account.read_bytes()
    account.write_bytes(whole[:-kept])
    table = ScoreTable(tmp_path / "r.csv", COLUMNS, SETTINGS)
    assert not table.has(find_cases(root)[1])
    filled(tmp_path / "r.csv", find_cases(root), scorer)
    lines = [json.loads(line) for line in account.read_text().splitlines()]
    assert sorted(line["case"] for line in lines[1:])[-1] == "s2"


def test_a_file_that_disappears_during_scoring_is_scored_again(root, tmp_path, scorer):
    (case, _), table = find_cases(root), ScoreTable(tmp_path / "r.csv", COLUMNS, SETTINGS)
    record = next(iter(score_cases([case], scorer)))
    np.save(root / "s1" / "segmentations" / "liver.npy", box(3, 9))
    table.add(case, record)
    assert not table.has(case)


def test_a_broken_link_does_not_stop_the_other_masks(root, tmp_path, scorer):
    (root / "s1" / "segmentations" / "aorta.npy").symlink_to(tmp_path / "nowhere.npy")
    records = list(score_cases(find_cases(root), scorer))
    assert set(records[0].failed) == {"aorta"}
    assert "liver" in records[0].scores
    filled(tmp_path / "r.csv", find_cases(root), scorer)
    assert len(read(tmp_path / "r.csv")) == 3


def test_a_row_of_another_case_is_not_replaced(tmp_path):
    (tmp_path / "ct.npy").write_bytes(b"x")
    table = ScoreTable(tmp_path / "r.csv", COLUMNS, SETTINGS)
    one, other = (Case("ct", tmp_path / "ct.npy", source=source) for source in ("here", "there"))
    table.add(one, Record("ct", one.fingerprint()))
    with pytest.raises(ValueError, match="has a row ct of another case"):
        table.has(other)


def test_other_settings_and_files_of_other_programs_are_refused(root, tmp_path, scorer):
    filled(tmp_path / "r.csv", find_cases(root), scorer)
    with pytest.raises(ValueError, match="other settings: weights; name another file, or --overwrite"):
        ScoreTable(tmp_path / "r.csv", COLUMNS, SETTINGS | {"weights": "xyz"})
    again = ScoreTable(tmp_path / "r.csv", COLUMNS, SETTINGS | {"weights": "xyz"}, overwrite=True)
    assert not again.has(find_cases(root)[0])
    (tmp_path / "mine.csv").write_text("precious\n")
    with pytest.raises(ValueError, match="not written by `jaxseg score`"):
        ScoreTable(tmp_path / "mine.csv", COLUMNS, SETTINGS, overwrite=True)
    (tmp_path / "new.worst.png").write_text("precious\n")
    with pytest.raises(ValueError, match="new.worst.png exists"):
        ScoreTable(tmp_path / "new.csv", COLUMNS, SETTINGS)
    (tmp_path / "odd.scores.jsonl").write_text("precious\n")
    with pytest.raises(ValueError, match="is not a journal of"):
        ScoreTable(tmp_path / "odd.csv", COLUMNS, SETTINGS)
    assert (tmp_path / "mine.csv").read_text() == (tmp_path / "odd.scores.jsonl").read_text() == "precious\n"


@pytest.mark.parametrize(
    "line", ['{"case": "s1"}', "[]", '{"case": "s1", "fingerprint": "x", "failed": {}, "scores": []}', "nan"]
)
def test_a_damaged_line_is_scored_again(root, tmp_path, scorer, line):
    table = ScoreTable(tmp_path / "r.csv", COLUMNS, SETTINGS)
    with table.journal.open("a") as file:
        file.write(line + "\n")
    assert not ScoreTable(tmp_path / "r.csv", COLUMNS, SETTINGS).has(find_cases(root)[0])


def test_orders_slices_and_the_sheet_show_the_scored_masks(root, tmp_path, scorer):
    cases = find_cases(root)
    table = filled(tmp_path / "r.csv", cases, scorer)
    worst, best = (read(table.write_order(order)) for order in ("annotate", "trust"))
    assert worst[0] == ["rank", "case", "organ", "predicted_dice"]
    assert [row[1:] for row in worst[1:]] == [row[1:] for row in best[:0:-1]]
    assert len(read(table.write_slices())) == 1 + 10 + 3 + 4
    picture = worst_picture(table.ordered()[:2], cases)
    assert picture.width > 400
    shutil.rmtree(root)
    assert worst_picture(table.ordered(), cases) is None


def test_names_that_a_spreadsheet_would_evaluate_become_text(tmp_path):
    table = ScoreTable(tmp_path / "r.csv", ["=1+1"], SETTINGS)
    table.write()
    assert read(tmp_path / "r.csv")[0][1] == "'=1+1"
