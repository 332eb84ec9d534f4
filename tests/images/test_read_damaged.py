"""Tests that damaged files of every kind are refused with a reason, without a crash or a partial picture."""

import io
import tracemalloc
import warnings
import zlib

import hypothesis
import numpy as np
import pydicom
import pytest
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian, SecondaryCaptureImageStorage

from jaxseg.images import decode
from jaxseg.images.read import INTENSITIES, ImageError, read_picture

FILES = ("gray8.png", "palette4.png", "gray16_range400.png", "bit1.png", "mono1_rescale.dcm", "mono2_signed.dcm")
ENCODED = {"baseline.jpg": {}, "progressive.jpg": {"progressive": True}, "rgb.jpg": {"subsampling": 2}}
COMPRESSED = (
    *("MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "693_J2KI.dcm", "image_dfl.dcm", "SC_rgb_jpeg_dcmtk.dcm"),
    *("MR_small_jpeg_ls_lossless.dcm", "JPGExtended.dcm"),
)


@pytest.fixture(scope="module")
def originals(kit) -> dict[str, bytes]:
    """Returns small files of every kind that needs no shared data."""
    found = {name: (kit.folder / "files" / name).read_bytes() for name in FILES}
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    for name, options in ENCODED.items():
        buffer = io.BytesIO()
        Image.fromarray(noise if name == "rgb.jpg" else noise[:, :, 0]).save(buffer, "JPEG", quality=60, **options)
        found[name] = buffer.getvalue()
    return found


def read(folder, name: str, content: bytes, quiet: bool, intensity: str = "original"):
    """Returns the picture, or None if it is refused with an ImageError that names the file."""
    path = folder / name
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if quiet else "error")
        try:
            return read_picture(path, intensity=intensity)
        except ImageError as error:
            reason = str(error)
    assert reason.startswith(f"{name}: ")
    assert len(reason) > len(name) + 10
    return None


def assert_cut_is_refused_or_complete(folder, name, content, step=1):
    whole = read(folder, name, content, True).pixels
    refused = 0
    for length in range(0, len(content), step):
        picture = read(folder, name, content[:length], True)
        refused += picture is None
        if picture is not None:
            np.testing.assert_array_equal(picture.pixels, whole, err_msg=f"{name} cut after {length} bytes")
    assert refused > 0.8 * len(range(0, len(content), step))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FILES, *ENCODED])
def test_a_truncated_file_is_refused_unless_all_pixels_are_present(originals, tmp_path, name):
    assert_cut_is_refused_or_complete(tmp_path, name, originals[name], step=1 if len(originals[name]) < 1000 else 7)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMPRESSED if not name.startswith("SC")])
def test_a_truncated_compressed_dicom_file_is_refused(shared, tmp_path, name):
    content = (shared / "data" / "dicom" / name).read_bytes()
    assert_cut_is_refused_or_complete(tmp_path, name, content, step=23)


@pytest.mark.parametrize("name", [*(name for name in COMPRESSED if name != "image_dfl.dcm"), "X-ray"])
@pytest.mark.filterwarnings("ignore")
def test_a_truncated_compressed_picture_in_a_complete_file_is_refused(kit, shared, tmp_path, name):
    if name == "X-ray":  # 8-bit JPEG
        (path,) = (shared / "data" / "cxr").glob("*.dcm")
    else:
        path = shared / "data" / "dicom" / name
    dataset = pydicom.dcmread(path)
    intensity = "clinical" if name.startswith("SC") else "original"
    stream = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    assert read(tmp_path, "x.dcm", path.read_bytes(), True, intensity) is not None
    for part in (0.02, 0.3, 0.6, 0.9, 0.99):
        dataset.PixelData = pydicom.encaps.encapsulate([stream[: int(part * len(stream))]])
        dataset.save_as(tmp_path / "cut.dcm")
        with pytest.raises(ImageError):
            read_picture(tmp_path / "cut.dcm", intensity=intensity)


