"""`jaxseg report` writes a page about the results of a run, and its errors say what to do."""

import json
import re

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def tiny(tiny_plain):
    return tiny_plain


@pytest.fixture
def results(images):
    """Returns a folder with the masks of the two images in `images`, named after them."""
    folder = images.parent / "masks"
    folder.mkdir()
    for name in ("one.png", "two.jpg"):
        with Image.open(images / name) as image:
            width, height = image.size
        masks = np.zeros((2, height, width), bool)
        masks[0, 5:20, 5:20] = masks[1, 10:30, 25:40] = True
        np.save(folder / f"{name[:3]}.npy", masks)
    return folder


def records(page) -> list[dict]:
    found = re.findall(r'class="record">(.*?)</script>', page.read_text())
    return [json.loads(text) for text in found]


@pytest.mark.slow
def test_a_report_shows_the_results_of_segment(jaxseg_command, tiny, images, tmp_path):
    code, _, err = jaxseg_command(
        "segment", "-i", images, "-o", tmp_path / "out", "--weights", tiny, "--classes", "heart, lung"
    )
    assert code == 0, err
    code, _, err = jaxseg_command("report", "-i", images, "--masks", tmp_path / "out", "-o", tmp_path / "r.html")
    assert (code, "2 shown, 0 failed" in err) == (0, True), err
    page = tmp_path / "r.html"
    assert page.read_bytes()[:200].count(b'<meta name="generator" content="jaxseg ')
    assert [record["name"] for record in records(page)] == ["one.png", "two.jpg"]
    assert [record["masks"] for record in records(page)] == ["./out/one", "./out/two"]
    assert '"threshold":"0.5"' in page.read_text()
    assert "<title>images</title>" in page.read_text()


def test_an_image_without_masks_is_reported_and_the_page_is_written(jaxseg_command, images, results, tmp_path):
    (results / "two.npy").unlink()
    code, _, err = jaxseg_command("report", "-i", images, "--masks", results, "-o", tmp_path / "r.html")
    assert (code, "Failed:" in err, "two.jpg: looked for the masks" in err) == (1, True, True), err
    assert "1 shown, 1 failed" in err
    assert [bool(record.get("error")) for record in records(tmp_path / "r.html")] == [False, True]
    (results / "one.npy").write_bytes(b"rubbish")
    code, _, err = jaxseg_command("report", "-i", images, "--masks", results, "-o", tmp_path / "other.html")
    assert (code, "none of the 2 images can be shown" in err) == (1, True), err
    assert not (tmp_path / "other.html").exists()


@pytest.mark.parametrize("masks", ["masks", "masks/one.npy", "pictures"])
def test_masks_of_a_single_image_are_read_from_a_folder_a_file_or_pictures(
    jaxseg_command, images, results, tmp_path, masks
):
    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.load(results / "one.npy")[0]).save(tmp_path / "pictures" / "heart.png")
    page = tmp_path / "r.html"
    code, _, err = jaxseg_command("report", "-i", images / "one.png", "--masks", tmp_path / masks, "-o", page)
    assert code == 0, err
    (record,) = records(page)
    assert record["masks"].startswith("./masks/one.npy" if "masks" in masks else "./pictures")


def test_files_that_are_not_reports_are_replaced_only_on_request(jaxseg_command, images, results, tmp_path):
    page = tmp_path / "r.html"
    arguments = ("report", "-i", images, "--masks", results, "-o", page)
    page.write_text("<p>mine</p>")
    code, _, err = jaxseg_command(*arguments)
    assert (code, "is not a jaxseg report" in err, page.read_text()) == (2, True, "<p>mine</p>"), err
    assert jaxseg_command(*arguments, "--overwrite")[0] == 0
    assert jaxseg_command(*arguments, "--title", "Again")[0] == 0
    assert "<title>Again</title>" in page.read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"-o": "r.png"}, "must end in .html"),
        ({"-o": "nowhere/r.html"}, "no such folder"),
        ({"--masks": "nowhere"}, "no such file or folder"),
        ({"--masks": "masks/one.npy"}, "is a file; give the folder"),
        ({"-i": "nowhere"}, "no such file or folder"),
        ({"--features": "CTRR"}, "did you mean 'CTR'?"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong(jaxseg_command, images, results, tmp_path, change, message):
    places = {"-i": "images", "--masks": "masks", "-o": "r.html"}
    given = {key: tmp_path / value for key, value in (places | change).items() if key != "--features"}
    given |= {key: value for key, value in change.items() if key == "--features"}
    code, _, err = jaxseg_command("report", *(part for pair in given.items() for part in pair))
    assert (code, message in err) == (2, True), err
    assert not list(tmp_path.glob("r.*"))


def test_unknown_classes_are_reported(jaxseg_command, images, results, tmp_path):
    page = tmp_path / "r.html"
    code, _, err = jaxseg_command(
        "report", "-i", images, "--masks", results, "-o", page, "--classes", "class_007", "--features", "area"
    )
    assert (code, "unknown class 'class_007'" in err) == (1, True), err
    assert not page.exists()
    code, _, err = jaxseg_command("report", "-i", images, "--masks", results, "-o", page, "--classes", "class_001")
    assert code == 0, err
    assert '"name":"class_001"' in page.read_text()
    assert '"name":"class_000"' not in page.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["coco-lines", "parquet"])
def test_masks_of_all_images_in_one_file_are_shown(jaxseg_command, tiny, images, tmp_path, kind):
    words = ("-i", images, "--weights", tiny, "--classes", "heart, lung")
    assert jaxseg_command("segment", *words, "-o", tmp_path / "npz", "-ot", "npz")[0] == 0
    code, _, err = jaxseg_command("segment", *words, "-o", tmp_path / "out", "-ot", kind)
    assert (code, "2 done" in err) == (0, True), err
    (file,) = (tmp_path / "out").glob("masks.*")
    pages = []
    for name, masks in (("a", tmp_path / "npz"), ("b", tmp_path / "out"), ("c", file)):
        page = tmp_path / f"{name}.html"
        code, _, err = jaxseg_command("report", "-i", images, "--masks", masks, "-o", page)
        assert (code, "2 shown, 0 failed" in err) == (0, True), err
        pages.append([record | {"masks": ""} for record in records(page)])
    assert pages[0] == pages[1] == pages[2]
    pictures = []
    for number, masks in enumerate((tmp_path / "npz", tmp_path / "out", file)):
        picture = tmp_path / f"{number}.png"
        code, _, err = jaxseg_command("show", "-i", images / "two.jpg", "--masks", masks, "-o", picture)
        assert code == 0, err
        pictures.append(picture.read_bytes())
    assert pictures[0] == pictures[1] == pictures[2]
    code, _, err = jaxseg_command("show", "-i", images / "one.png", "--masks", masks, "-o", tmp_path / "3.png")
    assert code == 0, err
