"""The table of scores: its work and its memory grow in proportion to the number of cases."""

import json
import tracemalloc

import pytest

from jaxseg.segae import score_table
from jaxseg.segae.cases import Case, Record
from jaxseg.segae.score_table import ScoreTable
from jaxseg.segae.scorer import MaskScore
from jaxseg.vocabulary import organs

COLUMNS = [organ.name for organ in organs.ORGANS[:104]]


def record(name: str, count: int = 104) -> Record:
    """Returns the scores of a case with 10 slices per mask."""
    scores = {
        organ.name: MaskScore(organ, tuple(range(10)), tuple(0.001 * z + 0.01 * k for z in range(10)))
        for k, organ in enumerate(organs.ORGANS[:count])
    }
    return Record(name, "fingerprint", scores=scores)


def filled(path, cases: int, count: int = 104) -> ScoreTable:
    table = ScoreTable(path, COLUMNS[:count], {})
    for number in range(cases):
        table.add(Case(f"s{number:04}", None), record(f"s{number:04}", count))
    return table


@pytest.fixture
def written(monkeypatch):
    """Returns the numbers of rows of the CSVs that were written, although each case takes a long time."""
    rows, real = [], score_table.write_csv

    def counted(path, lines):
        lines = list(lines)
        rows.append(len(lines) - 1)
        real(path, lines)

    monkeypatch.setattr(score_table, "write_csv", counted)
    monkeypatch.setattr(score_table, "WRITE_S", -1.0)
    return rows


def test_slow_cases_make_no_quadratic_work(tmp_path, written):
    for cases in (100, 400):
        written.clear()
        filled(tmp_path / f"{cases}.csv", cases, count=2).write()
        assert written[-1] == cases
        assert sum(written) <= 7 * cases  # not cases**2 / 2
        assert len(written) > 5  # the table grows while the run works


def test_slices_are_on_disk_and_not_in_memory(tmp_path):
    filled(tmp_path / "warm.csv", 2)
    tracemalloc.start()
    table = filled(tmp_path / "r.csv", 40)
    rows = table.ordered()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows) == 40 * 104
    assert size / 40 < 60_000  # bytes for each case; its slices would take more than 100,000
    again = ScoreTable(tmp_path / "r.csv", COLUMNS, {})
    expected = record("s0003").scores
    for found in (table.rows("s0003"), again.rows("s0003")):
        assert [row.organ for row in found] == list(expected)
        for row in found[::20]:
            score = expected[row.organ]
            assert (row.score.mean, row.score.slices, row.score.dice) == (score.mean, score.slices, score.dice)
            assert (row.score.organ, row.worst_slice) == (score.organ, score.worst_slice)


def test_scores_are_not_read_from_another_journal(tmp_path):
    row = filled(tmp_path / "r.csv", 2, count=2).rows("s0001")[0]
    (tmp_path / "r.scores.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"r.scores.jsonl has changed since; open the table again"):
        _ = row.score.slices


def test_weights_of_slices_are_stored_and_those_of_other_settings_refused(tmp_path):
    weighted = MaskScore(organs.ORGANS[13], (3, 4), (0.2, 0.8), (30, 10))
    table = ScoreTable(tmp_path / "r.csv", ["liver"], {"average": "area"})
    table.add(Case("a", None), Record("a", "fingerprint", scores={"liver": weighted}))
    table.write()
    again = ScoreTable(tmp_path / "r.csv", ["liver"], {"average": "area"}).rows("a")[0].score
    assert again.mean == weighted.mean == pytest.approx(0.35)
    assert again.pixels == (30, 10)
    assert (tmp_path / "r.csv").read_text().endswith("a,0.350000\n")
    with pytest.raises(ValueError, match="other settings: average"):
        ScoreTable(tmp_path / "r.csv", ["liver"], {})


@pytest.mark.parametrize(
    ("pixels", "good"),
    [([30, 1], True), ([], True), ([30], False), ([30, 0], False), ([30, 1.5], False), ([30, True], False)],
)
def test_a_case_with_damaged_weights_is_scored_again(tmp_path, pixels, good):
    case = Case("a", None)
    score = {"id": 13, "slices": [3, 4], "predicted": [0.2, 0.8], "pixels": pixels}
    line = {"case": "a", "source": "", "fingerprint": case.fingerprint(), "scores": {"liver": score}}
    with ScoreTable(tmp_path / "r.csv", ["liver"], {}).journal.open("a") as file:
        file.write(json.dumps(line | {"absent": {}, "failed": {}, "notes": []}) + "\n")
    assert ScoreTable(tmp_path / "r.csv", ["liver"], {}).has(case) == good


def test_the_orders_hold_the_intervals_of_a_calibrated_model(tmp_path):
    found = MaskScore(organs.ORGANS[13], (3, 4), (0.2, 0.4), margin=0.5)
    table = ScoreTable(tmp_path / "r.csv", ["liver"], {"calibration": "1"})
    table.add(Case("a", None), Record("a", "fingerprint", scores={"liver": found}))
    lines = ScoreTable(tmp_path / "r.csv", ["liver"], {"calibration": "1"}).write_order("annotate").read_text().split()
    assert lines == ["rank,case,organ,predicted_dice,lower,upper", "1,a,liver,0.300000,0.000000,0.800000"]


def test_the_orders_of_weighted_scores_have_no_interval(tmp_path):
    settings = {"calibration": "1", "average": "area"}
    table = ScoreTable(tmp_path / "r.csv", ["liver"], settings)
    found = MaskScore(organs.ORGANS[13], (3, 4), (0.2, 0.4), (1, 1))
    table.add(Case("a", None), Record("a", "fingerprint", scores={"liver": found}))
    lines = ScoreTable(tmp_path / "r.csv", ["liver"], settings).write_order("annotate").read_text().split()
    assert lines == ["rank,case,organ,predicted_dice", "1,a,liver,0.300000"]
