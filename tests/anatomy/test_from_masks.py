"""`measure_folder`: the numbers of the network's own run, from every format, and masks of other origin."""

import csv
import dataclasses

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from report_kit import read_page

import jaxseg
from jaxseg.anatomy import from_masks
from jaxseg.anatomy.segment import Segmenter
from jaxseg.masks.results import find_masks
from jaxseg.report.build import write_report


@pytest.fixture(scope="module")
def segmenter():
    model = jaxseg.create("cxas", class_names=("heart", "lung"), backbone="resnet18", width=4)
    model.card = dataclasses.replace(model.card, input_size=(32, 32))
    return Segmenter(model)


@pytest.fixture
def images(tmp_path):
    for name in ("one.png", "ward/two.png"):
        pixels = np.random.default_rng(len(name)).integers(0, 256, (90, 70), np.uint8)
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "images" / name)
    return tmp_path / "images"


def rows(path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", ["coco-lines", "parquet", "png", "npz"])
def test_the_masks_of_a_run_have_the_numbers_of_extract(segmenter, images, tmp_path, kind):
    options = {"recursive": True}
    wanted = jaxseg.extract_folder(images, tmp_path / "wanted", "area, centroid", segmenter, **options)
    jaxseg.segment_folder(images, tmp_path / "masks", segmenter, output_type=kind, **options)
    found = jaxseg.measure_folder(images, tmp_path / "found", "area, centroid", tmp_path / "masks", **options)
    assert found.done == 2
    assert rows(found.merged[0]) == rows(wanted.merged[0])
    assert sum(float(row["heart_area"]) + float(row["lung_area"]) for row in rows(found.merged[0])) > 0


def test_masks_with_smooth_edges_are_measured_in_pixels_of_the_image_and_the_table_says_so(images, tmp_path):
    model = jaxseg.create("cxas", class_names=("heart", "lung"), backbone="resnet18", width=4)
    model.card = dataclasses.replace(model.card, input_size=(32, 32))
    smooth = Segmenter(model, edges="smooth")
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(images / "small.png")
    jaxseg.segment_folder(images, tmp_path / "masks", smooth, output_type="npz")
    found = jaxseg.measure_folder(images, tmp_path / "found", "area", tmp_path / "masks")
    for row in rows(found.merged[0]):
        masks = np.load(tmp_path / "masks" / row["filename"].replace(".png", ".npz"))["arr_0"]
        assert [row["heart_area"], row["lung_area"]] == [str(mask.sum()) for mask in masks]
        assert "smooth edges are measured in pixels of the image" in row["reason"]
    assert [row["filename"] for row in rows(found.merged[0])] == ["one.png", "small.png"]
    write_report(sorted(images.glob("*.png")), tmp_path / "masks", tmp_path / "r.html", features="area")
    (sentence,) = read_page(tmp_path / "r.html").about["pixels"]
    assert sentence.startswith("The masks are measured as they are stored, in pixels (px) of the image")


def test_a_file_with_all_masks_is_named_itself_and_only_changes_are_measured_again(segmenter, images, tmp_path):
    jaxseg.segment_folder(images, tmp_path / "masks", segmenter, output_type="parquet", recursive=True)
    path = (tmp_path / "masks" / "masks.parquet").rename(tmp_path / "moved.parquet")
    options = {"masks": path, "recursive": True, "table": "parquet"}
    found = jaxseg.measure_folder(images, tmp_path / "found", "area", **options)
    assert [(file.source.name, file.status) for file in found] == [("one.png", "done"), ("two.png", "done")]
    assert found.merged[0].name == "images.parquet"
    table = pyarrow.parquet.read_table(found.merged[0])
    assert table.column_names == ["filename", "heart_area", "lung_area", "reason"]
    assert table["filename"].to_pylist() == ["one.png", "ward/two.png"]
    assert jaxseg.measure_folder(images, tmp_path / "found", "area", **options).skipped == 2
    jaxseg.measure_folder(images, tmp_path / "found", "area", **options)
    path.write_bytes(path.read_bytes())
    assert jaxseg.measure_folder(images, tmp_path / "found", "area", **options).done == 2


def test_masks_of_other_origin_are_measured_in_pixels_of_the_image(images, tmp_path):
    masks = np.zeros((1, 90, 70), bool)
    masks[0, 10:20, 5:15] = True
    (tmp_path / "mine" / "one").mkdir(parents=True)
    Image.fromarray(masks[0]).save(tmp_path / "mine" / "one" / "heart.png")
    (tmp_path / "mine" / "extra.txt").write_text("x")
    found = jaxseg.measure_folder(images, tmp_path / "found", "area", masks=tmp_path / "mine")
    assert rows(found.merged[0]) == [{"filename": "one.png", "heart_area": "100", "reason": ""}]
    single = jaxseg.measure_folder(images / "one.png", tmp_path / "b", "area", masks=tmp_path / "mine" / "one")
    assert rows(single.merged[0])[0]["heart_area"] == "100"


def test_failures_have_a_reason_and_impossible_calls_are_refused(images, tmp_path):
    (tmp_path / "mine").mkdir()
    np.save(tmp_path / "mine" / "one.npy", np.zeros((1, 9, 9), bool))
    found = jaxseg.measure_folder(images, tmp_path / "found", "area", masks=tmp_path / "mine", recursive=True)
    assert [file.reason for file in found] == [
        "the masks are 9 x 9, but the image is 90 x 70: they do not match",
        f"{tmp_path / 'mine'}: looked for the masks of two.png as two (a folder), or with .npy, .npz, .json, .seg.dcm, "
        ".png or .jpg, and found none; name the masks themselves",
    ]
    for options, words in (
        ({"masks": tmp_path / "mine", "table": "xlsx"}, "table must be one of csv, parquet, got 'xlsx'"),
        ({"masks": tmp_path / "found"}, "holds the masks; name another folder for the table"),
    ):
        with pytest.raises(ValueError, match=words):
            jaxseg.measure_folder(images, tmp_path / "found", "area", **options)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        jaxseg.measure_folder(images, tmp_path / "found", "area", masks=tmp_path / "nowhere")


def test_a_part_does_not_touch_the_files_of_other_parts(images, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    for number in range(8):
        Image.fromarray(np.full((9, 9), number, np.uint8)).save(images / f"{number}.png")
        Image.fromarray(np.eye(9) > 0).save(tmp_path / "mine" / f"{number}.png")
    touched = set()

    def find(folder, image):
        touched.add(image.name)
        return find_masks(folder, image)

    monkeypatch.setattr(from_masks, "find_masks", find)
    found = jaxseg.measure_folder(images, tmp_path / "found", "area", tmp_path / "mine", part="1/2")
    assert touched == {file.source.name for file in found}
    assert 0 < len(touched) < 9


def test_a_turned_image_is_measured_upright(tmp_path, monkeypatch):
    """The run turned the image by a quarter before it was segmented; its box is that of the upright image."""
    from fake_segmenter import FakeSegmenter, draw, finish

    from jaxseg.masks.segmentation import Orientation, Segmentation

    class Turned(FakeSegmenter):
        def predict(self, images):
            bits = np.zeros((3, 32, 4), np.uint8)
            bits[0, 8:10] = 255  # upright, wide and flat
            seen = Orientation(rotation=90, corrected=True)
            size = images[0].size[::-1]
            return [Segmentation(self.names, (0, 1, 2), size, bits, None).seen_as(seen)]

    image = draw(tmp_path / "in" / "a.png", size=(64, 96))
    settings = {"threshold": 0.5, "grid": [32, 32], "classes": list(Turned().names)}
    finish(image.parent, tmp_path / "masks", "coco-lines", segmenter=Turned(), settings=settings)
    found = jaxseg.measure_folder(image.parent, tmp_path / "found", "box", masks=tmp_path / "masks")
    (row,) = rows(found.merged[0])
    assert (row["bright_width"], row["bright_height"]) == ("32", "2")
    assert "turned by 90 degrees" in row["reason"]
