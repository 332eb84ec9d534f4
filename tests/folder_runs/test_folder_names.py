"""The images that a folder run finds, and the names of their results."""

import os
from pathlib import Path

import pytest
from fake_segmenter import draw, finish, statuses, summary, tree

from jaxseg.folder_runs.inputs import find_images, plan, result_names


def planned(tmp_path, *names: str) -> list[str]:
    """Returns the output names, without suffix, for images with these names in this order."""
    root = tmp_path / "in"
    root.mkdir(exist_ok=True)
    jobs = plan([root / name for name in names], root, tmp_path / "out")
    return [job.base.relative_to(tmp_path / "out").as_posix() for job in jobs]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.png", "b.JPG", "c.dcm"], ["a", "b", "c"]),
        (["study.001.png", "1.2.276.0.dcm"], ["study.001", "1.2.276.0"]),
        (["1.2.840.113.7", "1.2.840.113.8", "IM0001"], ["1.2.840.113.7", "1.2.840.113.8", "IM0001"]),
        (["IM1", "IM1.dcm"], ["IM1", "IM1_dcm"]),
        (["sub/a.png", "sub/deep/a.png", "a.png"], ["sub/a", "sub/deep/a", "a"]),
        (["a.png", "a.jpg", "b.png"], ["a_png", "a_jpg", "b"]),
        (["a.png", "A.png"], ["a_png", "A_png_"]),  # these are the same name on some file systems
        (["a.png", "a.jpg", "a_png.png"], ["a_png_", "a_jpg", "a_png"]),
        (["a.png", "a/b.png"], ["a_png", "a/b"]),  # with -ot png, the folder `a` is the result of a.png
        (["a/b.png", "a/b/c/d.png"], ["a/b_png", "a/b/c/d"]),
        (["a.png", "a.jpg", "a_png.jpg", "a_png/b.png"], ["a_png_", "a_jpg", "a_png_jpg", "a_png/b"]),
        (["A.png", "a/b.png", "A_png.jpg"], ["A_png_", "a/b", "A_png"]),
        (["summary.png", "sub/summary.png"], ["summary_png", "sub/summary"]),  # summary.json is the account
        (["..png", "...png", " .png"], ["__png", "__png_", "__png__"]),
        (["line\nbreak.png", "tab\t.png", "back\\slash.png"], ["line_break", "tab_", "back_slash"]),
        (["Ünïcode 日本.png", "naïve .dcm", "-rf.png"], ["Ünïcode 日本", "naïve", "-rf"]),
    ],
)
def test_outputs_are_named_after_the_images(tmp_path, names, expected):
    assert planned(tmp_path, *names) == expected


@pytest.mark.parametrize(
    ("names", "known", "expected"),
    [
        (["a.jpg", "a.png"], {"a.png": ["a"]}, ["a_jpg", "a"]),
        (["a.png"], {"a.png": ["a_png"]}, ["a_png"]),
        (["a.png", "a_png.jpg"], {"a.png": ["a_png"]}, ["a_png", "a_png_jpg"]),
        (["A.jpg", "a.png"], {"A.jpg": ["A_jpg"], "a.png": ["a"]}, ["A_jpg", "a"]),
        (["a.jpg", "a.png"], {"a.png": ["a_png", "a"]}, ["a_jpg", "a_png"]),  # the usual one
        (["a.png", "b.png"], {"a.png": ["a_png", "a_png_"]}, ["a_png_", "b"]),  # the latest
        (["a.png", "a/b.png"], {"a.png": ["a"]}, ["a_png", "a/b"]),  # the folder `a` holds other results now
        (["a.png", "b.png"], {"a.png": ["x", "../a", "sub/a"]}, ["a", "b"]),  # not its own
        (["a.jpg", "a.png"], {"a.jpg": ["a"], "a.png": ["a"]}, ["a", "a_png"]),  # links to one file
    ],
)
def test_images_keep_the_names_that_they_had(tmp_path, names, known, expected):
    had = {tmp_path / name: found for name, found in known.items()}
    assert result_names([tmp_path / name for name in names], tmp_path, known=had) == expected


def test_some_of_the_images_have_the_names_that_they_have_among_all(tmp_path):
    files = [tmp_path / "a.jpg", tmp_path / "a.png"]
    names = dict(zip(files, result_names(files, tmp_path), strict=True))
    (job,) = plan(files[1:], tmp_path, tmp_path / "out", names=names)
    assert job.base == tmp_path / "out" / "a_png"


def test_long_names_are_shortened_and_stay_distinct(tmp_path):
    first, second = planned(tmp_path, "x" * 240 + "1.png", "x" * 240 + "2.png")
    assert first != second
    assert max(len(first), len(second)) < 220


def test_a_single_file_is_named_without_its_folder(tmp_path):
    (job,) = plan([tmp_path / "deep" / "a.png"], tmp_path / "deep" / "a.png", tmp_path / "out")
    assert job.base == tmp_path / "out" / "a"


