"""Tests that every file in the shared data's dicom/expected.csv is read as that table demands."""

import csv
import gzip
import hashlib

import numpy as np
import pydicom
import pytest
from pydicom.pixels import get_decoder
from pydicom.uid import JPEGExtended12Bit, JPEGLSLossless

from jaxseg.images.picture import luminance
from jaxseg.images.preprocess import cxas, display
from jaxseg.images.read import ImageError, read_picture

NO_PIXELS = "no pixel data"
TO_GREY = r"is colour; .* \(--intensity clinical converts it to grey\)"
READ = None
FILES = {  # results of "original" and "clinical": a reason, or READ
    "CT_small.dcm": (READ, READ),
    "693_J2KI.dcm": (READ, READ),
    "MR_small.dcm": (READ, READ),
    "MR_small_RLE.dcm": (READ, READ),
    "MR_small_jp2klossless.dcm": (READ, READ),
    "MR_small_bigendian.dcm": (READ, READ),
    "MR_small_jpeg_ls_lossless.dcm": (READ, READ),
    "JPGExtended.dcm": (READ, READ),
    "MR_truncated.dcm": ("8130 vs 8192 bytes", "8130 vs 8192 bytes"),
    "rtplan_truncated.dcm": (NO_PIXELS, NO_PIXELS),
    "rtplan.dcm": (NO_PIXELS, NO_PIXELS),
    "test-SR.dcm": (NO_PIXELS, NO_PIXELS),
    "no_meta.dcm": ("not a DICOM file", "not a DICOM file"),
    "meta_missing_tsyntax.dcm": ("the transfer syntax, .* is missing", "the transfer syntax, .* is missing"),
    "SC_rgb_jpeg_dcmtk.dcm": (f"YBR_FULL {TO_GREY}", READ),
    "SC_rgb_rle_2frame.dcm": ("2 frames", "2 frames"),
    "SC_rgb_small_odd.dcm": (f"RGB {TO_GREY}", READ),
    "examples_ybr_color.dcm": ("30 frames", "30 frames"),
    "examples_palette.dcm": (f"PALETTE COLOR {TO_GREY}", READ),
    "examples_overlay.dcm": (READ, READ),
    "image_dfl.dcm": (READ, READ),
    "liver_1frame.dcm": (READ, READ),
    "rtdose.dcm": ("15 frames", "15 frames"),
    "derived_mono1_12bit.dcm": (READ, READ),
    "derived_slope_half_signed.dcm": (READ, READ),
    "derived_truncated_jpeg_cxr.dcm": (NO_PIXELS, NO_PIXELS),
}
NOTES = {  # only of files that have notes
    **{
        f"{name} original": [
            "its window or look-up table was not applied, as in CXAS up to 0.0.16; --intensity "
            "cxas-0.0.20 or clinical applies it"
        ]
        for name in (
            *(
                "693_J2KI.dcm",
                "MR_small.dcm",
                "MR_small_RLE.dcm",
                "MR_small_bigendian.dcm",
                "MR_small_jp2klossless.dcm",
            ),
            *("MR_small_jpeg_ls_lossless.dcm", "examples_overlay.dcm", "derived_slope_half_signed.dcm"),
        )
    },
    "693_J2KI.dcm clinical": ["the padding value -2000 lies among the values of the picture and was ignored"],
    "examples_overlay.dcm clinical": ["the file has 2 windows; the first was used (centre 450, width 790)"],
    "derived_slope_half_signed.dcm clinical": ["the file has 2 windows; the first was used (centre 40, width 400)"],
}
JPEG_12_BIT = "b1d76492f77a"  # pylibjpeg-libjpeg 2.5.0


@pytest.fixture(scope="module")
def rows(shared) -> dict[str, dict]:
    with (shared / "data" / "dicom" / "expected.csv").open() as file:
        return {row["file"]: row for row in csv.DictReader(file)}


@pytest.fixture
def dicom(shared):
    return shared / "data" / "dicom"


