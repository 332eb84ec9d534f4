"""Images are found by name and by content: DICOM trees, files without suffix, and files that are ignored."""

import json
import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from jaxseg.folder_runs.inputs import find_images, parse_list, plan
from jaxseg.folder_runs.parts import Part
from jaxseg.images.read import read_picture


def found(path: Path, **options) -> list[str]:
    return [image.relative_to(path).as_posix() for image in find_images(path, **options)]


@pytest.fixture
def dicom(kit) -> bytes:
    return (kit.folder / "files" / "mono2_12bit.dcm").read_bytes()


@pytest.fixture
def png(kit) -> bytes:
    return (kit.folder / "files" / "gray8.png").read_bytes()


@pytest.fixture
def tree(tmp_path, dicom) -> Path:
    """Returns a folder with a DICOMDIR and three images, as on a CD."""
    index = pydicom.Dataset()
    index.file_meta = pydicom.dataset.FileMetaDataset()
    index.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    index.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    index.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    index.FileSetID = "CD"
    index.DirectoryRecordSequence = []
    for number in range(3):
        image = tmp_path / "cd" / f"PT{number:06}" / "ST000000" / "IM000000"
        image.parent.mkdir(parents=True)
        image.write_bytes(dicom)
        record = pydicom.Dataset()
        record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", list(image.relative_to(tmp_path / "cd").parts)
        index.DirectoryRecordSequence.append(record)
    index.save_as(tmp_path / "cd" / "DICOMDIR", enforce_file_format=True)
    return tmp_path / "cd"


def test_a_dicomdir_tree_is_searched_and_its_index_is_ignored(kit, tree):
    images = find_images(tree, recursive=True)
    assert (tree / "DICOMDIR").is_file()
    assert len(images) == 3
    assert {image.suffix for image in images} == {""}
    expected = read_picture(kit.folder / "files" / "mono2_12bit.dcm").pixels
    for image in images:
        np.testing.assert_array_equal(read_picture(image).pixels, expected)
    assert len({job.base for job in plan(images, tree, tree / "out")}) == 3
    (tree / "DICOMDIR").rename(tree / "index;1")
    assert find_images(tree, recursive=True) == images
    with pytest.raises(ValueError, match=r"no .png, .*--recursive looks into sub-folders"):
        find_images(tree)


def test_a_dicomdir_itself_is_refused_and_the_error_names_the_right_input(tree):
    with pytest.raises(ValueError, match="DICOMDIR: a DICOMDIR lists .*; give its folder with --recursive"):
        find_images(tree / "DICOMDIR")
    with pytest.raises(ValueError, match="^DICOMDIR: a DICOMDIR lists .*; give its folder with --recursive"):
        read_picture(tree / "DICOMDIR")


