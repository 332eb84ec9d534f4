"""Tables hold measurements or reasons, can be read back exactly, and hold no formulas for spreadsheets."""

import json
import math

import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measurements import read_rows, read_table, write_table

from jaxseg.anatomy.measure import table
from jaxseg.anatomy.measure.features import Measurements, measure


def heart(features="area,perimeter", *, pixel_mm=None, empty=False):
    masks = np.zeros((1, 8, 8), bool)
    masks[0, 2:4, 2:4] = not empty
    return measure(masks, ["heart"], features, pixel_mm=pixel_mm)


def score(value, name="CTR"):
    reasons = {name: "no vertebra was found"} if math.isnan(value) else {}
    return Measurements({name: value}, reasons, (name,))


def test_there_is_one_row_per_image_with_empty_cells_and_the_reason(tmp_path):
    rows = [("a.png", heart()), ("b.png", heart(empty=True)), ("c.png", "the file cannot be read")]
    write_table(rows, tmp_path / "t.csv")
    assert read_rows(tmp_path / "t.csv") == [
        ["filename", "heart_area", "heart_perimeter", "reason"],
        ["a.png", "4", "3.0", ""],
        ["b.png", "0", "", "heart_perimeter: the mask is empty"],
        ["c.png", "", "", "the file cannot be read"],
    ]
    assert list(tmp_path.iterdir()) == [tmp_path / "t.csv"]


def test_a_single_score_is_called_score_and_several_have_their_names(tmp_path):
    write_table([("a", score(0.5)), ("b", score(math.nan))], tmp_path / "one.csv")
    assert read_rows(tmp_path / "one.csv")[0] == ["filename", "score", "reason"]
    assert read_rows(tmp_path / "one.csv")[2] == ["b", "", "CTR: no vertebra was found"]
    write_table([("a", score(0.5)), ("b", score(2.0, "SCD"))], tmp_path / "two.csv")
    assert read_rows(tmp_path / "two.csv")[0] == ["filename", "CTR", "SCD", "reason"]


def test_a_score_beside_another_feature_keeps_its_name(tmp_path):
    both = Measurements({"CTR": 0.5, "heart_area": 4}, {}, ("CTR", "area"))
    write_table([("a", both), ("b", "the file cannot be read")], tmp_path / "t.csv")
    assert read_rows(tmp_path / "t.csv")[0] == ["filename", "CTR", "heart_area", "reason"]


@pytest.mark.parametrize(("features", "head"), [(["SCD"], ["score"]), (["SCD", "CTR"], ["CTR", "SCD"]), (["area"], [])])
def test_scores_have_a_column_even_if_no_image_could_be_read(tmp_path, features, head):
    table.merge([("a", "no picture")], tmp_path / "t.csv", features=features)
    assert read_rows(tmp_path / "t.csv")[0] == ["filename", *head, "reason"]
    assert read_table(tmp_path / "t.csv")[0]["reason"] == "no picture"


def test_columns_in_mm_of_some_images_are_next_to_those_in_pixels(tmp_path):
    images = [heart(), heart(pixel_mm=(2.0, 2.0))]
    assert table.columns_of(images) == ["heart_area", "heart_area_mm2", "heart_perimeter", "heart_perimeter_mm"]
    assert table.columns_of(images[::-1]) == table.columns_of(images)
    write_table([("a", images[0]), ("b", images[1])], tmp_path / "t.csv")
    assert read_rows(tmp_path / "t.csv")[1:] == [["a", "4", "", "3.0", "", ""], ["b", "4", "16.0", "3.0", "6.0", ""]]


def test_a_damaged_part_leaves_the_old_table_unchanged(tmp_path):
    old, part = tmp_path / "t.csv", tmp_path / "part.json"
    old.write_text("old")
    part.write_text('{"features": ["CTR"], "values"')
    with pytest.raises(ValueError, match=r"part\.json holds no measurements"):
        table.merge([("a", part)], old)
    assert old.read_text() == "old"
    assert sorted(tmp_path.iterdir()) == [part, old]


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"features": ["CTR"], "values": {"CTR": "1"}, "reasons": {}},
        {"features": ["CTR"], "values": {"CTR": True}, "reasons": {}},
        {"features": ["CTR"], "values": {"CTR": math.inf}, "reasons": {}},
        {"features": ["CTR"], "values": {"CTR": math.nan}, "reasons": {}},
        {"features": "CTR", "values": {}, "reasons": {}},
        {"features": ["CTR"], "values": {}, "reasons": {"CTR": 1}},
        {"features": [["CTR"]], "values": {}, "reasons": {}},
    ],
)
def test_json_that_holds_no_measurements_is_refused(content):
    with pytest.raises(ValueError, match="measurements must be"):
        table.from_json(content)


