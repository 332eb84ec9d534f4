"""Scoring of data sets from Python: results, progress, and errors before anything is loaded."""

import csv

import numpy as np
import pandas
import pytest
from scoring_files import box, ct, model, save_cases

import jaxseg
from jaxseg.segae.scorer import Scorer


@pytest.fixture(scope="module")
def scorer():
    return Scorer(model(), threads=2)


@pytest.fixture
def root(tmp_path):
    return save_cases(tmp_path / "cases")


def test_scores_are_returned_without_an_output(root, tmp_path, scorer):
    found = jaxseg.score_dataset(root, None, scorer)
    assert [(row.case, row.organ) for row in sorted(found.rows, key=lambda row: (row.case, row.organ))] == [
        ("s1", "liver"),
        ("s1", "spleen"),
        ("s2", "liver"),
    ]
    assert [row.score.mean for row in found.rows] == sorted(row.score.mean for row in found.rows)
    assert (found.done, found.skipped, found.failed, found.files) == (2, 0, 0, {})
    assert [path.name for path in tmp_path.iterdir()] == ["cases"]


def test_a_second_call_resumes_and_reports_progress(root, tmp_path, scorer):
    np.save(root / "s1" / "segmentations" / "spleen.npy", box()[1:])
    steps, records = [], []
    callbacks = {"progress": lambda *step: steps.append(step), "report": records.append}
    first = jaxseg.score_dataset(root, tmp_path / "r.csv", scorer, worst=2, rank="trust", per_slice=True, **callbacks)
    assert (first.done, first.skipped, first.failed) == (1, 0, 1)
    assert steps == [(0, 2, ""), (1, 2, "s1"), (2, 2, "s2")]
    assert [sorted(record.failed) for record in records] == [["spleen"], []]
    assert set(first.files) == {"table", "slices", "trust", "worst"}
    assert all(path.is_file() for path in first.files.values())
    np.save(root / "s1" / "segmentations" / "spleen.npy", box(3, 6))
    second = jaxseg.score_dataset(root, tmp_path / "r.csv", scorer, **callbacks)
    assert (second.done, second.skipped, second.failed) == (1, 1, 0)
    assert steps[3:] == [(1, 2, ""), (2, 2, "s1")]
    assert set(second.files) == set(first.files)  # files that an earlier run left are written again
    assert len(second.rows) == 3


def test_other_weights_are_refused_for_models_in_memory(root, tmp_path, scorer):
    jaxseg.score_dataset(root, tmp_path / "r.csv", scorer)
    other = model()
    other.dice.bias.set_value(other.dice.bias[...] + 1)
    with pytest.raises(ValueError, match="written with other settings: weights"):
        jaxseg.score_dataset(root, tmp_path / "r.csv", Scorer(other, threads=2))


def test_labels_are_scored_as_organs(tmp_path, scorer):
    np.save(tmp_path / "ct.npy", ct())
    np.save(tmp_path / "labels.npy", np.where(box() > 0, 13, 0).astype(np.uint8))
    found = jaxseg.score_labels(tmp_path / "ct.npy", tmp_path / "labels.npy", tmp_path / "r.csv", scorer)
    assert [row.organ for row in found.rows] == ["liver"]
    with (tmp_path / "r.csv").open(newline="") as file:
        head, row = csv.reader(file)
    assert head[0] == "CT_Sample"
    assert row[head.index("liver")] == f"{found.rows[0].score.mean:.6f}"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"organs": "all"}, "organs must be one of auto, v1, v2, present, got 'all'"),
        ({"rank": "best"}, "rank must be one of annotate, trust, got 'best'"),
        ({"worst": 0}, "worst must be at least 1"),
        ({"output": "r.txt"}, "r.txt is neither a .csv nor a .parquet file"),
        ({"output": None, "rank": "trust"}, "need an output"),
        ({"dataset": "nowhere"}, "nowhere: no such folder"),
    ],
)
def test_invalid_options_are_refused_before_the_model_is_loaded(root, tmp_path, options, words):
    given = {"dataset": root, "output": tmp_path / "r.csv"} | options
    with pytest.raises(ValueError, match=words):
        jaxseg.score_dataset(model=tmp_path / "missing.pth", **given)


def test_the_suffix_parquet_writes_the_same_scores(root, tmp_path, scorer):
    np.save(root / "s1" / "segmentations" / "spleen.npy", np.zeros_like(box()))  # nothing to score
    jaxseg.score_dataset(root, tmp_path / "a.csv", scorer)
    found = jaxseg.score_dataset(root, tmp_path / "b.parquet", scorer, per_slice=True)
    assert [file.case for file in found] == ["s1", "s2"]
    assert found.files["slices"].name == "b.slices.csv"
    wanted = pandas.read_csv(tmp_path / "a.csv", na_values="n/a")
    table = pandas.read_parquet(found.files["table"])
    assert list(table.columns) == list(wanted.columns)
    assert table["CT_Sample"].tolist() == ["s1", "s2"]
    assert table["spleen"].isna().all()
    np.testing.assert_allclose(table["liver"], wanted["liver"], atol=5e-7)
    assert jaxseg.score_dataset(root, tmp_path / "b.parquet", scorer).skipped == 2
    with pytest.raises(ValueError, match=r"c\.txt is neither a \.csv nor a \.parquet file"):
        jaxseg.score_dataset(root, tmp_path / "c.txt", scorer)
