"""The content of a report: images, masks, measurements, failures and limits."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_kit import NAMES, masks_of, read_page, values_of, write_dicom, write_pair, write_pairs, write_run

from jaxseg.anatomy.measure.features import measure
from jaxseg.masks.write import file_names
from jaxseg.report import build
from jaxseg.report.build import write_report
from jaxseg.report.reading import check_classes, locate_masks
from jaxseg.text_table import Table
from jaxseg.vocabulary import labels

HOSTILE = ("<script>alert(1)<", "\"onmouseover='alert(1)'", "a\u202egnp", "line\nbreak")


def test_the_page_has_every_image_with_links_and_outlines(tmp_path):
    images, masks = write_pairs(tmp_path / "data", 3)
    assert write_report(images, masks, tmp_path / "report.html") == []
    page = read_page(tmp_path / "report.html")
    assert [record["name"] for record in page.records] == [image.name for image in images]
    assert [record["image"] for record in page.records] == [f"./data/{image.name}" for image in images]
    assert page.records[1]["masks"] == "./data/image_001.json"
    assert sorted(page.pictures) == [0, 1, 2]
    assert [len(picture["outlines"]) for picture in page.pictures.values()] == [3, 3, 3]
    assert page.pictures[0]["size"] == [60, 50]
    assert [item["name"] for item in page.about["classes"]] == list(NAMES)
    assert len({item["colour"] for item in page.about["classes"]}) == 3


def test_values_are_those_of_measure_and_missing_ones_have_reasons(tmp_path):
    images, masks = write_pairs(tmp_path, 2)
    write_report(images, masks, tmp_path / "report.html", features="CTR, area, compactness")
    page = read_page(tmp_path / "report.html")
    for i in range(2):
        expected = measure(masks_of(i), NAMES, "area,compactness").values
        found = values_of(page, i)
        assert found.pop("CTR") is None
        assert found == {key.replace("_", " "): pytest.approx(value, rel=1e-5) for key, value in expected.items()}
    (reason, columns), *_ = page.records[0]["reasons"]
    assert "'right hemidiaphragm'" in reason
    assert [page.about["kinds"][page.about["columns"][k][0]]["ending"] for k in columns] == ["CTR"]


def test_scores_use_classes_that_were_not_chosen(tmp_path):
    masks = np.concatenate([masks_of(0), masks_of(0)[:1], masks_of(0)[:2].any(axis=0)[None]])
    names = ("right lung", "left lung", "heart", "right hemidiaphragm", "lung")
    image, path = write_pair(tmp_path, "a.png", masks, names)
    write_report([image], [path], tmp_path / "report.html", classes="heart")
    page = read_page(tmp_path / "report.html")
    found = values_of(page, 0)
    assert found["CTR"] == pytest.approx(measure(masks, names, "CTR").values["CTR"], rel=1e-5)
    assert [item["name"] for item in page.about["classes"]] == ["heart"]
    assert set(found) == {"CTR", "SCD", "heart area"}


def test_classes_of_cxas_have_groups_and_only_some_are_shown_by_default(tmp_path):
    masks = np.zeros((159, 40, 40), bool)
    masks[:, 10:20, 10:20] = True
    masks[121, 5:30, 5:30] = True
    np.save(tmp_path / "a.npy", masks)
    Image.fromarray(np.arange(1600, dtype=np.uint16).astype(np.uint8).reshape(40, 40)).save(tmp_path / "a.png")
    write_report([tmp_path / "a.png"], tmp_path, tmp_path / "report.html")
    page = read_page(tmp_path / "report.html")
    assert sum(item["on"] for item in page.about["classes"]) == 17
    lobes = next(group for group in page.about["groups"] if group["name"] == "lung lobes")
    assert lobes["members"] == list(labels.CXAS_GROUPS["lung lobes"])
    assert page.pictures[0]["outlines"][0][0] == 121  # large ones first: small ones lie on top
    assert len({item["colour"] for item in page.about["classes"]}) == 159


def test_failed_images_are_listed_in_the_page(tmp_path):
    images, _ = write_pairs(tmp_path, 4)
    (tmp_path / "image_001.json").unlink()
    (tmp_path / "image_002.json").write_text("{}")
    images[3].write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    reported = []
    failures = write_report(images, tmp_path, tmp_path / "r.html", on_image=lambda *outcome: reported.append(outcome))
    assert [image for image, _ in failures] == images[1:]
    assert "found none" in failures[0][1]
    assert [bool(reason) for _, reason, _ in reported] == [False, True, True, True]
    page = read_page(tmp_path / "r.html")
    assert [record.get("error") for record in page.records] == [None, *(reason for _, reason in failures)]
    assert list(page.pictures) == [0]
    assert str(tmp_path) not in (tmp_path / "r.html").read_text()


def test_if_all_images_fail_the_old_page_stays(tmp_path):
    images, _ = write_pairs(tmp_path, 2)
    (tmp_path / "r.html").write_text("old")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"none of the 2 images can be shown; .*image_000.png: looked for"):
        write_report(images, tmp_path / "empty", tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_masks_of_another_size_are_refused(tmp_path):
    first, _ = write_pair(tmp_path / "a", "a.png", masks_of(0))
    _, other = write_pair(tmp_path / "b", "a.png", masks_of(0, (61, 50)))
    with pytest.raises(ValueError, match="the masks are 61 x 50, but the image is 60 x 50"):
        write_report([first], [other], tmp_path / "r.html")


def test_a_full_disk_is_not_reported_as_a_failed_image(tmp_path, monkeypatch):
    images, masks = write_pairs(tmp_path, 2)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build._Page, "write", full)
    with pytest.raises(OSError, match=r"No space left on device.*r\.html"):
        write_report(images, masks, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_two_images_with_the_same_name_need_separate_masks(tmp_path):
    for place in ("one", "two"):
        write_pair(tmp_path / "images" / place, "a.png", masks_of(0))
    images = sorted((tmp_path / "images").rglob("*.png"))
    flat = tmp_path / "flat"
    write_pair(flat, "a.png", masks_of(0))
    with pytest.raises(ValueError, match="2 images are called a: it is unknown"):
        write_report(images, flat, tmp_path / "r.html", root=tmp_path / "images")
    assert write_report(images, tmp_path / "images", tmp_path / "r.html", root=tmp_path / "images") == []
    page = read_page(tmp_path / "r.html")
    assert [record["name"] for record in page.records] == ["one/a.png", "two/a.png"]
    assert [record["masks"] for record in page.records] == ["./images/one/a.json", "./images/two/a.json"]


def test_an_image_can_be_shown_with_several_masks(tmp_path):
    image, truth = write_pair(tmp_path / "truth", "a.png", masks_of(0))
    _, found = write_pair(tmp_path / "found", "a.png", masks_of(5))
    write_report([image, image], [truth, found], tmp_path / "r.html")
    page = read_page(tmp_path / "r.html")
    assert values_of(page, 0)["heart area"] != values_of(page, 1)["heart area"]


def test_masks_are_a_folder_to_search_or_those_of_one_image(tmp_path):
    image, masks = write_pair(tmp_path / "data", "a.png", masks_of(0))
    data, pictures = tmp_path / "data", tmp_path / "pictures"
    pictures.mkdir()
    Image.fromarray(masks_of(0)[2]).save(pictures / "heart.png")
    assert locate_masks(data, data) == data
    assert locate_masks(data, image) == data
    assert locate_masks(masks, image) == [masks]
    assert locate_masks(pictures, image) == [pictures]
    with pytest.raises(ValueError, match="a.json is a file; give the folder with the masks of"):
        locate_masks(masks, data)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        locate_masks(tmp_path / "nowhere", image)
    (data / "summary.json").write_text('{"jaxseg": 1')
    with pytest.raises(ValueError, match="summary.json is not a jaxseg summary, or is damaged"):
        locate_masks(data, data)


def test_classes_are_checked_if_a_summary_lists_them(tmp_path):
    check_classes(tmp_path, "hart")
    (tmp_path / "summary.json").write_text(json.dumps({"jaxseg": "0.1", "settings": {"classes": NAMES}, "files": {}}))
    check_classes(tmp_path, "heart")
    with pytest.raises(ValueError, match="unknown class 'hart'; did you mean 'heart'"):
        check_classes(tmp_path, "hart")


def test_the_settings_of_the_run_are_shown(tmp_path):
    images, _ = write_pairs(tmp_path / "images", 1)
    out = tmp_path / "out"
    folder = out / "image_000"
    folder.mkdir(parents=True)
    for name, mask in zip(file_names(NAMES), masks_of(0), strict=True):
        Image.fromarray(mask).save(folder / f"{name}.png")
    entry = {"source": str(images[0].resolve()), "status": "done"}
    status = images[0].stat()
    stamp = [status.st_size, status.st_mtime_ns]
    entry["outputs"] = {"png": {"path": "image_000", "stamp": stamp}}
    settings = {"model": "<b>UNet</b>", "classes": list(NAMES), "threshold": 0.5, "weights_sha256": None}
    summary = {"jaxseg": "0.1", "settings": settings, "files": {"image_000": entry}}
    (out / "summary.json").write_text(json.dumps(summary))
    write_report(images, out, tmp_path / "r.html")
    page = read_page(tmp_path / "r.html")
    assert page.about["settings"] == {"model": "<b>UNet</b>", "threshold": "0.5", "jaxseg": "0.1"}
    assert page.records[0]["masks"] == "./out/image_000"


def test_the_confidence_of_a_run_is_a_column_of_the_image_and_of_each_class(tmp_path):
    images = write_run(tmp_path, [[0.9, 0.7, None], [0.5, 0.6, 0.1], [None, None, None]])
    write_report(images, tmp_path / "out", tmp_path / "r.html", features="area")
    page = read_page(tmp_path / "r.html")
    found = values_of(page, 0)
    assert found["confidence"] == 0.8
    assert [found[f"{name} confidence"] for name in NAMES] == [0.9, 0.7, None]
    assert values_of(page, 1)["confidence"] == 0.4
    assert values_of(page, 2)["confidence"] is None
    assert page.records[0]["reasons"][-1][0] == "the mask is empty"
    shown = {page.about["kinds"][kind]["ending"]: on for kind, of, on in page.about["columns"] if of < 0}
    assert shown == {"confidence": True}
    assert page.about["names"]["confidence"] == "confidence"
    write_report(images, tmp_path / "out", tmp_path / "one.html", features="area", classes="heart")
    assert values_of(read_page(tmp_path / "one.html"), 1)["confidence"] == 0.1
    (tmp_path / "out" / "image_0.confidence.json").write_text("{}")
    assert "holds no confidence" in write_report(images, tmp_path / "out", tmp_path / "r.html")[0][1]


def test_tables_and_the_confidence_of_another_run_are_shown(tmp_path):
    images = write_run(tmp_path, [[0.9, 0.7, 0.2]])
    places = [write_pair(tmp_path / "changed", "image_0.png", masks_of(3))[1]]
    tables = [Table("What <b>was</b> done", ("stage", "result"), (("segment", "1 image"), ("restore", "1 image")))]
    options = {"tables": tables, "confidence": tmp_path / "out", "features": "area"}
    write_report(images, places, tmp_path / "r.html", **options)
    page = read_page(tmp_path / "r.html")
    rows = [["segment", "1 image"], ["restore", "1 image"]]
    assert page.about["tables"] == [{"title": "What <b>was</b> done", "header": ["stage", "result"], "rows": rows}]
    assert [values_of(page, 0)[f"{name} confidence"] for name in NAMES] == [0.9, 0.7, 0.2]
    write_report(images, tmp_path / "out", tmp_path / "without.html", features="area")
    assert read_page(tmp_path / "without.html").about["tables"] == []


def test_the_page_has_no_tags_of_a_dicom_file_but_lengths_in_mm(tmp_path):
    rng = np.random.default_rng(0)
    tags = {"PatientName": "Doe^Jane", "PatientID": "4711-ID", "PatientBirthDate": "19700101"}
    tags |= {"StudyDescription": "<script>alert(1)</script>", "PixelSpacing": [0.5, 0.25]}
    image = write_dicom(tmp_path / "a.dcm", rng.integers(0, 4000, (60, 50)).astype(np.uint16), **tags)
    _, masks = write_pair(tmp_path / "masks", "a.png", masks_of(0))
    assert write_report([image], [masks], tmp_path / "r.html") == []
    text = (tmp_path / "r.html").read_text()
    for secret in ("Doe", "4711", "19700101", "alert(1)"):
        assert secret not in text
    found = values_of(read_page(tmp_path / "r.html"), 0)
    assert found["heart area_mm2"] == pytest.approx(found["heart area"] * 0.125, rel=1e-5)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_of_files_and_classes_are_stored_as_text(tmp_path, name):
    image, masks = write_pair(tmp_path, f"{name.replace('/', '')}.png", masks_of(0), (name, "b", "</script>"))
    write_report([image], [masks], tmp_path / "r.html", title=name)
    page = read_page(tmp_path / "r.html")
    shown = page.records[0]["name"]
    assert shown.isprintable()
    assert page.about["classes"][2]["name"] == "</script>"
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert len(scripts) == 4  # record, picture, about, and the script of the page
    assert sum("type" not in attributes for attributes in scripts) == 1


def test_long_names_of_classes_are_refused(tmp_path):
    image, masks = write_pair(tmp_path, "a.png", masks_of(0), ("x" * 300, "b", "c"))
    with pytest.raises(ValueError, match="the name of a class has 300 characters; at most 200"):
        write_report([image], [masks], tmp_path / "r.html")


def noisy_pairs(folder: Path, count: int):
    """Writes images of noise, which JPEG cannot compress well."""
    images, masks = write_pairs(folder, count, size=(300, 260))
    for i, image in enumerate(images):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (300, 260), np.uint8)).save(image)
    return images, masks


@pytest.mark.parametrize(
    ("max_bytes", "note"), [(280_000, "of 12 pictures are smaller"), (160_000, "of 12 pictures are left out")]
)
def test_the_size_limit_is_kept_with_smaller_and_fewer_pictures(tmp_path, max_bytes, note):
    images, masks = noisy_pairs(tmp_path, 12)
    write_report(images, masks, tmp_path / "whole.html")
    assert (tmp_path / "whole.html").stat().st_size > 400_000
    write_report(images, masks, tmp_path / "r.html", max_bytes=max_bytes)
    page = read_page(tmp_path / "r.html")
    assert (tmp_path / "r.html").stat().st_size <= max_bytes
    assert any(note in text for text in page.about["notes"]), page.about["notes"]
    assert sum(int(text.split()[0]) for text in page.about["notes"]) == 12
    assert len(page.records) == 12
    assert all(record["values"] for record in page.records)


@pytest.mark.slow
def test_measurements_are_left_out_if_the_limit_needs_it(tmp_path):
    many = np.zeros((300, 20, 20), bool)
    many[:, 5:15, 5:15] = True
    pairs = [write_pair(tmp_path, f"{i}.png", many, labels.numbered(300)) for i in range(3)]
    images, masks = zip(*pairs, strict=True)
    features = "area,perimeter,compactness,centroid,box,convexity"
    write_report(images, masks, tmp_path / "r.html", features=features, max_bytes=110_000)
    assert (tmp_path / "r.html").stat().st_size <= 110_000
    page = read_page(tmp_path / "r.html")
    assert any("both picture and measurements of" in note for note in page.about["notes"])
    assert len(page.records) == 3


def test_many_images_have_painted_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "MAX_OUTLINED", 4)
    images, masks = write_pairs(tmp_path, 5)
    write_report(images, masks, tmp_path / "r.html")
    page = read_page(tmp_path / "r.html")
    assert page.about["outlined"] is False
    assert set(page.pictures[0]) == {"size", "jpeg"}


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (0, {}, "from 1 to 5,000 images, got 0"),
        (5001, {}, "from 1 to 5,000 images, got 5,001"),
        (1, {"features": "CTRR"}, "did you mean 'CTR'"),
        (3, {"max_bytes": 50_000}, "max_bytes must be at least 109,000"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_read(tmp_path, count, options, message):
    with pytest.raises(ValueError, match=message):
        write_report([Path("x.png")] * count, tmp_path, tmp_path / "r.html", **options)
    with pytest.raises(ValueError, match="one path per image: 1 images, got 0 paths"):
        write_report([Path("x.png")], [], tmp_path / "r.html")
