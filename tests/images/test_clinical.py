"""Tests of intensity "clinical": DICOM values as a viewer shows them, against an independent calculation."""

import math
import re

import hypothesis
import numpy as np
import pydicom
import pytest
from dicom_files import RAMP, lut, read_clinical, shown, write_dicom
from hypothesis import strategies as st

from jaxseg.images.read import ImageError, read_picture

quick = hypothesis.settings(
    deadline=None, max_examples=150, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)


def by_window(value: float, centre: float, width: float, function: str) -> float:
    """Returns values after a window by DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3, in [0, 1]."""
    if function == "SIGMOID":
        power = -4 * (value - centre) / width
        return 1 / (1 + math.exp(power)) if power < 700 else 0.0
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if value <= centre - width / 2:
        return 0.0
    return 1.0 if value > centre + width / 2 else (value - centre) / width + 0.5


@st.composite
def contents(draw):
    """Generates stored values, (H, W) Python integers, with their bits and signedness."""
    bits, signed = draw(st.integers(8, 16)), draw(st.booleans())
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    height, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    numbers = st.integers(low, high) | st.sampled_from([low, high])
    row = st.lists(numbers, min_size=width, max_size=width)
    return draw(st.lists(row, min_size=height, max_size=height)), bits, signed


windows = st.none() | st.tuples(
    st.integers(-3000, 70000), st.sampled_from([1, 2, 350, 4096, 1e5]), st.sampled_from(["LINEAR", "SIGMOID"])
)


@pytest.mark.slow
@quick
@hypothesis.given(
    content=contents(),
    junk=st.integers(0, 2**16 - 1),
    big_endian=st.booleans(),
    inverted=st.booleans(),
    rescale=st.sampled_from([(None, None), (1, 0), (2, -1024), (0.5, 100.25), (-1, 4095), (-0.25, 0), (None, 7)]),
    window=windows,
)
def test_pixels_equal_an_independent_calculation(tmp_path, content, junk, big_endian, inverted, rescale, window):
    values, bits, signed = content
    allocated = 8 if bits == 8 and junk % 2 else 16
    raw = (np.array(values) & (2**bits - 1) | (junk << bits) & (2**allocated - 1)).astype(f"u{allocated // 8}")
    tags = {"PhotometricInterpretation": f"MONOCHROME{1 if inverted else 2}"}
    tags |= {k: v for k, v in zip(("RescaleSlope", "RescaleIntercept"), rescale, strict=True) if v is not None}
    if window:
        tags |= dict(zip(("WindowCenter", "WindowWidth", "VOILUTFunction"), window, strict=True))
    path = write_dicom(
        tmp_path / "x.dcm", raw.view(f"i{allocated // 8}") if signed else raw, bits=bits, big_endian=big_endian, **tags
    )
    slope, intercept = (1 if rescale[0] is None else rescale[0]), rescale[1] or 0
    rescaled = [[value * slope + intercept for value in row] for row in values]
    flat = [value for row in rescaled for value in row]
    if window:
        expected = np.array([[by_window(value, *window) for value in row] for row in rescaled])
    elif min(flat) < max(flat):
        expected = (np.array(rescaled) - min(flat)) / (max(flat) - min(flat))
    if min(flat) == max(flat) or window and np.ptp(expected) == 0:
        with pytest.raises(ImageError, match="alike|constant"):
            read_picture(path, intensity="clinical")
    elif not window or np.ptp(expected) > 1e-6:  # otherwise the result depends on rounding
        picture = read_picture(path, intensity="clinical")
        assert picture.notes == ()
        np.testing.assert_allclose(shown(picture), 1 - expected if inverted else expected, atol=2e-6)
    if min(flat) < max(flat):
        upright = 2**bits - 1 - np.array(values) if inverted else np.array(values)
        np.testing.assert_array_equal(read_picture(path).pixels, upright * slope + intercept)


@pytest.mark.slow
@quick
@hypothesis.given(
    content=contents(),
    bits=st.sampled_from([8, 10, 12, 16]),
    first=st.integers(-300, 300),
    length=st.integers(2, 5000),
    seed=st.integers(0, 9),
    vr=st.sampled_from(["US", "OW"]),
    inverted=st.booleans(),
)
def test_a_voi_lut_gives_its_entries(tmp_path, content, bits, first, length, seed, vr, inverted):
    values, stored_bits, signed = content
    table = np.random.default_rng(seed).integers(0, 2**bits, length)
    tags = {"PhotometricInterpretation": f"MONOCHROME{1 if inverted else 2}"}
    stored = np.array(values).astype("i2" if signed else "u2")
    path = write_dicom(
        tmp_path / "x.dcm", stored, bits=stored_bits, VOILUTSequence=lut(table, first, bits, vr=vr), **tags
    )
    looked_up = table[np.clip(np.array(values) - first, 0, length - 1)]
    if np.ptp(looked_up) == 0:
        with pytest.raises(ImageError, match="makes every pixel alike"):
            read_picture(path, intensity="clinical")
        return
    picture = read_picture(path, intensity="clinical")
    assert picture.limits == (table.min(), table.max())
    expected = (looked_up - table.min()) / np.ptp(table)
    np.testing.assert_allclose(shown(picture), 1 - expected if inverted else expected, atol=2e-6)


