"""Volumes in NumPy files and arrays, and errors that all readers of volumes share."""

import io
import zipfile

import numpy as np
import pytest

from jaxseg.volumes import volume
from jaxseg.volumes.read import as_labels, from_array, read_volume, stem, suffix_of
from jaxseg.volumes.volume import VolumeError

VALUES = np.arange(24, dtype=np.int16).reshape(2, 3, 4)


@pytest.mark.parametrize("dtype", ["bool", "u1", "<i2", ">i2", "f4", "f8"])
def test_arrays_are_read_in_native_byte_order(tmp_path, dtype):
    values = VALUES.astype(dtype)
    np.save(tmp_path / "x.npy", values)
    np.savez_compressed(tmp_path / "x.npz", anything=values)
    for suffix in ("npy", "npz"):
        found = read_volume(tmp_path / f"x.{suffix}")
        np.testing.assert_array_equal(found.array, values)
        assert found.array.dtype.isnative
        assert found.spacing_mm is None
        assert found.shape == (2, 3, 4)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 4)), "is an image of 3 x 4"),
        (np.zeros((2, 2, 2, 2)), "4 dimensions"),
        (np.zeros(3), "1 dimensions"),
        (np.zeros((0, 3, 4)), "volumes of 1 to"),
        (np.zeros((2, 2, 2), complex), "complex128"),
        (np.zeros((2, 2, 2), "S3"), "type"),
        (np.array([[[None]]]), "object"),
    ],
)
def test_other_arrays_are_refused(tmp_path, array, message):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(VolumeError, match=f"x.npy: .*{message}"):
        read_volume(tmp_path / "x.npy")
    with pytest.raises(VolumeError, match=message):
        from_array(array)


def npy(shape, content=b""):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + content


def test_sizes_are_checked_before_memory_is_allocated(tmp_path):
    for shape, message in (((2**12, 2**12, 2**12), "can be read"), ((700, 700, 700), "is cut off")):
        (tmp_path / "x.npy").write_bytes(npy(shape))
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr("a.npy", npy(shape))
        for name in ("x.npy", "x.npz"):
            with pytest.raises(VolumeError, match=message):
                read_volume(tmp_path / name)


def test_archives_with_several_arrays_and_damaged_ones_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", a=VALUES, b=VALUES)
    with pytest.raises(VolumeError, match="holds 2 arrays"):
        read_volume(tmp_path / "x.npz")
    content = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "y.npz").write_bytes(content[:100])
    with pytest.raises(VolumeError, match="damaged"):
        read_volume(tmp_path / "y.npz")


def test_files_with_unknown_suffixes_are_refused(tmp_path):
    (tmp_path / "x.mha").write_text("")
    with pytest.raises(VolumeError, match=r"cannot read .mha; allowed: .nii"):
        read_volume(tmp_path / "x.mha")
    with pytest.raises(FileNotFoundError):
        read_volume(tmp_path / "missing.nii.gz")


def test_a_double_suffix_counts_as_one(tmp_path):
    assert [suffix_of(tmp_path / name) for name in ("a.nii.gz", "a.NII", "a.b.npz", "a.gz")] == [
        ".nii.gz",
        ".nii",
        ".npz",
        "",
    ]
    assert stem(tmp_path / "a.b.nii.gz") == "a.b"


def test_an_array_has_no_orientation_and_cannot_be_turned(tmp_path):
    np.save(tmp_path / "x.npy", VALUES)
    with pytest.raises(VolumeError, match="leave out canonical"):
        read_volume(tmp_path / "x.npy", canonical=True)


def test_labels_of_bool_become_zero_and_one():
    assert as_labels(from_array(VALUES > 3)).array.max() == 1


def test_the_message_states_the_largest_size():
    with pytest.raises(VolumeError, match=f"{volume.MAX_VOXELS:,}"):
        volume.check_shape((2**10, 2**10, 2**10))
