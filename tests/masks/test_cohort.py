"""Files with the masks of all images: which image is meant, reading them like any masks, parts, and their summary."""

import numpy as np
import pytest
from fake_segmenter import FakeSegmenter, draw, finish, statuses, summary
from joint_masks import CLASSES, shapes

from jaxseg.images.picture import ImageError
from jaxseg.masks import cohort
from jaxseg.masks.read import find_masks, open_masks, read_masks

KINDS = tuple(cohort.TYPES)


def write(folder, kind, *file_names, seed=0, part=None):
    """Writes a file with these images, as a run does, and returns its path."""
    found = cohort.mask_file(kind, folder, CLASSES, part)
    found.open()
    for number, name in enumerate(file_names):
        found.add(name.rpartition(".")[0], name, shapes(seed + number))
    found.finish()
    return found.path


def assert_is(loaded, seed):
    assert loaded.names == tuple(CLASSES.values())
    np.testing.assert_array_equal(loaded.masks, shapes(seed).masks)


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_read_like_those_of_any_file(tmp_path, kind):
    path = write(tmp_path, kind, "a.png", "ward/a.png", "ward/b.dcm", "x/ward/a.png")
    assert_is(read_masks(path, image=tmp_path / "b.dcm"), 2)
    assert_is(read_masks(path, image="elsewhere/xrays/ward/a.png"), 1)
    assert_is(read_masks(path, image="elsewhere/x/ward/a.png"), 3)
    assert_is(read_masks(path, image="elsewhere/a.png"), 0)
    assert read_masks(path, image="b.dcm", classes="heart").masks.shape == (1, 101, 83)
    assert open_masks(path, image="b.dcm").names == tuple(CLASSES.values())
    assert cohort.image_names(path)["ward/b"] == "ward/b.dcm"
    assert find_masks(tmp_path, tmp_path / "b.dcm") == path  # the folder has no summary


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_with_one_image_needs_no_name_and_others_need_one(tmp_path, kind):
    assert_is(read_masks(write(tmp_path, kind, "a.png")), 0)
    (tmp_path / "two").mkdir()
    path = write(tmp_path / "two", kind, "a.png", "x/b.png", "y/b.png")
    for image, words in (
        (None, "the file has 3 images; choose one with image="),
        ("c.png", "the file has no images called c.png"),
        ("z/b.png", "the file has 2 images called b.png"),
    ):
        with pytest.raises(ImageError, match=words):
            read_masks(path, image=image)


@pytest.mark.parametrize("kind", KINDS)
def test_other_files_and_damaged_masks_are_refused_with_one_line(tmp_path, kind):
    path = tmp_path / f"x{cohort.TYPES[kind]}"
    path.write_bytes(b"nothing\n")
    with pytest.raises(ImageError, match=f"{path.name}: it"):
        read_masks(path)
    with pytest.raises(ImageError, match="levels are the classes of a label map"):
        read_masks(path, levels={1: "a"})
    path = write(tmp_path, "coco-lines", "a.png")
    text = path.read_text()
    for old, new, words in (
        ('"counts": "', '"counts": "~', "may hold the characters"),
        ('"height": 101', '"height": 100000', "an annotation's size is"),
        ('"height": 101', '"height": "x"', "not a COCO file"),
        ('"category_id": 3', '"category_id": 4', "category id '4', which is not listed"),
        ('"annotations": [', '"annotations": [[', "are damaged"),
    ):
        path.write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=words):
            read_masks(path)


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_of_a_run_have_their_own_files_and_know_each_other(tmp_path, kind):
    first = write(tmp_path, kind, "a.png", "b.png", part="1-of-2")
    second = write(tmp_path, kind, "c.png", seed=2, part="2-of-2")
    suffix = cohort.TYPES[kind]
    assert [first.name, second.name] == [f"masks.1-of-2{suffix}", f"masks.2-of-2{suffix}"]
    places = {"a": first.name, "b": first.name, "c": second.name, "d": second.name}
    again = cohort.mask_file(kind, tmp_path, CLASSES, "1-of-3")
    again.open(places)
    assert [again.has_valid(key) for key in "abcd"] == [True, True, True, False]
    other = cohort.mask_file(kind, tmp_path, {0: "another class"}, "1-of-3")
    other.open(places)
    assert not any(other.has_valid(key) for key in "abcd")
    holders = cohort.find_holders(tmp_path, places)
    assert holders == {"a": first, "b": first, "c": second}
    assert cohort.find_holders(tmp_path, {"a": second.name, "b": f"../{tmp_path.name}/{first.name}"}) == {}
    cohort.join(holders, tmp_path / f"masks{suffix}")
    assert list(cohort.image_names(tmp_path / f"masks{suffix}")) == ["a", "b", "c"]
    assert_is(read_masks(tmp_path / f"masks{suffix}", image="c.png"), 2)