def test_a_modality_lut_is_applied_before_the_window(tmp_path):
    table = np.arange(4096) * 3
    stored = np.array([[-3000, 5], [40, 30000]], np.int16)
    tags = {"ModalityLUTSequence": lut(table, -20, 16), "WindowCenter": 100, "WindowWidth": 201}
    picture = read_clinical(tmp_path, stored=stored, **tags)
    expected = [by_window(value, 100, 201, "LINEAR") for value in (0, 75, 180, 4095 * 3)]
    np.testing.assert_allclose(shown(picture).ravel(), expected, atol=1e-6)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_modality_lut_covers_all_signed_values(tmp_path, photometric, bits):
    half = 2 ** (bits - 1)
    table = half + np.arange(60001) * (half - 1) // 60000
    stored = np.array([[-32768, -30000, -5], [0, 29999, 32767]], np.int16)
    tags = {"ModalityLUTSequence": lut(table, -30000, bits, vr="OW"), "PhotometricInterpretation": photometric}
    picture = read_clinical(tmp_path, stored=stored, **tags)
    values = table[[0, 0, 29995, 30000, 59999, 60000]]
    assert picture.pixels.ravel().tolist() == (values if photometric[-1] == "2" else 3 * half - 1 - values).tolist()
    table = np.arange(100, 0, -1)  # two different tables
    picture = read_clinical(tmp_path, stored=stored, VOILUTSequence=lut(table, half + 50, 10), **tags)
    expected = (table[np.clip(values - half - 50, 0, 99)] - 1) / 99
    np.testing.assert_allclose(shown(picture).ravel(), expected if photometric[-1] == "2" else 1 - expected, atol=1e-6)


