"""Several products of one image share one account, and none of them replaces a file with another origin."""

import json
import os
from pathlib import Path

import pytest

from jaxseg.folder_runs import account
from jaxseg.folder_runs.account import Product, Run, begin
from jaxseg.folder_runs.inputs import plan


def product(kind: str, suffix: str) -> Product:
    def write(job, _) -> list[str]:
        place(job.base).write_text(f"{kind} of {job.source.read_text()}")
        return []

    def place(base: Path) -> Path:
        return base.with_name(base.name + suffix)

    return Product(kind, place, write)


MASKS, PREVIEW, LINES = product("npy", ".npy"), product("preview", ".preview.jpg"), product("drawing", ".lines.jpg")


def work(images: list[Path], output: Path, *products: Product, settings=None, overwrite=False) -> list[str]:
    """Runs over the images and returns the names of those that were processed."""
    run = Run(output, products, settings or {})
    todo = begin(plan(images, images[0], output), run, overwrite=overwrite)
    for job in todo:
        for one in products:
            one.write(job, None)
        account.done(run, job, [], {})
    run.complete = True
    run.write_summary()
    return [job.source.name for job in todo]


def files(output: Path) -> dict[str, dict]:
    return json.loads((output / "summary.json").read_text())["files"]


@pytest.fixture
def images(tmp_path) -> list[Path]:
    made = [tmp_path / "in" / f"{name}.png" for name in "ab"]
    made[0].parent.mkdir()
    for path in made:
        path.write_text(path.stem)
    return made


def test_an_image_is_done_if_all_requested_products_exist(images, tmp_path):
    output = tmp_path / "out"
    assert work(images, output, MASKS) == ["a.png", "b.png"]
    assert work(images, output, MASKS, PREVIEW) == ["a.png", "b.png"]
    assert work(images, output, MASKS, PREVIEW) == []
    assert work(images, output, PREVIEW) == []
    (output / "b.preview.jpg").unlink()
    assert work(images, output, MASKS) == []
    assert work(images, output, MASKS, PREVIEW) == ["b.png"]
    assert sorted(files(output)["a"]["outputs"]) == ["npy", "preview"]


def test_products_of_other_runs_stay_in_the_account(images, tmp_path):
    output = tmp_path / "out"
    work(images, output, MASKS)
    work(images, output, LINES, settings={"features": ["CTR"]})
    assert {kind: entry["path"] for kind, entry in files(output)["a"]["outputs"].items()} == {
        "npy": "a.npy",
        "drawing": "a.lines.jpg",
    }
    assert work(images, output, MASKS) == []  # features are not among its settings
    with pytest.raises(ValueError, match="made with other settings: features"):
        work(images, output, LINES, settings={"features": ["SCD"]})
    assert json.loads((output / "summary.json").read_text())["settings"] == {"features": ["CTR"]}


def test_other_features_do_not_change_the_masks(images, tmp_path):
    output = tmp_path / "out"
    work(images, output, MASKS, settings={"threshold": 0.5, "classes": ["heart"]})
    work(images, output, LINES, settings={"threshold": 0.5, "features": ["CTR"]})
    work(images[:1], output, LINES, settings={"threshold": 0.5, "features": ["SCD"]}, overwrite=True)
    live = {key: {kind for kind, o in entry["outputs"].items() if o["stamp"]} for key, entry in files(output).items()}
    assert live == {"a": {"npy", "drawing"}, "b": {"npy"}}
    work(images[:1], output, LINES, settings={"threshold": 0.3, "features": ["SCD"]}, overwrite=True)
    live = {key: {kind for kind, o in entry["outputs"].items() if o["stamp"]} for key, entry in files(output).items()}
    assert live == {"a": {"drawing"}, "b": set()}