def grey(path) -> np.ndarray:
    """Returns the grey values in [0, 1] as CXAS's network gets them, before normalisation."""
    picture = read_picture(path)
    x = cxas(picture, picture.size)[:, :, 0].astype(float)
    return (x - x.min()) / (x.max() - x.min())


def test_every_row_of_the_table_is_tested(rows):
    assert len(rows) == 26
    assert FILES.keys() == rows.keys()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("intensity", ["original", "clinical"])
def test_a_file_gives_a_picture_or_its_reason_of_failure(rows, dicom, name, intensity):
    reason = FILES[name][intensity == "clinical"]
    if reason is not READ:
        with pytest.raises(ImageError, match=rf"^{name}: .*{reason}"):
            read_picture(dicom / name, intensity=intensity)
        return
    picture = read_picture(dicom / name, intensity=intensity, any_modality=True)
    assert picture.pixels.shape == (int(rows[name]["rows"]), int(rows[name]["cols"]))
    assert picture.pixels.dtype.isnative
    assert np.isfinite(cxas(picture, (64, 64))).all()
    assert list(picture.notes) == [f"{name}: {note}" for note in NOTES.get(f"{name} {intensity}", [])]
    shown = display(picture)
    assert (shown.dtype, shown.shape) == (np.uint8, picture.size)
    assert len(np.unique(shown)) > 1


@pytest.mark.parametrize("name", [name for name, (reason, _) in FILES.items() if reason is READ])
def test_the_pixels_equal_those_of_the_table(rows, dicom, name):
    row = rows[name]
    values = read_picture(dicom / name).pixels.astype(float)
    stored = (values - float(row["intercept"] or 0)) / float(row["slope"] or 1)
    if row["photometric"] == "MONOCHROME1":
        stored = 2 ** int(row["bits_stored"]) - 1 - stored
    if row["pixel_array"] != "ok":  # the table's reader could not decode this file
        row = rows["MR_small.dcm"] if name.startswith("MR_small") else {"dtype": "<u2", "min": 0, "max": 264}
    assert (stored.min(), stored.max()) == (float(row["min"]), float(row["max"]))
    content = stored.astype(row["dtype"].replace(">", "<")).tobytes()
    if row.get("sha256"):
        assert hashlib.sha256(content).hexdigest() == row["sha256"]
    elif name == "JPGExtended.dcm":
        assert hashlib.sha256(content).hexdigest().startswith(JPEG_12_BIT)


@pytest.mark.parametrize(
    ("name", "syntax", "told"),
    [
        ("MR_small_jpeg_ls_lossless.dcm", JPEGLSLossless, "JPEG-LS Lossless Image Compression"),
        ("JPGExtended.dcm", JPEGExtended12Bit, r"JPEG Extended \(Process 2 and 4\)"),
    ],
)
@pytest.mark.parametrize("intensity", ["original", "clinical"])
def test_without_the_extra_the_error_names_the_transfer_syntax_and_the_extra(
    dicom, monkeypatch, name, syntax, told, intensity
):
    decoder = get_decoder(syntax)
    without = {plugin: decode for plugin, decode in decoder._available.items() if plugin == "pillow"}
    monkeypatch.setattr(decoder, "_available", without)
    message = rf"^{name}: the pixels are stored as {told}, which cannot be decoded here; pip install 'jaxseg\[dicom\]'"
    with pytest.raises(ImageError, match=message):
        read_picture(dicom / name, intensity=intensity)


@pytest.mark.parametrize("plugin", ["pylibjpeg", "pyjpegls"])
def test_each_decoder_of_jpeg_ls_gives_the_same_pixels(dicom, monkeypatch, plugin):
    decoder = get_decoder(JPEGLSLossless)
    if plugin not in decoder.available_plugins:
        pytest.skip(f"{plugin} is not installed")
    monkeypatch.setattr(decoder, "_available", {plugin: decoder._available[plugin]})
    expected = read_picture(dicom / "MR_small.dcm").pixels
    np.testing.assert_array_equal(read_picture(dicom / "MR_small_jpeg_ls_lossless.dcm").pixels, expected)


