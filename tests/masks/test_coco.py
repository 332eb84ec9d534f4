"""Tests that COCO run lengths equal those of pycocotools and the original, and that damaged ones are refused."""

import json
import time

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from pycocotools import mask as reference

from jaxseg.masks import coco
from jaxseg.nn.indices import nearest_indices

COMMON = [np.zeros((5, 7), bool), np.ones((5, 7), bool), np.ones((1, 1), bool), np.zeros((1, 1), bool), np.eye(9) > 0]


@st.composite
def masks(draw):
    """Generates masks of noise of any density or of a few rectangles, 1x1 to 70x70, sometimes much longer than wide."""
    height, width = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    if draw(st.booleans()):
        height *= draw(st.sampled_from([1, 40]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()):
        return rng.random((height, width)) < draw(st.sampled_from([0.0, 0.01, 0.3, 0.5, 0.99, 1.0]))
    mask = np.zeros((height, width), bool)
    for _ in range(draw(st.integers(0, 4))):
        y, x = rng.integers(height), rng.integers(width)
        mask[y : y + rng.integers(1, height + 1), x : x + rng.integers(1, width + 1)] ^= True
    return mask


def expected(mask: np.ndarray) -> dict:
    rle = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}


def assert_as_pycocotools(mask: np.ndarray):
    rle = coco.encode_rle(mask)
    assert rle == expected(mask)
    assert json.loads(json.dumps(rle)) == rle
    np.testing.assert_array_equal(coco.decode_rle(rle), mask)
    assert coco.area(mask) == reference.area(rle)
    assert coco.bounding_box(mask) == reference.toBbox(rle).tolist()


@hypothesis.settings(deadline=None, max_examples=150)
@hypothesis.given(masks())
def test_any_mask_is_written_and_read_as_by_pycocotools(mask):
    assert_as_pycocotools(mask)


@pytest.mark.parametrize("mask", COMMON, ids=["empty", "full", "one_pixel", "no_pixel", "diagonal"])
def test_common_masks_are_written_and_read_as_by_pycocotools(mask):
    assert_as_pycocotools(mask)


@hypothesis.settings(deadline=None, max_examples=150)
@hypothesis.given(masks(), st.integers(1, 150), st.integers(1, 150))
def test_runs_of_an_enlarged_mask_are_computed_from_the_small_one(mask, height, width):
    rows, columns = nearest_indices(mask.shape[0], height), nearest_indices(mask.shape[1], width)
    whole = mask[rows][:, columns]
    runs = coco.enlarged_runs(mask, rows, columns)
    np.testing.assert_array_equal(runs, coco.runs_of(whole))
    assert coco.encode_runs(runs, whole.shape) == expected(whole)


@hypothesis.settings(deadline=None, max_examples=100)
@hypothesis.given(masks())
def test_an_annotation_has_the_area_and_box_of_pycocotools(mask):
    found = coco.annotation(mask, annotation_id=1, image_id="a", category_id=2)
    assert found["segmentation"] == expected(mask)
    assert found["area"] == reference.area(found["segmentation"])
    assert found["bbox"] == reference.toBbox(found["segmentation"]).tolist()


def test_runs_of_a_million_pixels_take_more_characters_and_match():
    mask = np.zeros((2100, 2100), bool)
    assert_as_pycocotools(mask)
    mask[3, 5], mask[700:, 900:1900] = True, True
    assert_as_pycocotools(mask)
    assert_as_pycocotools(np.random.default_rng(0).random((700, 900)) < 0.5)


def test_the_annotations_equal_those_of_the_original(kit):
    golden = json.loads((kit.folder / "goldens" / "cxas_writers.json").read_text())["json"]
    phantom = json.loads((kit.folder / "phantoms" / "phantoms.json").read_text())["awkward"]
    labels = json.loads((kit.folder / "facts" / "cxas_labels.json").read_text())["labels"]
    shapes = [phantom["shapes"].get(str(i), []) for i in range(159)]
    all_masks = kit.fill.rasterise(shapes, phantom["height"], phantom["width"])
    found = [
        coco.annotation(mask, annotation_id=1 + i, image_id=1, category_id=i)
        for i, mask in enumerate(all_masks)
        if mask.any()
    ]
    assert found == golden["annotations"]
    document = coco.dataset(golden["images"][0], labels, found)
    assert list(document) == golden["top_level_keys"]
    assert document["images"] == [{"id": 1, "file_name": "some/dir/study.001.png"}]
    assert document["categories"][:2] == golden["categories_first2"]
    assert len(document["categories"]) == golden["n_categories"]
    assert json.loads(json.dumps(document)) == document


