"""Tests that pictures of telephones, scanners and editors are read right, or refused with the reason."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps
from png_files import SIGNATURE, chunk, write_png

from jaxseg.annotators.images import read_image
from jaxseg.images.picture import luminance
from jaxseg.images.preprocess import display
from jaxseg.images.raster import MAX_METADATA, open_raster
from jaxseg.images.read import INTENSITIES, ImageError, read_picture, read_under_masks
from jaxseg.masks.read import read_masks

GREY = (np.arange(15 * 10).reshape(15, 10) % 251).astype(np.uint8)
LIES = {2: "mirrored", 3: "upside down", 6: "on its side", 7: "mirrored and on its side"}
SKIPPED = "metadata that are damaged or have more than 1,048,576 bytes were skipped"
LONG = b"x" * (3 * MAX_METADATA)


def exif(orientation) -> bytes:
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    return tags.tobytes()


def oriented(path, orientation):
    """Writes a picture with an EXIF orientation in the way of the file's format; returns the path."""
    if path.suffix == ".png":
        block = exif(orientation).removeprefix(b"Exif\0\0")
        return write_png(path, GREY, extra=chunk(b"eXIf", block))
    Image.fromarray(GREY).save(path, "JPEG", exif=exif(orientation))
    return path


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_clinical_turns_a_picture_upright_and_the_original_notes_it(tmp_path, suffix, orientation):
    path = oriented(tmp_path / f"x{suffix}", orientation)
    with Image.open(path) as image:
        stored, upright = np.asarray(image), np.asarray(ImageOps.exif_transpose(image))
    picture = read_picture(path, intensity="clinical")
    np.testing.assert_array_equal(picture.pixels[..., 0], upright)
    assert (picture.notes, picture.turned) == ((), orientation != 1)
    for intensity in ("original", "cxas-0.0.20"):
        picture = read_picture(path, intensity=intensity)
        np.testing.assert_array_equal(picture.pixels[..., 0], stored)
        assert not picture.turned
        assert len(picture.notes) == (orientation != 1)
        for note in picture.notes:
            assert f"EXIF orientation ({orientation}) the stored picture is {LIES.get(orientation, '')}" in note
            assert "masks fit the stored pixels; --intensity clinical turns" in note


@pytest.mark.parametrize("place", ["extra", "after"])
@pytest.mark.parametrize("kind", ["eXIf", "XMP", "raw profile"])
def test_the_orientation_may_be_in_any_metadata_of_a_png_file(tmp_path, kind, place):
    block = exif(6).removeprefix(b"Exif\0\0")
    hexadecimal = b"\nexif\n%d\n" % (len(block) + 6) + (b"Exif\0\0" + block).hex().encode()
    content = {
        "eXIf": chunk(b"eXIf", block),
        "XMP": chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'),
        "raw profile": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(hexadecimal)),
    }
    path = write_png(tmp_path / "x.png", GREY, **{place: content[kind]})
    np.testing.assert_array_equal(read_picture(path, intensity="clinical").pixels[..., 1], np.rot90(GREY, -1))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
@pytest.mark.parametrize("intensity", INTENSITIES)
def test_an_unknown_orientation_means_upright(tmp_path, orientation, intensity):
    picture = read_picture(oriented(tmp_path / "x.png", orientation), intensity=intensity)
    np.testing.assert_array_equal(picture.pixels[..., 0], GREY)
    assert picture.notes == ()


def test_a_picture_is_read_in_the_orientation_of_its_masks(tmp_path):
    path = oriented(tmp_path / "x.png", 6)
    upright = np.rot90(GREY, -1)
    for size, turned, expected in (
        ((15, 10), None, GREY),  # only this orientation has the size
        ((10, 15), None, upright),
        ((15, 10), False, GREY),
        ((10, 15), True, upright),
        ((15, 10), True, GREY),
        ((10, 15), False, upright),
        ((7, 7), None, upright),
    ):
        np.testing.assert_array_equal(read_under_masks(path, size, turned=turned).pixels[..., 0], expected)
    half = oriented(tmp_path / "y.png", 3)
    assert "turned as its EXIF orientation says; masks of the" in read_under_masks(half, (15, 10)).notes[0]
    for turned, expected in ((True, GREY[::-1, ::-1]), (False, GREY)):
        picture = read_under_masks(half, (15, 10), turned=turned)
        np.testing.assert_array_equal(picture.pixels[..., 0], expected)
        assert [note for note in picture.notes if "do not fit" in note] == []
    assert read_under_masks(half, (15, 10), intensity="original").turned is False


