"""Tests that X-rays are read exactly as the original reads them, and that other files and arrays are refused."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image
from png_files import chunk, png

from jaxseg.images.preprocess import cxas, paxray, paxray_folder
from jaxseg.images.read import MAX_PIXELS, ImageError, from_array, read_picture

SIZE = (512, 512)


def golden_names(prefix):
    """Returns the names of the goldens that have input files; fixtures are not available yet."""
    from parity_kit import DATA, Kit

    return [name for name in Kit(DATA).names(prefix) if not name.endswith(("refused", "label_npy"))]


@pytest.mark.parametrize("name", golden_names("cxas_preprocess/"))
def test_the_input_of_cxas_equals_the_originals_to_the_bit(kit, name):
    entry, arrays = kit.golden(name)
    picture = read_picture(kit.folder / entry["params"]["file"])
    assert list(picture.size) == entry["params"]["file_size"]
    x = cxas(picture, SIZE)
    assert x.shape == (512, 512, 3)
    assert x.dtype == np.float32
    data = x.transpose(2, 0, 1)
    np.testing.assert_array_equal(data.ravel()[:: entry["arrays"]["data"]["stride"]], arrays["data"])
    np.testing.assert_array_equal(data[:, 0], arrays["row0"])
    np.testing.assert_array_equal(data[:, :, 511], arrays["col511"])


@pytest.mark.parametrize("name", golden_names("paxray_preprocess/"))
def test_the_input_of_paxray_equals_the_originals(kit, name):
    picture = read_picture(kit.folder / kit.golden(name)[0]["params"]["file"])
    resized, trained = (function(picture, SIZE).transpose(2, 0, 1) for function in (paxray_folder, paxray))
    kit.check(name, "resized", resized)
    kit.check(name, "row100", resized[:, 100])
    kit.check(name, "pretrained", trained)
    kit.check(name, "pretrained_row100", trained[:, 100])


def test_files_that_the_original_refuses_are_refused(kit, tmp_path):
    refused = kit.golden("cxas_preprocess/refused")[0]["params"]["raises"]
    reasons = ["2 frames", "RGB is colour", "constant: every pixel is", "cannot read .tif"]
    (tmp_path / "x.tif").write_bytes(b"II*\0")
    for name, reason in zip(refused, reasons, strict=True):
        path = kit.folder / name if name.startswith("files") else tmp_path / name
        with pytest.raises(ImageError, match=rf"^{path.name}: .*{reason}"):
            read_picture(path)


def test_only_clipped_grey_values_give_a_note(kit, tmp_path):
    clipped = read_picture(kit.folder / "files" / "gray16_range4095.png")
    assert len(clipped.notes) == 1
    assert clipped.notes[0].startswith("gray16_range4095.png: 16-bit grey values up to 4095 were clipped")
    assert clipped.pixels.max() == 255
    assert read_picture(kit.folder / "files" / "gray8.png").notes == ()
    Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16)).save(tmp_path / "dark16.png")
    dark = read_picture(tmp_path / "dark16.png")
    assert dark.notes == ()
    np.testing.assert_array_equal(dark.pixels[:, :, 0].ravel(), np.arange(256))


@pytest.mark.parametrize("name", ["gray8.png", "mono2_12bit.dcm"])
def test_suffixes_may_be_of_any_case(kit, tmp_path, name):
    source = kit.folder / "files" / name
    path = tmp_path / name.upper()
    path.write_bytes(source.read_bytes())
    np.testing.assert_array_equal(read_picture(path).pixels, read_picture(str(source)).pixels)


def test_the_content_decides_between_png_and_jpg(kit, tmp_path):
    (tmp_path / "x.JPEG").write_bytes((kit.folder / "files" / "rgb8.png").read_bytes())
    np.testing.assert_array_equal(
        read_picture(tmp_path / "x.JPEG").pixels, read_picture(kit.folder / "files" / "rgb8.png").pixels
    )
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "tif.png", format="TIFF")
    with pytest.raises(ImageError, match=r"tif\.png: not a png or jpg"):
        read_picture(tmp_path / "tif.png")


def test_a_missing_file_or_a_folder_is_an_os_error(tmp_path):
    for suffix in (".png", ".dcm"):
        with pytest.raises(FileNotFoundError):
            read_picture(tmp_path / f"none{suffix}")
        (tmp_path / f"folder{suffix}").mkdir()
        with pytest.raises(IsADirectoryError):
            read_picture(tmp_path / f"folder{suffix}")
    with pytest.raises(FileNotFoundError):
        read_picture(tmp_path / "none")


@pytest.mark.parametrize("name", ["1.2.840.7", "IM000001", "x.png", "x.tif", "x.seg"])
def test_dicom_is_recognised_by_its_content_under_any_name(kit, tmp_path, name):
    (tmp_path / name).write_bytes((kit.folder / "files" / "mono2_12bit.dcm").read_bytes())
    expected = read_picture(kit.folder / "files" / "mono2_12bit.dcm").pixels
    np.testing.assert_array_equal(read_picture(tmp_path / name).pixels, expected)


@pytest.mark.parametrize("name", ["scan", "scan.1", "scan.bmp"])
def test_pictures_are_recognised_by_their_content_under_any_name(kit, tmp_path, name):
    source = kit.folder / "files" / "rgb8.png"
    for form in ("png", "jpeg"):
        with Image.open(source) as image:
            image.save(tmp_path / f"x.{form}")
        (tmp_path / name).write_bytes((tmp_path / f"x.{form}").read_bytes())
        np.testing.assert_array_equal(read_picture(tmp_path / name).pixels, read_picture(tmp_path / f"x.{form}").pixels)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.txt", b"text", r"cannot read \.txt; allowed: \.png, \.jpg, \.jpeg, \.dcm, or a file with such content"),
        ("none", b"", "cannot read a file without suffix"),
        ("x.7", bytes(128) + b"DICE", r"cannot read \.7"),
        ("x.dcm", b"\x89PNG\r\n\x1a\n" + bytes(200), "not a DICOM file"),
        ("x.png", b"", "not a png or jpg"),
    ],
)
def test_files_recognised_neither_by_content_nor_by_name_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=rf"^{name}: {message}"):
        read_picture(tmp_path / name)


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path):
    colours = bytes(range(256)) * 3
    rows = b"".join(b"\0" + bytes(range(10 * i, 10 * i + 10)) for i in range(10))
    (tmp_path / "plain.png").write_bytes(png(10, 10, rows, colour=3, extra=chunk(b"PLTE", colours)))
    extra = chunk(b"PLTE", colours) + chunk(b"tRNS", bytes(range(100)))
    (tmp_path / "transparent.png").write_bytes(png(10, 10, rows, colour=3, extra=extra))
    expected = read_picture(tmp_path / "plain.png").pixels
    np.testing.assert_array_equal(read_picture(tmp_path / "transparent.png").pixels, expected)
    assert expected[3, 4].tolist() == [(3 * 34 + i) % 256 for i in range(3)]


def test_animated_files_are_refused(tmp_path):
    frames = [Image.new("L", (8, 8), value) for value in (0, 128)]
    frames[0].save(tmp_path / "animated.png", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match=r"animated\.png: the file has 2 frames"):
        read_picture(tmp_path / "animated.png")


@pytest.mark.parametrize("quiet", [False, True], ids=["strict", "warnings_ignored"])
@pytest.mark.parametrize("sides", [(2**31 - 1, 2**31 - 1), (2**31, 2**31), (9000, 9000), (10000, 10000), (0, 8)])
def test_declared_sizes_are_checked_before_anything_is_decoded(tmp_path, monkeypatch, sides, quiet):
    def refuse(self):
        raise AssertionError("decoded")

    (tmp_path / "huge.png").write_bytes(png(*sides, b""))
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if quiet else "error")
        with pytest.raises(ImageError, match=r"^huge\.png: "):
            read_picture(tmp_path / "huge.png")


@pytest.mark.slow
def test_a_compression_bomb_stays_within_the_memory_of_the_largest_picture(tmp_path):
    side = 8192
    assert side * side == MAX_PIXELS
    (tmp_path / "bomb.png").write_bytes(png(side, side, bytes(4 * (side + 1) * side)))  # four times the declared size
    assert (tmp_path / "bomb.png").stat().st_size < 300_000
    assert read_picture(tmp_path / "bomb.png").pixels.nbytes == 3 * MAX_PIXELS


def test_the_x_rays_are_read_at_their_size_in_grey(shared):
    paths = sorted(path for path in (shared / "data" / "cxr").iterdir())
    assert len(paths) == 7
    for path in paths:
        picture = read_picture(path)
        assert picture.notes == ()
        x = cxas(picture, SIZE)
        assert x.shape == (512, 512, 3)
        if path.suffix == ".dcm":
            assert picture.pixels.shape == (1024, 1024)
        else:
            with Image.open(path) as image:
                assert picture.size == (image.height, image.width)
            np.testing.assert_array_equal(picture.pixels[:, :, 0], picture.pixels[:, :, 2])


RAMP = np.arange(12).reshape(3, 4)


def test_uint8_arrays_are_treated_as_png_files():
    grey = RAMP.astype(np.uint8)
    np.testing.assert_array_equal(from_array(grey).pixels, np.stack([grey] * 3, axis=-1))
    colour = np.stack([grey, grey + 1, grey + 2], axis=-1)
    np.testing.assert_array_equal(from_array(colour).pixels, colour)
    constant = from_array(np.full((2, 2), 7, np.uint8))  # a PNG file may be constant too
    assert len(np.unique(cxas(constant, (8, 8))[:, :, 0])) == 1


@pytest.mark.parametrize("kind", ["uint16", ">u2", "<i4", ">i8", "float16", "float32", ">f8", "longdouble", "uint64"])
def test_other_numbers_are_scaled_by_their_range(kind):
    picture = from_array(RAMP.astype(kind) * 5 + 3)
    assert picture.pixels.dtype.isnative
    expected = cxas(from_array(RAMP.astype(np.float32)), (6, 8))
    np.testing.assert_allclose(cxas(picture, (6, 8)), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 4), np.uint8), "must be"),
        (np.zeros((4, 0, 3), np.uint8), "must be"),
        (np.zeros(5, np.uint8), "must be"),
        (np.zeros((2, 2, 4), np.uint8), "must be"),
        (np.zeros((1, 2, 2, 3), np.uint8), "must be"),
        (np.float32(1), "must be"),
        (np.zeros((2, 2, 3), np.float32), "must be uint8"),
        (np.eye(4, dtype=bool), "must be"),
        (np.eye(4, dtype=complex), "must be"),
        (np.array([["a", "b"], ["c", "d"]]), "must be"),
        (np.full((3, 3), 9, np.int16), "constant: every pixel is 9"),
        (np.where(np.eye(3) > 0, np.nan, 0), "not finite"),
        (np.where(np.eye(3) > 0, np.inf, 0), "not finite"),
        (np.where(np.eye(3) > 0, 1e300, 0), "not finite"),
        (np.where(np.eye(3) > 0, 3e38, -3e38), "not finite"),
        (np.where(np.eye(3) > 0, 2**53 + 2, 2**53), "constant"),  # in float32, so the range would be 0
        (np.broadcast_to(np.uint8(1), (2**14, 2**13)), "between 1 and"),
    ],
)
def test_arrays_that_are_not_images_are_refused(array, message):
    with pytest.raises(ImageError, match=message):
        from_array(array)


def test_reading_keeps_no_file_open(kit, tmp_path):
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(buffer.getvalue()[:-500])
    for _ in range(3):
        with pytest.raises(ImageError, match=r"cut\.jpg: damaged picture \(image file is truncated"):
            read_picture(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").unlink()
