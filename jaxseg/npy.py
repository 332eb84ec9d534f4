"""Reads .npy files from strangers, in many threads: the header first, and never more than it is checked to be."""

import io
import math
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np

_MAGIC = b"\x93NUMPY"
_READERS = {(1, 0): (2, np.lib.format.read_array_header_1_0), (2, 0): (4, np.lib.format.read_array_header_2_0)}
_MAX_HEADER = 10_000  # bytes, numpy's own limit; version 2.0 may declare 4 GB
_PART = 2**24
_ONE = threading.Lock()  # CPython 3.11 fails at times where two threads parse Python, as numpy does a header


class NpyError(ValueError):
    """A file is no .npy file, damaged, or of Python objects."""


class Header(NamedTuple):
    """What the header of an array says.

    Attributes:
      shape: sides, none below zero.
      fortran: the first index runs fastest.
      dtype: of any kind; Python objects are refused when the array is read.
    """

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """How long the array is, in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file) -> Header:
    """Reads the header of an open .npy file, which is left where its array begins; nothing is unpickled.

    Raises:
      NpyError: it is no such file, damaged, or of another version than 1.0 and 2.0.
      OSError: it cannot be read.
    """
    start = file.read(8)
    if len(start) < 8 or start[:6] != _MAGIC:
        raise NpyError("no .npy file, or damaged (it does not begin as one)")
    version = start[6], start[7]
    if version not in _READERS:
        raise NpyError(f"is of version {version[0]}.{version[1]} of the .npy format; 1.0 and 2.0 can be read")
    width, parse = _READERS[version]
    length = file.read(width)
    if int.from_bytes(length, "little") > _MAX_HEADER:
        raise NpyError(f"no .npy file, or damaged (a header of more than {_MAX_HEADER:,} bytes)")
    text = io.BytesIO(length + file.read(int.from_bytes(length, "little")))
    try:
        with _ONE:
            header = Header(*parse(text))
    except Exception as error:  # numpy raises almost anything on damaged headers
        raise NpyError(f"no .npy file, or damaged ({' '.join(str(error).split())[:120]})") from None
    if any(type(side) is not int or side < 0 for side in header.shape):
        raise NpyError(f"no .npy file, or damaged (a shape of {header.shape})")
    return header


def read_values(file, header: Header) -> np.ndarray:
    """Reads the array that follows a header, to the end of the file; check the header's size before.

    Returns:
      An array of the header's shape and dtype, but in the machine's byte order.

    Raises:
      NpyError: there are fewer bytes than the header says, or more; or the array is of Python objects.
    """
    _refuse_objects(header)
    content = np.empty(header.nbytes, np.uint8)
    place = 0
    while place < content.size:
        part = file.read(min(_PART, content.size - place))
        if not part:
            raise NpyError(f"is cut off: {header.shape} {header.dtype} needs {content.size:,} bytes, it has {place:,}")
        content[place : place + len(part)] = np.frombuffer(part, np.uint8)
        place += len(part)
    if file.read(1):  # in a zip file this compares the checksum, too
        raise NpyError(f"has more bytes than {header.shape} {header.dtype} needs: damaged")
    array = content.view(header.dtype).reshape(header.shape, order="F" if header.fortran else "C")
    return array.astype(header.dtype.newbyteorder("="), copy=False)


def mapped(path: Path) -> np.ndarray:
    """Returns the array of a .npy file without reading it; it cannot be written to.

    Raises:
      NpyError: as `read_header`; the file is shorter than it says; or the array is of Python objects.
      OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        header = read_header(file)
        offset = file.tell()
    _refuse_objects(header)
    there = path.stat().st_size - offset
    if there < header.nbytes:
        raise NpyError(f"is cut off: {header.shape} {header.dtype} needs {header.nbytes:,} bytes, it has {there:,}")
    if not header.nbytes:
        return np.empty(header.shape, header.dtype)
    return np.memmap(path, header.dtype, "r", offset, header.shape, "F" if header.fortran else "C")


def _refuse_objects(header: Header) -> None:
    if header.dtype.hasobject:
        raise NpyError("holds Python objects; an array of numbers is needed")
