"""Arrays of .npy files are read as they were written, also in many threads; damaged files are refused."""

import contextlib
import io
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from jaxseg import npy

DTYPES = ("?", "u1", ">u2", "<i4", ">f4", "<f8")


def written(array, version=(1, 0)):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version, allow_pickle=False)
    return file.getvalue()


def read(content):
    file = io.BytesIO(content)
    return npy.read_values(file, npy.read_header(file))


@given(
    array=st.sampled_from(DTYPES).flatmap(lambda kind: arrays(np.dtype(kind), array_shapes(min_dims=0, min_side=0))),
    fortran=st.booleans(),
    version=st.sampled_from([(1, 0), (2, 0)]),
)
@settings(max_examples=60, deadline=None)
def test_an_array_is_read_as_it_was_written(array, fortran, version, tmp_path_factory):
    array = np.asfortranarray(array) if fortran else array
    content = written(array, version)
    got = read(content)
    np.testing.assert_array_equal(got, array)
    assert got.dtype == array.dtype.newbyteorder("=")
    path = tmp_path_factory.mktemp("npy") / "a.npy"
    path.write_bytes(content)
    mapped = npy.mapped(path)
    np.testing.assert_array_equal(mapped, array)
    assert mapped.dtype == array.dtype


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_gives_an_array_or_an_npy_error(data):
    content = bytearray(written(np.arange(6, dtype="<u2").reshape(2, 3)))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    file = io.BytesIO(bytes(content))
    with contextlib.suppress(npy.NpyError):  # anything else is a failure
        header = npy.read_header(file)
        if header.nbytes < 1000:
            npy.read_values(file, header)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the first bytes are wrong"),
        (b"PK\x03\x04 and more", "the first bytes are wrong"),
        (b"\x93NUMPY\x03\x00" + bytes(9), r"version 3\.0"),
        (b"\x93NUMPY\x02\x00" + b"\xff" * 4, "a header of more than 10,000 bytes"),
        (b"\x93NUMPY\x01\x00\x10\x00not a header....", "damaged"),
        (written(np.zeros(4))[:-1], r"is cut off: \(4,\) float64 needs 32 bytes, but it has 31"),
        (written(np.zeros(4)) + b"\0", "more bytes"),
    ],
)
def test_other_files_are_refused_with_a_reason(content, reason):
    with pytest.raises(npy.NpyError, match=reason):
        read(content)


def test_objects_are_refused_before_anything_is_unpickled(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.array([{}], object), allow_pickle=True)
    for act in (lambda: npy.mapped(path), lambda: read(path.read_bytes())):
        with pytest.raises(npy.NpyError, match="Python objects"):
            act()


def test_a_file_shorter_than_its_header_says_is_not_mapped(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(written(np.zeros(4))[:-1])
    with pytest.raises(npy.NpyError, match="cut off"):
        npy.mapped(path)


def test_many_threads_read_headers_at_the_same_time(monkeypatch):
    """CPython 3.11 fails if two threads parse at the same time. This test detects whether two ever do."""
    content, inside, most = written(np.arange(4)), [], []
    parse = np.lib.format.read_array_header_1_0

    def watched(file):
        inside.append(1)
        most.append(len(inside))
        time.sleep(1e-4)  # gives the other threads time to start
        try:
            return parse(file)
        finally:
            inside.pop()

    monkeypatch.setitem(npy._READERS, (1, 0), (2, watched))
    with ThreadPoolExecutor(8) as pool:
        headers = list(pool.map(lambda _: npy.read_header(io.BytesIO(content)), range(400)))
    assert set(headers) == {npy.Header((4,), False, np.dtype("int64"))}
    assert max(most) == 1