def test_products_made_before_the_image_changed_are_out_of_date(images, tmp_path):
    output = tmp_path / "out"
    work(images, output, MASKS)
    images[0].write_text("a, taken again")
    os.utime(images[1], ns=(0, 0))  # as in a copy: the content is the same
    assert work(images, output, PREVIEW) == ["a.png", "b.png"]
    assert files(output)["a"]["outputs"]["npy"]["stamp"] == []
    assert files(output)["b"]["outputs"]["npy"]["stamp"] == files(output)["b"]["outputs"]["preview"]["stamp"]
    assert work(images, output, MASKS) == ["a.png"]


def test_products_left_from_another_image_are_out_of_date(images, tmp_path):
    output, other = tmp_path / "out", tmp_path / "other" / "a.png"
    work(images, output, MASKS, PREVIEW)
    other.parent.mkdir()
    other.write_text("another a")
    with pytest.raises(ValueError, match=r"a.npy was made from .*in/a.png, not from .*other/a.png"):
        work([other], output, LINES)
    work([other], output, MASKS, overwrite=True)
    outputs = files(output)["a"]["outputs"]
    assert outputs["preview"]["stamp"] == []
    assert outputs["npy"]["stamp"] != []


def test_two_images_never_write_the_same_file(tmp_path):
    source = [tmp_path / "in" / name for name in ("a.png", "a.preview.png")]
    source[0].parent.mkdir()
    for path in source:
        path.write_text(path.stem)
    picture = product("jpg-file", ".jpg")
    with pytest.raises(ValueError, match=r"a.png and .*a.preview.png would both become .*a.preview.jpg"):
        work(source, tmp_path / "out", PREVIEW, picture)
    assert not (tmp_path / "out" / "summary.json").exists()


def test_a_file_of_another_image_or_kind_is_refused(images, tmp_path):
    output = tmp_path / "out"
    work(images, output, MASKS)
    same_place = product("truth", ".npy")
    with pytest.raises(ValueError, match=r"a.npy is in the way: it holds the npy result"):
        work(images, output, same_place)
    (output / "a.preview.jpg").write_text("precious")
    with pytest.raises(ValueError, match=r"a.preview.jpg is in the way: it was not written by jaxseg"):
        work(images, output, MASKS, PREVIEW, overwrite=True)
    assert (output / "a.preview.jpg").read_text() == "precious"


def test_a_failed_image_is_not_recorded_as_done(images, tmp_path):
    output = tmp_path / "out"
    work(images, output, MASKS)
    run = Run(output, (MASKS,), {})
    (job, _) = begin(plan(images, images[0], output), run, overwrite=True)
    account.failed(run, job, "disk full", [], {})
    run.write_summary()
    assert files(output)["a"]["status"] == "failed"
    assert work(images, output, MASKS) == ["a.png", "b.png"]


def test_a_setting_that_earlier_versions_did_not_record_has_the_value_that_they_used(images, tmp_path):
    output = tmp_path / "out"
    old = {"preprocessing": "cxas", "features": ["SCD"], "labelmap": False}
    used = {"groups": "original", "orientation": "as stored", "strict_projection": True}
    work(images, output, LINES, settings=old)
    assert work(images, output, LINES, settings=old | used) == []
    (output / "summary.json").unlink()
    for path in output.glob("*.jpg"):
        path.unlink()
    work(images, output, LINES, settings=old)
    with pytest.raises(ValueError, match="made with other settings: groups"):
        work(images, output, LINES, settings=old | {"groups": "cxas-0.0.20"})
    with pytest.raises(ValueError, match="made with other settings: orientation"):
        work(images, output, LINES, settings=old | {"orientation": "corrected by abc"})


def test_masks_of_a_run_without_features_do_not_depend_on_the_groups(images, tmp_path):
    output = tmp_path / "out"
    work(images, output, MASKS, settings={"preprocessing": "cxas"})
    work(images, output, LINES, settings={"preprocessing": "cxas", "features": ["SCD"], "groups": "cxas-0.0.20"})
