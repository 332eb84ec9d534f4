"""Reads untrusted .npy files, also in many threads, and opens untrusted .npz archives.

The header is read first, so that callers can check the size of an array before it is read.
"""

import contextlib
import errno
import io
import math
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxseg.files import printable

_MAGIC = b"\x93NUMPY"
_READERS = {(1, 0): (2, np.lib.format.read_array_header_1_0), (2, 0): (4, np.lib.format.read_array_header_2_0)}
_MAX_HEADER = 10_000  # bytes; numpy's own limit, although version 2.0 allows 4 GB
_PART = 2**24  # bytes per call of `read`
_LOCK = threading.Lock()  # CPython 3.11 sometimes fails if two threads parse Python code, as numpy does with a header


class NpyError(ValueError):
    """A file is not a .npy file, is damaged, or contains Python objects."""


class Header(NamedTuple):
    """The header of a .npy file.

    Attributes:
      shape: shape of the array; no side is negative.
      fortran: whether the array is in Fortran order, in which the first index changes fastest.
      dtype: type of the values. Python objects are refused when the array is read.
    """

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Size of the array, in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file) -> Header:
    """Reads the header of an open .npy file; nothing is unpickled.

    Args:
      file: a file opened in binary mode, at its start. Afterwards its position is the start of the array.

    Raises:
      NpyError: it is not a .npy file, is damaged, or has another version than 1.0 and 2.0.
      OSError: it cannot be read.

    >>> file = io.BytesIO()
    >>> np.save(file, np.zeros((2, 3), np.uint8))
    >>> read_header(io.BytesIO(file.getvalue())).shape
    (2, 3)
    """
    start = file.read(8)
    if len(start) < 8 or start[:6] != _MAGIC:
        raise NpyError("not a .npy file, or damaged (the first bytes are wrong)")
    version = start[6], start[7]
    if version not in _READERS:
        raise NpyError(f"has version {version[0]}.{version[1]} of the .npy format; only 1.0 and 2.0 can be read")
    width, parse = _READERS[version]
    length = file.read(width)
    if int.from_bytes(length, "little") > _MAX_HEADER:
        raise NpyError(f"not a .npy file, or damaged (a header of more than {_MAX_HEADER:,} bytes)")
    text = io.BytesIO(length + file.read(int.from_bytes(length, "little")))
    try:
        with _LOCK:
            header = Header(*parse(text))
    except Exception as error:  # numpy raises almost any exception for damaged headers
        raise NpyError(f"not a .npy file, or damaged ({' '.join(str(error).split())[:120]})") from None
    if any(type(side) is not int or side < 0 for side in header.shape):
        raise NpyError(f"not a .npy file, or damaged (a shape of {header.shape})")
    return header


def read_values(file, header: Header) -> np.ndarray:
    """Reads the array that follows a header, up to the end of the file.

    The caller should check `header.nbytes` before: this number of bytes is allocated.

    Args:
      file: a file opened in binary mode, at the start of the array.
      header: the result of `read_header`.

    Returns:
      An array of the header's shape and dtype, in the byte order of the machine.

    Raises:
      NpyError: the file has fewer or more bytes than the header says, or contains Python objects.
      OSError: it cannot be read.
    """
    _refuse_objects(header)
    content = np.empty(header.nbytes, np.uint8)
    place = 0
    while place < content.size:
        part = file.read(min(_PART, content.size - place))
        if not part:
            raise NpyError(_cut_off(header, place))
        content[place : place + len(part)] = np.frombuffer(part, np.uint8)
        place += len(part)
    if file.read(1):  # in a zip file, this also compares the checksum
        raise NpyError(f"has more bytes than {header.shape} {header.dtype} needs: it is damaged")
    array = content.view(header.dtype).reshape(header.shape, order="F" if header.fortran else "C")
    return array.astype(header.dtype.newbyteorder("="), copy=False)


def mapped(path: Path) -> np.ndarray:
    """Returns the array of a .npy file as a read-only memory map.

    Raises:
      NpyError: as in `read_header`, or the file is shorter than its header says or contains Python objects.
      OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        header = read_header(file)
        offset = file.tell()
    _refuse_objects(header)
    size = path.stat().st_size - offset
    if size < header.nbytes:
        raise NpyError(_cut_off(header, size))
    if not header.nbytes:
        return np.empty(header.shape, header.dtype)
    return np.memmap(path, header.dtype, "r", offset, header.shape, "F" if header.fortran else "C")


@contextlib.contextmanager
def archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Opens a .npz file. In the body, all that zipfile raises for damaged archives becomes an NpyError.

    Raises:
      NpyError: the file is not a .npz file, or is damaged. Subclasses of ValueError that the body raises stay.
      OSError: it cannot be opened or read.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "two.npz"
    >>> np.savez(path, a=np.zeros(2), b=np.zeros(3))
    >>> with archive(path) as opened:
    ...     opened.namelist()
    ['a.npy', 'b.npy']
    """
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as opened:
                yield opened
        except (NpyError, MemoryError):
            raise
        except Exception as error:  # zipfile raises almost anything on damaged archives
            own = isinstance(error, ValueError) and type(error) not in (ValueError, UnicodeDecodeError)
            # EINVAL: zipfile seeks to a position before the start. Other error numbers are those of the system.
            if own or (isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)):
                raise
            raise _damaged(error) from None


def _damaged(error: Exception) -> NpyError:
    outside = isinstance(error, OSError) and error.errno is not None
    reason = "it points outside the file" if outside else " ".join(str(error).split()) or type(error).__name__
    return NpyError(f"not a .npz file, or damaged: the archive cannot be read ({printable(reason)[:120]})")


def _cut_off(header: Header, size: int) -> str:
    return f"is cut off: {header.shape} {header.dtype} needs {header.nbytes:,} bytes, but it has {size:,}"


def _refuse_objects(header: Header) -> None:
    if header.dtype.hasobject:
        raise NpyError("holds Python objects; an array of numbers is needed")
