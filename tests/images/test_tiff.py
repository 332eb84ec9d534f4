"""TIFF files of slices with several annotators are written, read, and refused if damaged."""

import logging
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jaxseg.images.picture import ImageError
from jaxseg.images.tiff import read_tiff, write_tiff

RNG = np.random.default_rng
EXAMPLES = {
    "scan": RNG(0).normal(size=(1, 16, 12)),
    "truth": RNG(1).random((1, 16, 12)) > 0.5,
    "annotators": RNG(2).random((1, 16, 12, 3)) > 0.5,
    "colour": RNG(3).random((10, 9, 3)),
    "labels": RNG(4).integers(0, 2, (10, 9), np.uint8),
}


def tags_of(path: Path) -> list[dict]:
    """Returns the tags of a file's pages, except the positions of their pixels."""
    with tifffile.TiffFile(path) as file:
        return [{tag.code: tag.value for tag in page.tags if tag.code != 273} for page in file.pages]


@pytest.mark.parametrize("name", EXAMPLES)
def test_written_arrays_are_read_back_and_tifffile_reads_the_same(tmp_path, name):
    array = EXAMPLES[name]
    write_tiff(tmp_path / "x.tif", array)
    for found in (read_tiff(tmp_path / "x.tif"), tifffile.imread(tmp_path / "x.tif")):
        assert (found.shape, found.dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    "name",
    [
        "lidc/train/scans/pid_0035_nod_0_slice_0.tif",
        "lidc/train/masks/GT/pid_0035_nod_0_slice_0.tif",
        "lidc/train/masks/annots/pid_0035_nod_0_slice_0.tif",
        "mnist/train/Gaussian/0_Gaussian.tif",
        "mnist/train/Wrong/0_Wrong.tif",
    ],
)
def test_the_published_files_are_read_and_written_identically(shared, tmp_path, name):
    path = shared / "data" / name
    array = read_tiff(path)
    np.testing.assert_array_equal(array, tifffile.imread(path))
    write_tiff(tmp_path / "x.tif", array)
    assert tags_of(tmp_path / "x.tif") == tags_of(path)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_masks_of_any_size_survive_storage_as_bits(tmp_path, data):
    shape = data.draw(st.tuples(st.just(1), st.integers(1, 9), st.integers(1, 20), st.integers(1, 5)))
    mask = data.draw(arrays(bool, shape))
    write_tiff(tmp_path / "x.tif", mask)
    np.testing.assert_array_equal(read_tiff(tmp_path / "x.tif"), mask)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(EXAMPLES)), st.integers(0, 400), st.integers(0, 255), st.integers(0, 400))
def test_damage_gives_an_image_error_or_an_array_no_larger_than_the_file(tmp_path, name, place, value, missing):
    path = tmp_path / "x.tif"
    write_tiff(path, EXAMPLES[name])
    content = bytearray(path.read_bytes())
    content[place % len(content)] = value
    path.write_bytes(content[: len(content) - missing])
    message, size = "x.tif: ", 0
    try:
        size = read_tiff(path).nbytes
    except ImageError as error:
        message = str(error)
    assert size <= 8 * len(content)
    assert message.startswith("x.tif: ")
    assert "\n" not in message


def test_a_file_that_declares_more_than_it_holds_is_refused_before_its_pixels_are_read(tmp_path, monkeypatch):
    path = tmp_path / "x.tif"
    write_tiff(path, np.zeros((40, 50)))
    content = bytearray(path.read_bytes())
    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", lambda *_, **__: pytest.fail("pixels were read"))
    for tag, value in ((256, 2**14), (257, 2**14), (256, 4000)):
        damaged = bytearray(content)
        place = damaged.find(struct.pack("<HHI", tag, 4, 1))
        damaged[place + 8 : place + 12] = struct.pack("<I", value)
        damaged = damaged.replace(b'{"shape"', b'{"sjape"')  # so that the description does not determine the shape
        path.write_bytes(damaged)
        with pytest.raises(ImageError, match=r"x\.tif: (is cut short|holds|not a TIFF file)"):
            read_tiff(path)


def test_compressed_and_other_files_are_refused(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, np.zeros((8, 8)), compression="zlib")
    with pytest.raises(ImageError, match=r"x\.tif: is compressed \(ADOBE_DEFLATE\); write it without"):
        read_tiff(path)
    with tifffile.TiffWriter(path) as file:
        file.write(np.zeros((8, 8)))
        file.write(np.zeros((6, 6), np.uint8))
    with pytest.raises(ImageError, match="holds 2 arrays"):
        read_tiff(path)
    tifffile.imwrite(path, np.zeros((8, 8), np.complex64))
    with pytest.raises(ImageError, match="integers or floating-point"):
        read_tiff(path)
    path.write_bytes(b"not a picture")
    with pytest.raises(ImageError, match=r"x\.tif: not a TIFF file, or damaged"):
        read_tiff(path)
    with pytest.raises(FileNotFoundError):
        read_tiff(tmp_path / "y.tif")
    with pytest.raises(ImageError, match="is not a file"):
        read_tiff(tmp_path)


def test_unsupported_arrays_are_refused_and_leave_no_file(tmp_path):
    for name, array in (("x.png", np.zeros((2, 2))), ("x.tif", np.zeros((2, 2), complex)), ("x.tif", np.zeros(3))):
        with pytest.raises(ValueError, match=r"must end in|cannot hold"):
            write_tiff(tmp_path / name, array)
    assert list(tmp_path.iterdir()) == []


def test_without_tifffile_the_error_names_the_extra(tmp_path, monkeypatch):
    write_tiff(tmp_path / "x.tif", np.zeros((2, 2)))
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ValueError, match=r"pip install 'jaxseg\[tiff\]'"):
        read_tiff(tmp_path / "x.tif")
    with pytest.raises(ValueError, match=r"pip install 'jaxseg\[tiff\]'"):
        write_tiff(tmp_path / "y.tif", np.zeros((2, 2)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_other_than_upright_is_refused(tmp_path, orientation):
    tag = (274, "H", 1, orientation, True)
    tifffile.imwrite(tmp_path / "x.tif", np.eye(5, dtype=np.float32), extratags=[tag])
    if orientation == 1:
        np.testing.assert_array_equal(read_tiff(tmp_path / "x.tif"), np.eye(5))
        return
    with pytest.raises(ImageError, match=rf"^x\.tif: has the orientation {orientation}, with which viewers turn it"):
        read_tiff(tmp_path / "x.tif")


def test_messages_of_tifffile_do_not_reach_the_terminal(tmp_path, caplog, capfd, monkeypatch):
    monkeypatch.setattr(logging.getLogger("tifffile"), "disabled", False)  # Optuna's storage disables all loggers
    tifffile.imwrite(tmp_path / "x.tif", np.eye(5, dtype=np.float32), extratags=[(65000, "H", 1, 7, True)])
    content = (tmp_path / "x.tif").read_bytes()
    known, unknown = struct.pack("<HH", 65000, 3), struct.pack("<HH", 65000, 99)  # type of the tag's value
    assert known in content
    caplog.set_level(logging.WARNING, "tifffile")  # the commands silence it for the whole process
    (tmp_path / "x.tif").write_bytes(content.replace(known, unknown))
    np.testing.assert_array_equal(read_tiff(tmp_path / "x.tif"), np.eye(5))
    assert (caplog.messages, capfd.readouterr()) == ([], ("", ""))
    logging.getLogger("tifffile").warning("any message")
    assert caplog.messages == ["any message"]  # outside of the reader, messages are seen
