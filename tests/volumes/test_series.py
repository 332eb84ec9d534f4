"""Folders of DICOM slices."""

import nibabel
import numpy as np
import pytest
from volume_files import save_series

from jaxseg.volumes.read import read_volume
from jaxseg.volumes.volume import VolumeError

STORED = (np.arange(4 * 3 * 5, dtype=np.uint16).reshape(4, 3, 5) * 40).astype(np.uint16)


def test_slices_are_sorted_by_position_and_read_in_hounsfield_units(tmp_path):
    found = read_volume(save_series(tmp_path / "s", STORED))
    np.testing.assert_array_equal(found.array, STORED.astype(int) - 1024)
    assert found.array.dtype == np.int16
    assert found.spacing_mm == pytest.approx((2.5, 0.7, 0.6))
    assert nibabel.aff2axcodes(found.affine) == ("L", "P", "S")
    np.testing.assert_allclose(found.affine[:3, 3], [10, 20, 0])
    assert found.shape == (4, 3, 5)


def test_canonical_flips_rows_and_columns(tmp_path):
    found = read_volume(save_series(tmp_path / "s", STORED), canonical=True)
    np.testing.assert_array_equal(found.array, STORED[:, ::-1, ::-1].astype(int) - 1024)
    assert nibabel.aff2axcodes(found.affine) == ("R", "A", "S")
    np.testing.assert_allclose(found.affine @ [4, 2, 0, 1], [10, 20, 0, 1])  # the first pixel as stored


def test_a_fractional_slope_gives_floats(tmp_path):
    found = read_volume(save_series(tmp_path / "s", STORED, slope=0.5, intercept=-100))
    np.testing.assert_array_equal(found.array, STORED * np.float32(0.5) - 100)


def test_a_constant_slice_and_other_files_are_accepted(tmp_path):
    stored = STORED.copy()
    stored[1] = 0
    folder = save_series(tmp_path / "s", stored)
    (folder / "README.txt").write_text("none")
    assert read_volume(folder).array[1].max() == -1024


def test_the_message_names_the_damaged_file(tmp_path):
    folder = save_series(tmp_path / "s", STORED)
    path = folder / "002.dcm"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(VolumeError, match=r"^s: 002.dcm: "):
        read_volume(folder)


def test_a_second_series_is_refused(tmp_path):
    folder = save_series(tmp_path / "s", STORED)
    save_series(folder / "more", STORED[:1], series="1.2.10")
    (folder / "more" / "001.dcm").rename(folder / "900.dcm")
    with pytest.raises(VolumeError, match="2 series"):
        read_volume(folder)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"ImagePositionPatient": [-10, -20, 5.0]}, "same place"),
        ({"ImagePositionPatient": [-10, -20, 21.0]}, "missing or unevenly"),
        ({"ImagePositionPatient": [-10, -20, 10.0], "ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "orientation"),
        ({"ImagePositionPatient": [-10, -20, 10.0], "PixelSpacing": [0.7, 0.7]}, "pixel spacing"),
        ({"ImagePositionPatient": None}, "ImagePositionPatient are missing"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "invalid"),
        ({"PixelSpacing": [0, 0.6]}, "invalid"),
        ({"NumberOfFrames": 3}, "many frames"),
        ({"ImagePositionPatient": [-10, -20, 10.0], "PhotometricInterpretation": "MONOCHROME1"}, "MONOCHROME2"),
    ],
)
def test_slices_that_do_not_fit_are_refused(tmp_path, tags, message):
    folder = save_series(tmp_path / "s", STORED)
    given = {"ImagePositionPatient": [-10, -20, 10.0]} | tags
    if given["ImagePositionPatient"] is None:
        given["ImagePositionPatient"] = []
    save_series(folder / "odd", STORED[:1], **given)
    (folder / "odd" / "001.dcm").rename(folder / "odd.dcm")
    with pytest.raises(VolumeError, match=message):
        read_volume(folder)


def test_a_folder_without_dicom_is_refused(tmp_path):
    with pytest.raises(VolumeError, match="no DICOM file"):
        read_volume(tmp_path)