def test_numbers_are_plain_python_and_the_keys_are_the_originals():
    entry = coco.annotation(np.eye(4) > 0, annotation_id=7, image_id=2, category_id=3)
    assert list(entry) == ["id", "image_id", "category_id", "segmentation", "area", "bbox", "iscrowd"]
    assert type(entry["area"]) is int
    assert all(type(value) is float for value in entry["bbox"])
    assert coco.bounding_box(np.zeros((4, 4), bool)) == [0.0, 0.0, 0.0, 0.0]


def test_a_transposed_view_and_a_mask_of_size_0_are_encoded():
    view = (np.arange(60).reshape(6, 10) % 7 < 3).T[::2]
    assert_as_pycocotools(view)
    empty = coco.encode_rle(np.zeros((0, 4), bool))
    assert empty == {"size": [0, 4], "counts": "0"}
    assert coco.decode_rle(empty).shape == (0, 4)


def test_bytes_as_pycocotools_writes_them_are_read():
    mask = np.eye(6) > 0
    raw = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
    np.testing.assert_array_equal(coco.decode_rle(raw), mask)


def test_a_smooth_mask_of_a_full_size_x_ray_is_encoded_quickly():
    y, x = np.ogrid[:2373, :2373]
    mask = (y - 1100) ** 2 + (x - 1300) ** 2 < 800**2
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        coco.encode_rle(mask)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.1  # 0.01 on an idle machine, which may be busy


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [2, 2], "counts": "3"}, "cover 3 pixels"),
        ({"size": [2, 2], "counts": "5"}, "cover 5 pixels"),
        ({"size": [2, 2], "counts": "O5"}, "shortest -1"),
        ({"size": [2, 2], "counts": "3p1"}, "got 'p' at position 1"),
        ({"size": [2, 2], "counts": "3 1"}, "got ' ' at position 1"),
        ({"size": [2, 2], "counts": "3é"}, "got 'é' at position 1"),
        ({"size": [2, 2], "counts": b"3\xff"}, "at position 1"),
        ({"size": [2, 2], "counts": ""}, "cut off"),
        ({"size": [2, 2], "counts": "3o"}, "cut off"),
        ({"size": [2, 2], "counts": "oooooooo0"}, "9 characters"),
        ({"size": [2, 2], "counts": [3]}, "cover 3 pixels"),
        ({"size": [2, 2], "counts": []}, "must hold whole numbers from 0 to 4"),
        ({"size": [2, 2], "counts": [1, -1, 4]}, "must hold whole numbers from 0 to 4"),
        ({"size": [2, 2], "counts": [10**30]}, "must hold whole numbers from 0 to 4"),
        ({"size": [2, 2], "counts": [2.0, 2]}, "must hold whole numbers from 0 to 4"),
        ({"size": [2, 2]}, "compressed string, or a list of whole numbers, got NoneType"),
        ({"size": [2**16, 2**16], "counts": "4"}, "more than 2147483648 pixels"),
        ({"size": [-1, 4], "counts": "4"}, "whole numbers"),
        ({"size": [2.0, 2], "counts": "4"}, "whole numbers"),
        ({"size": [2, 2, 1], "counts": "4"}, "whole numbers"),
        ({"counts": "4"}, "got None"),
        ("4", "got None"),
    ],
)
def test_damaged_run_lengths_are_refused(rle, message):
    with pytest.raises(ValueError, match=message):
        coco.decode_rle(rle)


@hypothesis.settings(deadline=None)
@hypothesis.given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=30))
def test_random_text_is_refused_or_read_and_raises_no_other_error(counts):
    try:
        mask = coco.decode_rle({"size": [6, 5], "counts": counts})
    except ValueError:
        return
    assert mask.shape == (6, 5)


@pytest.mark.parametrize("mask", [np.zeros((2, 2), np.uint8), np.zeros((2, 2, 1), bool), np.zeros(4, bool)])
def test_only_two_dimensional_bool_masks_are_accepted(mask):
    for function in (coco.encode_rle, coco.bounding_box, coco.area):
        with pytest.raises(ValueError, match=r"must be \(H, W\) bool"):
            function(mask)