def test_pictures_of_masks_and_slices_with_an_orientation_are_refused(tmp_path):
    for reader in (read_masks, read_image):
        path = write_png(tmp_path / "m.png", (GREY > 99).astype(np.uint8) * 255, extra=chunk(b"eXIf", exif(8)[6:]))
        with pytest.raises(ImageError, match=r"^m\.png: has the EXIF orientation 8, with which viewers turn it"):
            reader(path)


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("top", [4095, 65535])
def test_16_bits_per_channel_are_scaled_by_their_range_or_noted(tmp_path, channels, top):
    rng = np.random.default_rng(channels)
    array = rng.integers(0, top + 1, (24, 17, channels), np.uint16)
    array[0, 0], array[0, 1] = 0, top
    path = write_png(tmp_path / "x.png", array)
    picture = read_picture(path, intensity="clinical")
    expected = array[..., 0] if channels == 2 else luminance(array[..., :3])
    np.testing.assert_array_equal(picture.pixels, expected)
    assert (picture.notes, picture.limits) == ((), None)
    picture = read_picture(path)
    colours = array[..., [0, 0, 0]] if channels == 2 else array[..., :3]
    np.testing.assert_array_equal(picture.pixels, colours >> 8)
    (note,) = picture.notes
    assert f"high byte, of which the brightest is {top >> 8}, as the original does" in note


def test_16_bit_grey_of_12_bits_is_clipped_with_a_note_or_scaled(tmp_path):
    array = np.linspace(0, 4095, 150).astype(np.uint16).reshape(15, 10)
    path = write_png(tmp_path / "x.png", array)
    np.testing.assert_array_equal(read_picture(path, intensity="clinical").pixels, array)
    picture = read_picture(path)
    np.testing.assert_array_equal(picture.pixels[..., 0], np.minimum(array, 255))
    assert "16-bit grey values up to 4095 were clipped at 255" in picture.notes[0]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_constant_picture_of_16_bits_cannot_be_scaled(tmp_path, channels):
    path = write_png(tmp_path / "x.png", np.full((8, 8, channels), 4000, np.uint16))
    with pytest.raises(ImageError, match=r"^x\.png: the image is constant: every pixel is 4000"):
        read_picture(path, intensity="clinical")


@pytest.mark.parametrize("intensity", INTENSITIES)
def test_of_several_pictures_in_a_jpeg_file_the_first_is_read(tmp_path, intensity):
    first, second = Image.fromarray(GREY), Image.new("L", (3, 4))
    first.save(tmp_path / "first.jpg", quality=95)
    first.save(tmp_path / "two.jpg", "MPO", save_all=True, append_images=[second], quality=95)
    picture = read_picture(tmp_path / "two.jpg", intensity=intensity)
    assert picture.notes == ("two.jpg: the file holds 2 pictures; the first was read",)
    np.testing.assert_array_equal(picture.pixels, read_picture(tmp_path / "first.jpg").pixels)


