"""Tests of intensity "clinical" with colours and PNG files, and of the limits of a picture."""

import numpy as np
import pytest
from dicom_files import RAMP, read_clinical, shown, write_dicom
from PIL import Image

from jaxseg.images.picture import luminance
from jaxseg.images.preprocess import display
from jaxseg.images.read import ImageError, from_array, read_picture

COLOURS = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
GREY = np.rint(luminance(COLOURS))


def test_rgb_is_converted_to_brightness_as_in_png_files(tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "x.png")
    expected = np.asarray(Image.fromarray(COLOURS).convert("L"))
    np.testing.assert_array_equal(display(read_picture(tmp_path / "x.png")), expected)
    picture = read_clinical(tmp_path, stored=COLOURS)
    np.testing.assert_array_equal(display(picture), expected)
    assert picture.limits == (0, 255)
    planes = COLOURS.transpose(2, 0, 1).tobytes()
    np.testing.assert_array_equal(
        display(read_clinical(tmp_path, stored=COLOURS, PlanarConfiguration=1, PixelData=planes)), expected
    )
    wide = COLOURS.astype(np.uint16) * 16
    np.testing.assert_allclose(shown(read_clinical(tmp_path, stored=wide, bits=12)), luminance(wide) / 4095, atol=1e-6)


def test_ybr_is_converted_to_brightness(tmp_path):
    ybr = np.asarray(Image.fromarray(COLOURS).convert("YCbCr"))
    picture = read_clinical(tmp_path, stored=ybr, PhotometricInterpretation="YBR_FULL")
    assert np.abs(display(picture).astype(int) - GREY).max() <= 2


@pytest.mark.parametrize("photometric", ["YBR_PARTIAL_420", "CMYK", "HSV"])
def test_colours_of_other_kinds_are_refused_in_both_intensities(tmp_path, photometric):
    path = write_dicom(tmp_path / "x.dcm", COLOURS, PhotometricInterpretation=photometric)
    for intensity in ("original", "clinical"):
        with pytest.raises(ImageError, match=f"{photometric} is colour that cannot be converted"):
            read_picture(path, intensity=intensity)


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("depth", [8, 16])
def test_a_palette_is_converted_to_the_brightness_of_its_colours(tmp_path, depth, big_endian):
    entries = np.random.default_rng(1).integers(0, 2**depth, (200, 3)).astype(f"{'>' if big_endian else '<'}u2")
    entries[0] = 2**depth - 1
    indices = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
    tags = {"PhotometricInterpretation": "PALETTE COLOR"}
    for i, name in enumerate(("Red", "Green", "Blue")):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [200, 10, depth]
        tags[f"{name}PaletteColorLookupTableData"] = entries[:, i].tobytes()
    picture = read_clinical(tmp_path, stored=indices, big_endian=big_endian, **tags)
    expected = luminance(entries.astype(np.uint16))[np.clip(indices.astype(int) - 10, 0, 199)] / (2**depth - 1)
    np.testing.assert_allclose(shown(picture), expected, atol=1e-6)
    with pytest.raises(ImageError, match=r"PALETTE COLOR is colour; .* \(--intensity clinical converts it to grey\)"):
        read_picture(tmp_path / "x.dcm")


def test_a_missing_palette_is_an_error(tmp_path):
    with pytest.raises(ImageError, match="the palette cannot be applied"):
        read_clinical(tmp_path, stored=RAMP.astype(np.uint8), PhotometricInterpretation="PALETTE COLOR")


def test_sixteen_bit_pictures_are_scaled_by_their_range(tmp_path):
    Image.fromarray(RAMP + 100).save(tmp_path / "x.png")
    picture = read_picture(tmp_path / "x.png", intensity="clinical")
    assert (picture.notes, picture.limits, picture.spacing_mm) == ((), None, None)
    np.testing.assert_array_equal(picture.pixels, RAMP + 100)
    np.testing.assert_allclose(shown(picture), RAMP / 3300, atol=1e-6)
    assert read_picture(tmp_path / "x.png").pixels.max() == 255
    Image.fromarray(np.full((4, 4), 900, np.uint16)).save(tmp_path / "flat.png")
    with pytest.raises(ImageError, match="constant: every pixel is 900"):
        read_picture(tmp_path / "flat.png", intensity="clinical")


def test_eight_bit_pictures_are_equal_in_both_intensities(kit):
    for name in ("gray8.png", "rgb8.png", "palette4.png", "bit1.png"):
        path = kit.folder / "files" / name
        np.testing.assert_array_equal(read_picture(path, intensity="clinical").pixels, read_picture(path).pixels)


def test_an_unknown_intensity_is_refused_before_the_file_is_opened(tmp_path):
    with pytest.raises(ValueError, match="unknown intensity 'best'; known: original, cxas-0.0.20, clinical"):
        read_picture(tmp_path / "none.png", intensity="best")


def test_values_outside_the_limits_are_black_or_white():
    picture = from_array(np.array([[0.0, 5.0], [10.0, 20.0]]), spacing_mm=(0.1, 0.2))
    assert picture.spacing_mm == (0.1, 0.2)
    limited = type(picture)(picture.pixels, limits=(5, 10))
    assert shown(limited).round(6).tolist() == [[0, 0], [1, 1]]
    assert display(picture).tolist() == [[0, 64], [128, 255]]
