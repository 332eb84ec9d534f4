"""Damaged files, of every kind and at every place, are refused with a reason: no crash, no half picture."""

import io
import warnings

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from jaxseg.images.read import ImageError, read_picture

FILES = ("gray8.png", "palette4.png", "gray16_range400.png", "bit1.png", "mono1_rescale.dcm", "mono2_signed.dcm")
ENCODED = {"baseline.jpg": {}, "progressive.jpg": {"progressive": True}, "rgb.jpg": {"subsampling": 2}}
COMPRESSED = ("MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "693_J2KI.dcm", "image_dfl.dcm", "SC_rgb_jpeg_dcmtk.dcm")


@pytest.fixture(scope="module")
def originals(kit) -> dict[str, bytes]:
    """Small files of every kind that needs no shared data."""
    found = {name: (kit.folder / "files" / name).read_bytes() for name in FILES}
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    for name, options in ENCODED.items():
        buffer = io.BytesIO()
        Image.fromarray(noise if name == "rgb.jpg" else noise[:, :, 0]).save(buffer, "JPEG", quality=60, **options)
        found[name] = buffer.getvalue()
    return found


def read(folder, name: str, content: bytes, quiet: bool):
    """The picture, or None where it is refused as it should be."""
    path = folder / name
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if quiet else "error")
        try:
            return read_picture(path)
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


@pytest.mark.parametrize("name", [*FILES, *ENCODED])
def test_a_file_that_was_cut_short_is_refused_unless_all_pixels_are_there(originals, tmp_path, name):
    assert_cut_is_refused_or_complete(tmp_path, name, originals[name], step=1 if len(originals[name]) < 1000 else 7)


@pytest.mark.parametrize("name", [name for name in COMPRESSED if not name.startswith("SC")])
def test_a_compressed_dicom_file_that_was_cut_short_is_refused_likewise(shared, tmp_path, name):
    content = (shared / "data" / "dicom" / name).read_bytes()
    assert_cut_is_refused_or_complete(tmp_path, name, content, step=23)


@st.composite
def damages(draw):
    """A function from bytes to damaged bytes: changed, lost and inserted bytes, most of them in the header."""
    place = st.one_of(st.floats(0, 0.999), st.floats(0, 0.2))
    word = st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\x80\0\0\0"])
    steps = draw(st.lists(st.tuples(place, word | st.binary(max_size=4), st.integers(0, 6)), min_size=1, max_size=4))

    def damage(content: bytes) -> bytes:
        for where, new, lost in steps:
            start = int(where * len(content))
            content = content[:start] + new + content[start + lost :]
        return content

    return damage


@hypothesis.settings(
    deadline=None, max_examples=400, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(st.sampled_from([*FILES, *ENCODED]), damages(), st.booleans())
def test_any_damage_gives_a_picture_or_a_reason(originals, tmp_path, name, damage, quiet):
    picture = read(tmp_path, name, damage(originals[name]), quiet)
    if picture is not None:
        assert picture.pixels.ndim == (2 if name.endswith(".dcm") else 3)


@hypothesis.settings(
    deadline=None, max_examples=200, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(st.sampled_from(COMPRESSED), damages(), st.booleans())
def test_any_damage_to_compressed_dicom_gives_a_picture_or_a_reason(shared, tmp_path, name, damage, quiet):
    picture = read(tmp_path, name, damage((shared / "data" / "dicom" / name).read_bytes()), quiet)
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
