"""A result belongs to the image that it was made from, and it counts only while it is complete."""

import os

import numpy as np
import pytest
from fake_segmenter import draw, finish

from jaxseg.folder_runs.account import merged_path
from jaxseg.folder_runs.inputs import find_images


def test_another_image_with_the_same_name_is_a_different_image(tmp_path):
    """The files of two patients may have the same name, size and time."""
    one, two = draw(tmp_path / "pa" / "IM1.png", seed=1), draw(tmp_path / "pb" / "IM1.png", seed=2)
    two.write_bytes(two.read_bytes().ljust(one.stat().st_size))
    os.utime(two, ns=(one.stat().st_mtime_ns,) * 2)
    finish(one, tmp_path / "out")
    first = np.load(tmp_path / "out" / "IM1.npy")
    with pytest.raises(ValueError, match=r"was made from .*pa/IM1.png, not from .*pb/IM1.png.*--overwrite"):
        finish(two, tmp_path / "out")
    finish(two, tmp_path / "out", overwrite=True)
    assert not np.array_equal(np.load(tmp_path / "out" / "IM1.npy"), first)


def test_relative_names_from_two_places_are_two_images(tmp_path, monkeypatch):
    for place, seed in (("pa", 1), ("pb", 2)):
        draw(tmp_path / place / "img.png", seed=seed)
    monkeypatch.chdir(tmp_path / "pa")
    finish("img.png", "../out")
    monkeypatch.chdir(tmp_path / "pb")
    with pytest.raises(ValueError, match="was made from .*pa/img.png"):
        finish("img.png", "../out")
    monkeypatch.chdir(tmp_path)
    run, _ = finish("pa/img.png", "out")
    assert run.count("skipped") == 1


def test_moved_data_are_still_done(tmp_path):
    draw(tmp_path / "old" / "img.png")
    finish(tmp_path / "old", tmp_path / "out")
    os.rename(tmp_path / "old", tmp_path / "new")
    run, _ = finish(tmp_path / "new", tmp_path / "out")
    assert (run.count("skipped"), run.count("done")) == (1, 0)


@pytest.mark.parametrize("output_type", ["npy", "png"])
def test_emptied_result_files_are_made_again(tmp_path, output_type):
    draw(tmp_path / "in" / "img.png")
    run, _ = finish(tmp_path / "in", tmp_path / "out", output_type)
    result = next(p for p in (tmp_path / "out").iterdir() if p.stem == "img")
    if result.is_dir():
        next(result.iterdir()).unlink()
    else:
        result.write_bytes(b"")
    run, _ = finish(tmp_path / "in", tmp_path / "out", output_type)
    assert run.count("done") == 1


def test_the_coco_file_of_a_folder_never_replaces_that_of_an_image(tmp_path):
    draw(tmp_path / "pa" / "img.png")
    draw(tmp_path / "q" / "img" / "b.png")
    finish(tmp_path / "pa" / "img.png", tmp_path / "out", "json")
    run, _ = finish(tmp_path / "q" / "img", tmp_path / "out", "json")
    assert merged_path(run, tmp_path / "q" / "img", ".json").name == "img_all.json"


def test_links_to_folders_are_followed_once(tmp_path):
    draw(tmp_path / "real" / "a.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "back").symlink_to(tmp_path / "in")
    assert find_images(tmp_path / "in", recursive=True) == [tmp_path / "in" / "link" / "a.png"]