def test_files_in_folders_are_recognised_by_their_content(tmp_path, dicom, png):
    for name in ("1.2.840.7", "1.2.840.8", "IM001", "scan.ima"):
        (tmp_path / name).write_bytes(dicom)
    for name in ("picture", "picture.bak"):
        (tmp_path / name).write_bytes(png)
    (tmp_path / "jpeg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(300))
    for name, content in (("notes.txt", b"x"), ("empty", b""), ("a.json", b"{}"), ("short", bytes(128) + b"DIC")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "sub").mkdir()
    names = ["1.2.840.7", "1.2.840.8", "IM001", "jpeg", "picture", "picture.bak", "scan.ima"]
    assert found(tmp_path) == found(tmp_path, recursive=True) == names
    bases = [job.base.name for job in plan(find_images(tmp_path), tmp_path, tmp_path / "out")]
    assert len(set(bases)) == len(names)


def test_a_file_with_an_image_suffix_counts_with_any_content(tmp_path):
    for name in ("a.png", "b.DCM", "c.jpeg"):
        (tmp_path / name).write_bytes(b"")
    assert found(tmp_path) == ["a.png", "b.DCM", "c.jpeg"]
    assert find_images(tmp_path / "a.png") == [tmp_path / "a.png"]


def test_hidden_files_and_results_in_folders_are_ignored(tmp_path, dicom, png):
    for name in (".IM1", ".a.dcm", "a.seg.dcm", "b.SEG.DCM", "seg.dcm", "a.dcm"):
        (tmp_path / name).write_bytes(dicom)
    for name in ("a.preview.jpg", "a.lines.jpg", "preview.jpg"):
        (tmp_path / name).write_bytes(png)
    assert found(tmp_path) == found(tmp_path, recursive=True) == ["a.dcm", "preview.jpg", "seg.dcm"]
    assert find_images(tmp_path / "a.seg.dcm") == [tmp_path / "a.seg.dcm"]  # named by the user


def test_a_single_file_is_recognised_by_its_content_too(tmp_path, dicom):
    (tmp_path / "IM001").write_bytes(dicom)
    assert find_images(tmp_path / "IM001") == [tmp_path / "IM001"]
    (tmp_path / "IM001").write_bytes(dicom[1:])
    with pytest.raises(
        ValueError, match=r"IM001: cannot read a file without suffix; allowed: \.png, .* under any name"
    ):
        find_images(tmp_path / "IM001")


def test_an_unreadable_file_counts_so_that_the_run_reports_the_reason(tmp_path, dicom, monkeypatch):
    for name in ("secret", "open"):
        (tmp_path / name).write_bytes(dicom)
    whole = Path.open

    def refuse(self, *args, **kwargs):
        if self.name == "secret":
            raise PermissionError(13, "Permission denied", str(self))
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    assert found(tmp_path) == ["open", "secret"]
    assert find_images(tmp_path / "secret") == [tmp_path / "secret"]
    with pytest.raises(PermissionError, match="secret"):
        read_picture(tmp_path / "secret")


def listed(folder: Path, source: Path, *paths: str) -> None:
    """Writes the summary of a run that made results from an image."""
    outputs = {str(k): {"path": path, "stamp": [1, 2]} for k, path in enumerate(paths)}
    entry = {"source": str(source), "status": "done", "outputs": outputs}
    content = {"jaxseg": "0.1", "settings": {"classes": ["heart"]}, "files": {"a": entry}}
    (folder / "summary.json").write_text(json.dumps(content))


def test_results_beside_the_images_are_never_taken_for_images(tmp_path, png):
    tree = tmp_path / "tree"
    for name in ("a.png", "a/heart.png", "one.jpg", "sub/b.png", "sub/b_masks/heart.png", "out/a/heart.png"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(png)
    listed(tree, tree / "a.png", "a", "one.jpg")
    listed(tree / "sub", tree / "sub" / "b.png", "b_masks")
    listed(tree / "out", tree / "a.png", "a")
    assert found(tree) == ["a.png"]
    assert found(tree, recursive=True, output=tmp_path / "new") == ["a.png", "sub/b.png"]
    for result in ("a", "a/heart.png", "one.jpg", "out/a", "sub/b_masks"):
        with pytest.raises(ValueError, match="is a result of jaxseg, not an image or a folder of images"):
            find_images(tree / result)
    with pytest.raises(ValueError, match=r"no .png, .* file in this folder besides results of jaxseg"):
        find_images(tree / "out")
    (tree / "out" / "summary.json").write_text("[" * 50_000)  # another program's file
    assert found(tree / "out", recursive=True, output=tmp_path / "new") == ["a/heart.png"]


def test_a_list_of_files_is_read(tmp_path):
    content = b"\xef\xbb\xbfb.png\r\n\n  \n#a.png\nsub/../b.png\n./c d.png \n/x/y.png\n\xe4.png\n"
    found = [os.fsencode(path) for path in parse_list(content, Path("in"))]
    assert found == [b"/x/y.png", b"in/#a.png", b"in/b.png", b"in/c d.png ", b"in/\xe4.png"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "names no file"), (b"\n \r\n", "names no file"), (b"a.png\0b.png", "NUL bytes; write one path per line")],
)
def test_other_lists_are_refused(content, words):
    with pytest.raises(ValueError, match=words):
        parse_list(content, Path())


def test_only_the_files_of_a_part_are_touched(tmp_path, png):
    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes(png)
    files = sorted(tmp_path.glob("*.png"))
    jobs = plan(files, tmp_path, tmp_path / "out", part=Part(1, 2))
    assert [bool(job.stamp) for job in jobs] == [Part(1, 2).holds(job.name) for job in jobs]
    assert [job.base for job in jobs] == [job.base for job in plan(files, tmp_path, tmp_path / "out")]
