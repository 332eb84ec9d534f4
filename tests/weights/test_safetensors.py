"""Named arrays in one mapped file: what is written is read, by the rules of the format, and damage is noticed."""

import json

import ml_dtypes
import numpy as np
import pytest

from jaxseg.weights.safetensors import map_arrays, write_arrays

ARRAYS = {
    "a.kernel": np.arange(6, dtype=np.float32).reshape(1, 2, 3),
    "a.mask": np.array([True, False, True]),
    "count": np.array(7, np.int64),
    "empty": np.zeros((0, 4), np.float32),
    "half": np.array([1.5, -2], ml_dtypes.bfloat16),
}


@pytest.fixture
def path(tmp_path):
    write_arrays(tmp_path / "x.safetensors", ARRAYS)
    return tmp_path / "x.safetensors"


def test_arrays_are_read_as_they_were_written(path):
    found = map_arrays(path)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)
        assert not found[name].flags.writeable
        assert found[name].flags.aligned


def test_an_array_in_another_order_is_written_in_rows(tmp_path):
    array = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    write_arrays(tmp_path / "x", {"t": array, "part": array[:, ::2]})
    found = map_arrays(tmp_path / "x")
    np.testing.assert_array_equal(found["t"], array)
    np.testing.assert_array_equal(found["part"], array[:, ::2])


def test_the_file_is_as_the_format_says(path):
    """Offsets begin after the header, and leave no gaps."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert header["a.kernel"]["dtype"] == "F32"
    assert header["a.kernel"]["shape"] == [1, 2, 3]
    start, end = header["a.kernel"]["data_offsets"]
    np.testing.assert_array_equal(np.frombuffer(content[8 + length :][start:end], "<f4"), np.arange(6))
    places = sorted(tuple(entry["data_offsets"]) for entry in header.values())
    assert places[0][0] == 0
    assert all(a[1] == b[0] for a, b in zip(places, places[1:], strict=False))
    assert 8 + length + places[-1][1] == len(content)


def test_metadata_of_other_writers_is_left_out(tmp_path):
    header = json.dumps({"__metadata__": {"format": "pt"}, "b": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}})
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header.encode() + b"\x01\x02")
    assert {name: array.tolist() for name, array in map_arrays(tmp_path / "x").items()} == {"b": [1, 2]}


def test_a_dtype_that_the_format_lacks_is_refused(tmp_path):
    with pytest.raises(ValueError, match="z has the dtype complex64; allowed: float64"):
        write_arrays(tmp_path / "x", {"z": np.zeros(2, np.complex64)})


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("[]", "not a JSON object"),
        ("{", "Expecting"),
        ('{"a": 1}', "describes a wrongly"),
        ('{"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 1]}}', "describes a wrongly"),
        ('{"a": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]}}', "describes a wrongly"),
        ('{"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 1]}}', "describes a wrongly"),
        ('{"a": {"dtype": "U8", "shape": [-1], "data_offsets": [1, 0]}}', "describes a wrongly"),
        ('{"a": {"dtype": "U8", "shape": [1], "data_offsets": [0]}}', "describes a wrongly"),
        ('{"a": {"dtype": "U8", "shape": [0, 1180591620717411303424], "data_offsets": [0, 0]}}', "describes a wrongly"),
        ('{"a": {"dtype": "U8", "shape": {}, "data_offsets": [0, 1]}}', "describes a wrongly"),
        ('{"a": {"dtype": "U8", "shape": "", "data_offsets": [0, 1]}}', "describes a wrongly"),
        (f'{{"a": {{"dtype": "U8", "shape": {[1] * 33}, "data_offsets": [0, 1]}}}}', "describes a wrongly"),
    ],
)
def test_damaged_headers_are_refused(tmp_path, header, reason):
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header.encode() + b"\x00\x00")
    with pytest.raises(ValueError, match=reason):
        map_arrays(tmp_path / "x")


def test_files_without_a_whole_header_are_refused(tmp_path):
    (tmp_path / "short").write_bytes(b"abc")
    with pytest.raises(ValueError, match="3 bytes and no header"):
        map_arrays(tmp_path / "short")
    (tmp_path / "cut").write_bytes((10**6).to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match="header should have 1,000,000 bytes"):
        map_arrays(tmp_path / "cut")
