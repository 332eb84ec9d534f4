"""Tests that DICOM files are read as CXAS 0.0.20 reads them, and that its predecessor's ignored windows are noted."""

import json

import numpy as np
import pytest
from dicom_files import RAMP, lut, write_dicom

from jaxseg.images.read import ImageError, read_picture

FOLDERS = ("data/dicom", "data/cxr", "parity/files")
DECODED = ("JPGExtended.dcm", "MR_small_jpeg_ls_lossless.dcm")  # their decoder was missing when the numbers were made
IGNORED = "its window or look-up table was not applied, as in CXAS up to 0.0.16; --intensity cxas-0.0.20 or clinical"


@pytest.fixture(scope="module")
def goldens(shared):
    folder = shared / "parity" / "cxas20"
    with np.load(folder / "read.npz") as values:
        return json.loads((folder / "goldens.json").read_text())["read"], dict(values)


def read20(path):
    return read_picture(path, intensity="cxas-0.0.20", any_modality=True)


def test_every_file_gives_the_values_of_cxas_20_or_is_refused(goldens, shared):
    entries, values = goldens
    assert len(entries) == 40
    for name, entry in entries.items():
        (path,) = (shared / folder / name for folder in FOLDERS if (shared / folder / name).is_file())
        if "refused" in entry and name not in DECODED:
            with pytest.raises(ImageError, match=f"^{name}: "):
                read20(path)
            continue
        picture = read20(path)
        assert (picture.pixels.dtype, picture.limits) == (np.float32, (0, 1)), name
        if name not in DECODED:
            assert list(picture.pixels.shape) == entry["shape"], name
            np.testing.assert_allclose(picture.pixels.ravel()[:: entry["stride"]], values[name], atol=1e-6)
            assert picture.pixels.sum(dtype=np.float64) == pytest.approx(entry["sum"], rel=1e-6), name


def test_jpeg_ls_gives_the_values_of_the_same_picture(goldens, shared):
    found = read20(shared / "data" / "dicom" / "MR_small_jpeg_ls_lossless.dcm").pixels
    np.testing.assert_allclose(found, goldens[1]["MR_small.dcm"].reshape(found.shape), atol=1e-6)


def test_the_files_of_the_kit_are_read_without_the_shared_data(kit):
    ramp = read20(kit.folder / "files" / "mono2_12bit.dcm").pixels
    assert ramp.sum(dtype=np.float64) == pytest.approx(848.6965006068349, rel=1e-6)
    window = read20(kit.folder / "files" / "mono2_window.dcm").pixels
    assert window.sum(dtype=np.float64) == pytest.approx(1808.1543086245656, rel=1e-6)
    for name in ("mono1_12bit", "mono1_rescale", "mono1_signed", "mono2_negative_slope"):
        found = read20(kit.folder / "files" / f"{name}.dcm").pixels
        np.testing.assert_allclose(found, 1 - ramp, atol=1e-6)


