"""Zip archives: any root is read; members that leave the archive, overlap or are compressed are refused."""

import io
import struct
import zipfile

import pytest
from torch_pickles import FLOATS, assert_refused_cheaply, vector, zipped
from torch_writer import pickled

from jaxseg.weights.torch_file import TorchFileError, read_torch_file


def test_zip_may_have_any_root_or_none(write):
    for root in ("", "a/", "some name/deeper/"):
        assert list(read_torch_file(write(zipped({"w": vector()}, root=root)))) == ["w"]


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../../evil", "a//b", "..", "a\\..\\b"])
def test_zip_members_outside_the_archive_are_refused(write, name):
    with pytest.raises(TorchFileError, match="outside the archive"):
        read_torch_file(write(zipped({"w": vector()}, extra=[(name, b"")])))


def test_zip_with_two_members_of_one_name_is_refused(write):
    with pytest.warns(UserWarning, match="Duplicate"):
        content = zipped({"w": vector()}, extra=[("archive/data/0", b"other")])
    with pytest.raises(TorchFileError, match="two members named archive/data/0"):
        read_torch_file(write(content))


def test_compressed_zip_is_refused_unopened(write):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickled({"w": vector(2**22)}))
        archive.writestr("archive/data/0", bytes(2**24))
    assert_refused_cheaply(write(out.getvalue()), "compressed")


def directory_entry(content: bytes, name: str) -> int:
    """The position of a member's entry in the directory at the end of an archive."""
    return content.rindex(name.encode()) - 46


@pytest.mark.parametrize("size", [2**20, 2**32 - 1])
def test_zip_sizes_beyond_the_file_are_refused(write, size):
    content = bytearray(zipped({"w": vector()}))
    struct.pack_into("<II", content, directory_entry(content, "archive/data/0") + 20, size, size)
    with pytest.raises(TorchFileError, match="overlaps|damaged"):
        read_torch_file(write(bytes(content)))


def test_overlapping_zip_members_are_refused(write):
    content = bytearray(zipped({"w": vector(key="10")}, {"10": FLOATS, "11": FLOATS}))
    first, second = directory_entry(content, "archive/data/10"), directory_entry(content, "archive/data/11")
    content[second + 42 : second + 46] = content[first + 42 : first + 46]  # the same local header for both
    with pytest.raises(TorchFileError, match="not where the archive says"):
        read_torch_file(write(bytes(content)))
    content = bytearray(zipped({"w": vector()}, {"0": FLOATS}))
    struct.pack_into("<II", content, directory_entry(content, "archive/version") + 20, 40, 40)  # reaches into the next
    with pytest.raises(TorchFileError, match="overlaps"):
        read_torch_file(write(bytes(content)))


def test_other_zip_archives_are_described(write):
    for names, words in [
        (["unet.pth"], "0 data.pkl.*unet.pth"),
        (["a/data.pkl", "b/data.pkl"], "2 data.pkl"),
        (["a/data.pkl", "a/constants.pkl"], "TorchScript"),
    ]:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for name in names:
                archive.writestr(name, b"")
        with pytest.raises(TorchFileError, match=words):
            read_torch_file(write(out.getvalue()))
    with pytest.raises(TorchFileError, match="byte order 'middle'"):
        read_torch_file(write(zipped({"w": vector()}, order=b"middle")))
