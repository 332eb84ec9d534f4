"""An image has one name in all folders and tables of a pipeline, also if others of this name fail, come or go."""

import csv
import json
import shutil

import pytest
from PIL import Image
from pipeline_runs import invert, run, write_models, write_phantoms

from jaxseg.post_dae import denoise

pytestmark = pytest.mark.slow

STAGES = ("segment", "restore", "measure")


@pytest.fixture(scope="module")
def original(plain, tmp_path_factory):
    """Returns a folder with two phantoms and with models; every mask model returns the inverse of its input."""
    folder = write_phantoms(tmp_path_factory.mktemp("names"), 2)
    write_models(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(denoise, "_forward", invert)
        yield folder


@pytest.fixture
def work(original, tmp_path):
    """Returns a copy of the folder."""
    return shutil.copytree(original, tmp_path / "work")


def breaks(path):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"not an image")


def repairs(work, path):
    path.parent.mkdir(exist_ok=True)
    Image.open(work / "images" / "p1.png").save(path)


def made(work):
    """Runs the pipeline, and returns its result and, by image, the names in all folders and tables."""
    out = work / "results"
    result = run(work, out, recursive=True, confidence={"review_below": 1.0})
    found: dict[str, set[str]] = {}
    for name in ("masks", "restored", "measurements"):
        for key, entry in json.loads((out / name / "summary.json").read_text())["files"].items():
            if entry["status"] != "failed":
                image = (out / name / entry["source"]).resolve().relative_to((work / "images").resolve())
                found.setdefault(image.as_posix(), set()).add(key)
    return result, found


def compared(work, side):
    with (work / "results" / "comparison" / f"{side}.csv").open(newline="") as file:
        return {row["image"] for row in csv.DictReader(file)}


def counts(result):
    return [tuple(result.stages[stage][name] for name in ("done", "skipped", "failed")) for stage in STAGES]


@pytest.mark.parametrize(("other", "own"), [("p0.jpg", "p0_jpg"), ("p0/x.png", "p0/x")])
def test_a_name_that_two_images_want_stays_if_one_of_them_fails(work, other, own):
    (work / "truth" / "p0").rename(work / "truth" / "p0_png")
    breaks(work / "images" / other)
    result, names = made(work)
    assert (names, [*result.failed]) == ({"p0.png": {"p0_png"}, "p1.png": {"p1"}}, [other])
    assert compared(work, "masks") == compared(work, "restored") == {"p0_png", "p1"}
    _, scores, checked = result.tables
    assert {row[1] for row in scores.rows[:3]} == {"2"}
    assert [int(row[1]) for row in checked.rows] == [result.stages["confidence"]["to_check"], 0]
    repairs(work, work / "images" / other)
    result, names = made(work)
    assert counts(result) == [(1, 2, 0)] * 3
    assert names == {"p0.png": {"p0_png"}, "p1.png": {"p1"}, other: {own}}
    breaks(work / "images" / other)
    result, _ = made(work)
    assert counts(result) == [(0, 2, 1), (0, 2, 0), (0, 2, 0)]
    assert compared(work, "masks") == compared(work, "restored") == {"p0_png", "p1"}


def test_a_name_stays_if_an_image_that_wants_it_too_is_added(work):
    made(work)
    repairs(work, work / "images" / "p0.jpg")
    result, names = made(work)
    assert counts(result) == [(1, 2, 0)] * 3
    assert names == {"p0.png": {"p0"}, "p1.png": {"p1"}, "p0.jpg": {"p0_jpg"}}
    assert compared(work, "masks") == compared(work, "restored") == {"p0", "p1"}


def test_a_name_stays_if_the_image_that_wanted_it_too_is_removed(work):
    (work / "truth" / "p0").rename(work / "truth" / "p0_png")
    breaks(work / "images" / "p0.jpg")
    made(work)
    (work / "images" / "p0.jpg").unlink()
    result, names = made(work)
    assert counts(result) == [(0, 2, 0)] * 3
    assert (names, result.failed) == ({"p0.png": {"p0_png"}, "p1.png": {"p1"}}, {})
    assert compared(work, "masks") == compared(work, "restored") == {"p0_png", "p1"}


def test_a_sub_folder_with_the_name_of_an_image_is_refused_if_it_is_added(work):
    made(work)
    repairs(work, work / "images" / "p0" / "x.png")
    with pytest.raises(ValueError, match=r"masks holds the results of p0\.png where those of a sub-folder"):
        made(work)
    (work / "images" / "p0").rename(work / "images" / "more")
    result, names = made(work)
    assert counts(result) == [(1, 2, 0)] * 3
    assert names == {"p0.png": {"p0"}, "p1.png": {"p1"}, "more/x.png": {"more/x"}}
