"""The scores of masks: their mean, their JSON file, the table, and files of probabilities."""

import csv
import json
import math

import numpy as np
import pytest

from jaxseg.masks.confidence import (
    COLUMNS,
    Confidence,
    read_confidence,
    write_confidence,
    write_probabilities,
    write_table,
)


def found(**scores) -> Confidence:
    given = {name: np.array(values, np.float32) for name, values in scores.items()}
    usual = {"mean_probability": [0.9, math.nan], "border_entropy": [0.3, math.nan]}
    given = {name: np.array(values, np.float32) for name, values in usual.items()} | given
    return Confidence(("heart", "=lung"), np.array([120, 0]), **given)


def test_the_confidence_is_the_mean_of_the_known_scores_with_the_entropy_turned_round():
    np.testing.assert_allclose(found().confidence, [(0.9 + 0.7) / 2, math.nan])
    both = found(tta_agreement=[0.5, 0.0], shape_agreement=[0.8, math.nan])
    np.testing.assert_allclose(both.confidence, [(0.9 + 0.7 + 0.5 + 0.8) / 4, 0.0], rtol=1e-6)


def test_a_file_reads_back_and_the_table_has_a_row_per_mask(tmp_path):
    parts = [tmp_path / "a.json", tmp_path / "b.json"]
    write_confidence(found(tta_agreement=[0.123456, 0.0]), "sub/a.png", parts[0])
    write_confidence(found(), "+b.png", parts[1])
    name, rows = read_confidence(parts[0])
    assert (name, [row["class"] for row in rows]) == ("sub/a.png", ["heart", "=lung"])
    assert rows[0]["tta_agreement"] == 0.1235
    assert rows[1]["mean_probability"] is None
    write_table(parts, tmp_path / "confidence.csv")
    with (tmp_path / "confidence.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0]) == COLUMNS
    assert [(row["filename"], row["class"], row["pixels"]) for row in table] == [
        ("sub/a.png", "heart", "120"),
        ("sub/a.png", "'=lung", "0"),
        ("'+b.png", "heart", "120"),
        ("'+b.png", "'=lung", "0"),
    ]
    assert [row["tta_agreement"] for row in table] == ["0.1235", "0.0", "", ""]
    assert [row["confidence"] for row in table] == ["0.5745", "0.0", "0.8", ""]


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"masks": []},
        {"filename": "a", "masks": {}},
        {"filename": "a", "masks": [{"class": "heart"}]},
        {"filename": "a", "masks": [dict.fromkeys(COLUMNS[2:], 1) | {"class": 3}]},
        {"filename": "a", "masks": [dict.fromkeys(COLUMNS[2:], True) | {"class": "heart"}]},
    ],
)
def test_other_files_are_refused_and_leave_no_table(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="a.json holds no confidence of masks"):
        write_table([path], tmp_path / "table.csv")
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_probabilities_are_stored_as_float16_with_names_and_the_size_of_the_image(tmp_path):
    scores = np.random.default_rng(0).random((2, 8, 16), np.float32)
    write_probabilities(scores, ("heart", "left lung"), (30, 50), tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as archive:
        assert archive["probabilities"].dtype == np.float16
        np.testing.assert_array_equal(archive["probabilities"], scores.astype(np.float16))
        assert archive["names"].tolist() == ["heart", "left lung"]
        assert archive["size"].tolist() == [30, 50]
