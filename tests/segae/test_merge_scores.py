"""Parts of a data set's scores together equal a run without parts."""

import numpy as np
import pytest
from part_runs import contents
from scoring_files import box, ct, model

import jaxseg
from jaxseg.segae.scorer import Scorer


@pytest.fixture(scope="module")
def scorer():
    return Scorer(model(), threads=2)


@pytest.fixture
def root(tmp_path):
    """Returns a data set of seven cases with one mask each."""
    for number in range(7):
        folder = tmp_path / "cases" / f"s{number}" / "segmentations"
        folder.mkdir(parents=True)
        np.save(folder.parent / "ct.npy", ct(number))
        np.save(folder / "liver.npy", box(number + 1, number + 4))
    return tmp_path / "cases"


@pytest.fixture
def table(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "r.csv"


def score(root, table, scorer, part, **options):
    scored = []
    found = jaxseg.score_dataset(
        root, table, scorer, part=part, report=lambda each: scored.append(each.case), **options
    )
    return scored, found


def test_merged_scores_equal_a_run_without_parts(root, table, tmp_path, scorer):
    np.save(root / "s3" / "segmentations" / "liver.npy", box()[1:])
    runs = [score(root, table, scorer, f"{index}/3") for index in (3, 1, 2)]
    assert sorted(sum((scored for scored, _ in runs), [])) == [f"s{number}" for number in range(7)]
    assert not table.exists()
    assert all(set(found.files) == {"journal"} for _, found in runs)
    found = jaxseg.merge_scores(table)
    assert (found.parts, found.done, found.failed, found.problems, found.merged) == (3, 6, 1, (), (table,))
    jaxseg.score_dataset(root, tmp_path / "whole.csv", scorer)
    assert table.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert sorted(path.name for path in table.parent.iterdir()) == ["r.csv", "r.scores.jsonl"]
    before = contents(table.parent)
    again = jaxseg.merge_scores(table)
    assert (again.parts, again.merged) == (0, ())
    assert contents(table.parent) == before
    scored, rest = score(root, table, scorer, None, rank="trust", per_slice=True)
    assert (scored, rest.skipped) == (["s3"], 6)  # the failed case is scored again
    assert len((table.parent / "r.slices.csv").read_text().splitlines()) == 1 + 6 * 3


def test_parts_resume_with_another_count(root, table, scorer):
    first, _ = score(root, table, scorer, "1/2")
    rest = sum((score(root, table, scorer, f"{index}/3")[0] for index in (1, 2, 3)), [])
    assert sorted(first + rest) == [f"s{number}" for number in range(7)]
    assert first
    np.save(root / "s5" / "segmentations" / "liver.npy", box(2, 9))
    again = sum((score(root, table, scorer, f"{index}/2")[0] for index in (1, 2)), [])
    assert again == ["s5"]
    assert jaxseg.merge_scores(table).problems == ()
    rows = jaxseg.score_dataset(root, table, scorer).rows
    assert {row.case: len(row.score.slices) for row in rows}["s5"] == 7


def test_a_run_without_parts_continues_parts_and_replaces_them(root, table, tmp_path, scorer):
    first, _ = score(root, table, scorer, "1/2")

    def stop(record):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        jaxseg.score_dataset(root, table, scorer, part="2/2", report=stop)
    score(root, table, scorer, None, files=[root / "s0"])
    assert jaxseg.merge_scores(table).parts == 2  # it has not all cases of the parts
    (root / "s9" / "segmentations").mkdir(parents=True)
    np.save(root / "s9" / "ct.npy", ct(9))
    np.save(root / "s9" / "segmentations" / "spleen.npy", box(1, 4))
    scored, found = score(root, table, scorer, None, per_slice=True)
    assert "s9" in scored
    assert not {*first} & {*scored}
    assert sorted(path.name for path in table.parent.iterdir()) == ["r.csv", "r.scores.jsonl", "r.slices.csv"]
    before = contents(table.parent)
    assert jaxseg.merge_scores(table).parts == 0
    assert contents(table.parent) == before
    _, whole = score(root, tmp_path / "whole.csv", scorer, None, per_slice=True)
    assert table.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert found.files["slices"].read_bytes() == whole.files["slices"].read_bytes()
    assert {row.case: row.score.slices for row in found.rows} == {row.case: row.score.slices for row in whole.rows}


def test_parts_that_overwrite_replace_earlier_scores_but_no_other_settings(root, table, scorer):
    for index in (1, 2):
        score(root, table, scorer, f"{index}/2")
    np.save(root / "s5" / "segmentations" / "liver.npy", box(2, 9))
    scored = sum((score(root, table, scorer, f"{index}/3", overwrite=True)[0] for index in (1, 2, 3)), [])
    assert sorted(scored) == [f"s{number}" for number in range(7)]
    assert jaxseg.merge_scores(table).parts == 3
    rows = jaxseg.score_dataset(root, table, scorer).rows
    assert {row.case: len(row.score.slices) for row in rows}["s5"] == 7
    before = contents(table.parent)
    other = Scorer(model(), slices=2, threads=2)
    with pytest.raises(ValueError, match=r"r\.scores\.jsonl was written with other settings: slices; name another"):
        score(root, table, other, "1/2", overwrite=True)
    (table.parent / "r.1-of-2.log").unlink()
    assert contents(table.parent) == before
    score(root, table, scorer, "1/2", overwrite=True)
    with pytest.raises(ValueError, match="other settings: slices; name another file"):
        score(root, table, other, "1/2", overwrite=True)
    assert len(score(root, table, other, None, overwrite=True)[0]) == 7  # replaces everything
    assert sorted(path.name for path in table.parent.iterdir()) == ["r.csv", "r.scores.jsonl"]


def test_a_missing_part_changes_nothing(root, table, scorer):
    score(root, table, scorer, "2/3")
    before = contents(table.parent)
    found = jaxseg.merge_scores(table)
    assert found.problems == ("parts 1, 3 of 3: no journal; run them",)
    assert contents(table.parent) == before
    partial = jaxseg.merge_scores(table, partial=True)
    assert partial.merged == (table,)
    assert len(table.read_text().splitlines()) == 1 + partial.done
    score(root, table, scorer, "1/3")
    score(root, table, scorer, "3/3")
    assert jaxseg.merge_scores(table).done == 7


def test_an_interrupted_part_is_found(root, table, scorer):
    class Stop(Exception):
        pass

    def stop(record):
        raise Stop

    with pytest.raises(Stop):
        jaxseg.score_dataset(root, table, scorer, part="1/1", report=stop)
    (problem,) = jaxseg.merge_scores(table).problems
    assert problem == "part 1/1: 6 cases are not scored yet; run it again"


def test_parts_agree_in_settings_and_cases(root, table, scorer):
    score(root, table, scorer, "1/2")
    with pytest.raises(ValueError, match="written with other settings: slices"):
        score(root, table, Scorer(model(), slices=2, threads=2), "2/2")
    (root / "s9" / "segmentations").mkdir(parents=True)
    np.save(root / "s9" / "ct.npy", ct())
    score(root, table, scorer, "2/2")
    (problem,) = jaxseg.merge_scores(table).problems
    assert problem.startswith(
        "the parts found different cases or organs in the data set: 7 by part 1 of 2; 8 by part 2"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": "trust"}, "need all cases; merge the parts"),
        ({"worst": 3}, "need all cases"),
        ({"per_slice": True}, "need all cases"),
        ({"output": None}, "a part needs an output"),
        ({"part": "3/2"}, "a part is I/N"),
    ],
)
def test_options_that_need_all_cases_are_refused(root, table, scorer, options, words):
    with pytest.raises(ValueError, match=words):
        jaxseg.score_dataset(**{"dataset": root, "output": table, "model": scorer, "part": "1/2"} | options)


def test_files_of_others_are_kept(root, table, scorer):
    with pytest.raises(ValueError, match="there are no scores of jaxseg"):
        jaxseg.merge_scores(table)
    table.write_text("mine\n")
    with pytest.raises(ValueError, match="was not written by `jaxseg score`"):
        score(root, table, scorer, "1/1")
    table.unlink()
    score(root, table, scorer, "1/1")
    table.write_text("mine\n")
    with pytest.raises(ValueError, match="was not written by `jaxseg score`; remove it"):
        jaxseg.merge_scores(table)
    assert table.read_text() == "mine\n"


def test_listed_cases_are_scored_and_missing_ones_fail(root, table, scorer):
    files = [root / "s4", root / "s1", root / "none", root / "s2" / "segmentations"]
    scored, found = score(root, table, scorer, None, files=files)
    assert scored == ["none", "s1", "s4", "segmentations"]
    assert found.failed == 2
    assert "there is no folder of a case at this path" in found.records[0].failed[""]
    with pytest.raises(ValueError, match="2 cases are called s1; rename them"):
        score(root, table, scorer, None, files=[root / "s1", root / "other" / "s1"])
