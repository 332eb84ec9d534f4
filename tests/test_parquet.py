"""Parquet tables: what is written is read back, in groups; nothing is left of a table that could not be written."""

import pyarrow.parquet
import pytest

from jaxseg import parquet

COLUMNS = {"name": "string", "value": "double"}


def test_rows_are_read_back_with_missing_values(tmp_path):
    path = tmp_path / "t.parquet"
    parquet.write_table(path, COLUMNS, iter([("a", 0.5), (None, None), ("ü\n=1", 1e300)]))
    table = pyarrow.parquet.read_table(path)
    assert table.to_pydict() == {"name": ["a", None, "ü\n=1"], "value": [0.5, None, 1e300]}
    parquet.write_table(path, COLUMNS, [])
    assert pyarrow.parquet.read_table(path).num_rows == 0


@pytest.mark.parametrize("count", [0, 3, 4, 5, 8, 11])
def test_groups_have_one_size_except_the_last(tmp_path, monkeypatch, count):
    monkeypatch.setattr(parquet, "GROUP", 4)
    path = tmp_path / "t.parquet"
    with parquet.table_writer(path, parquet.schema_of(COLUMNS)) as table:
        for number in range(count):
            table.add({"name": str(number), "value": float(number)})
            assert len(table.rows) < 4
        table.add_table(pyarrow.table({"name": ["last"], "value": [None]}))
    with pyarrow.parquet.ParquetFile(path) as file:
        sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
        assert file.read()["name"].to_pylist() == [*map(str, range(count)), "last"]
    assert all(size == 4 for size in sizes[:-1])
    assert sum(sizes) == count + 1


def test_a_table_that_fails_leaves_the_earlier_one(tmp_path):
    path = tmp_path / "t.parquet"
    parquet.write_table(path, COLUMNS, [("a", 1.0)])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="could not convert|Could not convert"):
        parquet.write_table(path, COLUMNS, [("b", "no number")])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_suffix_decides(tmp_path):
    assert parquet.is_parquet(tmp_path / "a.PARQUET")
    assert not parquet.is_parquet(tmp_path / "a.csv")
