"""NIfTI files: their content, and errors for damaged files."""

import gzip
import struct
import sys

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from volume_files import AFFINE, save_nifti

from jaxseg.volumes import nifti
from jaxseg.volumes.read import read_labels, read_volume
from jaxseg.volumes.volume import VolumeError

RAMP = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4) * 50 - 500


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "f4", "f8"])
def test_values_shape_and_affine_equal_those_of_nibabel(tmp_path, suffix, dtype):
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    found = read_volume(save_nifti(tmp_path / f"x{suffix}", values))
    assert found.array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found.array, values)
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-6)
    assert found.spacing_mm == pytest.approx((3, 0.9, 0.8))
    assert found.name == f"x{suffix}"


def test_nifti_2_and_big_endian_files_are_read(tmp_path):
    np.testing.assert_array_equal(
        read_volume(save_nifti(tmp_path / "2.nii", RAMP, kind=nibabel.Nifti2Image)).array, RAMP
    )
    image = nibabel.Nifti1Image(RAMP.transpose(), AFFINE, nibabel.Nifti1Header(endianness=">"))
    nibabel.save(image, tmp_path / "big.nii")
    found = read_volume(tmp_path / "big.nii")
    np.testing.assert_array_equal(found.array, RAMP)
    assert found.array.dtype.isnative


def test_slope_and_intercept_are_applied(tmp_path):
    found = read_volume(save_nifti(tmp_path / "x.nii", RAMP, slope=0.5, inter=-100))
    assert found.array.dtype == np.float32
    np.testing.assert_array_equal(found.array, RAMP * 0.5 - 100)
    np.testing.assert_array_equal(read_volume(save_nifti(tmp_path / "z.nii", RAMP, slope=0, inter=7)).array, RAMP)


def test_all_shared_volumes_equal_those_of_nibabel(shared):
    for path in sorted((shared / "data" / "ct" / "totalseg").glob("*/ct.nii.gz")):
        found, theirs = read_volume(path), nibabel.load(path)
        np.testing.assert_array_equal(found.array, np.asarray(theirs.dataobj).transpose())
        np.testing.assert_array_equal(found.affine, theirs.affine)
        turned = nibabel.as_closest_canonical(theirs)
        ours = read_volume(path, canonical=True)
        np.testing.assert_array_equal(ours.array, np.asarray(turned.dataobj).transpose())
        np.testing.assert_allclose(ours.affine, turned.affine, atol=1e-9)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.floats(-2, 2), min_size=9, max_size=9))
def test_reorienting_equals_that_of_nibabel(tmp_path, numbers):
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(numbers, (3, 3))
    if np.linalg.cond(affine[:3, :3]) > 30 or abs(np.linalg.det(affine[:3, :3])) < 1e-2:
        return
    rotation = np.sort(np.abs(np.linalg.svd(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))[0]).ravel())
    if np.diff(rotation).min() < 1e-6:  # two axes are equally close to one direction: both answers are right
        return
    found = read_volume(save_nifti(tmp_path / "x.nii", RAMP, affine), canonical=True)
    theirs = nibabel.as_closest_canonical(nibabel.load(tmp_path / "x.nii"))
    np.testing.assert_array_equal(found.array, np.asarray(theirs.dataobj).transpose())
    np.testing.assert_allclose(found.affine, theirs.affine, atol=1e-5)


def test_a_file_without_its_voxels_is_refused(tmp_path):
    path = save_nifti(tmp_path / "x.nii", RAMP)
    path.write_bytes(path.read_bytes()[:352])
    with pytest.raises(VolumeError, match="truncated"):
        read_volume(path)


def test_axes_of_length_one_are_dropped_and_time_series_are_refused(tmp_path):
    image = nibabel.Nifti1Image(RAMP.transpose()[..., None], AFFINE)
    nibabel.save(image, tmp_path / "one.nii")
    np.testing.assert_array_equal(read_volume(tmp_path / "one.nii").array, RAMP)
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 3, 2, 5), np.int16), AFFINE), tmp_path / "time.nii")
    with pytest.raises(VolumeError, match=r"time.nii: has 4 dimensions"):
        read_volume(tmp_path / "time.nii")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 3), np.int16), AFFINE), tmp_path / "flat.nii")
    with pytest.raises(VolumeError, match="image of 3 x 4"):
        read_volume(tmp_path / "flat.nii")


def test_the_unit_of_length_is_applied(tmp_path):
    image = nibabel.Nifti1Image(RAMP.transpose(), np.diag([1e-3, 1e-3, 2e-3, 1]))
    image.header.set_xyzt_units("meter")
    nibabel.save(image, tmp_path / "x.nii")
    assert read_volume(tmp_path / "x.nii").spacing_mm == pytest.approx((2, 1, 1))


