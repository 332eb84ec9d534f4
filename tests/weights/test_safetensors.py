"""Named arrays in one mapped file: what is written is read, by the rules of the format, and damage is noticed."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.weights import safetensors as module
from jaxseg.weights.safetensors import is_safetensors, map_arrays, read_metadata, write_arrays

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


def stored(path, header: str | dict, data: bytes = b"\0\0"):
    """Writes a file with this header, which may be wrong, and returns its path."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_metadata_is_no_array(tmp_path):
    entry = {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}
    path = stored(tmp_path / "x", {"__metadata__": {"format": "pt"}, "b": entry}, b"\x01\x02")
    assert {name: array.tolist() for name, array in map_arrays(path).items()} == {"b": [1, 2]}
    assert read_metadata(path) == {"format": "pt"}
    write_arrays(tmp_path / "y", {"a": np.zeros(2)}, {"text": 'a "quoted"\nline', "ä": "€"})
    assert read_metadata(tmp_path / "y") == {"text": 'a "quoted"\nline', "ä": "€"}
    assert list(map_arrays(tmp_path / "y")) == ["a"]
    write_arrays(tmp_path / "z", {"a": np.zeros(2)})
    assert read_metadata(tmp_path / "z") == {}
    with pytest.raises(ValueError, match="an array may not be called __metadata__"):
        write_arrays(tmp_path / "z", {"__metadata__": np.zeros(2)})


@pytest.mark.parametrize("metadata", ['"pt"', '{"a": 1}', "[]", '{"a": {"b": "c"}}', "null"])
def test_metadata_of_another_type_is_refused(tmp_path, metadata):
    with pytest.raises(ValueError, match="its __metadata__ is not an object of texts"):
        read_metadata(stored(tmp_path / "x", f'{{"__metadata__": {metadata}}}', b""))


def test_the_suffix_decides():
    from pathlib import Path

    assert [is_safetensors(Path(name)) for name in ("a.safetensors", "a.SAFETENSORS", "a.pth", "safetensors")] == [
        True,
        True,
        False,
        False,
    ]


NUMPY = {name: array for name, array in ARRAYS.items() if array.dtype != ml_dtypes.bfloat16}


def test_the_authors_library_reads_our_files(tmp_path):
    write_arrays(tmp_path / "x.safetensors", NUMPY, {"about": "a test"})
    found = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    for name, array in NUMPY.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)
    assert found.keys() == NUMPY.keys()
    with safetensors.safe_open(tmp_path / "x.safetensors", "numpy") as file:
        assert file.metadata() == {"about": "a test"}


def test_files_of_the_authors_library_are_read(tmp_path):
    rng = np.random.default_rng(0)
    kinds = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]
    arrays = {f"a{i}": (rng.random((3, i)) * 9).astype(kind) for i, kind in enumerate(kinds)} | NUMPY
    safetensors.numpy.save_file(arrays, tmp_path / "x.safetensors", {"format": "np"})
    found = map_arrays(tmp_path / "x.safetensors")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)
    assert read_metadata(tmp_path / "x.safetensors") == {"format": "np"}


def test_a_dtype_that_the_format_lacks_is_refused(tmp_path):
    with pytest.raises(ValueError, match="z has the dtype complex64; allowed: float64"):
        write_arrays(tmp_path / "x", {"z": np.zeros(2, np.complex64)})


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("[]", "not a JSON object"),
        ("{", "Expecting"),
        ('{"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "a": {}}', "a name occurs twice"),
        ('{"a": {"dtype": "U8", "dtype": "I8", "shape": [2], "data_offsets": [0, 2]}}', "a name occurs twice"),
        ('{"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}', "or with another dtype than F64, F32"),
        ('{"a": {"dtype": "U8", "shape": [true, 2], "data_offsets": [0, 2]}}', "describes a wrongly"),
        ('{"a": {"dtype": "U8", "shape": [2.0], "data_offsets": [0, 2]}}', "describes a wrongly"),
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
    with pytest.raises(ValueError, match=reason):
        map_arrays(stored(tmp_path / "x", header))


def test_files_without_a_whole_header_are_refused(tmp_path):
    (tmp_path / "short").write_bytes(b"abc")
    with pytest.raises(ValueError, match="3 bytes and no header"):
        map_arrays(tmp_path / "short")
    (tmp_path / "cut").write_bytes((10**6).to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match="header should have 1,000,000 bytes"):
        map_arrays(tmp_path / "cut")


def entry(start: int, end: int) -> dict:
    return {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"a": entry(0, 4), "b": entry(2, 6)}, "b overlaps another array"),
        ({"a": entry(0, 6), "b": entry(0, 6)}, "b overlaps another array"),
        ({"a": entry(0, 2), "b": entry(3, 6)}, "b does not follow the array before it"),
        ({"a": entry(1, 6)}, "a does not follow the array before it"),
        ({"a": entry(0, 5)}, "its arrays end 1 bytes before the file"),
        ({}, "its arrays end 6 bytes before the file"),
    ],
)
def test_overlaps_and_gaps_are_refused(tmp_path, entries, reason):
    path = stored(tmp_path / "x.safetensors", entries, bytes(6))
    with pytest.raises(ValueError, match=reason):
        map_arrays(path)
    with pytest.raises(safetensors.SafetensorError):  # the authors' library refuses the same files
        safetensors.numpy.load_file(path)


def test_a_long_header_is_neither_read_nor_written(tmp_path, monkeypatch):
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.write((module.MAX_HEADER + 1).to_bytes(8, "little"))
        file.truncate(2 * module.MAX_HEADER)
    with pytest.raises(ValueError, match="at most 33,554,432 are read"):
        map_arrays(path)
    monkeypatch.setattr(module, "MAX_HEADER", 100)
    with pytest.raises(ValueError, match="at most 100 are allowed"):
        write_arrays(path, ARRAYS)


def test_deep_lists_in_the_header_are_refused(tmp_path):
    with pytest.raises(ValueError, match="nested too deeply"):
        map_arrays(stored(tmp_path / "x", '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"))


def read_or_refuse(path, content: bytes) -> None:
    """Reads a file; everything that is returned lies inside it, and every error is a sentence."""
    path.write_bytes(content)
    for read in (map_arrays, read_metadata):
        try:
            found = read(path)
        except ValueError as error:
            assert str(error)  # noqa: PT017 - either outcome is right
            continue
        if read is map_arrays:
            assert sum(array.nbytes for array in found.values()) < len(content)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged") / "damaged.safetensors"


@pytest.fixture(scope="module")
def whole(place) -> bytes:
    write_arrays(place, ARRAYS, {"jaxseg": "{}", "format": "pt"})
    return place.read_bytes()


def test_files_cut_at_every_byte(place, whole):
    for end in range(len(whole)):
        place.write_bytes(whole[:end])
        with pytest.raises(ValueError, match="header|ends|Expecting|Unterminated|wrongly|Invalid|Extra"):
            map_arrays(place)


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_mutated_files(place, whole, data):
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content) - 1))
        removed = data.draw(st.integers(0, 8))
        content[start : start + removed] = data.draw(st.binary(max_size=8))
        content = content or bytearray(1)
    read_or_refuse(place, bytes(content))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from(["F32", "U8", "BF16", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
ENTRY = st.fixed_dictionaries({"dtype": VALUES, "shape": VALUES, "data_offsets": VALUES})


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), VALUES | ENTRY), st.binary(max_size=20))
def test_random_headers(place, header, data):
    text = json.dumps(header).encode()
    read_or_refuse(place, len(text).to_bytes(8, "little") + text + data)