def test_the_first_table_wins_over_the_window(tmp_path):
    table = lut(np.arange(4096)[::-1] // 16, 0, 8)
    path = write_dicom(tmp_path / "x.dcm", RAMP, bits=12, VOILUTSequence=table, WindowCenter=9, WindowWidth=3)
    expected = ((4095 - RAMP) // 16).astype(float)
    expected = (expected - expected.min()) / np.ptp(expected)
    picture = read20(path)
    np.testing.assert_allclose(picture.pixels, expected, atol=1e-6)
    assert "8 bits overflow in CXAS 0.0.20" in picture.notes[0]  # entries of 8 bits, but more than 256 of them


def test_a_modality_lut_may_have_more_entries_than_the_type_of_the_pixels(tmp_path):
    stored, table = RAMP // 300, lut(np.minimum(np.arange(300) ** 2, 65535), 0, 16)
    path = write_dicom(tmp_path / "x.dcm", stored.astype(np.uint8), ModalityLUTSequence=table)
    np.testing.assert_allclose(read20(path).pixels, stored.astype(float) ** 2 / 121, atol=1e-6)


def test_the_first_of_several_windows_is_used(tmp_path):
    several = write_dicom(tmp_path / "x.dcm", RAMP, WindowCenter=[1000, 9], WindowWidth=[800, 5])
    one = write_dicom(tmp_path / "y.dcm", RAMP, WindowCenter=1000, WindowWidth=800)
    np.testing.assert_array_equal(read20(several).pixels, read20(one).pixels)


def test_a_window_after_a_negative_slope_inverts_as_there_with_a_note(tmp_path):
    tags = {"RescaleSlope": -1, "RescaleIntercept": 4095}
    window = {"WindowCenter": 3000, "WindowWidth": 4000}
    picture = read20(write_dicom(tmp_path / "x.dcm", RAMP, bits=12, **tags, **window))
    assert "negative rescale slope inverts its grey values, as in CXAS 0.0.20" in picture.notes[0]
    assert (picture.pixels[0, 0], picture.pixels[2, 3]) == (0, 1)
    assert read20(write_dicom(tmp_path / "x.dcm", RAMP, bits=12, **tags)).pixels[0, 0] == 1


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"WindowCenter": 5, "WindowWidth": 0}, "the window or VOI LUT cannot be applied"),
        ({"WindowCenter": 5, "WindowWidth": 9, "VOILUTFunction": "ROUND"}, "the window or VOI LUT cannot be applied"),
        ({"WindowCenter": b"wide", "WindowWidth": 5}, "cannot be applied|cannot decode"),
        ({"ModalityLUTSequence": lut([], 0, 16)}, "the modality LUT cannot be applied"),
        ({"RescaleSlope": "1e300", "RescaleIntercept": 0}, "not finite"),
        ({"stored": np.zeros((3, 4, 3), np.uint8) + 9}, r"RGB is colour; .* \(--intensity clinical"),
        ({"NumberOfFrames": 3}, "3 frames"),
    ],
)
def test_what_cannot_be_read_is_refused_and_no_zeros_are_returned(tmp_path, tags, message):
    path = write_dicom(tmp_path / "x.dcm", tags.pop("stored", RAMP), **tags)
    with pytest.raises(ImageError, match=rf"^x\.dcm: .*({message})"):
        read20(path)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("tags", "noted"),
    [
        ({}, False),
        ({"WindowCenter": "", "WindowWidth": ""}, False),
        ({"WindowCenter": 1650, "WindowWidth": 3301}, False),  # from the least to the greatest value
        ({"WindowCenter": 2000, "WindowWidth": 5000}, False),  # wider: scaled by the range, the picture is the same
        ({"WindowCenter": 1650, "WindowWidth": 3301, "VOILUTFunction": "SIGMOID"}, True),
        ({"WindowCenter": 1000, "WindowWidth": 801}, True),
        ({"WindowCenter": [1000, 1650], "WindowWidth": [801, 3301]}, True),
        ({"WindowCenter": 9000, "WindowWidth": 2}, True),  # the picture becomes constant
        ({"VOILUTSequence": lut(np.arange(4096) ** 2 // 4096, 0, 16)}, True),
        ({"VOILUTSequence": lut(np.arange(4096) // 2, 0, 16)}, False),
        ({"ModalityLUTSequence": lut(np.arange(4096)[::-1], 0, 16)}, True),
        ({"WindowCenter": 5, "WindowWidth": 0}, False),  # not possible, so nothing applies it
        ({"WindowCenter": b"wide", "WindowWidth": b"5 "}, False),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_the_original_notes_a_window_only_if_it_would_change_the_picture(tmp_path, photometric, tags, noted):
    path = write_dicom(tmp_path / "x.dcm", RAMP, bits=12, PhotometricInterpretation=photometric, **tags)
    picture = read_picture(path)
    expected = RAMP if photometric[-1] == "2" else 4095 - RAMP.astype(int)
    np.testing.assert_array_equal(picture.pixels, expected)
    assert [IGNORED in note for note in picture.notes].count(True) == noted


def test_one_bright_pixel_is_enough_for_the_note(tmp_path):
    stored = np.full((200, 300), 100, np.uint16)
    stored[37, 41], stored[40, 40] = 3000, 0
    path = write_dicom(tmp_path / "x.dcm", stored, WindowCenter=100, WindowWidth=200)
    assert IGNORED in read_picture(path).notes[0]