@pytest.fixture
def images(tmp_path):
    for name in ("a.png", "b.png", "sub/a.png"):
        draw(tmp_path / "in" / name)
    return tmp_path / "in"


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_finds_its_masks_again_for_every_image(images, tmp_path, kind):
    output = tmp_path / "out"
    finish(images, output, kind, recursive=True)
    for name in ("a.png", "b.png", "sub/a.png"):
        path = find_masks(output, images / name)
        assert path.name == cohort.file_name(kind)
        wanted = FakeSegmenter().predict([FakeSegmenter().prepare(images / name)])[0]
        np.testing.assert_array_equal(read_masks(path, image=images / name).masks, wanted.masks)
    (images / "sub" / "a.png").rename(tmp_path / "moved.png")  # it is recognised by its content
    np.testing.assert_array_equal(read_masks(path, image=tmp_path / "moved.png").masks, wanted.masks)
    with pytest.raises(ValueError, match="these masks were not made from new.png"):
        read_masks(path, image=draw(images / "new.png", seed=99))
    draw(images / "b.png", seed=100)
    with pytest.raises(ValueError, match=r"b\.png are missing or out of date"):
        read_masks(path, image=images / "b.png")


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_image_and_a_repeated_run_leave_one_entry_per_image(images, tmp_path, kind):
    output = tmp_path / "out"
    finish(images, output, kind, recursive=True)
    draw(images / "b.png", seed=1)
    assert list(finish(images, output, kind, recursive=True)[1]) == ["b.png"]
    finish(images, output, kind, recursive=True, overwrite=True)
    path = output / cohort.file_name(kind)
    assert sorted(cohort.image_names(path)) == ["a", "b", "sub/a"]
    if kind == "coco-lines":
        assert len(path.read_text().splitlines()) == 4
    wanted = FakeSegmenter().predict([FakeSegmenter().prepare(images / "b.png")])[0]
    np.testing.assert_array_equal(read_masks(path, image=images / "b.png").masks, wanted.masks)
    assert summary(output)["files"]["b"]["outputs"][kind]["path"] == path.name


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_was_emptied_or_removed_is_made_again(images, tmp_path, kind):
    path = tmp_path / "out" / cohort.file_name(kind)
    finish(images, path.parent, kind)
    for damage in (lambda: path.write_bytes(b""), path.unlink):
        damage()
        assert len(finish(images, path.parent, kind)[1]) == 2
        assert set(statuses(path.parent).values()) == {"done"}
        assert sorted(cohort.image_names(path)) == ["a", "b"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_origin_is_not_replaced(images, tmp_path, kind):
    path = tmp_path / "out" / cohort.file_name(kind)
    path.parent.mkdir()
    path.write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="is in the way: it was not written by jaxseg"):
            finish(images, path.parent, kind, overwrite=overwrite)
    assert path.read_text() == "mine"


def test_other_formats_share_the_folder(images, tmp_path):
    for kind in ("npy", *KINDS):
        assert len(finish(images, tmp_path / "out", kind)[1]) == 2
    for kind in ("npy", *KINDS):
        assert finish(images, tmp_path / "out", kind)[1] == {}