def test_json_of_another_kind_is_refused(tmp_path):
    for content in (b"\xff\xfe", b"[" * 100_000, b"", b"null"):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(ValueError, match="holds no measurements"):
            table.read_json(tmp_path / "a.json")


text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
names = st.one_of(text, text.map("=".__add__), text.map("'".__add__), st.sampled_from(["@SUM(A1)", "+1", "-1", "\t=1"]))
numbers = st.one_of(st.floats(allow_nan=True, allow_infinity=False, width=32), st.integers(-(10**15), 10**15))


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(names, st.dictionaries(names.map(lambda n: f"{n}_area"), numbers, max_size=4)), max_size=4))
def test_tables_are_read_back_as_they_were_written(tmp_path_factory, images):
    path = tmp_path_factory.getbasetemp() / "round.csv"
    rows = []
    for name, values in images:
        reasons = {column: 'why, "so"\nor so' for column, value in values.items() if math.isnan(value)}
        image = Measurements(values, reasons, ("area",))
        assert repr(table.from_json(json.loads(json.dumps(table.to_json(image))))) == repr(image)
        rows.append((name, image))
    write_table(rows, path)
    for (name, image), row in zip(rows, read_table(path), strict=True):
        assert row["filename"] == name
        assert row["reason"] == table.summary(image.reasons)
        for column, value in image.values.items():
            assert row[column] == value or (math.isnan(row[column]) and math.isnan(value))
            assert type(row[column]) is type(value)
    for line in read_rows(path):
        for cell in line:
            assert not cell.startswith(("=", "+", "@", "\t", "\r", "\n"))
            assert not cell.startswith("-") or math.isfinite(float(cell))


def test_names_that_are_not_utf8_are_written_as_escapes(tmp_path):
    write_table([("caf\udce9.png", score(0.5))], tmp_path / "t.csv")
    assert read_rows(tmp_path / "t.csv")[1][0] == "caf\\udce9.png"


def test_each_reason_is_stated_once_for_all_columns_it_applies_to():
    found = measure(np.zeros((3, 8, 8), bool), ["lung", "heart", "spine"], "CTR,perimeter,box")
    assert table.summary(found.reasons) == (
        "CTR: class 'right hemidiaphragm' was not segmented; the mask is empty: lung, heart, spine"
    )
    assert table.summary(found.reasons, most=2).endswith("the mask is empty: lung, heart and 1 more")
    assert table.summary({}) == ""


def test_remarks_on_an_image_are_in_its_row_and_survive_json(tmp_path):
    found = Measurements({"CTR": 0.5}, {}, ("CTR",), notes=("the image looks inverted",))
    missing = Measurements({"CTR": math.nan}, {"CTR": "the mask of 'heart' is empty"}, ("CTR",), notes=("upside down",))
    assert table.from_json(table.to_json(found)) == found
    write_table([("a.png", found), ("b.png", missing)], tmp_path / "t.csv")
    rows = read_rows(tmp_path / "t.csv")
    assert [row[-1] for row in rows[1:]] == [
        "the image looks inverted",
        "CTR: the mask of 'heart' is empty; upside down",
    ]


def test_a_parquet_table_has_the_values_of_the_csv_and_text_as_it_is(tmp_path):
    rows = [("=a.png", heart(pixel_mm=(2, 3))), ("b.png", heart(empty=True)), ("c.png", "cannot be read")]
    write_table(rows, tmp_path / "t.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]
    found = pandas.read_parquet(tmp_path / "t.parquet")
    assert list(found.columns) == ["filename", "heart_area", "heart_area_mm2", "heart_perimeter", *found.columns[-2:]]
    assert found["filename"].tolist() == ["=a.png", "b.png", "c.png"]
    assert found["reason"].tolist() == ["", "heart_perimeter: the mask is empty", "cannot be read"]
    np.testing.assert_array_equal(found["heart_area"], [4.0, 0.0, np.nan])
    np.testing.assert_array_equal(found["heart_area_mm2"], [24.0, np.nan, np.nan])
