"""Named arrays in one file that is mapped into memory: the format safetensors, which other libraries read too.

The file has the length of the header (8 bytes, little endian), the header in JSON (dtype, shape, and the first and last
byte of each array), and then the bytes of the arrays without gaps.

Format: https://github.com/huggingface/safetensors
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from jaxseg import files

MAX_HEADER = 100_000_000  # bytes, as in the reader of the format's authors
MAX_AXES, MAX_LENGTH = 32, 2**48
_ALIGNED = 64  # bytes

_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays into a new file.

    Args:
      path: of the file; an existing one is replaced.
      arrays: name -> array of any shape.

    Raises:
      ValueError: the format has no such dtype.
      OSError: the file cannot be written, for example on a full disk.
    """
    header, position = {}, 0
    # Arrays of the widest elements come first, so that each starts at a multiple of its elements' size.
    names = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    for name in names:
        array = arrays[name]
        if array.dtype not in _CODES:
            raise ValueError(f"{name} has the dtype {array.dtype}; allowed: {', '.join(map(str, _CODES))}")
        end = position + array.nbytes
        header[name] = {"dtype": _CODES[array.dtype], "shape": list(array.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNED)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)


def map_arrays(path: Path) -> dict[str, np.ndarray]:
    """Returns the named arrays of a file as read-only views of the mapped file; nothing is read before it is used.

    Copy what is kept: a change of the file changes the views.

    Raises:
      ValueError: the file is damaged or no file of this format; the message does not name it.
      OSError: the file cannot be opened.
    """
    size = path.stat().st_size
    if size < 8:
        raise ValueError(f"it has {size} bytes and no header")
    data = np.memmap(path, np.uint8, "r")
    length = int.from_bytes(data[:8].tobytes(), "little")
    if length > min(size - 8, MAX_HEADER):
        raise ValueError(f"its header should have {length:,} bytes; the file has {size:,}")
    header = files.parse_json(data[8 : 8 + length].tobytes())
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    header.pop("__metadata__", None)
    return {name: _view(name, entry, data[8 + length :]) for name, entry in header.items()}


def _view(name: str, entry: object, data: np.ndarray) -> np.ndarray:
    try:
        dtype, shape, (start, end) = (entry[key] for key in ("dtype", "shape", "data_offsets"))  # type: ignore[index]
        dtype = _DTYPES[dtype]
        right = isinstance(shape, list) and len(shape) <= MAX_AXES
        right = right and all(type(length) is int and 0 <= length <= MAX_LENGTH for length in (*shape, start, end))
    except (TypeError, KeyError, ValueError):
        right = False
    if not right or end > data.size or end - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"its header describes {files.printable(name)} wrongly")
    return data[start:end].view(dtype).reshape(shape)
