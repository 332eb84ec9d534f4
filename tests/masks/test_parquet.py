"""Parquet tables of masks: pandas and pycocotools read them as they are, runs resume, groups are bounded, bad files."""

import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest
from joint_masks import CLASSES, shapes
from pycocotools import mask as rle

from jaxseg import parquet as tables
from jaxseg.masks import lines, parquet

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools raises it


def started(path, *names, seed=0):
    """Adds images as a run does, without finishing it."""
    found = parquet.MaskTable(path, CLASSES)
    found.open()
    for number, name in enumerate(names):
        found.add(name, f"{name}.png", shapes(seed + number))
    return found


def test_pandas_and_pycocotools_read_the_table_as_it_is(tmp_path):
    path = tmp_path / "masks.parquet"
    started(path, "ward/one", "two").finish()
    table = pandas.read_parquet(path)
    assert list(table.columns) == list(parquet.COLUMNS)
    assert table["image"].tolist() == ["ward/one.png"] * 2 + ["two.png"] * 2
    assert table["class"].tolist() == ["heart", "left lung"] * 2
    assert table["mean_probability"].tolist() == [0.75, 0.5] * 2
    for number, row in enumerate(table.to_dict("records")):
        mask = shapes(number // 2).mask(number % 2)
        counts = {"size": [row["height"], row["width"]], "counts": row["rle"]}
        np.testing.assert_array_equal(rle.decode(counts), mask)
        assert row["area"] == mask.sum()
        box = [row[name] for name in ("box_x", "box_y", "box_width", "box_height")]
        assert box == rle.toBbox(counts).tolist()


def test_an_image_without_masks_has_one_row_without_class(tmp_path):
    path = tmp_path / "masks.parquet"
    found = started(path, "one")
    found.add("none", "none.png", nothing())
    found.finish()
    table = pandas.read_parquet(path)
    (row,) = table[table["image"] == "none.png"].to_dict("records")
    assert (row["area"], row["height"], row["width"]) == (0, 101, 83)
    assert all(pandas.isna(row[name]) for name in ("class", "rle", "box_x", "mean_probability"))
    assert parquet.read_image(path, "none")["annotations"] == []
    again = started(path)
    assert again.has("none")


def nothing():
    found = shapes()
    return type(found)(found.names, found.indices, found.size, np.zeros_like(found.bits))


def test_a_run_that_was_killed_continues_and_the_table_grows(tmp_path):
    path = tmp_path / "masks.parquet"
    started(path, "one", "two")
    assert not path.exists()
    again = started(path)  # the first run was killed before its end
    assert again.has("one")
    assert not again.has("three")
    again.add("three", "three.png", shapes(3))
    again.finish()
    assert [file.name for file in tmp_path.iterdir()] == ["masks.parquet"]
    later = started(path, "two", seed=9)
    assert later.has("one")
    later.finish()
    table = pandas.read_parquet(path)
    assert table["key"].tolist() == ["one"] * 2 + ["three"] * 2 + ["two"] * 2
    assert (
        parquet.read_image(path, "two")["annotations"][0]["segmentation"]
        == (lines.line_of("two", "two.png", shapes(9))["annotations"][0]["segmentation"])
    )
    before = path.stat()
    started(path).finish()
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_lines_that_are_already_in_the_table_are_not_doubled(tmp_path):
    """A run was killed after it wrote the table and before it removed the lines."""
    path = tmp_path / "masks.parquet"
    found = started(path, "one", "two")
    kept = found._lines.path.read_bytes()
    found.finish()
    found._lines.path.write_bytes(kept)
    started(path).finish()
    assert pandas.read_parquet(path)["key"].tolist() == ["one"] * 2 + ["two"] * 2


def test_rows_are_written_and_read_in_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "GROUP", 4)
    path = tmp_path / "masks.parquet"
    names = [f"image {i}" for i in range(5)]
    started(path, *names[:3]).finish()
    started(path, *names[3:], seed=3).finish()
    with pyarrow.parquet.ParquetFile(path) as file:
        assert [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)] == [4, 4, 2]
    for number, name in enumerate(names):
        found = parquet.read_image(path, name)["annotations"]
        want = lines.line_of(name, name, shapes(number))["annotations"]
        assert [one["segmentation"] for one in found] == [one["segmentation"] for one in want]
    monkeypatch.setattr(tables, "MAX_GROUP_BYTES", 10)
    parquet._index.cache_clear()
    with pytest.raises(ValueError, match="a group of its rows has .* bytes"):
        parquet.read_index(path)


def test_tables_are_joined(tmp_path):
    started(tmp_path / "a.parquet", "one", "two").finish()
    started(tmp_path / "b.parquet", "two", "three", seed=5).finish()
    parquet.join([tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / "all.parquet")
    table = pandas.read_parquet(tmp_path / "all.parquet")
    assert table["key"].tolist() == ["one"] * 2 + ["two"] * 2 + ["three"] * 2
    assert parquet.known_index(tmp_path / "all.parquet", CLASSES) is not None


def test_a_table_that_pandas_wrote_again_is_read(tmp_path):
    path = tmp_path / "masks.parquet"
    started(path, "one", "two").finish()
    table = pandas.read_parquet(path).sample(frac=1, random_state=0)
    table[["image", "class", "height", "width", "rle"]].to_parquet(tmp_path / "mine.parquet")
    found = parquet.read_image(tmp_path / "mine.parquet", "two.png")
    names = {category["id"]: category["name"] for category in found["categories"]}
    want = lines.line_of("two", "two.png", shapes(1))["annotations"]
    got = {names[one["category_id"]]: one["segmentation"] for one in found["annotations"]}
    assert got == {CLASSES[one["category_id"]]: one["segmentation"] for one in want}


def test_other_files_are_refused(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ValueError, match="not a Parquet table of masks"):
        parquet.read_index(tmp_path / "x.parquet")
    pandas.DataFrame({"image": ["a"]}).to_parquet(tmp_path / "y.parquet")
    with pytest.raises(ValueError, match="it has no column class, height"):
        parquet.read_index(tmp_path / "y.parquet")
    started(tmp_path / "z.parquet", "one").finish()
    table = pyarrow.parquet.read_table(tmp_path / "z.parquet")
    numbers = table.set_column(0, "image", pyarrow.array([1, 2])).drop_columns(["key"])
    pyarrow.parquet.write_table(numbers, tmp_path / "z.parquet")
    with pytest.raises(ValueError, match="a name of an image is not a text"):
        parquet.read_index(tmp_path / "z.parquet")