def header_with(path, place, layout, *values):
    content = bytearray(path.read_bytes())
    struct.pack_into(layout, content, place, *values)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("place", "layout", "values", "message"),
    [
        (40, "<4h", (3, 30_000, 30_000, 30_000), "voxels can be read"),
        (40, "<4h", (3, 4, 0, 2), "voxels can be read"),
        (40, "<4h", (3, 4, -3, 2), "voxels can be read"),
        (40, "<h", (9,), "9 dimensions"),
        (70, "<h", (32,), "complex64"),
        (70, "<h", (128,), "values of the type"),
        (70, "<h", (999,), "damaged"),
        (108, "<f", (1e9,), "voxels begin"),
        (108, "<f", (float("nan"),), "voxels begin"),
        (108, "<f", (10.0,), "voxels begin"),
        (112, "<2f", (float("inf"), 0.0), "scaled"),
        (112, "<2f", (2.0, float("nan")), "scaled"),
        (344, "<4s", (b"ni1\0",), "second file"),
        (344, "<4s", (b"abcd",), "not a NIfTI"),
        (0, "<i", (300,), "not a NIfTI"),
        (280, "<4f", (0, 0, 0, 0), "singular"),
        (280, "<4f", (float("nan"), 0, 0, 0), "not finite"),
    ],
)
def test_invalid_headers_are_refused(tmp_path, place, layout, values, message):
    path = header_with(save_nifti(tmp_path / "x.nii", RAMP), place, layout, *values)
    with pytest.raises(VolumeError, match=message) as error:
        read_volume(path)
    assert str(error.value).startswith("x.nii: ")


def test_bytes_beyond_the_announced_size_are_not_decompressed(tmp_path):
    content = save_nifti(tmp_path / "x.nii", RAMP).read_bytes()
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(content + bytes(2**24), 1))
    read = []

    class Counting(gzip.GzipFile):
        def read(self, size=-1):
            read.append(size)
            return super().read(size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nifti.gzip, "GzipFile", Counting)
        np.testing.assert_array_equal(read_volume(tmp_path / "bomb.nii.gz").array, RAMP)
    assert min(read) >= 0
    assert sum(read) < 2**10


def test_a_header_with_a_wrong_size_allocates_no_memory(tmp_path):
    path = header_with(save_nifti(tmp_path / "x.nii", RAMP), 40, "<4h", 3, 800, 800, 800)
    with pytest.raises(VolumeError, match="truncated"):
        read_volume(path)


def test_damaged_compression_is_found(tmp_path):
    packed = bytearray(save_nifti(tmp_path / "x.nii.gz", RAMP).read_bytes())
    (tmp_path / "short.nii.gz").write_bytes(packed[:-20])
    packed[-6] ^= 0xFF  # a byte of the checksum
    (tmp_path / "sum.nii.gz").write_bytes(packed)
    for name in ("short", "sum"):
        with pytest.raises(VolumeError, match="damaged"):
            read_volume(tmp_path / f"{name}.nii.gz")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 351), st.integers(0, 255))
def test_any_changed_byte_gives_a_volume_or_a_volume_error(tmp_path, place, value):
    if not (tmp_path / "x.nii").exists():
        save_nifti(tmp_path / "x.nii", RAMP)
    content = bytearray((tmp_path / "x.nii").read_bytes())
    content[place] = value
    (tmp_path / "y.nii").write_bytes(content)
    try:
        found = read_volume(tmp_path / "y.nii")
    except VolumeError:
        return
    assert found.array.ndim == 3
    assert np.isfinite(found.affine).all()


def test_labels_are_exact_and_other_values_are_refused(tmp_path):
    labels = np.array([[[0, 1, 300]]], np.float32)
    found = read_labels(save_nifti(tmp_path / "x.nii", labels))
    assert found.array.dtype == np.uint16
    np.testing.assert_array_equal(found.array, labels)
    for bad in (labels + 0.5, labels - 5, labels * np.nan, labels * 1000):
        with pytest.raises(VolumeError, match="labels are whole numbers"):
            read_labels(save_nifti(tmp_path / "y.nii", bad))


def test_without_nibabel_the_message_says_what_to_install(tmp_path, monkeypatch):
    save_nifti(tmp_path / "x.nii", RAMP)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(ValueError, match=r"jaxseg\[nifti\]"):
        read_volume(tmp_path / "x.nii")


def test_a_written_volume_can_be_read(tmp_path):
    nifti.write_nifti(tmp_path / "x.nii.gz", RAMP > 0, AFFINE)
    found = read_volume(tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(found.array, RAMP > 0)
    assert found.array.dtype == np.uint8
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-6)