@pytest.mark.parametrize("place", ["extra", "after"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tEXt", b"Comment\0" + LONG),
        ("zTXt", b"Comment\0\0" + zlib.compress(LONG)),
        ("iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + LONG),
        ("iTXt", b"XML:com.adobe.xmp\0\1\0en\0\0" + zlib.compress(LONG)),
        ("iCCP", b"profile\0\0" + zlib.compress(LONG)),
        ("eXIf", LONG),
        ("prVt", LONG),
    ],
)
def test_large_metadata_are_skipped_with_a_note(tmp_path, name, content, place):
    path = write_png(tmp_path / "x.png", GREY, **{place: chunk(name.encode(), content)})
    picture = read_picture(path)
    np.testing.assert_array_equal(picture.pixels[..., 0], GREY)
    assert picture.notes == (f"x.png: {SKIPPED} (PNG: {name})",)


def test_many_small_metadata_are_skipped_from_a_sum_on(tmp_path):
    packed = zlib.compress(LONG[:900_000])
    texts = b"".join(chunk(b"zTXt", b"a%d\0\0" % i + packed) for i in range(80))  # Pillow refuses 64 MB
    picture = read_picture(write_png(tmp_path / "x.png", GREY, extra=texts))
    np.testing.assert_array_equal(picture.pixels[..., 0], GREY)
    assert "(PNG: zTXt)" in picture.notes[0]


def test_small_metadata_are_no_reason_for_a_note(tmp_path):
    content = chunk(b"zTXt", b"a\0\0" + zlib.compress(b"b" * 1000)) + chunk(b"iCCP", b"p\0\0" + zlib.compress(b"c"))
    picture = read_picture(write_png(tmp_path / "x.png", GREY, extra=content))
    np.testing.assert_array_equal(picture.pixels[..., 0], GREY)
    assert picture.notes == ()


@pytest.mark.parametrize(
    "damaged",
    [
        chunk(b"iCCP", b"profile\0\0no zlib stream"),
        chunk(b"iCCP", b"profile\0\5" + zlib.compress(b"method 5")),
        chunk(b"iCCP", b"profile"),
        chunk(b"zTXt", b"a\0\0no zlib stream"),
        chunk(b"zTXt", b"a\0\7x"),
        chunk(b"iTXt", b"a\0\1\0\0\0no zlib stream"),
        chunk(b"tEXt", b"a\0b")[:-1] + b"!",
        chunk(b"gAMA", bytes(4))[:-1] + b"!",
    ],
    ids=lambda content: content[4:8].decode(),
)
def test_damaged_metadata_are_skipped_with_a_note(tmp_path, damaged):
    picture = read_picture(write_png(tmp_path / "x.png", GREY, extra=damaged))
    np.testing.assert_array_equal(picture.pixels[..., 0], GREY)
    assert picture.notes == (f"x.png: {SKIPPED} (PNG: {damaged[4:8].decode()})",)


def test_masks_are_read_beside_large_metadata(tmp_path):
    mask = (GREY > 99).astype(np.uint8) * 255
    path = write_png(tmp_path / "m.png", mask, extra=chunk(b"zTXt", b"a\0\0" + zlib.compress(LONG)))
    np.testing.assert_array_equal(read_masks(path).masks[0], mask > 0)


def damaged_exif() -> bytes:
    """Returns EXIF data that end within their first entry."""
    return b"Exif\0\0II*\0\x08\0\0\0\x09\0\x12\x01"


@pytest.mark.parametrize("intensity", INTENSITIES)
def test_warnings_of_pillow_become_notes_of_the_file(tmp_path, recwarn, capfd, intensity):
    Image.fromarray(GREY).save(tmp_path / "x.jpg", exif=damaged_exif(), quality=95)
    Image.fromarray(GREY).save(tmp_path / "y.jpg", quality=95)
    picture = read_picture(tmp_path / "x.jpg", intensity=intensity)
    np.testing.assert_array_equal(picture.pixels, read_picture(tmp_path / "y.jpg").pixels)
    (note,) = picture.notes
    assert note.startswith("x.jpg: Corrupt EXIF data.")
    assert recwarn.list == []
    assert capfd.readouterr() == ("", "")


def test_warnings_of_any_kind_and_while_the_file_is_open_are_collected(tmp_path):
    path = write_png(tmp_path / "x.png", GREY, extra=chunk(b"acTL", bytes(8)))  # animated, with no frame
    assert read_picture(path).notes == ("x.png: Invalid APNG, will use default PNG image if possible",)
    with open_raster(path) as (_, notes):
        warnings.warn("later", UserWarning, stacklevel=1)
    assert notes[-1] == "later"


def test_a_picture_with_every_fault_of_a_telephone_is_read(tmp_path):
    first, content = Image.fromarray(GREY), io.BytesIO()
    first.save(content, "MPO", save_all=True, append_images=[first], exif=exif(6), quality=95)
    (tmp_path / "IMG_0001.JPG").write_bytes(content.getvalue())
    picture = read_picture(tmp_path / "IMG_0001.JPG", intensity="clinical")
    assert picture.size == GREY.T.shape
    assert "the first was read" in picture.notes[0]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("intensity", INTENSITIES)
def test_a_picture_without_any_contrast_has_a_note(tmp_path, channels, intensity):
    array = np.zeros((8, 9, channels), np.uint8)
    if channels in (2, 4):
        array[2:5, 3:7, -1] = 255  # a shape in the opacity only
    (note,) = read_picture(write_png(tmp_path / "x.png", array), intensity=intensity).notes
    opacity = "; the file has an opacity channel, which is not read" if channels in (2, 4) else ""
    assert note == f"x.png: every pixel is the same{opacity}"


@pytest.mark.parametrize("intensity", ["original", "clinical"])
@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("exif_orientation6.jpg", "by its EXIF orientation (6)"),
        ("rgb48_12bit.png", "16 bits per channel"),
        ("phone_mpo.jpg", "the file holds 2 pictures; the first was read"),
        ("xmp_3MB_ztxt.png", "were skipped (PNG: iTXt)"),
        ("bad_exif.jpg", "Corrupt EXIF data."),
    ],
)
def test_the_shared_pictures_are_read_as_the_plain_one(shared, name, note, intensity):
    folder = shared / "cases" / "pictures"
    expected = display(read_picture(folder / "plain.png")).astype(int)
    picture = read_picture(folder / name, intensity=intensity)
    found = display(picture).astype(float)
    if name.startswith("exif") and intensity == "original":
        found = np.rot90(found, -1)
    if name.startswith("rgb48"):
        found *= expected.max() / found.max()
    assert np.abs(found - expected).mean() < 9
    assert [note in text for text in picture.notes] == [True] * (name[0] in "pxb" or intensity == "original")


def test_interlaced_pictures_of_16_bits_per_channel_are_read(tmp_path):
    array = np.random.default_rng(0).integers(0, 4096, (11, 13, 3), np.uint16)
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b""  # Adam7: row and column of the first pixel, and the steps
    for row, column, down, right in passes:
        rows += b"".join(b"\0" + line.astype(">u2").tobytes() for line in array[row::down, column::right])
    header = struct.pack(">IIBBBBB", 13, 11, 16, 2, 0, 0, 1)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(SIGNATURE + content)
    np.testing.assert_array_equal(read_picture(tmp_path / "x.png", intensity="clinical").pixels, luminance(array))