def test_a_voi_lut_after_a_fractional_slope_uses_the_nearest_entry(tmp_path):
    picture = read_clinical(tmp_path, RescaleSlope=0.001, RescaleIntercept=0, VOILUTSequence=lut([9, 5, 0, 7], 0, 16))
    assert picture.pixels.ravel().tolist() == [[9, 5, 0, 7][round(0.3 * i)] for i in range(12)]


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"VOILUTSequence": lut([1, 2, 3], 0, 20)}, "VOI LUT cannot be applied .*20"),
        ({"ModalityLUTSequence": lut([1, 2, 3], 0, 12)}, "modality LUT cannot be applied"),
        ({"RescaleSlope": b"nan ", "RescaleIntercept": b"0 "}, "not finite|cannot be applied"),
        ({"RescaleSlope": b"steep ", "RescaleIntercept": b"0 "}, "modality LUT cannot be applied"),
        ({"RescaleSlope": b"0 ", "RescaleIntercept": b"0 "}, "constant"),
        ({"WindowCenter": -5000, "WindowWidth": 10}, "makes every pixel alike; --intensity original"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_impossible_tables_and_numbers_are_refused(tmp_path, tags, message):
    with pytest.raises(ImageError, match=rf"x\.dcm: .*({message})"):
        read_clinical(tmp_path, **tags)


def test_a_voi_lut_that_is_too_short_is_refused(tmp_path):
    sequence = lut([1, 2, 3], 0, 16)
    sequence[0].LUTDescriptor = [4096, 0, 16]
    with pytest.raises(ImageError, match="VOI LUT cannot be applied"):
        read_clinical(tmp_path, VOILUTSequence=sequence)


def test_the_first_of_several_windows_or_voi_luts_is_used_with_a_note(tmp_path):
    picture = read_clinical(tmp_path, WindowCenter=[1000, 5], WindowWidth=[501, 6])
    assert picture.notes == ("x.dcm: the file has 2 windows; the first was used (centre 1000, width 501)",)
    expected = [by_window(value, 1000, 501, "LINEAR") for value in RAMP.ravel()]
    np.testing.assert_allclose(shown(picture).ravel(), expected, atol=1e-6)
    tables = pydicom.Sequence([*lut(np.arange(4000), 0, 16), *lut(np.zeros(4000), 0, 16)])
    picture = read_clinical(tmp_path, VOILUTSequence=tables, WindowCenter=5, WindowWidth=6)
    assert picture.notes == ("x.dcm: the file has 2 VOI LUTs; the first was used",)
    np.testing.assert_array_equal(picture.pixels, RAMP)


@pytest.mark.parametrize(
    ("centre", "width", "function", "note"),
    [
        (b"5 ", b"0 ", b"LINEAR", "centre 5, width 0 is not possible"),
        (b"5 ", b"-7", b"SIGMOID ", "centre 5, width -7 is not possible"),
        (b"5 ", b".5", b"LINEAR", "width 0.5 is not possible"),
        (b"5 ", b"0 ", b"LINEAR_EXACT", "width 0 is not possible"),
        (b"nan ", b"9 ", b"LINEAR", "centre nan, width 9 is not possible|incomplete"),
        (b"5 ", b"inf ", b"LINEAR", "width inf is not possible|incomplete"),
        (b"5 ", b"wide", b"LINEAR", "incomplete"),
        (b"5\\6 ", b"9 ", b"LINEAR", "incomplete"),
        (b"\\6", b"9\\8 ", b"LINEAR", "incomplete"),
        (b"5 ", None, b"LINEAR", "incomplete"),
        (b"5 ", b"9 ", b"CUBIC ", "function CUBIC is unknown"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_an_impossible_window_is_ignored_with_a_note(tmp_path, centre, width, function, note):
    tags = {"WindowCenter": centre, "WindowWidth": width, "VOILUTFunction": function}
    picture = read_clinical(tmp_path, **{name: value for name, value in tags.items() if value is not None})
    np.testing.assert_allclose(shown(picture), RAMP / 3300, atol=1e-6)
    assert len(picture.notes) == 1
    assert re.search(note, picture.notes[0])


def test_empty_window_tags_mean_no_window(tmp_path):
    picture = read_clinical(tmp_path, WindowCenter="", WindowWidth="", VOILUTFunction="")
    assert (picture.notes, picture.limits) == ((), None)


def test_a_window_may_have_fractions_of_a_grey_value(tmp_path):
    picture = read_clinical(tmp_path, WindowCenter=1500, WindowWidth=0.5, VOILUTFunction="LINEAR_EXACT")
    assert shown(picture).round(3).ravel().tolist() == [0] * 5 + [0.5] + [1] * 6


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("window", [{}, {"WindowCenter": 1500, "WindowWidth": 2001}])
def test_padding_is_black_and_does_not_count_for_the_range(tmp_path, photometric, window):
    stored = RAMP.copy()
    stored[0, :2] = 4095
    tags = {"PixelPaddingValue": 4095, "PhotometricInterpretation": photometric} | window
    unit = shown(read_clinical(tmp_path, stored=stored, bits=12, **tags))
    assert np.abs(unit[0, :2]).max() < 1e-6
    expected = (RAMP - 600.0) / 2700
    if window:
        expected = np.array([[by_window(value, 1500, 2001, "LINEAR") for value in row] for row in RAMP])
    expected = 1 - expected if photometric == "MONOCHROME1" else expected
    np.testing.assert_allclose(unit.ravel()[2:], expected.ravel()[2:], atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "vr", "padding", "limit", "padded"),
    [
        (np.uint16, "US", 0, None, 1),
        (np.uint16, "US", 0, 600, 3),
        (np.uint16, "US", 600, 0, 3),
        (np.uint16, "US", 3300, 65535, 1),
        (np.uint16, "SS", 3000, -1, 2),  # means 65535; some writers confuse signed and unsigned
        (np.int16, "US", 65534, None, 0),  # means -2, which does not occur
        (np.int16, "US", 32768, 300, 2),  # means -32768
        (np.int16, "SS", -32768, 300, 2),
    ],
)
def test_a_range_of_padding_may_be_given_from_either_end(tmp_path, dtype, vr, padding, limit, padded):
    dataset = pydicom.dcmread(write_dicom(tmp_path / "x.dcm", RAMP.astype(dtype)))
    dataset.add_new("PixelPaddingValue", vr, padding)
    if limit is not None:
        dataset.add_new("PixelPaddingRangeLimit", vr, limit)
    dataset.save_as(tmp_path / "x.dcm")
    picture = read_picture(tmp_path / "x.dcm", intensity="clinical")
    assert picture.notes == ()
    assert (shown(picture) < 1e-6).sum() == padded + 1  # the padding and the darkest remaining value


@pytest.mark.parametrize(
    ("tags", "note"),
    [
        ({"PixelPaddingValue": 1500}, "the padding value 1500 lies among the values"),
        ({"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 5000}, "every pixel has the padding value"),
    ],
)
def test_padding_that_overlaps_the_picture_is_ignored_with_a_note(tmp_path, tags, note):
    picture = read_clinical(tmp_path, **tags)
    assert note in picture.notes[0]
    np.testing.assert_allclose(shown(picture), RAMP / 3300, atol=1e-6)