@pytest.mark.parametrize("name", ["JPGExtended.dcm", "MR_small_jpeg_ls_lossless.dcm", "693_J2KI.dcm"])
def test_a_compressed_picture_that_claims_to_be_huge_is_refused_before_it_is_decoded(
    shared, tmp_path, monkeypatch, name
):
    content = (shared / "data" / "dicom" / name).read_bytes()
    dataset = pydicom.dcmread(io.BytesIO(content))
    width = 4 if name.startswith("693") else 2
    sides = b"".join(int(side).to_bytes(width, "big") for side in (dataset.Rows, dataset.Columns))
    at = content.index(sides, content.index(dataset.PixelData[:64]))
    monkeypatch.setattr(pydicom.Dataset, "pixel_array", property(lambda self: pytest.fail("decoded")))
    (tmp_path / "x.dcm").write_bytes(content[:at] + b"\xff\xf0" * width + content[at + 2 * width :])
    with pytest.raises(ImageError, match=r"the compressed picture is \[\d{5,}, \d{5,}\], the tags say"):
        read_picture(tmp_path / "x.dcm")


def deflated(content: bytes, *, end: int | None = None) -> bytes:
    """Writes a deflated DICOM file with this content."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    length = int.from_bytes(buffer.getvalue()[140:144], "little")
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return buffer.getvalue()[: 144 + length] + (deflate.compress(content) + deflate.flush())[:end]


def test_a_deflated_file_is_inflated_only_up_to_the_size_of_the_largest_picture(tmp_path, monkeypatch):
    assert 2 * decode.MAX_PIXELS < decode.MAX_INFLATED <= 4 * decode.MAX_PIXELS
    monkeypatch.setattr(decode, "MAX_INFLATED", 2**20)
    (tmp_path / "bomb.dcm").write_bytes(deflated(bytes(2**26)))
    assert (tmp_path / "bomb.dcm").stat().st_size < 2**17
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=r"bomb\.dcm: the deflated file is too large; at most 1,048,576 bytes"):
            read_picture(tmp_path / "bomb.dcm")
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()
    (tmp_path / "cut.dcm").write_bytes(deflated(np.random.default_rng(0).bytes(5000), end=-9))
    with pytest.raises(ImageError, match="the deflated file was cut short"):
        read_picture(tmp_path / "cut.dcm")


@st.composite
def damages(draw):
    """Generates functions that change, remove and insert bytes, most of them in the header."""
    place = st.one_of(st.floats(0, 0.999), st.floats(0, 0.2))
    word = st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\x80\0\0\0"])
    steps = draw(st.lists(st.tuples(place, word | st.binary(max_size=4), st.integers(0, 6)), min_size=1, max_size=4))

    def damage(content: bytes) -> bytes:
        for where, new, lost in steps:
            start = int(where * len(content))
            content = content[:start] + new + content[start + lost :]
        return content

    return damage


@pytest.mark.slow
@hypothesis.settings(
    deadline=None, max_examples=400, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(st.sampled_from([*FILES, *ENCODED]), damages(), st.booleans(), st.sampled_from(INTENSITIES))
def test_any_damage_gives_a_picture_or_a_reason(originals, tmp_path, name, damage, quiet, intensity):
    picture = read(tmp_path, name, damage(originals[name]), quiet, intensity)
    if picture is not None and not (name.startswith("gray16") and intensity == "clinical"):
        assert picture.pixels.ndim == (2 if name.endswith(".dcm") else 3)


@pytest.mark.slow
@hypothesis.settings(
    deadline=None, max_examples=200, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(st.sampled_from(COMPRESSED), damages(), st.booleans(), st.sampled_from(INTENSITIES))
def test_any_damage_to_compressed_dicom_gives_a_picture_or_a_reason(shared, tmp_path, name, damage, quiet, intensity):
    picture = read(tmp_path, name, damage((shared / "data" / "dicom" / name).read_bytes()), quiet, intensity)
    assert picture is None or picture.pixels.ndim == 2


@hypothesis.settings(
    deadline=None, max_examples=200, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(
    st.sampled_from([("x.png", b"\x89PNG\r\n\x1a\n"), ("x.jpg", b"\xff\xd8\xff"), ("x.dcm", bytes(128) + b"DICM")]),
    st.booleans(),
    st.binary(max_size=300),
)
def test_garbage_is_refused(tmp_path, kind, with_signature, garbage):
    name, signature = kind
    assert read(tmp_path, name, signature * with_signature + garbage, True) is None