TRICKY = ("a.b.c.png", "line\nbreak.png", "日本.png", "~.png", "$(x).png", os.fsdecode(b"\xff\xfe.png"), "%s.png")


@pytest.mark.parametrize("output_type", ["npy", "png", "json"])
def test_tricky_names_run_and_run_again(tmp_path, output_type):
    for name in [*TRICKY, "summary.png", "sub/a.png", "sub.png", "x/y.png", "in.png"]:
        draw(tmp_path / "in" / name)
    output = tmp_path / "out"
    run, outcomes = finish(tmp_path / "in", output, output_type, recursive=True)
    assert [str(outcome.error) for outcome in outcomes.values()] == ["None"] * 12
    assert len(tree(output)) == 12 * (3 if output_type == "png" else 1)
    assert all((output / entry["outputs"][output_type]["path"]).exists() for entry in run.files.values())
    assert finish(tmp_path / "in", output, output_type, recursive=True)[1] == {}
    assert len(statuses(output)) == 12
    assert os.listdir(tmp_path) == ["in", "out"] or os.listdir(tmp_path) == ["out", "in"]


def found(path: Path, **options) -> list[str]:
    return [image.relative_to(path).as_posix() for image in find_images(path, **options)]


@pytest.fixture
def images(tmp_path) -> Path:
    for name in ("b.png", "a.JPEG", "c.DCM", ".hidden.png", "._b.png", "sub/d.jpg", ".git/e.png", "sub/.cache/f.png"):
        draw(tmp_path / name)
    for name in ("notes.txt", "g.tif", "png", "h.png.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere")
    return tmp_path


def test_images_are_found_in_order_without_hidden_files(images):
    assert found(images) == ["a.JPEG", "b.png", "c.DCM"]
    assert [name for name in found(images, recursive=True) if not name.startswith("loop")] == [
        *["a.JPEG", "b.png", "c.DCM", "sub/d.jpg"]
    ]


def test_a_single_file_is_found_if_it_can_be_read(images):
    assert find_images(images / "b.png") == [images / "b.png"]
    with pytest.raises(ValueError, match=r"g\.tif: cannot read \.tif; allowed: \.png"):
        find_images(images / "g.tif")
    assert find_images(images / ".hidden.png") == [images / ".hidden.png"]


def test_a_hidden_file_is_processed_if_it_is_named(tmp_path):
    finish(draw(tmp_path / "..png"), tmp_path / "out")
    assert statuses(tmp_path / "out") == {"_": "done"}


def test_a_path_without_images_is_an_error_with_a_hint(images):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        find_images(images / "none")
    (images / "empty" / "sub").mkdir(parents=True)
    draw(images / "empty" / "sub" / "a.png")
    with pytest.raises(ValueError, match="--recursive looks into sub-folders"):
        find_images(images / "empty")
    (images / "empty" / "sub" / "a.png").unlink()
    with pytest.raises(ValueError, match="no .png, .jpg, .jpeg, .dcm file in this folder$"):
        find_images(images / "empty", recursive=True)


def test_results_inside_the_input_folder_are_not_read_as_images(tmp_path):
    for name in ("a.png", "sub/b.png"):
        draw(tmp_path / name)
    for _ in range(2):
        run, _ = finish(tmp_path, tmp_path / "masks", "png", recursive=True)
        assert sorted(run.files) == ["a", "sub/b"]
    with pytest.raises(ValueError, match="the output must be another folder"):
        find_images(tmp_path, recursive=True, output=tmp_path / "sub" / "..")
    assert found(tmp_path, output=tmp_path) == ["a.png"]
    assert found(tmp_path / "sub", recursive=True, output=tmp_path) == ["b.png"]


def test_results_of_an_earlier_run_are_not_read_as_images(images, tmp_path):
    before = find_images(images, recursive=True)
    finish(images, images / "out1", "png", recursive=True)
    assert find_images(images, recursive=True, output=images / "out2") == before


def test_a_folder_that_cannot_be_read_is_reported(images, monkeypatch):
    def walk(root, onerror, **_):
        onerror(PermissionError(13, "Permission denied", str(root / "secret")))
        yield from ()

    monkeypatch.setattr("os.walk", walk)
    with pytest.raises(PermissionError, match="secret"):
        find_images(images, recursive=True)


def test_an_image_named_like_the_summary_does_not_replace_it(tmp_path):
    draw(tmp_path / "in" / "summary.json.png")
    draw(tmp_path / "in" / "summary.png")
    for output_type in ("png", "npy", "json"):
        _, outcomes = finish(tmp_path / "in", tmp_path / output_type, output_type)
        assert len(outcomes) == 2
        assert summary(tmp_path / output_type)["counts"]["done"] == 2