def test_the_same_picture_in_five_encodings_is_read_alike(dicom):
    for intensity in ("original", "clinical"):
        first, *others = (
            read_picture(dicom / f"MR_small{kind}.dcm", intensity=intensity)
            for kind in ("", "_RLE", "_jp2klossless", "_bigendian", "_jpeg_ls_lossless")
        )
        for other in others:
            np.testing.assert_array_equal(other.pixels, first.pixels)
            assert (other.limits, other.spacing_mm) == (first.limits, first.spacing_mm) == (first.limits, (0.3125,) * 2)


def test_rescaled_values_are_hounsfield_units(dicom):
    for intensity in ("original", "clinical"):
        pixels = read_picture(dicom / "CT_small.dcm", intensity=intensity).pixels
        assert (pixels.min(), pixels.max()) == (-896, 1167)


def test_fractional_slopes_and_signed_values_give_the_slice_of_the_volume(shared, dicom):
    with gzip.open(shared / "data" / "ct" / "totalseg" / "s0001" / "ct.nii.gz") as file:
        volume = np.frombuffer(file.read()[352:], "<i4").reshape((122, 101, 112), order="F")
    expected = volume[:, ::-1, 90].T
    np.testing.assert_array_equal(read_picture(dicom / "derived_slope_half_signed.dcm").pixels, expected)
    picture = read_picture(dicom / "derived_slope_half_signed.dcm", intensity="clinical")
    unit = np.clip((expected - 39.5) / 399 + 0.5, 0, 1)  # the first window has centre 40 and width 400
    np.testing.assert_allclose((picture.pixels - picture.limits[0]) / np.ptp(picture.limits), unit, atol=1e-6)


def test_monochrome1_gives_the_picture_that_it_was_computed_from(shared, dicom):
    expected = read_picture(shared / "data" / "cxr" / "00000001_000.png").pixels[:, :, 0]
    assert (expected.min(), expected.max()) == (0, 255)
    path = dicom / "derived_mono1_12bit.dcm"
    np.testing.assert_allclose(grey(path), expected / 255, atol=1e-6)
    for intensity in ("original", "clinical"):
        np.testing.assert_array_equal(display(read_picture(path, intensity=intensity)), expected)


def test_overlays_are_ignored(dicom):
    dataset = pydicom.dcmread(dicom / "examples_overlay.dcm")
    assert 0x60003000 in dataset
    np.testing.assert_array_equal(read_picture(dicom / "examples_overlay.dcm").pixels, dataset.pixel_array)
    picture = read_picture(dicom / "examples_overlay.dcm", intensity="clinical")
    unit = np.clip((dataset.pixel_array - 449.5) / 789 + 0.5, 0, 1)
    np.testing.assert_allclose(picture.pixels / picture.limits[1], unit, atol=1e-6)


def test_colours_and_palettes_give_the_brightness_of_pydicoms_colours(dicom):
    for name in ("SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_small_odd.dcm"):
        picture = read_picture(dicom / name, intensity="clinical")
        np.testing.assert_array_equal(picture.pixels, luminance(pydicom.dcmread(dicom / name).pixel_array))
        assert picture.limits == (0, 255)
    dataset = pydicom.dcmread(dicom / "examples_palette.dcm")
    red, green, blue = (
        np.frombuffer(dataset[f"{colour}PaletteColorLookupTableData"].value, "<u2").astype(float)[dataset.pixel_array]
        for colour in ("Red", "Green", "Blue")
    )
    picture = read_picture(dicom / "examples_palette.dcm", intensity="clinical")
    np.testing.assert_allclose(picture.pixels, 0.299 * red + 0.587 * green + 0.114 * blue, atol=2)
    assert picture.limits == (0, 65535)


def test_a_segmentation_is_read_as_zeros_and_ones(dicom):
    for intensity in ("original", "clinical"):
        assert np.unique(read_picture(dicom / "liver_1frame.dcm", intensity=intensity).pixels).tolist() == [0, 1]
